"""Rate limits as Mistral keeps them: requests and tokens, told in headers, refused with 429."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Bucket:
    """Fills steadily up to a capacity; each request takes from it.

    Args:
        rate: units a second.
        capacity: the most that it holds.
        clock: tells the seconds.
    """

    def __init__(self, rate: float, capacity: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.capacity = self.level = capacity
        self._clock = clock
        self._at = clock()

    def wait(self, units: float) -> float:
        """Return the seconds until that much can be taken; more than the capacity goes when it is full."""
        now = self._clock()
        self.level = min(self.capacity, self.level + (now - self._at) * self.rate)
        self._at = now
        return max(0.0, (min(units, self.capacity) - self.level) / self.rate)


class RateLimit:
    """Two buckets, one of requests and one of tokens; used in one thread.

    Args:
        requests_per_second: `None` for no limit.
        tokens_per_minute: `None` for no limit.
        burst: seconds' worth of either that may be spent at once.
        clock: tells the seconds.
    """

    def __init__(
        self,
        requests_per_second: float | None,
        tokens_per_minute: float | None,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        per_second = (requests_per_second, None if tokens_per_minute is None else tokens_per_minute / 60)
        self._requests, self._tokens = (
            None if rate is None else Bucket(rate, max(1.0, rate * min(burst, longest)), clock)
            for rate, longest in zip(per_second, (10.0, 60.0), strict=True)
        )

    def take(self, tokens: int) -> float:
        """Take one request of so many tokens; returns 0, or the seconds to wait if it is too much now."""
        asked = [(bucket, units) for bucket, units in ((self._requests, 1), (self._tokens, tokens)) if bucket]
        seconds = max((bucket.wait(units) for bucket, units in asked), default=0.0)
        # A float's last digit is no reason to wait.
        if seconds > 1e-9:
            return seconds
        for bucket, units in asked:
            bucket.level -= units
        return 0.0

    def headers(self, tokens: int) -> dict[str, str]:
        """Return what Mistral tells about its limits; without a limit, the figures of a large account."""
        requests, per_minute = self._requests, self._tokens
        limit = 60_000 if requests is None else max(1, math.floor(requests.rate * 10))
        minute = 20_000_000 if per_minute is None else math.floor(per_minute.rate * 60)
        left = limit - 1 if requests is None else max(0, math.floor(requests.level))
        left_in_minute = minute - tokens if per_minute is None else max(0, math.floor(per_minute.level))
        return {
            "x-ratelimit-limit-req-10-second": str(limit),
            "x-ratelimit-remaining-req-10-second": str(left),
            "x-ratelimit-limit-tokens-minute": str(minute),
            "x-ratelimit-remaining-tokens-minute": str(left_in_minute),
            "x-ratelimit-limit-tokens-month": "200000000000",
            "x-ratelimit-remaining-tokens-month": str(200_000_000_000 - tokens),
            "x-ratelimit-tokens-query-cost": str(tokens),
        }
