"""The two kinds of call of the embedding engine: all vectors at the end, or one by one and in order. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from lava_mistral.embedding.batching import MAX_REQUEST_INPUTS, Batch
from lava_mistral.embedding.decoding import to_lists
from lava_mistral.embedding.results import EmbeddingResult, as_list
from lava_mistral.embedding.run import EmbeddingRun

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LINGER: Final = 0.2
"""Seconds that the first text of a batch waits for others where a worker is idle."""


class EmbedJob(EmbeddingRun):
    """A call whose texts are all read and checked before the first batch, and whose vectors come together."""

    def __init__(self, *settings: Any, **options: Any) -> None:
        super().__init__(*settings, **options)
        self._open: list[int] = []
        self._filled = 0
        self._plan: Iterator[Batch] | None = None
        self._matrix: NDArray[np.float32] | None = None

    @property
    def done(self) -> int:
        return self._came - len(self._open) + self._filled

    def _send(self, index: int, text: str) -> None:
        self._open.append(index)

    def _due(self) -> Batch | None:
        if self._reading or self._source_error is not None or self.under_way >= self._window:
            return None
        if self._plan is None:
            texts = [self._waiting[index].text for index in self._open]
            self._plan = self._batcher(texts).batches(zip(self._open, texts, strict=True))
        batch = next(self._plan, None)
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
        """Give all vectors."""
        vectors: Any = [slot.row for slot in self._waiting]
        if self._as_numpy:
            vectors = self._array(len(vectors[0]) if vectors else 0)
        sent = set(self._open)
        for index, slot in enumerate(self._waiting):
            if index not in sent:
                # Each text has a list of its own: a caller may change one.
                vectors[index] = slot.row if self._as_numpy else as_list(slot.row)
        return EmbeddingResult(vectors=vectors, **vars(self.usage))


class StreamJob(EmbeddingRun):
    """A call over texts that come one by one; vectors leave in the same order, and only what is between is held.

    Of `resume_from`, what had been handed on is skipped.
    """

    _remembered = 1_000
    _recent = 4_096

    def __init__(self, *settings: Any, **options: Any) -> None:
        super().__init__(*settings, **options)
        self._batches = self._batcher([])
        self._left = 0 if self._resume is None else self._resume.next_index
        self._waiting = deque()
        self._full: Batch | None = None
        self._pending_since = 0.0
        self._ends: deque[int] = deque()

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
        """Whether a batch that is not full leaves."""
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
