"""Pack texts into embedding requests that Mistral accepts. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

# By Mistral's documentation and error texts.
MAX_REQUEST_TOKENS: Final = 16_384
MAX_REQUEST_INPUTS: Final = 512
MAX_INPUT_TOKENS: Final = 8_192

SMALLEST_SHARE: Final = MAX_REQUEST_TOKENS // 2
"""Work is spread over idle workers as long as each request keeps this many tokens: a request has a cost of its own."""

Count: TypeAlias = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one request: texts, where they stand in the caller's sequence, and their counted tokens."""

    indexes: list[int]
    texts: list[str]
    tokens: int

    def halves(self, count: Count) -> list[Batch]:
        """Split into two batches; needs two texts at least."""
        middle = len(self.texts) // 2
        return [
            Batch(self.indexes[part], self.texts[part], sum(map(count, self.texts[part])))
            for part in (slice(None, middle), slice(middle, None))
        ]


class TokenRatio:
    """Learn how many tokens a counted token really is, so that batches are full and not refused.

    Of the latest answers the second highest counts, so that a single odd one changes nothing. Batches get smaller than
    one that was refused; batches that are accepted undo that slowly.
    """

    _MARGIN = 1.02
    _WORTH = 1_000  # counted tokens that one observation is made of: smaller answers are added up
    _LEAST = 0.5  # how far above the truth counts are at most
    _SQUEEZE, _EASE = 1.15, 1.01

    def __init__(self) -> None:
        self._observed: deque[float] = deque(maxlen=16)
        self._counted = self._actual = 0
        self._ratio = 1.0
        self._most = math.inf

    @property
    def limit(self) -> int:
        """How many counted tokens a request may have."""
        return max(1, int(min(MAX_REQUEST_TOKENS / self._ratio, self._most)))

    def answered(self, batch: Batch, actual: int) -> None:
        """Learn from a batch that was accepted, with `actual` tokens as the answer counts them."""
        if 2 * batch.tokens >= self.limit:
            self._most *= self._EASE
        # It was accepted, so it had no more than the limit.
        if not self._LEAST / 2 * batch.tokens <= actual <= MAX_REQUEST_TOKENS:
            return
        self._counted += batch.tokens
        self._actual += actual
        if self._counted < self._WORTH:
            return
        self._observed.append(self._actual / self._counted)
        self._counted = self._actual = 0
        if len(self._observed) > 1:
            self._ratio = max(self._LEAST, sorted(self._observed)[-2] * self._MARGIN)

    def refused(self, batch: Batch) -> None:
        if 2 * batch.tokens >= self.limit:
            self._most = min(self._most, batch.tokens / self._SQUEEZE)


class Batcher:
    """Take texts one by one, give batches.

    Where the counted `tokens` to come are known, the work is spread over the `workers` that can be busy, so that the
    last round of requests is as full as the others.
    """

    def __init__(
        self,
        count: Count,
        ratio: TokenRatio,
        *,
        tokens: int = 0,
        workers: Callable[[], int] = lambda: 1,
    ) -> None:
        self.count = count
        self._ratio = ratio
        self._to_come = tokens
        self._workers = workers
        self._made = 0
        self._begin()

    def _begin(self) -> None:
        self._indexes: list[int] = []
        self._texts: list[str] = []
        self._tokens = 0
        self._limit = self._ratio.limit
        self._aim = self._share() if self._to_come > 0 else self._limit

    def _share(self) -> int:
        fewest = math.ceil(self._to_come / self._limit)
        workers = self._workers()
        rounds = math.ceil((self._made + fewest) / workers)
        parts = max(fewest, min(rounds * workers - self._made, self._to_come // SMALLEST_SHARE))
        # The last one takes what is left.
        return self._limit if parts == 1 else min(self._limit, math.ceil(self._to_come / parts))

    def add(self, index: int, text: str, tokens: int) -> Batch | None:
        """Take a text with its counted tokens; the batch that was complete without it, or none."""
        full = (
            self._tokens + tokens > self._limit or self._tokens >= self._aim or len(self._texts) >= MAX_REQUEST_INPUTS
        )
        batch = self.flush() if full else None
        self._indexes.append(index)
        self._texts.append(text)
        self._tokens += tokens
        self._to_come -= tokens
        return batch

    def batches(self, texts: Iterable[tuple[int, str, int]]) -> Iterator[Batch]:
        for each in texts:
            if batch := self.add(*each):
                yield batch
        if last := self.flush():
            yield last

    @property
    def pending(self) -> bool:
        return bool(self._texts)

    def flush(self) -> Batch | None:
        if not self._texts:
            return None
        batch = Batch(self._indexes, self._texts, self._tokens)
        self._made += 1
        self._begin()
        return batch
