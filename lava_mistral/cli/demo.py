"""`lava-mistral demo`: index documents, ask a question, stream the answer with its sources and its cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from heapq import nlargest
from operator import mul
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape

from lava_mistral.billing.credentials import is_loopback, resolve_access
from lava_mistral.billing.scope import requires_customer, resolve_billing
from lava_mistral.billing.usage import CallRecord, Tally
from lava_mistral.billing.usage_totals import track_usage
from lava_mistral.cli.documents import Text, passages, printable, prose, read_documents
from lava_mistral.cli.output import counted, print_columns
from lava_mistral.client.clients import LavaMistral
from lava_mistral.defaults import DEFAULT_CHAT_MODEL, DEFAULT_EMBEDDING_MODEL
from lava_mistral.errors import ConfigurationError
from lava_mistral.pricing.amounts import format_cost

OWN_QUESTION: Final = "How do I bill a call to one of my customers?"
_LONGEST: Final = 800  # characters
_PASSAGES: Final = 4
_MANY: Final = 200  # chunks
_INSTRUCTION: Final = (
    "Answer the question from the numbered passages alone, in a few sentences. If they do not hold the answer, say so."
)


def demo(
    path: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            help="Folder of documents, or one of them: text, Markdown; with the extra documents PDF, HTML, Word. By "
            "default a page about Lava.",
        ),
    ] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="What to ask about the texts.")] = None,
) -> None:
    """Index documents, ask a question, and stream the answer with its sources and its cost.

    With LAVA_SECRET_KEY or LAVA_FORWARD_TOKEN in the environment it talks to Lava; otherwise to a simulated Mistral
    on this machine.
    """
    if question is not None and not question.strip():
        raise typer.BadParameter("it is empty", param_hint="--question")
    if requires_customer() and resolve_billing(None, None).billing.customer_id is None:
        raise ConfigurationError(
            "LAVA_REQUIRE_CUSTOMER is on, and the demo's calls name no customer. Unset it for the demo: "
            "env -u LAVA_REQUIRE_CUSTOMER lava-mistral demo"
        )
    console = Console(soft_wrap=True, highlight=False)
    with ExitStack() as stack:
        client = _client(stack, console)
        texts = _read(path, console)
        records: list[CallRecord] = []
        totals = stack.enter_context(track_usage(listener=records.append))
        chunks = [Text(name, piece) for name, content in texts for piece in passages(content, _LONGEST)]
        count = counted(len(chunks), "chunk")
        if len(chunks) > _MANY:
            console.print(f"Embedding {count}, which may take a while …")
        vectors = client.embed([chunk.content for chunk in chunks]).vectors
        console.print(f"Embedded {count} with {DEFAULT_EMBEDDING_MODEL}.\n")

        question = question or (OWN_QUESTION if path is None else _question(texts[0]))
        console.print(f"[bold]Question:[/bold] {escape(question)}")
        [asked] = client.embed([question]).vectors
        nearness = [sum(map(mul, vector, asked)) for vector in vectors]
        found = [chunks[at] for at in nlargest(_PASSAGES, range(len(chunks)), nearness.__getitem__)]
        numbered = (f"[{number}] {passage.name}\n{passage.content}" for number, passage in enumerate(found, 1))
        console.print(f"[bold]Answer[/bold] of {DEFAULT_CHAT_MODEL}:")
        instruction = "\n\n".join([_INSTRUCTION, *numbered])
        try:
            for delta in client.stream(
                [{"role": "system", "content": instruction}, {"role": "user", "content": question}]
            ):
                console.print(delta.text, end="", markup=False)
        finally:
            # What went wrong in the middle of the answer is said on a line of its own.
            console.print("\n")
        console.print("[bold]Sources[/bold]")
        for number, passage in enumerate(found, 1):
            start = " ".join(passage.content.split())[:70]
            console.print(f"  [{number}] {passage.name}: {start}…", markup=False)
        _print_costs(records, totals.total, console)


def _client(stack: ExitStack, console: Console) -> LavaMistral:
    """Return the client to use, and say in the first line that is printed whom it talks to."""
    if os.environ.get("LAVA_FORWARD_TOKEN") or os.environ.get("LAVA_SECRET_KEY"):
        access = resolve_access()
        here = is_loopback(urlsplit(access.base_url).hostname or "")
        console.print(
            f"Talking to the gateway on this machine, {escape(access.base_url)}: it may be a simulated one."
            if here
            else f"Talking to Lava at {escape(access.base_url)}: these calls are billed to your account."
        )
        return LavaMistral(max_retries=2)
    console.print(
        "SIMULATED: LAVA_SECRET_KEY is not set, so a gateway on this machine answers, not Mistral. "
        "Nothing leaves it and nothing is charged.",
        style="bold yellow",
    )
    from lava_mistral.gateway.local import LocalGateway

    gateway = stack.enter_context(LocalGateway())
    return LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)


def _read(path: Path | None, console: Console) -> list[Text]:
    if path is None:
        page = Path(__file__).with_suffix(".md")
        place, texts, skipped = "this package", [Text(page.name, prose(page.read_text("utf-8")))], list[str]()
    else:
        place = printable(path if path.is_dir() else path.parent)
        texts, skipped = read_documents(path)
    names = ", ".join(text.name for text in texts[:4])
    more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
    size = counted(sum(len(text.content) for text in texts), "character")
    console.print(f"Read {escape(names)}{more} in {escape(place)}: {size} of prose.")
    for reason in skipped:
        console.print(f"Skipped {escape(reason)}.", style="yellow")
    return texts


def _question(text: Text) -> str:
    """Return a question that a text answers, whatever it is about: for its title, or how it begins."""
    begin = text.content.partition("\n")[0][:61]
    title = begin.partition(": ")[0] if ": " in begin else begin.rpartition(" ")[0] if len(begin) > 60 else begin
    return f"What is said about {title.rstrip('.')}?"


def _print_costs(records: Sequence[CallRecord], total: Tally, console: Console) -> None:
    rows = [("call", "model", "tokens in", "tokens out", "cost", "Lava request id")]
    for record in records:
        tokens = f"{record.input_tokens or 0:,}", f"{record.output_tokens or 0:,}"
        rows.append((record.kind, record.model, *tokens, format_cost(record.cost), record.request_id or "unknown"))
    rows.append(("total", "", f"{total.input_tokens:,}", f"{total.output_tokens:,}", format_cost(total.cost), ""))
    console.print()
    print_columns(rows, console, right=(2, 3, 4))
