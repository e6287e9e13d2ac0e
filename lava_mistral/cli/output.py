"""Prints rows in columns that a narrow terminal does not cut: an id or a name stays whole, to be copied."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console


def print_columns(rows: Sequence[Sequence[str]], console: Console, *, right: Collection[int] = ()) -> None:
    """Print a headline and rows, each column as wide as its longest entry.

    Args:
        rows: the headline, then the rows, all of one length.
        console: where to print.
        right: the columns, counted from 0, that are aligned at the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for at, row in enumerate(rows):
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        console.print(line, style="" if at else "bold", markup=False, highlight=False, soft_wrap=True)
