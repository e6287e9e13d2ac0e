"""The two kinds of call of the embedding engine: all vectors at the end, or one by one and in order. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lava_mistral.embedding.batching import MAX_REQUEST_INPUTS, Batch, Batcher
from lava_mistral.embedding.decoding import to_lists
from lava_mistral.embedding.input_validation import InputValidator
from lava_mistral.embedding.results import EmbeddingResult, EmbeddingSpec, PartialEmbedding, Vector, as_list
from lava_mistral.embedding.run import EmbeddingRun, Start

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LINGER: Final = 0.2
"""Seconds that the first text of a batch waits for others where a worker is idle."""


class EmbedJob(EmbeddingRun):
    """A call whose texts are all read and checked before the first batch, and whose vectors come together."""

    def __init__(
        self,
        validator: InputValidator,
        spec: EmbeddingSpec,
        batcher: Callable[[list[str]], Batcher],
        *,
        total: int,
        **settings: Any,
    ) -> None:
        super().__init__(validator, spec, total=total, **settings)
        self._batcher = batcher
        self._texts: list[str] = []
        self._lists: list[Vector | None] = [None] * total
        self._matrix: NDArray[np.float32] | None = None
        self._filled = bytearray(total)
        self._copies: list[tuple[int, int]] = []
        self._first: dict[str, int] = {}
        self._open: list[int] = []
        self._plan: Iterator[Batch] | None = None
        self._planned: deque[Batch] = deque()

    def _admit(self, text: object) -> None:
        index = self._came
        checked = self._validator.check(index, text)
        known = self._known(index, checked)
        original = self._first.setdefault(checked, index)
        self._texts.append(checked)
        self._came += 1
        if original != index:
            self._copies.append((index, original))
            self._tally.duplicates += 1
        elif known is None:
            self._open.append(index)
            return
        else:
            self._fill([index], [known if self._as_numpy else as_list(known)], convert=False)
            return
        self.done += 1

    def _due(self) -> Start | None:
        if self._reading or self._source_error is not None or self.under_way >= self._window:
            return None
        alone = False
        if self._plan is None:
            self._plan = self._batches(self._batcher([self._texts[index] for index in self._open]))
            self._planned.extend(batch for batch in (next(self._plan, None), next(self._plan, None)) if batch)
            alone = len(self._planned) == 1
        batch = self._planned.popleft() if self._planned else next(self._plan, None)
        return None if batch is None else Start(batch, alone)

    def _batches(self, batcher: Batcher) -> Iterator[Batch]:
        for index in self._open:
            batch = batcher.add(index, self._texts[index])
            if batch is not None:
                yield batch
        last = batcher.flush()
        if last is not None:
            yield last

    def _fill(self, indexes: list[int], rows: Any, *, convert: bool = True) -> None:
        if self._as_numpy:
            import numpy as np

            if self._matrix is None:
                self._matrix = np.empty((self.total or 0, len(rows[0])), np.float32)
            self._matrix[indexes] = rows
        else:
            for index, row in zip(indexes, to_lists(rows) if convert else rows, strict=True):
                self._lists[index] = row
        # Not before: Ctrl-C may come in between, and what is marked is taken for a vector.
        for index in indexes:
            self.done += not self._filled[index]
            self._filled[index] = 1

    def result(self) -> EmbeddingResult:
        """Give all vectors."""
        vectors: Any
        if self._as_numpy:
            import numpy as np

            vectors = self._matrix if self._matrix is not None else np.empty((0, 0), np.float32)
            for index, original in self._copies:
                vectors[index] = vectors[original]
        else:
            vectors = self._lists
            for index, original in self._copies:
                # Each text has a list of its own: a caller may change one.
                vectors[index] = list(vectors[original])
        return EmbeddingResult(vectors=vectors, **self._tally.facts())

    def partial(self) -> PartialEmbedding | None:
        """What is there now."""
        if self._reading or self._source_error is not None:
            # Nothing was sent.
            return self._resume
        originals = {index: index for index, filled in enumerate(self._filled) if filled}
        originals |= {index: original for index, original in self._copies if self._filled[original]}
        rows: dict[int, Vector] = {}
        for index, original in sorted(originals.items()):
            rows[index] = self._lists[original] if self._matrix is None else self._matrix[original]
        return self._partial(rows, {index: self._texts[index] for index in rows}, 0)


@dataclass(slots=True, eq=False)
class _Slot:
    """A text on its way through a stream."""

    text: str
    row: Vector | None = None


class StreamJob(EmbeddingRun):
    """A call over texts that come one by one; vectors leave in the same order, and only what is between is held.

    Repeated texts are recognised among the latest ones, as many as memory is set aside for. Of `resume_from`, what had
    been handed on is skipped.
    """

    _RECENT = 4_096
    _RECENT_CHARACTERS = 8_000_000
    _remembered = 1_000

    def __init__(self, validator: InputValidator, spec: EmbeddingSpec, batcher: Batcher, **settings: Any) -> None:
        super().__init__(validator, spec, **settings)
        self._batcher = batcher
        self._skipped = 0 if self._resume is None else self._resume.next_index
        self.done = self._left = self._skipped
        self._full: Batch | None = None
        self._pending_since = 0.0
        self._waiting: deque[_Slot] = deque()
        self._sent: dict[int, _Slot] = {}
        self._ends: deque[int] = deque()
        self._recent: OrderedDict[str, _Slot] = OrderedDict()
        self._recent_characters = 0

    def _room(self) -> bool:
        return len(self._ends) < self._window and len(self._waiting) < (self._window + 1) * MAX_REQUEST_INPUTS

    def _ready(self) -> bool:
        return bool(self._waiting) and self._waiting[0].row is not None

    def _admit(self, text: object) -> None:
        index = self._came
        if index < self._skipped:
            self._came += 1
            return
        checked = self._validator.check(index, text)
        known = self._known(index, checked)
        self._came += 1
        slot = self._recent.get(checked)
        if slot is not None:
            self._tally.duplicates += 1
        else:
            slot = _Slot(checked, known)
            self._remember(slot)
            if known is None:
                self._sent[index] = slot
                pending = self._batcher.pending
                self._full = self._batcher.add(index, checked)
                if not pending or self._full is not None:
                    # A source that was slow to give it will be slow to give another.
                    self._pending_since = self._read_at
        self._waiting.append(slot)

    def _due(self) -> Start | None:
        batch, self._full = self._full, None
        if batch is None and self._batcher.pending and self._flushes():
            batch = self._batcher.flush()
        if batch is None:
            return None
        self._ends.append(batch.indexes[-1])
        return Start(batch)

    def _flushes(self) -> bool:
        """Whether a batch that is not full leaves."""
        if not self._reading:
            return True
        if not self._room():
            # It will be filled when something has been handed on; unless only repeated texts have come since.
            self._pending_since = self._clock()
            return not self.under_way and not self._ready()
        return self.under_way < self._concurrency and self._clock() - self._pending_since >= LINGER

    def _linger_left(self) -> float | None:
        if not self._batcher.pending or self.under_way >= self._concurrency:
            return None
        return max(0.0, self._pending_since + LINGER - self._clock())

    def _remember(self, slot: _Slot) -> None:
        self._recent[slot.text] = slot
        self._recent_characters += len(slot.text)
        while len(self._recent) > self._RECENT or self._recent_characters > self._RECENT_CHARACTERS:
            # The oldest goes first, even if it was met again: rows of one age share one block of memory.
            text, _ = self._recent.popitem(last=False)
            self._recent_characters -= len(text)

    def _fill(self, indexes: list[int], rows: Any) -> None:
        for index, row in zip(indexes, rows, strict=True):
            slot = self._sent.pop(index, None)
            if slot is not None:
                slot.row = row

    def pop(self) -> tuple[int, Any]:
        """Hand on the next index and vector."""
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
        self.done += 1
        # Last of all, and without a call, in which Ctrl-C could come: until then it has not been handed on.
        self._left = index + 1
        del self._waiting[0]
        return index, vector

    def partial(self) -> PartialEmbedding:
        """What is there now and has not left."""
        held = {self._left + place: slot for place, slot in enumerate(self._waiting) if slot.row is not None}
        rows = {index: as_list(slot.row) for index, slot in held.items()}
        return self._partial(rows, {index: slot.text for index, slot in held.items()}, self._left)
