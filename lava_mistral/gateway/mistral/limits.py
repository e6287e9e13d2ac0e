"""Rate limits as Mistral keeps them: requests and tokens, told in headers, refused with 429."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class _Bucket:
    """Fills at `rate` units a second, up to what so many seconds bring; without a rate it never empties."""

    def __init__(self, rate: float | None, seconds: float, usual_rate: float) -> None:
        self.rate = rate or usual_rate
        self.level = self.capacity = max(1.0, rate * seconds) if rate else math.inf


class RateLimit:
    """Two buckets, one of requests and one of tokens, with `burst` seconds' worth at most; used in one thread.

    Without a limit, the headers tell the figures of a large account.
    """

    def __init__(
        self,
        requests_per_second: float | None,
        tokens_per_minute: float | None,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = _Bucket(requests_per_second, min(burst, 10.0), 6_000.0)
        self._tokens = _Bucket(tokens_per_minute and tokens_per_minute / 60, min(burst, 60.0), 20_000_000 / 60)
        self._clock, self._at = clock, clock()

    def take(self, tokens: int) -> float:
        """Take one request of so many tokens; returns 0, or the seconds to wait if it is too much now."""
        asked = ((self._requests, 1), (self._tokens, tokens))
        before, self._at = self._at, self._clock()
        for bucket, _ in asked:
            bucket.level = min(bucket.capacity, bucket.level + (self._at - before) * bucket.rate)
        # More than the capacity goes when it is full.
        seconds = max((min(units, bucket.capacity) - bucket.level) / bucket.rate for bucket, units in asked)
        # A float's last digit is no reason to wait.
        if seconds > 1e-9:
            return seconds
        for bucket, units in asked:
            bucket.level -= units
        return 0.0

    def headers(self, tokens: int) -> dict[str, str]:
        """Return what Mistral tells about its limits."""
        limit, minute = max(1, int(self._requests.rate * 10)), round(self._tokens.rate * 60)
        told = {
            "limit-req-10-second": limit,
            "remaining-req-10-second": max(0, int(min(self._requests.level, limit - 1))),
            "limit-tokens-minute": minute,
            "remaining-tokens-minute": max(0, int(min(self._tokens.level, minute - tokens))),
            "limit-tokens-month": 200_000_000_000,
            "remaining-tokens-month": 200_000_000_000 - tokens,
            "tokens-query-cost": tokens,
        }
        return {f"x-ratelimit-{name}": str(value) for name, value in told.items()}
