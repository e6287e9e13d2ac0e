"""Pack texts into embedding requests that Mistral accepts. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from lava_mistral.mistral.limits import MAX_REQUEST_INPUTS, MAX_REQUEST_TOKENS

SMALLEST_SHARE: Final = MAX_REQUEST_TOKENS // 2
"""Work is spread over idle workers as long as each request keeps this many tokens: a request has a cost of its own."""

Count: TypeAlias = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one request: texts, where they stand in the caller's sequence, and their counted tokens."""

    indexes: list[int]
    texts: list[str]
    tokens: int


class TokenRatio:
    """Learn how many tokens a counted token really is, so that batches are full and not refused.

    Of the latest answers the second highest counts, so that a single odd one changes nothing. A batch that is refused
    for its size teaches by the answers for its halves.
    """

    _MARGIN = 1.02
    _WORTH = 1_000  # counted tokens that one observation is made of: smaller answers are added up
    _LEAST = 0.5  # how far above the truth counts are at most

    def __init__(self) -> None:
        self._observed: deque[float] = deque(maxlen=16)
        self._counted = self._actual = 0
        self._ratio = 1.0

    @property
    def limit(self) -> int:
        """How many counted tokens a request may have."""
        return max(1, int(MAX_REQUEST_TOKENS / self._ratio))

    def answered(self, batch: Batch, actual: int) -> None:
        """Learn from a batch that was accepted, with `actual` tokens as the answer counts them."""
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


class Batcher:
    """Take texts one by one, count their tokens, give batches.

    Where it is known how many `characters` are to come, the work is spread over the `workers` that can be busy, so that
    the last round of requests is as full as the others.
    """

    def __init__(
        self, count: Count, ratio: TokenRatio, *, characters: int = 0, workers: Callable[[], int] = lambda: 1
    ) -> None:
        self._count = count
        self._ratio = ratio
        self._to_come = characters  # of the texts that are in no batch that was given
        self._workers = workers
        self._made = self._made_of = self._counted = 0  # batches, their characters and tokens
        self._begin()

    def _begin(self) -> None:
        self._indexes: list[int] = []
        self._texts: list[str] = []
        self._tokens = self._characters = 0
        self._limit = self._ratio.limit
        self._aim: int | None = None

    def _share(self) -> int:
        """How many tokens the batch should have: those to come are estimated by those of the texts so far."""
        seen = self._made_of + self._characters
        to_come = math.ceil(self._to_come * (self._counted + self._tokens) / seen)
        fewest = math.ceil(to_come / self._limit)
        workers = self._workers()
        rounds = math.ceil((self._made + fewest) / workers)
        parts = max(fewest, min(rounds * workers - self._made, to_come // SMALLEST_SHARE))
        # The last one takes what is left.
        return self._limit if parts == 1 else min(self._limit, math.ceil(to_come / parts))

    def _is_full(self, tokens: int) -> bool:
        if self._tokens + tokens > self._limit or len(self._texts) >= MAX_REQUEST_INPUTS:
            return True
        if self._to_come <= 0 or self._tokens < SMALLEST_SHARE:
            return False
        if self._aim is None:
            self._aim = self._share()
        return self._tokens >= self._aim

    def add(self, index: int, text: str) -> Batch | None:
        """Take a text; the batch that was complete without it, or none."""
        tokens = self._count(text)
        batch = self.flush() if self._is_full(tokens) else None
        self._indexes.append(index)
        self._texts.append(text)
        self._tokens += tokens
        self._characters += len(text)
        return batch

    def batches(self, texts: Iterable[tuple[int, str]]) -> Iterator[Batch]:
        for index, text in texts:
            if batch := self.add(index, text):
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
        self._made_of += self._characters
        self._counted += self._tokens
        self._to_come -= self._characters
        self._begin()
        return batch
