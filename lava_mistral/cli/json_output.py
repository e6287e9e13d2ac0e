"""How the command line prints for programs."""

from __future__ import annotations

import json
from typing import Any

import typer


def print_json(value: Any, *, indented: bool = True) -> None:
    """Print JSON on standard output, in UTF-8 whatever the terminal's encoding is, and flush it.

    Args:
        value: what to print.
        indented: over several lines; else on one.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2 if indented else None)
    # An argument may hold bytes that the system's encoding did not know; most often they are UTF-8.
    typer.echo(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode())
