"""Rate limits as Mistral keeps them: requests and tokens, told in headers, refused with 429."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Bucket:
    """Fills steadily, at a rate (units a second), up to a capacity; each request takes from it."""

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
    """Two buckets, one of requests and one of tokens, with `burst` seconds' worth at most; used in one thread."""

    def __init__(
        self,
        requests_per_second: float | None,
        tokens_per_minute: float | None,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def bucket(rate: float, longest: float) -> Bucket:
            return Bucket(rate, max(1.0, rate * min(burst, longest)), clock)

        self._requests = bucket(requests_per_second, 10.0) if requests_per_second else None
        self._tokens = bucket(tokens_per_minute / 60, 60.0) if tokens_per_minute else None

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
        told = {
            "limit-req-10-second": limit,
            "remaining-req-10-second": limit - 1 if requests is None else max(0, math.floor(requests.level)),
            "limit-tokens-minute": minute,
            "remaining-tokens-minute": minute - tokens if per_minute is None else max(0, math.floor(per_minute.level)),
            "limit-tokens-month": 200_000_000_000,
            "remaining-tokens-month": 200_000_000_000 - tokens,
            "tokens-query-cost": tokens,
        }
        return {f"x-ratelimit-{name}": str(value) for name, value in told.items()}
