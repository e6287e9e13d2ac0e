"""Embed slices of an input into parts, through one stream of the ingestion engine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lava_mistral.client.sync_client import LavaMistral
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.results import EmbeddingProgress, digest
from lava_mistral.errors import InvalidRequestError
from lava_mistral.jobs.folder import JobFolder, RecordingClient
from lava_mistral.jobs.inputs import BadRow, Slice
from lava_mistral.pricing.cost import cost_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Say how far a job has come.

    Attributes:
        rows: of the input; `None` where they were not counted (`estimate` does).
        rows_done: those that need nothing more: embedded or rejected, by this run or an earlier one.
        rows_before: those of them that were done before this run.
        rejected: rows that can't be embedded; the job's file `rejected` has the reasons.
        tokens: what all runs of the job have paid for.
        cost: the same in USD by the catalogue's prices; `None` where they are not known.
        seconds: since this run began.
    """

    rows: int | None
    rows_done: int
    rows_before: int
    rejected: int
    tokens: int
    cost: Decimal | None
    seconds: float


@dataclass(slots=True)
class Counter:
    """Count what a run has done, and report it as `JobProgress`."""

    model: str
    rows: int | None
    done: int
    rejected: int
    tokens: int
    report: Callable[[JobProgress], object] | None
    before: int = field(init=False)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.before = self.done

    def update(self) -> None:
        """Report how far the run has come."""
        if self.report is not None:
            self.report(self.progress())

    def progress(self) -> JobProgress:
        """Say how far the run has come."""
        cost, seconds = price(self.tokens, self.model), time.monotonic() - self.began
        return JobProgress(self.rows, self.done, self.before, self.rejected, self.tokens, cost, seconds)


def price(tokens: int, model: str) -> Decimal | None:
    """Return what tokens cost to embed, in USD; `None` where the model's price is not known."""
    return cost_of({"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}, model)


@dataclass(slots=True)
class _Part:
    """A part on its way: rows that can be embedded, the vectors that are there, the places of the `missing` ones."""

    slice: Slice
    rows: pa.Table
    numbers: list[int]
    bad: list[BadRow]
    vectors: NDArray[np.float32]
    missing: list[int]
    left: int


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

    def embed(self, slices: Iterable[Slice], counter: Counter, journals: Iterable[int] | None = None) -> None:
        """Write the part of each slice.

        Args:
            slices: in order.
            counter: counts what is done.
            journals: which ones of earlier runs to read; by default all.

        Raises:
            InvalidRequestError: a row can't be embedded, and `strict` is set.
            LavaError: a request failed for good.
        """
        refused: dict[int, str] = {}
        slices = iter(slices)
        while True:
            parts: deque[_Part] = deque()
            sent: deque[tuple[_Part, int]] = deque()
            try:
                self._embed(slices, parts, sent, refused, counter, journals)
                return
            except InvalidRequestError as error:
                # Mistral has refused one text: the others go on from what the journals have.
                handed_on = getattr(getattr(error, "partial", None), "next_index", 0)
                if len(error.inputs) != 1 or not 0 <= error.inputs[0] - handed_on < len(sent):
                    raise
                part, place = sent[error.inputs[0] - handed_on]
                refused[part.numbers[place]] = error.message
                if self.strict:
                    raise _refusal(part.numbers[place], error.message) from error
            for part in parts:
                counter.done -= len(part.numbers) - part.left + len(part.bad)
                counter.rejected -= len(part.bad)
            slices = chain([part.slice for part in parts], slices)
            journals = None

    def _embed(
        self,
        slices: Iterator[Slice],
        parts: deque[_Part],
        sent: deque[tuple[_Part, int]],
        refused: dict[int, str],
        counter: Counter,
        journals: Iterable[int] | None,
    ) -> None:
        known = self.folder.recorded(journals)
        size = self.schema.field("vector").type.list_size
        client = RecordingClient(self.client, self.folder, size)
        engine = EmbeddingEngine(client, **self.settings)
        paid_before = counter.tokens

        def texts() -> Iterator[str]:
            for part_slice in slices:
                part = self._open(part_slice, engine, known, refused)
                client.journal = self.folder.journal(self._number(part_slice))
                counter.done += len(part.numbers) - part.left + len(part.bad)
                counter.rejected += len(part.bad)
                parts.append(part)
                self._write_complete(parts)
                column = part.rows.column(self.text)
                for place in part.missing:
                    sent.append((part, place))
                    yield column[place].as_py()

        def on_progress(progress: EmbeddingProgress) -> None:
            counter.tokens = paid_before + progress.usage.tokens
            counter.update()

        with engine.embed_iter(texts(), as_numpy=True, on_progress=on_progress) as stream:
            for _, vector in stream:
                part, place = sent.popleft()
                part.vectors[place] = vector
                part.left -= 1
                counter.done += 1
                if not part.left:
                    self._write_complete(parts)
        self._write_complete(parts)
        counter.update()

    def _open(
        self, part: Slice, engine: EmbeddingEngine, known: dict[bytes, NDArray[np.float32]], refused: dict[int, str]
    ) -> _Part:
        texts = part.table.column(self.text).to_pylist()
        reasons = self._reasons(texts, part.table, engine)
        reasons |= {place: refused[number] for place, number in enumerate(part.numbers) if number in refused}
        ids = None if self.id is None else part.table.column(self.id)
        bad = part.bad + [
            BadRow(part.numbers[place], reason, (texts[place] or "")[:200], None if ids is None else ids[place].as_py())
            for place, reason in sorted(reasons.items())
        ]
        if bad and self.strict:
            raise _refusal(bad[0].row, bad[0].reason)
        good = [place for place in range(len(texts)) if place not in reasons]
        vectors = np.empty((len(good), self.schema.field("vector").type.list_size), np.float32)
        there = {at: row for at, place in enumerate(good) if (row := known.get(digest(texts[place]))) is not None}
        for at, row in there.items():
            vectors[at] = row
        missing = [at for at in range(len(good)) if at not in there]
        table = part.table.take(pa.array(good, pa.int64())) if reasons else part.table
        return _Part(part, table, [part.numbers[place] for place in good], bad, vectors, missing, len(missing))

    def _reasons(self, texts: list[Any], table: pa.Table, engine: EmbeddingEngine) -> dict[int, str]:
        """Return the places of rows that can't be embedded, with the reason."""
        reasons = {place: "the text is null" for place, text in enumerate(texts) if text is None}
        reasons |= {
            place: "the text is white space alone" for place, text in enumerate(texts) if text and text.isspace()
        }
        if self.id is not None and table.column(self.id).null_count:
            reasons |= {place: "the id is null" for place, id in enumerate(table.column(self.id)) if not id.is_valid}
        places = [place for place in range(len(texts)) if place not in reasons]
        while places:
            try:
                engine.check([texts[place] for place in places])
                break
            except InvalidRequestError as error:
                at = error.inputs[0]
                reasons[places[at]] = error.message.replace(f"input {at} ", "the text ", 1)
                places = places[at + 1 :]
        return reasons

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


def _refusal(row: int, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"row {row} can't be embedded: {reason}",
        advice="Correct the row in a new job, or let the job reject such rows.",
    )
