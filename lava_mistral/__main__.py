"""Put the command line together: `lava-mistral demo | doctor | embed | gateway | models | usage`.

A command prints for people, or JSON with `--json`. It exits with 0 if it did its work, 1 if it failed (with a
sentence on standard error that says what to do), 2 if it was called wrongly. Only what a command needs is imported.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Annotated, Any

from lava_mistral.calls.error_mapping import redact
from lava_mistral.cli import typer
from lava_mistral.cli.demo import demo
from lava_mistral.cli.doctor import doctor
from lava_mistral.cli.embed import embed
from lava_mistral.cli.gateway import gateway
from lava_mistral.cli.models import models
from lava_mistral.cli.usage_report import usage
from lava_mistral.errors import LavaError

app = typer.Typer(
    name="lava-mistral",
    help="Mistral's models through the Lava AI gateway.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe may have an encoding that lacks a sign of ours, or of a customer's name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lava-mistral {metadata.version('lava-mistral')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
]


@app.callback()
def _common(version: _Version = False) -> None:
    pass


def _with_sentences(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command end its expected failures in a sentence and status 1."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (LavaError, ImportError, OSError) as error:
            failed = typer.style("Failed:", fg=typer.colors.RED, bold=True)
            typer.echo(f"{failed} {redact(str(error))}", err=True)
            raise typer.Exit(1) from None

    return run


for _command in (demo, doctor, embed, gateway, models, usage):
    app.command()(_with_sentences(_command))

if __name__ == "__main__":
    main()
