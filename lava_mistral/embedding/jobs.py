"""What a call of the embedding engine has got, and what it still has to send. Pure: no I/O, no sleep, no threads.

`Collection` is a call with all its texts at hand, `Flow` one whose texts come one by one and whose vectors are handed
on in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lava_mistral.billing.scope import Identity
from lava_mistral.billing.usage import CallEffort
from lava_mistral.embedding.batch_request import Report
from lava_mistral.embedding.batching import MAX_REQUEST_INPUTS, Batch, Planner
from lava_mistral.embedding.decoding import to_lists
from lava_mistral.embedding.input_validation import Inspector
from lava_mistral.embedding.limiter import Stopped
from lava_mistral.embedding.results import (
    EmbeddingProgress,
    EmbeddingResult,
    EmbeddingUsage,
    Making,
    PartialEmbedding,
    Tally,
    Vector,
    as_list,
    digest,
)
from lava_mistral.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Call(ABC):
    """One call: what it has got and how far it has come.

    Attributes:
        total: how many texts it is about, where that is known.
        done: how many of them need nothing more.
        error: what ended it.
    """

    def __init__(
        self,
        inspector: Inspector,
        making: Making,
        resume_from: PartialEmbedding | None,
        tally: Tally,
        total: int | None,
    ) -> None:
        if resume_from is not None:
            resume_from.check(making)
        self.tally = tally
        self.total = total
        self.done = 0
        self.error: BaseException | None = None
        self._inspector = inspector
        self._making = making
        self._resume = resume_from
        self._identity: Identity | None = None

    @abstractmethod
    def _take(self, report: Report) -> None:
        """Take the vectors of a batch."""

    @abstractmethod
    def partial(self) -> PartialEmbedding | None:
        """What is there now, to go on from; `None` where it is nothing."""

    def take(self, report: Report) -> bool:
        """A batch is done, or has failed; whether it is the first that failed."""
        self.tally.add(report)
        self._identity = self._identity or report.identity
        self._take(report)
        if report.error is None or self.error is not None or isinstance(report.error, Stopped):
            return False
        self.error = report.error
        return True

    def effort(self) -> CallEffort:
        """What it did beside its requests."""
        who = self._identity or Identity()
        return CallEffort(
            self._making.model,
            self.tally.retries,
            self.tally.duplicates,
            who.billing.customer_id,
            who.billing.meter_slug,
            who.metadata,
        )

    def progress(self) -> EmbeddingProgress:
        """How far it has come."""
        return EmbeddingProgress(self.done, self.total, EmbeddingUsage(**self.tally.facts()))

    def _partial(self, rows: dict[int, Vector], texts: Mapping[int, str], next_index: int) -> PartialEmbedding:
        digests = {index: digest(text) for index, text in texts.items()}
        if self._resume is not None:
            # What an earlier call had got and this one has not come to is kept as well.
            before = {index: row for index, row in self._resume.rows.items() if index >= next_index}
            rows = before | rows
            digests = {index: self._resume.digests[index] for index in before} | digests
        return PartialEmbedding(rows, digests, next_index, EmbeddingUsage(**self.tally.facts()), self._making)


class Collection(_Call):
    """One call with all its texts at hand: `check` and `admit` each of them, then make the batches.

    Args:
        texts: what is to be embedded.
        inspector: refuses what Mistral would refuse.
        making: what makes the vectors.
        as_numpy: collect a matrix rather than lists.
        resume_from: what an earlier call had got.

    Raises:
        ConfigurationError: `resume_from` holds other vectors.
    """

    def __init__(
        self,
        texts: Sequence[str],
        inspector: Inspector,
        making: Making,
        *,
        as_numpy: bool = False,
        resume_from: PartialEmbedding | None = None,
    ) -> None:
        super().__init__(inspector, making, resume_from, Tally(), len(texts))
        self.texts = texts
        self.characters = 0
        self._as_numpy = as_numpy
        self._lists: list[Vector | None] = [None] * len(texts)
        self._matrix: NDArray[np.float32] | None = None
        self._filled = bytearray(len(texts))
        self._copies: list[tuple[int, int]] = []
        self._first: dict[str, int] = {}
        self._open: list[int] = []
        self._admitted = 0

    def is_long(self, index: int) -> bool:
        """Whether checking the text can take long."""
        return self._inspector.is_long(self.texts[index])

    def check(self, index: int) -> None:
        """Check a text.

        Raises:
            InvalidRequestError: Mistral would refuse it, or it is not the one that `resume_from` has a vector of.
        """
        self._inspector.check(index, self.texts[index])

    def admit(self, index: int) -> None:
        """Take in the next text, which was checked.

        Raises:
            InvalidRequestError: it is not the one that `resume_from` has a vector of.
        """
        text = self.texts[index]
        known = None if self._resume is None else self._resume.vector(index, text)
        original = self._first.setdefault(text, index)
        self._admitted += 1
        if original == index and known is None:
            self._open.append(index)
            self.characters += len(text)
            return
        if original == index:
            self._fill([index], [known if self._as_numpy else as_list(known)])
        else:
            self._copies.append((index, original))
            self.tally.duplicates += 1
        self.done += 1

    def batches(self, planner: Planner) -> Iterator[Batch]:
        """What is to be sent, made as it is asked for."""
        for index in self._open:
            batch = planner.add(index, self.texts[index])
            if batch is not None:
                yield batch
        last = planner.flush()
        if last is not None:
            yield last

    def sample(self, size: int) -> list[str]:
        """Some of the texts to be sent, from all over."""
        step = max(1, len(self._open) // size)
        return [self.texts[index] for index in self._open[::step][:size]]

    def _take(self, report: Report) -> None:
        for indexes, rows in report.pieces:
            self._fill(indexes, rows if self._as_numpy else to_lists(rows))
            self.done += len(indexes)

    def _fill(self, indexes: list[int], rows: Any) -> None:
        if self._as_numpy:
            import numpy as np

            if self._matrix is None:
                self._matrix = np.empty((len(self.texts), len(rows[0])), np.float32)
            self._matrix[indexes] = rows
        else:
            for index, row in zip(indexes, rows, strict=True):
                self._lists[index] = row
        # Not before: Ctrl-C may come in between, and what is marked is taken for a vector.
        for index in indexes:
            self._filled[index] = 1

    def result(self) -> EmbeddingResult:
        """All vectors."""
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
        return EmbeddingResult(vectors=vectors, **self.tally.facts())

    def partial(self) -> PartialEmbedding | None:
        """What is there now."""
        if self._admitted < len(self.texts):
            # Nothing was sent.
            return self._resume
        rows: dict[int, Vector] = {}
        originals = {index: index for index in range(len(self.texts)) if self._filled[index]}
        originals |= {index: original for index, original in self._copies if self._filled[original]}
        for index, original in sorted(originals.items()):
            rows[index] = self._lists[original] if self._matrix is None else self._matrix[original]
        return self._partial(rows, {index: self.texts[index] for index in rows}, 0)


@dataclass(slots=True, eq=False)
class _Slot:
    """A text on its way through a flow."""

    text: str
    row: Vector | None = None


class Flow(_Call):
    """One call over texts that come one by one; vectors leave in the same order, and only what is between is held.

    Repeated texts are recognised among the latest ones, as many as memory is set aside for.

    Args:
        inspector: refuses what Mistral would refuse.
        making: what makes the vectors.
        planner: packs the texts into batches.
        window: how many batches may be between the first text that has not left and the last that has come.
        as_numpy: hand on arrays rather than lists.
        resume_from: what an earlier call had got; what it had handed on is skipped.
        total: how many texts will come, where that is known.

    Raises:
        ConfigurationError: `resume_from` holds other vectors.
    """

    _RECENT = 4_096
    _RECENT_CHARACTERS = 8_000_000

    def __init__(
        self,
        inspector: Inspector,
        making: Making,
        planner: Planner,
        *,
        window: int,
        as_numpy: bool = False,
        resume_from: PartialEmbedding | None = None,
        total: int | None = None,
    ) -> None:
        super().__init__(inspector, making, resume_from, Tally(remembered=1_000), total)
        self._planner = planner
        self._window = window
        self._as_numpy = as_numpy
        self._came = 0
        self._skipped = 0 if resume_from is None else resume_from.next_index
        self.done = self._left = self._skipped
        self._waiting: deque[_Slot] = deque()
        self._sent: dict[int, _Slot] = {}
        self._ends: deque[int] = deque()
        self._recent: OrderedDict[str, _Slot] = OrderedDict()
        self._recent_characters = 0

    @property
    def room(self) -> bool:
        """Whether another text may come."""
        return len(self._ends) < self._window and len(self._waiting) < (self._window + 1) * MAX_REQUEST_INPUTS

    @property
    def pending(self) -> bool:
        """Whether texts wait for a batch to be full."""
        return self._planner.pending

    def is_long(self, text: str) -> bool:
        """Whether checking the text that comes next can take long."""
        return self._came >= self._skipped and self._inspector.is_long(text)

    def check(self, text: str) -> None:
        """Check the text that comes next.

        Raises:
            InvalidRequestError: Mistral would refuse it.
        """
        if self._came >= self._skipped:
            self._inspector.check(self._came, text)

    def push(self, text: str) -> Batch | None:
        """A text has come, and was checked; the batch that it completes, or none.

        Raises:
            InvalidRequestError: it is not the one that `resume_from` has a vector of.
        """
        index = self._came
        if index < self._skipped:
            self._came = index + 1
            return None
        known = None if self._resume is None else self._resume.vector(index, text)
        self._came = index + 1
        slot = self._recent.get(text)
        if slot is not None:
            self.tally.duplicates += 1
            self._waiting.append(slot)
            return None
        slot = _Slot(text, known)
        self._remember(slot)
        self._waiting.append(slot)
        if known is not None:
            return None
        self._sent[index] = slot
        return self._launched(self._planner.add(index, text))

    def flush(self) -> Batch | None:
        """The texts that wait for a batch to be full, or none."""
        return self._launched(self._planner.flush())

    def _launched(self, batch: Batch | None) -> Batch | None:
        if batch is not None:
            self._ends.append(batch.indexes[-1])
        return batch

    def _remember(self, slot: _Slot) -> None:
        self._recent[slot.text] = slot
        self._recent_characters += len(slot.text)
        while len(self._recent) > self._RECENT or self._recent_characters > self._RECENT_CHARACTERS:
            # The oldest goes first, even if it was met again: rows of one age share one block of memory.
            text, _ = self._recent.popitem(last=False)
            self._recent_characters -= len(text)

    def _take(self, report: Report) -> None:
        for indexes, rows in report.pieces:
            for index, row in zip(indexes, rows, strict=True):
                self._sent.pop(index).row = row

    def ready(self) -> bool:
        """Whether the next vector in order is there."""
        return bool(self._waiting) and self._waiting[0].row is not None

    def pop(self) -> tuple[int, Any]:
        """The next index and vector."""
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


def as_texts(texts: Iterable[str]) -> Sequence[str]:
    """The texts as a list or tuple.

    Raises:
        ConfigurationError: it is one text, whose characters would be taken for texts.
    """
    refuse_one_text(texts)
    # Others may be slow to give one text by its index, or give another one next time.
    return texts if isinstance(texts, list | tuple) else list(texts)


def refuse_one_text(texts: object) -> None:
    """Refuse a text where texts are expected.

    Raises:
        ConfigurationError: it is one.
    """
    if isinstance(texts, str | bytes):
        raise ConfigurationError("expected several texts, got one: write [text].")
