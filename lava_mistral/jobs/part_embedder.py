"""Embed slices of an input into parts, each by one call of the ingestion engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from math import inf
from queue import SimpleQueue
from typing import Any, Final

import pyarrow as pa

from lava_mistral.billing.scope import billed_to
from lava_mistral.billing.spend_limit import SpendLimit
from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.client.clients import LavaMistral
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.results import EmbeddingProgress, EmbeddingResult, PartialEmbedding, digest, partial_of
from lava_mistral.errors import InvalidRequestError
from lava_mistral.jobs.inputs import BadRow, Slice
from lava_mistral.jobs.job_store import JobStore
from lava_mistral.pricing.cost import cost_of

_AT_ONCE: Final = 2
"""Parts under way in a process: while the last answers of one come, the requests of another are in flight."""
_GRACE = 1.0
"""Seconds after Ctrl-C for answers in flight to be noted; after an error of a part there is no hurry."""
_part: ContextVar[int] = ContextVar("part")  # the first row of the one that requests are made for


@dataclass(frozen=True, slots=True)
class Done:
    """Count the rows that are done, those of them that were rejected, and the tokens paid."""

    rows: int = 0
    rejected: int = 0
    tokens: int = 0

    def __add__(self, other: Done) -> Done:
        return Done(self.rows + other.rows, self.rejected + other.rejected, self.tokens + other.tokens)


class _Sender:
    """Sends the requests of parts until it is closed."""

    def __init__(self, embedder: PartEmbedder) -> None:
        self.closed = False
        self._embedder = embedder
        self._in_flight = set[object]()

    def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        self._in_flight.add(request := object())
        try:
            if self.closed:
                raise CancelledError
            return self._embedder.embedding_request(inputs, **options)
        finally:
            self._in_flight.discard(request)

    def close(self, seconds: float) -> None:
        """Send nothing more, and wait until the answers of what was sent are noted."""
        self.closed = True
        end = time.monotonic() + seconds
        while self._in_flight and time.monotonic() < end:
            time.sleep(0.01)


@dataclass
class PartEmbedder:
    """Write the parts of slices, to a schema of `id`, `vector` and the columns to keep. Can be pickled, for workers."""

    folder: JobStore
    client: LavaMistral
    settings: dict[str, Any]
    schema: pa.Schema
    text: str
    id: str | None
    strict: bool

    def embed(self, slices: Iterator[Slice], limit: SpendLimit | None) -> Generator[Done, None, None]:
        """Write the part of each slice, and tell after each answer what has been done.

        Raises:
            InvalidRequestError: a row can't be embedded, and `strict` is set.
            LavaError: a request failed for good.
        """
        sender, grace = _Sender(self), _GRACE
        engine = EmbeddingEngine(sender, **self.settings)
        told: SimpleQueue[tuple[int, Done | Exception, bool]] = SimpleQueue()

        def work(part: Slice) -> None:
            def tell(done: Done) -> None:
                if sender.closed:
                    raise CancelledError
                told.put((part.start, done, False))

            try:
                told.put((part.start, self.embed_part(part, engine, limit, tell), True))
            except Exception as error:  # noqa: BLE001  # raised again in the caller's thread
                told.put((part.start, error, True))

        total, running, threads = Done(), dict[int, Done](), list[threading.Thread]()
        try:
            while True:
                for part in islice(slices, _AT_ONCE - len(running)):
                    running[part.start] = Done()
                    threads.append(threading.Thread(target=copy_context().run, args=(work, part), daemon=True))
                    threads[-1].start()
                if not running:
                    return
                start, done, ended = told.get()
                if isinstance(done, Exception):
                    grace = inf
                    raise done
                running[start] = done
                yield sum(running.values(), total)
                if ended:
                    total += running.pop(start)
        finally:
            sender.close(grace)
            for thread in threads:
                thread.join(_GRACE)

    def embed_part(
        self, part: Slice, engine: EmbeddingEngine, limit: SpendLimit | None, tell: Callable[[Done], object]
    ) -> Done:
        """Write the part of one slice, and tell after each answer what has been done; for the errors see `embed`."""
        _part.set(part.start)
        texts = part.table.column(self.text).to_pylist()
        ids = part.table.column(self.id).to_pylist() if self.id is not None else part.numbers
        reasons = {place: "the text is null" for place, text in enumerate(texts) if text is None}
        reasons |= {at: "the text is white space alone" for at, text in enumerate(texts) if text and text.isspace()}
        reasons |= {place: "the id is null" for place, id in enumerate(ids) if id is None}
        bad, tokens = part.bad, 0

        def embed(good: list[str]) -> EmbeddingResult:
            nonlocal bad, tokens
            bad = part.bad + [
                BadRow(part.numbers[place], reason, (texts[place] or "")[:200], ids[place] if self.id else None)
                for place, reason in sorted(reasons.items())
            ]
            if bad and self.strict:
                raise InvalidRequestError(
                    f"row {bad[0].row} can't be embedded: {bad[0].reason}",
                    advice="Correct the row in a new job, or let the job reject such rows.",
                )
            before = Done(len(bad), len(bad), tokens)
            known = self.folder.recorded(part.start)
            digests = {at: key for at, text in enumerate(good) if known and (key := digest(text)) in known}
            there = PartialEmbedding({at: known[key] for at, key in digests.items()}, digests)

            def on_progress(progress: EmbeddingProgress) -> None:
                tell(before + Done(progress.done, 0, progress.usage.tokens))

            try:
                with billed_to(spend_limit=limit):
                    return engine.embed(good, as_numpy=True, on_progress=on_progress, resume_from=there)
            except InvalidRequestError as error:
                if partial := partial_of(error):
                    tokens += partial.usage.tokens
                raise

        good, result = embed_good(engine, texts, reasons, embed)
        rows = part.table.take(pa.array(good, pa.int64())) if reasons else part.table
        numbers = [part.numbers[place] for place in good] if self.id is None else rows.column(self.id)
        number = self.schema.field("vector").type.value_type.to_pandas_dtype()
        flat = pa.array(result.vectors.reshape(-1).astype(number, copy=False))
        vectors = pa.FixedSizeListArray.from_arrays(flat, self._dimension)
        kept = [rows.column(name) for name in self.schema.names[2:]]
        self.folder.write_part(part, pa.table([numbers, vectors, *kept], schema=self.schema), bad)
        return Done(part.end - part.start, len(bad), tokens + result.tokens)

    @property
    def _dimension(self) -> int:
        return int(self.schema.field("vector").type.list_size)

    def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        """Send one request, and note the answer in the folder before it is handed on."""
        answer = self.client.embedding_request(inputs, **options)
        self.folder.add_answer(_part.get(), inputs, answer, self._dimension)
        return answer


def embed_good(
    engine: EmbeddingEngine,
    texts: Sequence[Any],
    reasons: dict[int, str],
    embed: Callable[[list[str]], EmbeddingResult],
) -> tuple[list[int], EmbeddingResult]:
    """Embed the texts against which there are no `reasons`; one that can't be embedded gets one and is left out.

    Returns:
        The places of the others, and what `embed` gave for them.
    """
    for place in range(len(texts)):
        try:
            if place not in reasons:
                engine.check(texts[place : place + 1])
        except InvalidRequestError as error:
            reasons[place] = error.message.replace("input 0 ", "the text ", 1)
    while True:
        good = [place for place in range(len(texts)) if place not in reasons]
        try:
            return good, embed([texts[place] for place in good])
        except InvalidRequestError as error:
            if len(error.inputs) != 1:
                raise
            reasons[good[error.inputs[0]]] = error.message.replace(f"input {error.inputs[0]} ", "the text ", 1)


def price(tokens: int, model: str) -> Decimal | None:
    """Return what tokens cost to embed, in USD; `None` where the model's price is not known."""
    return cost_of({"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}, model)
