"""Decide what one call of the embedding engine does next. Pure: no I/O, no sleep, no threads, an injected clock.

A driver iterates over `steps` and waits.
"""

from __future__ import annotations

import math
import time
from array import array
from asyncio import CancelledError
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from lava_mistral.embedding.batch_packing import Batch, Batcher
from lava_mistral.embedding.decoding import to_lists
from lava_mistral.embedding.input_validation import InputValidator
from lava_mistral.embedding.rate_limit import Stopped
from lava_mistral.embedding.results import (
    BatchResult,
    EmbeddingProgress,
    EmbeddingResult,
    EmbeddingSpec,
    EmbeddingUsage,
    OnProgress,
    PartialEmbedding,
    Vector,
    as_list,
    digest,
)
from lava_mistral.embedding.sources import Source
from lava_mistral.mistral.limits import MAX_REQUEST_INPUTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tqdm.std import tqdm

LINGER: Final = 0.2
"""Seconds that the first text of a batch waits for others where a worker is idle."""
HOLD: Final = 0.02  # seconds by which reading may take more than half of the time while a vector is ready


@dataclass(slots=True, eq=False)
class _Slot:
    """A text, and its vector when it is there; equal texts share one."""

    text: str
    row: Vector | None = None


class BatchWorkers(Protocol):
    """Threads or tasks that do batches, and the results that nobody has taken."""

    done: deque[BatchResult]

    def start(self, batch: Batch, *, alone: bool) -> None: ...

    def finish(self) -> None: ...


