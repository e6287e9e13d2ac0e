"""How the command line prints for programs."""

from __future__ import annotations

from typing import Any

import orjson
import typer


def print_json(value: Any, *, indented: bool = True) -> None:
    """Print JSON on standard output, in UTF-8 whatever the terminal's encoding is, and flush it.

    Args:
        value: what to print.
        indented: over several lines; else on one.
    """
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else 0))
