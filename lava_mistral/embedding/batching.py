"""Packs texts into embedding requests that Mistral accepts. Pure: no I/O, no clock.

Limits by Mistral's documentation and error texts: 16,384 tokens and 512 inputs a request, 8,192 tokens an input.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_REQUEST_TOKENS: Final = 16_384
MAX_REQUEST_INPUTS: Final = 512
MAX_INPUT_TOKENS: Final = 8_192

SMALLEST_SHARE: Final = MAX_REQUEST_TOKENS // 2
"""Work is spread over idle lanes as long as each request keeps this many tokens: a request has a cost of its own."""

Count: TypeAlias = Callable[[str], int]

SURELY_FITS: Final = MAX_INPUT_TOKENS - 8
"""A token is a byte at least, beside the few that enclose an input: a text of so many bytes needs no count."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one request.

    Attributes:
        indexes: where each text stands in the caller's sequence.
        texts: the texts, in the same order.
        tokens: how many tokens they are counted to have together.
    """

    indexes: list[int]
    texts: list[str]
    tokens: int

    def halves(self, count: Count) -> tuple[Batch, Batch]:
        """Two batches of about equal weight; needs two texts at least."""
        half, weight, middle = self.tokens / 2, 0.0, 0
        while middle < len(self.texts) - 1 and (middle == 0 or weight < half):
            weight += count(self.texts[middle])
            middle += 1
        left, right = self.texts[:middle], self.texts[middle:]
        return (
            Batch(self.indexes[:middle], left, sum(map(count, left))),
            Batch(self.indexes[middle:], right, sum(map(count, right))),
        )


class Calibration:
    """How many tokens a counted token really is, so that batches are full and not refused.

    It is 1 to begin with: a count is exact, or too high. A lower ratio comes from exact counts of a sample alone, a
    higher one from answers and refusals.
    """

    _GROUP = 4
    """Texts of a sample that are taken together: fewer say too little, more would hide that texts differ."""
    _MARGIN = 0.02
    _WORTH = 1_000
    """Answers to batches of fewer counted tokens say too little about the next one."""

    def __init__(self) -> None:
        self.ratio = 1.0
        self._group: list[tuple[int, int]] = []
        self._sampled: deque[float] = deque(maxlen=16)
        self._answered: deque[float] = deque(maxlen=32)

    @property
    def limit(self) -> int:
        """How many counted tokens a request may have."""
        return max(1, int(MAX_REQUEST_TOKENS / self.ratio))

    def compared(self, counted: int, exact: int) -> None:
        """A text of the sample was counted both ways."""
        self._group.append((counted, exact))
        if len(self._group) == self._GROUP:
            totals = [sum(column) for column in zip(*self._group, strict=True)]
            self._group.clear()
            self._sampled.append(totals[1] / max(totals[0], 1))
            self._settle()

    def answered(self, counted: int, actual: int) -> None:
        """A batch was accepted, and had `actual` tokens."""
        if counted >= self._WORTH and actual > 0:
            self._answered.append(actual / counted)
            self._settle()

    def refused(self, counted: int) -> None:
        """A batch was refused for having too many tokens: it has more than the limit, however many were counted."""
        self._answered.append(max(self.ratio, MAX_REQUEST_TOKENS / max(counted, 1)) * 1.15)
        self._settle()

    def _settle(self) -> None:
        # The highest of what was seen, since the next batch may be all of the kind that has most tokens.
        sampled = min(1.0, max(self._sampled) + self._MARGIN) if len(self._sampled) >= 2 else 1.0
        self.ratio = max(sampled, max(self._answered, default=0.0) * 1.005)


class Planner:
    """Takes texts one by one, gives batches.

    Args:
        count: tokens of a text, exact or an upper estimate.
        calibration: what is known about `count`.
        lanes: how many requests may be under way at once.
        characters: of all the texts that will come, where that is known: then the work is spread so that the last
            round of requests is as full as the others, and no lane idles while another one ends a long batch.
        sample: some of the texts to come, from all over.
        exact: gives an exact count, where there is one by now. It is slower than an estimate by far, so that it is
            used for the sample and for every sixteenth text, and asked for only when there are many. What it gives
            `None` for is planned by the estimate.
    """

    _MANY = 4
    """Batches beyond which a tokenizer is worth its loading."""
    _EVERY = 16

    def __init__(
        self,
        count: Count,
        calibration: Calibration,
        *,
        lanes: int = 1,
        characters: int | None = None,
        sample: Sequence[str] = (),
        exact: Callable[[], Count | None] | None = None,
    ) -> None:
        self._count = count
        self._calibration = calibration
        self._lanes = lanes
        self._to_come = characters
        self._get_exact = exact
        self._exact: Count | None = None
        self._many = False
        self._tokens_seen = self._characters_seen = self._made = self._taken = 0
        counts = [count(text) for text in sample]
        if sum(counts) * (characters or 0) > self._MANY * MAX_REQUEST_TOKENS * sum(map(len, sample)):
            self._many = True
        self._sample = list(zip(sample, counts, strict=True))
        for text, counted in self._sample:
            self._tokens_seen += counted
            self._characters_seen += len(text)
        self._begin()

    def _look_exactly(self) -> None:
        if self._exact is None and self._get_exact is not None:
            self._exact = self._get_exact()
            if self._exact is not None:
                for text, counted in self._sample:
                    self._learn(text, counted)
                self._sample.clear()

    def _learn(self, text: str, counted: int) -> None:
        if self._exact is not None:
            self._calibration.compared(counted, self._exact(text))

    def _begin(self) -> None:
        if self._many:
            self._look_exactly()
        self._indexes: list[int] = []
        self._texts: list[str] = []
        self._tokens = 0
        self._limit = self._calibration.limit
        self._aim = self._share() if self._to_come is not None else self._limit

    def _share(self) -> int:
        """How many counted tokens the next batch should have."""
        to_come = self._to_come or 0
        if not self._characters_seen or not to_come:
            return self._limit
        tokens = to_come * self._tokens_seen / self._characters_seen
        fewest = max(1, math.ceil(tokens / self._limit))
        rounds = math.ceil((self._made + fewest) / self._lanes)
        spread = min(rounds * self._lanes - self._made, int(tokens / SMALLEST_SHARE))
        parts = max(fewest, spread)
        # The last one takes what is left, also where that is a little more than was expected.
        return self._limit if parts == 1 else min(self._limit, math.ceil(tokens / parts))

    def add(self, index: int, text: str) -> Batch | None:
        """Take a text; the batch that it completes, or none."""
        tokens = self._count(text)
        self._taken += 1
        if self._exact is not None and self._taken % self._EVERY == 0:
            self._learn(text, tokens)
        full: Batch | None = None
        if self._texts and (
            self._tokens + tokens > self._limit or self._tokens >= self._aim or len(self._texts) >= MAX_REQUEST_INPUTS
        ):
            full = self.flush()
        self._indexes.append(index)
        self._texts.append(text)
        self._tokens += tokens
        if self._to_come is not None:
            self._tokens_seen += tokens
            self._characters_seen += len(text)
            self._to_come = max(0, self._to_come - len(text))
        return full

    @property
    def pending(self) -> bool:
        """Whether texts wait for a batch to be full."""
        return bool(self._texts)

    def flush(self) -> Batch | None:
        """The texts that wait for a batch to be full, or none."""
        if not self._texts:
            return None
        batch = Batch(self._indexes, self._texts, self._tokens)
        self._made += 1
        self._many = self._many or self._made >= self._MANY
        self._begin()
        return batch