class StreamJob:
    """One call over texts that come one by one; vectors leave in the same order, and only what is between is held.

    Of `resume_from`, what had been handed on is skipped.

    Attributes:
        alone: whether its only batch can be done by the thread that iterates.
        under_way: how many batches are started and not taken.
        told: how many of them `report` has told of.
        error: what ended it; its batches in flight are still taken.
        translated: a block that raises errors as a framework's own.
    """

    _remembered: int | None = 1_000  # request ids that are kept
    _recent: float = 4_096  # among so many of the latest texts, repeated ones are recognised

    def __init__(
        self,
        validator: InputValidator,
        spec: EmbeddingSpec,
        batcher: Callable[..., Batcher],
        *,
        concurrency: int,
        as_numpy: bool = False,
        resume_from: PartialEmbedding | None = None,
        total: int | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if resume_from is not None:
            resume_from.check(spec)
        self.total = total
        self.alone = False
        self.show_progress = show_progress
        self.bar: tqdm[Any] | None = None
        self.under_way = self.told = 0
        self.error: BaseException | None = None
        self.translated: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._validator = validator
        self._spec = spec
        self._batcher = batcher
        self._concurrency = concurrency
        # A few batches wait for a permit, so that the next request leaves when one ends and not when it is planned.
        self._window = concurrency + max(2, concurrency // 2)
        self._as_numpy = as_numpy
        self._resume = resume_from
        self._on_progress = on_progress
        self._usage = EmbeddingUsage()
        self._clock = clock
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._waiting: list[_Slot] | deque[_Slot] = deque()
        self._left = 0 if resume_from is None else resume_from.next_index
        self._came = self._duplicates = 0
        self._reading = True
        self._source_error: BaseException | None = None
        self._batches = batcher()
        self._full: Batch | None = None
        self._read_at = self._pending_since = 0.0
        self._ends: deque[int] = deque()

    def steps(self, workers: BatchWorkers, source: Source) -> Generator[tuple[int, Any] | float | None, None, None]:
        """Do the call until nothing is left to do, in the thread or task that iterates.

        Yields:
            Vectors with their indexes, seconds to wait at most for a result or the source, and `None` after each
            further piece of work.
        """
        since = spent_reading = 0.0
        while True:
            while workers.done:
                # It stays there until it is filled: the call may end meanwhile.
                if not self.fill(workers.done[0]):
                    self.take(workers)
                    self.report()
                yield None
            batch = self._due() if self.error is None else None
            reads = self._reading and self.error is None and self._room()
            ready = self._ready()
            now = self._clock()
            if not ready:
                since, spent_reading = now, 0.0
            if batch is not None:
                self.under_way += 1
                workers.start(batch, alone=self.alone)
                yield None
            elif reads and source.readable and spent_reading <= HOLD + (now - since) / 2:
                self._read_at = now
                self._read(source)
                spent_reading += self._clock() - now
                yield None
            elif ready:
                yield self.pop()
            elif reads or self.under_way:
                yield self._linger_left() if reads else math.inf
            else:
                break
        error = self.error or self._source_error
        if error is not None:
            raise error
        if self.told != self.done:
            self.report()

    def _read(self, source: Source) -> None:
        """Take in a text; an error is raised when all that came before is handed on."""
        try:
            self._admit(source.take())
        except StopIteration:
            self._reading = False
        except (Exception, CancelledError) as error:  # noqa: BLE001
            self._reading, self._source_error = False, error

    def fill(self, result: BatchResult) -> bool:
        """Take a few of the vectors of a result; whether there were any. `take` takes all that are left."""
        if not result.pieces:
            return False
        self._fill(*result.pieces[-1])
        # Not before: Ctrl-C may come in between.
        result.pieces.pop()
        return True

    def take(self, workers: BatchWorkers) -> None:
        """Take the first result; where it ends the call, nothing new begins."""
        result = workers.done.popleft()
        while self.fill(result):
            pass
        self.under_way -= 1
        self._usage += result.usage
        if self._remembered is not None and len(self._usage.request_ids) > self._remembered:
            self._usage = replace(self._usage, request_ids=self._usage.request_ids[-self._remembered :])
        if self.error is None and result.error is not None and not isinstance(result.error, Stopped):
            self.error = result.error
            workers.finish()

    @property
    def usage(self) -> EmbeddingUsage:
        return replace(self._usage, duplicates=self._duplicates)

    def report(self) -> None:
        self.told = self.done
        if self.bar is not None:
            self.bar.update(self.done - self.bar.n)
        if self._on_progress is not None:
            self._on_progress(EmbeddingProgress(self.done, self.total, self.usage))

    def partial(self) -> PartialEmbedding:
        """What is there now and was not handed on, to go on from."""
        held = {self._left + place: slot for place, slot in enumerate(self._waiting) if slot.row is not None}
        rows = {index: slot.row for index, slot in held.items()}
        digests = {index: digest(slot.text) for index, slot in held.items()}
        if self._resume is not None:
            # What an earlier call had got and this one has not come to is kept as well.
            before = {index: row for index, row in self._resume.rows.items() if index >= self._left}
            rows = before | rows
            digests = {index: self._resume.digests[index] for index in before} | digests
        return PartialEmbedding(rows, digests, self._left, self.usage, self._spec)

    @property
    def done(self) -> int:
        return self._left

    def _room(self) -> bool:
        return len(self._ends) < self._window and len(self._waiting) < (self._window + 1) * MAX_REQUEST_INPUTS

    def _ready(self) -> bool:
        return bool(self._waiting) and self._waiting[0].row is not None

    def _send(self, index: int, text: str) -> None:
        pending = self._batches.pending
        self._full = self._batches.add(index, text)
        if not pending or self._full is not None:
            # A source that was slow to give it will be slow to give another.
            self._pending_since = self._read_at

    def _due(self) -> Batch | None:
        batch, self._full = self._full, None
        if batch is None and self._batches.pending and self._flushes():
            batch = self._batches.flush()
        if batch is not None:
            self._ends.append(batch.indexes[-1])
        return batch

    def _flushes(self) -> bool:
        if not self._reading:
            return True
        if not self._room():
            # It will be filled when something has been handed on; unless only repeated texts have come since.
            self._pending_since = self._clock()
            return not self.under_way and not self._ready()
        return self.under_way < self._concurrency and self._clock() - self._pending_since >= LINGER

    def _linger_left(self) -> float:
        if not self._batches.pending or self.under_way >= self._concurrency:
            return math.inf
        return max(0.0, self._pending_since + LINGER - self._clock())

    def pop(self) -> tuple[int, Any]:
        row = self._waiting[0].row
        vector: Any
        if self._as_numpy:
            import numpy as np

            # A copy: a view would keep the rows of its whole batch.
            vector = np.array(row, np.float32)
        else:
            vector = as_list(row)
        index = self._left
        while self._ends and self._ends[0] <= index:
            self._ends.popleft()
        # Last of all, and without a call, in which Ctrl-C could come: until then it has not been handed on.
        self._left = index + 1
        del self._waiting[0]
        return index, vector

    def _admit(self, given: object) -> None:
        index = self._came
        if index < self._left:
            self._came += 1
            return
        text = self._validator.check(index, given)
        known: Vector | None = None
        if not text:
            known = array("f", bytes(4 * (self._spec.dimensions or 0)))
        elif self._resume is not None:
            known = self._resume.vector(index, text)
        self._came += 1
        slot = self._slots.get(text)
        if slot is not None:
            self._duplicates += 1
        else:
            slot = self._slots[text] = _Slot(text, known)
            if known is None:
                self._send(index, text)
            if len(self._slots) > self._recent:
                # The oldest goes first, even if it was met again: rows of one age share one block of memory.
                self._slots.popitem(last=False)
        self._waiting.append(slot)

    def _fill(self, indexes: list[int], rows: Any) -> None:
        """Take vectors; twice the same does no harm."""
        for index, row in zip(indexes, rows, strict=True):
            self._waiting[index - self._left].row = row


class EmbedJob(StreamJob):
    """A call whose texts are all read and checked before the first batch, and whose vectors come together."""

    _remembered = None
    _recent = math.inf

    def __init__(self, *settings: Any, **options: Any) -> None:
        super().__init__(*settings, **options)
        self._left = 0
        self._waiting = []
        self._open: list[int] = []
        self._filled = 0
        self._plan: Iterator[Batch] | None = None
        self._matrix: NDArray[np.float32] | None = None

    @property
    def done(self) -> int:
        return self._came - len(self._open) + self._filled

    def _room(self) -> bool:
        return True

    def _ready(self) -> bool:
        return False

    def _send(self, index: int, text: str) -> None:
        self._open.append(index)

    def _due(self) -> Batch | None:
        if self._reading or self._source_error is not None or self.under_way >= self._window:
            return None
        if self._plan is None:
            texts = [(index, self._waiting[index].text) for index in self._open]
            self._plan = self._batcher(characters=sum(len(text) for _, text in texts)).batches(texts)
        try:
            batch = next(self._plan, None)
        except Exception as error:  # noqa: BLE001 - of `count_tokens`; raised when what is under way is there
            self._source_error = error
            return None
        self.alone = batch is not None and len(batch.texts) == len(self._open)
        return batch

    def _fill(self, indexes: list[int], rows: Any) -> None:
        if self._as_numpy:
            matrix = self._array(len(rows[0]))
            matrix[indexes] = rows
            rows = [matrix[index] for index in indexes]
        else:
            rows = to_lists(rows)
        self._filled += sum(self._waiting[index].row is None for index in indexes)
        super()._fill(indexes, rows)

    def _array(self, dimensions: int) -> NDArray[np.float32]:
        import numpy as np

        if self._matrix is None:
            self._matrix = np.empty((self._came, dimensions), np.float32)
        return self._matrix

    def result(self) -> EmbeddingResult:
        vectors: Any = [slot.row for slot in self._waiting]
        if self._as_numpy:
            vectors = self._array(len(vectors[0]) if vectors else 0)
        sent = set(self._open)
        for index, slot in enumerate(self._waiting):
            if index not in sent:
                # Each text has a list of its own: a caller may change one.
                vectors[index] = slot.row if self._as_numpy else as_list(slot.row)
        return EmbeddingResult(vectors=vectors, **vars(self.usage))
