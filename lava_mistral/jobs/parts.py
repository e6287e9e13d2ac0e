"""Embed slices of an input into parts, through one stream of the ingestion engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lava_mistral.billing.scope import billed_to
from lava_mistral.billing.spend_limit import SpendLimit
from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.client.clients import LavaMistral
from lava_mistral.embedding.engine import EmbeddingEngine, EmbeddingProgress
from lava_mistral.embedding.results import digest, partial_of
from lava_mistral.errors import InvalidRequestError
from lava_mistral.jobs.folder import JobFolder, Vectors
from lava_mistral.jobs.inputs import BadRow, Slice
from lava_mistral.pricing.cost import cost_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Done:
    """Count the rows that are done, those of them that were rejected, and the tokens paid."""

    rows: int = 0
    rejected: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Part:
    """A part on its way: rows that can be embedded, those that can't, and the places of vectors that are `missing`."""

    slice: Slice
    rows: pa.Table
    numbers: list[int]
    bad: list[BadRow]
    vectors: NDArray[np.float32]
    missing: list[int]
    left: int

    def done(self) -> int:
        return len(self.numbers) - self.left + len(self.bad)


@dataclass
class PartEmbedder:
    """Write the parts of slices, to a schema of `id`, `vector` and the columns to keep. Can be pickled, for workers."""

    folder: JobFolder
    client: LavaMistral
    settings: dict[str, Any]
    schema: pa.Schema
    text: str
    id: str | None
    rows_per_part: int
    strict: bool

    @property
    def dimension(self) -> int:
        """The length of the vectors."""
        return int(self.schema.field("vector").type.list_size)

    def embed(
        self, slices: Iterable[Slice], limit: SpendLimit | None = None, journals: Sequence[int] | None = None
    ) -> Generator[Done, None, None]:
        """Write the part of each slice, and tell after each answer what has been done.

        Args:
            slices: in order.
            limit: what the requests may cost together.
            journals: which ones of earlier runs to read; by default all.

        Raises:
            InvalidRequestError: a row can't be embedded, and `strict` is set.
            LavaError: a request failed for good.
        """
        run, slices = _Run(self), iter(slices)
        while True:
            try:
                yield from self._embed(slices, run, limit, self.folder.recorded(journals))
                return
            except InvalidRequestError as error:
                partial = partial_of(error)
                if len(error.inputs) != 1 or partial is None:
                    raise
                # Mistral has refused one text: the others go on from what the journals have.
                part, place = run.sent[error.inputs[0] - partial.next_index]
                run.refused[part.numbers[place]] = error.message
                if self.strict:
                    raise _refusal(part.numbers[place], error.message) from error
            for part in run.parts:
                run.done.rows -= part.done()
                run.done.rejected -= len(part.bad)
            slices = chain([part.slice for part in run.parts], slices)
            run.parts.clear()
            run.sent.clear()
            journals = None

    def _embed(
        self, slices: Iterator[Slice], run: _Run, limit: SpendLimit | None, known: Vectors
    ) -> Generator[Done, None, None]:
        engine = EmbeddingEngine(run, **self.settings)
        done = run.done
        before = told = done.tokens

        def texts() -> Iterator[str]:
            for part_slice in slices:
                part = self._open(part_slice, engine, known, run.refused)
                run.number = self._number(part_slice)
                done.rows += part.done()
                done.rejected += len(part.bad)
                run.parts.append(part)
                self._write_complete(run.parts)
                column = part.rows.column(self.text)
                for place in part.missing:
                    run.sent.append((part, place))
                    yield column[place].as_py()

        def on_progress(progress: EmbeddingProgress) -> None:
            done.tokens = before + progress.usage.tokens

        with billed_to(spend_limit=limit):
            stream = engine.embed_iter(texts(), as_numpy=True, on_progress=on_progress)
        with stream:
            for _, vector in stream:
                part, place = run.sent.popleft()
                part.vectors[place] = vector
                part.left -= 1
                done.rows += 1
                if not part.left:
                    self._write_complete(run.parts)
                if told != done.tokens:
                    told = done.tokens
                    yield done
        self._write_complete(run.parts)
        yield done

    def _open(self, part: Slice, engine: EmbeddingEngine, known: Vectors, refused: dict[int, str]) -> _Part:
        texts = part.table.column(self.text).to_pylist()
        ids = None if self.id is None else part.table.column(self.id)
        bad, good = list(part.bad), []
        for place, (number, text) in enumerate(zip(part.numbers, texts, strict=True)):
            id = None if ids is None else ids[place]
            reason = refused.get(number) or _reason(text, engine)
            if id is not None and not id.is_valid:
                reason = "the id is null"
            if reason is None:
                good.append(place)
            else:
                bad.append(BadRow(number, reason, (text or "")[:200], None if id is None else id.as_py()))
        if bad and self.strict:
            raise _refusal(bad[0].row, bad[0].reason)
        vectors = np.empty((len(good), self.dimension), np.float32)
        missing = []
        for at, place in enumerate(good):
            row = known.get(digest(texts[place])) if known else None
            if row is None:
                missing.append(at)
            else:
                vectors[at] = row
        table = part.table if len(good) == len(texts) else part.table.take(pa.array(good, pa.int64()))
        return _Part(part, table, [part.numbers[place] for place in good], bad, vectors, missing, len(missing))

    def _write_complete(self, parts: deque[_Part]) -> None:
        while parts and not parts[0].left:
            part = parts.popleft()
            ids = part.numbers if self.id is None else part.rows.column(self.id)
            flat = part.vectors.reshape(-1).astype(self.schema.field("vector").type.value_type.to_pandas_dtype())
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), part.vectors.shape[1])
            kept = [part.rows.column(name) for name in self.schema.names[2:]]
            table = pa.table([ids, vectors, *kept], schema=self.schema)
            self.folder.write_part(part.slice.start, part.slice.end, table, part.bad)
            self.folder.forget(self._number(part.slice))

    def _number(self, part: Slice) -> int:
        return part.start // self.rows_per_part


@dataclass(slots=True)
class _Run:
    """What one call of `embed` has under way; its requests are noted in the folder before they are handed on.

    Attributes:
        number: of the part begun last.
        refused: rows that Mistral refused, with the reason.
        sent: where each vector goes.
    """

    embedder: PartEmbedder
    number: int = 0
    done: Done = field(default_factory=Done)
    refused: dict[int, str] = field(default_factory=dict)
    parts: deque[_Part] = field(default_factory=deque)
    sent: deque[tuple[_Part, int]] = field(default_factory=deque)

    def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        """Send one request, as `LavaMistral.embedding_request` does."""
        number = self.number
        answer = self.embedder.client.embedding_request(inputs, **options)
        self.embedder.folder.add_answer(number, inputs, answer, self.embedder.dimension)
        return answer


def _reason(text: Any, engine: EmbeddingEngine) -> str | None:
    """Say why a text can't be embedded; `None` where it can."""
    if text is None:
        return "the text is null"
    if text.isspace():
        return "the text is white space alone"
    try:
        engine.check([text])
    except InvalidRequestError as error:
        return error.message.replace("input 0 ", "the text ", 1)
    return None


def _refusal(row: int, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"row {row} can't be embedded: {reason}",
        advice="Correct the row in a new job, or let the job reject such rows.",
    )


def price(tokens: int, model: str) -> Decimal | None:
    """Return what tokens cost to embed, in USD; `None` where the model's price is not known."""
    return cost_of({"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}, model)
