"""The call of the embedding engine that gives all vectors at the end. Pure: no I/O, no sleep."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.decoding import to_lists
from lava_mistral.embedding.results import EmbeddingResult, as_list
from lava_mistral.embedding.run import StreamJob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EmbedJob(StreamJob):
    """A call whose texts are all read and checked before the first batch, and whose vectors come together."""

    _remembered = None
    _recent = math.inf

    def __init__(self, *settings: Any, **options: Any) -> None:
        super().__init__(*settings, **options)
        self._left = 0
        self._waiting = []
        self._open: list[int] = []
        self._tokens: list[int] = []
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
        self._tokens.append(self._batches.count(text))

    def _due(self) -> Batch | None:
        if self._reading or self._source_error is not None or self.under_way >= self._window:
            return None
        if self._plan is None:
            texts = (self._waiting[index].text for index in self._open)
            self._plan = self._batcher(tokens=sum(self._tokens)).batches(
                zip(self._open, texts, self._tokens, strict=True)
            )
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
        vectors: Any = [slot.row for slot in self._waiting]
        if self._as_numpy:
            vectors = self._array(len(vectors[0]) if vectors else 0)
        sent = set(self._open)
        for index, slot in enumerate(self._waiting):
            if index not in sent:
                # Each text has a list of its own: a caller may change one.
                vectors[index] = slot.row if self._as_numpy else as_list(slot.row)
        return EmbeddingResult(vectors=vectors, **vars(self.usage))
