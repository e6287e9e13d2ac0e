"""`lava-mistral embed`: rows of files into Parquet parts or a Lance table, as often interrupted as need be."""

from __future__ import annotations

import io
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lava_mistral.billing.credentials import Billing
from lava_mistral.billing.scope import requires_customer, resolve_billing
from lava_mistral.cli.output import counted
from lava_mistral.client.clients import LavaMistral
from lava_mistral.defaults import DEFAULT_EMBEDDING_MODEL
from lava_mistral.errors import LavaError
from lava_mistral.pricing.amounts import format_cost

if TYPE_CHECKING:
    from lava_mistral.jobs.embedding_job import JobEstimate, JobProgress

_INTERVAL = 10.0  # seconds between two lines of progress
_LINE = "{n:,} of {total:,} rows, {rate_fmt}, {remaining} left{postfix}"
_Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT...", help="Parquet, JSONL or CSV: files, globs, folders, or - for standard input."),
]


def embed(
    inputs: _Inputs,
    text: Annotated[str, typer.Option(help="The column with the texts.")],
    out: Annotated[Path, typer.Option(help="The folder of the Parquet parts, or NAME.lance.", file_okay=False)],
    id: Annotated[str | None, typer.Option(help="The column with the ids. By default the number of the row.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Another column to keep; may be given several times.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The embedding model.")] = DEFAULT_EMBEDDING_MODEL,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Length of the vectors, if not the model's own.")
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Write 16-bit numbers instead of 32-bit ones.")] = False,
    rows_per_part: Annotated[int, typer.Option(min=1, help="Rows of the input to a part.")] = 10_000,
    max_concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at most.")] = 16,
    spend_limit: Annotated[str | None, typer.Option(help="USD that all runs of the job may cost together.")] = None,
    customer: Annotated[str | None, typer.Option(help="The customer who pays; with --meter.")] = None,
    meter: Annotated[str | None, typer.Option(help="The meter that the usage counts on.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a row that can't be embedded.")] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: its address, auto, or local.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
) -> None:
    """Embed a column of files into a folder of Parquet parts or a Lance table: id, vector and the columns to keep.

    It says first how many rows and tokens that is and what it will cost; to know the account's limits it sends one
    request of a single token, unless --yes is given. A job that was stopped or killed goes on when the same command is
    given again. Rows that can't be embedded are written to OUT/_job/rejected.jsonl with the reason.
    """
    from lava_mistral.jobs.embedding_job import EmbeddingJob

    if customer and not meter:
        raise typer.BadParameter("a customer needs a meter: add --meter …", param_hint="--customer")
    if not customer and requires_customer() and resolve_billing(None, None).billing.customer_id is None:
        said = "LAVA_REQUIRE_CUSTOMER is on: say who pays, with --customer … --meter …"
        raise typer.BadParameter(said, param_hint="--customer")
    job = EmbeddingJob(
        _files(inputs, out),
        out,
        text=text,
        id=id,
        columns=column or (),
        client=LavaMistral(billing=Billing(customer_id=customer, meter_slug=meter) if customer or meter else None),
        model=model,
        dimensions=dimensions,
        dtype="float16" if float16 else "float32",
        rows_per_part=rows_per_part,
        max_concurrency=max_concurrency,
        strict=strict,
    )
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    _show(job.estimate(ask_limits=not yes), console)
    if not yes:
        if not sys.stdin.isatty():
            console.print("Not started, since nobody can be asked here: add --yes.")
            raise typer.Exit(2)
        typer.confirm("Start?", abort=True, err=True)
    executor = None
    if ray is not None:
        from lava_mistral.ray import RayExecutor

        executor = RayExecutor(None if ray == "local" else ray)
    # A process manager stops it as Ctrl-C does: what is in flight is still noted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _reporter(console) as report:
            done = job.run(spend_limit=spend_limit, on_progress=report, executor=executor)
    except (KeyboardInterrupt, LavaError, OSError) as error:
        console.print("Stopped. The same command goes on from here.")
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130) from None
        raise
    console.print(f"{counted(done.rows_done - done.rejected, 'row')} embedded in {out}", end="", markup=False)
    console.print(f", {done.tokens:,} tokens for {format_cost(done.cost)} in all.")
    if done.rejected:
        console.print(f"{counted(done.rejected, 'row')} rejected: the reasons are in {job.rejected}.", style="yellow")


def _files(inputs: list[str], out: Path) -> list[str]:
    if "-" not in inputs:
        return inputs
    if len(inputs) > 1:
        raise typer.BadParameter("standard input (-) can't be mixed with files", param_hint="INPUT")
    from lava_mistral.jobs.inputs import spool

    folder = out / "_job"
    folder.mkdir(parents=True, exist_ok=True)
    return [str(spool(sys.stdin.buffer, folder))]


def _show(estimate: JobEstimate, console: Console) -> None:
    there = f", {estimate.rows_done:,} of them done before" if estimate.rows_done else ""
    console.print(f"rows    {estimate.rows:,}{there}")
    how = "" if estimate.counted else ", by a sample"
    console.print(f"tokens  {'about' if estimate.exact else 'at most'} {estimate.tokens:,}{how}")
    console.print(f"cost    {_rounded(estimate.low)} to {_rounded(estimate.high)}, likely {_rounded(estimate.likely)}")
    if estimate.tokens_paid:
        paid = f"{estimate.tokens_paid:,} tokens ({_rounded(estimate.paid)})"
        console.print(f"goes on: {paid} paid before are not paid again; that sum leaves out what a kill met in flight")
    if estimate.seconds is not None:
        console.print(f"time    about {timedelta(seconds=round(estimate.seconds))} at the account's limits")


def _rounded(cost: Decimal | None) -> str:
    return format_cost(None if cost is None else round(cost, 4))


@contextmanager
def _reporter(console: Console) -> Iterator[Callable[[JobProgress], None]]:
    """Show how far a job has come: by a bar on a terminal, now and then by a line elsewhere."""
    from tqdm import tqdm

    live, told = sys.stderr.isatty(), time.monotonic()
    file, line = (None, None) if live else (io.StringIO(), _LINE)
    with tqdm(unit="row", desc="Embedding", delay=0.5, file=file, bar_format=line) as bar:

        def report(now: JobProgress) -> None:
            nonlocal told
            bar.total, bar.initial = now.rows, now.rows_before
            bar.set_postfix_str(_rounded(now.cost), refresh=False)
            bar.update(now.rows_done - bar.n)
            if not live and (moment := time.monotonic()) - told >= _INTERVAL:
                told = moment
                console.print(str(bar))

        yield report
