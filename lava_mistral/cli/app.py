"""The command line: `lava-mistral demo | gateway | doctor | models | usage`.

A command prints for people, or JSON with `--json`. It exits with 0 if it did its work, 1 if it failed (with a
sentence on standard error that says what to do), 2 if it was called wrongly. Only what a command needs is imported.
"""

from __future__ import annotations

import functools
import io
import signal
import sys
from collections.abc import Callable
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from lava_mistral.calls.error_mapping import redact
from lava_mistral.cli.json_output import print_json
from lava_mistral.cli.output import print_columns
from lava_mistral.cli.usage import usage
from lava_mistral.errors import LavaError

app = typer.Typer(
    name="lava-mistral",
    help="Mistral's models through the Lava AI gateway.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_F = TypeVar("_F", bound=Callable[..., Any])
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe may have an encoding that lacks a sign of ours, or of a customer's name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def _command(function: _F) -> _F:
    """A command of that name, whose expected failures end in a sentence and status 1."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (LavaError, ImportError, OSError) as error:
            _fail(str(error))

    app.command()(run)
    return run  # type: ignore[return-value]  # the same signature, by wraps


def _fail(reason: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(
        f"[bold red]Failed:[/bold red] {escape(redact(reason))}", highlight=False
    )
    raise typer.Exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lava-mistral {metadata.version('lava-mistral')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@_command
def demo(
    path: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            help="Folder of text and Markdown files, or one file. By default the project's own documentation.",
        ),
    ] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="What to ask about the texts.")] = None,
    framework: Annotated[
        Literal["langchain", "llama-index"] | None,
        typer.Option("--framework", "-f", help="By default the one that is installed, LangChain first."),
    ] = None,
) -> None:
    """Index texts, ask a question, and stream the answer with its sources and its cost.

    With LAVA_SECRET_KEY or LAVA_FORWARD_TOKEN in the environment it talks to Lava; otherwise to a simulated Mistral
    on this machine.
    """
    if question is not None and not question.strip():
        raise typer.BadParameter("it is empty", param_hint="--question")
    from lava_mistral.cli import demo as story

    story.run(path, question, framework, Console())


@_command
def gateway(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8788,
    json: _Json = False,
) -> None:
    """Run a local Lava with a simulated Mistral behind it, until interrupted."""
    from lava_mistral.gateway import LocalGateway

    running = LocalGateway(port=port)
    try:
        running.start()
    except OSError as error:
        raise OSError(f"can't listen on port {port} ({error.strerror or error}): choose another with --port") from error
    # A process manager stops it as Ctrl-C does: what is under way is broken off and the port is free again.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running:
            if json:
                # One line, because a program reads it while the process goes on.
                print_json({"base_url": running.base_url, "secret_key": running.secret_key}, indented=False)
            else:
                typer.echo(
                    f"A simulated Lava is listening at {running.base_url} (no call leaves this machine). "
                    "Use it with:\n\n"
                    f"  export LAVA_BASE_URL={running.base_url}\n"
                    f"  export LAVA_SECRET_KEY={running.secret_key}\n\n"
                    "Ctrl-C stops it."
                )
            running.wait()
    except KeyboardInterrupt:
        # It may come as soon as the address is told, before anybody waits.
        return


@_command
def doctor(
    model: Annotated[str, typer.Option("--model", "-m", help="The model you want to use.")] = "mistral-small-2603",
    spend: Annotated[
        bool, typer.Option("--spend", help="Also make one tiny embedding: the only check that costs something.")
    ] = False,
    json: _Json = False,
) -> None:
    """Check that key, network and model are right, and say what to do if not. It costs nothing without --spend."""
    from lava_mistral.cli.doctor import examine

    styles = {"ok": "green", "note": "yellow", "failed": "bold red", "skipped": "dim"}
    console = Console(soft_wrap=True, highlight=False)
    findings = []
    for finding in examine(model, spend=spend):
        findings.append(finding)
        if not json:
            mark = f"[{styles[finding.outcome]}]{finding.outcome:<8}[/]"
            console.print(f"{mark} [bold]{escape(finding.check)}[/bold]: {escape(redact(finding.detail))}")
            if finding.advice:
                console.print(f"         → {escape(finding.advice)}")
    failed = any(finding.outcome == "failed" for finding in findings)
    if json:
        print_json({"ok": not failed, "findings": [finding.as_dict() for finding in findings]})
    raise typer.Exit(1 if failed else 0)


@_command
def models(json: _Json = False) -> None:
    """List the models that Lava offers, with prices, context windows and capabilities."""
    from lava_mistral.pricing.catalog import models as catalogue

    if json:
        print_json(
            [
                {
                    "id": model.id,
                    "input_price": None if model.input_price is None else str(model.input_price),
                    "output_price": None if model.output_price is None else str(model.output_price),
                    "context_window": model.context_window,
                    "capabilities": sorted(model.capabilities),
                    "sources": model.sources,
                }
                for model in catalogue()
            ]
        )
        return
    rows = [("model", "USD in", "USD out", "context", "capabilities")]
    for model in catalogue():
        prices = (_price(model.input_price), _price(model.output_price))
        capabilities = ", ".join(sorted(model.capabilities - {"chat"})).replace("_", " ")
        rows.append((model.id, *prices, f"{model.context_window:,}", capabilities))
    typer.echo("USD for a million tokens, as Lava bills them; context windows in tokens.\n")
    print_columns(rows, Console(), right=(1, 2, 3))


def _price(price: Decimal | None) -> str:
    if price is None:
        return "?"
    return f"{price:f}" if price else "free"


_command(usage)
