"""Print results: JSON for programs, columns for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def print_json(value: Any, *, indented: bool = True) -> None:
    """Print JSON on standard output, in UTF-8 whatever the terminal's encoding is; amounts as text, with all digits."""
    text = json.dumps(value, ensure_ascii=False, indent=2 if indented else None, default=_plain)
    # An argument may hold bytes that the system's encoding did not know; most often they are UTF-8.
    typer.echo(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    return f"{value:f}" if isinstance(value, Decimal) else value.isoformat()


def print_columns(rows: Sequence[Sequence[str]], console: Console, *, right: Collection[int] = ()) -> None:
    """Print a headline and rows in columns, some aligned `right`; no entry is cut, so that an id can be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for at, row in enumerate(rows):
        cells = [f"{cell:{'>' if place in right else ''}{widths[place]}}" for place, cell in enumerate(row)]
        style = "" if at else "bold"
        console.print("  ".join(cells).rstrip(), style=style, markup=False, highlight=False, soft_wrap=True)


def counted(number: int, thing: str) -> str:
    """Return a number with the noun in its singular or plural: `"1 chunk"`, `"1,000 chunks"`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
