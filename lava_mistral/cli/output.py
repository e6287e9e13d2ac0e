"""Print results: JSON for programs, columns for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def print_json(value: Any, *, indented: bool = True) -> None:
    """Print JSON on standard output, in UTF-8 whatever the terminal's encoding is, and flush it."""
    text = json.dumps(value, ensure_ascii=False, indent=2 if indented else None)
    # An argument may hold bytes that the system's encoding did not know; most often they are UTF-8.
    typer.echo(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode())


def print_columns(rows: Sequence[Sequence[str]], console: Console, *, right: Collection[int] = ()) -> None:
    """Print a headline and rows in columns, some aligned `right`; no entry is cut, so that an id can be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for at, row in enumerate(rows):
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        console.print(line, style="" if at else "bold", markup=False, highlight=False, soft_wrap=True)


def counted(number: int, thing: str) -> str:
    """Return a number with the noun in its singular or plural: `"1 chunk"`, `"1,000 chunks"`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
