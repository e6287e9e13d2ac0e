"""Rate limits as Mistral keeps them: requests and tokens, told in headers, refused with 429."""

from __future__ import annotations

import math
import time


class Bucket:
    """Fills steadily up to a capacity; each request takes from it.

    Args:
        rate: units a second.
        capacity: the most that it holds.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self.level = capacity
        self._at = time.monotonic()

    def refill(self) -> None:
        now = time.monotonic()
        self.level = min(self.capacity, self.level + (now - self._at) * self.rate)
        self._at = now

    def wait(self, units: float) -> float:
        """Seconds until that much can be taken; more than the capacity goes when it is full."""
        return max(0.0, (min(units, self.capacity) - self.level) / self.rate)


class RateLimit:
    """Two buckets, one of requests and one of tokens; used in one thread.

    Args:
        requests_per_second: `None` for no limit.
        tokens_per_minute: `None` for no limit.
        burst: seconds' worth of either that may be spent at once.
    """

    def __init__(self, requests_per_second: float | None, tokens_per_minute: float | None, burst: float) -> None:
        self._requests = _bucket(requests_per_second, min(burst, 10.0))
        self._tokens = _bucket(None if tokens_per_minute is None else tokens_per_minute / 60, min(burst, 60.0))

    def take(self, tokens: int) -> float:
        """Take one request of so many tokens; returns 0, or the seconds to wait if it is too much now."""
        seconds = 0.0
        for bucket, units in ((self._requests, 1), (self._tokens, tokens)):
            if bucket is not None:
                bucket.refill()
                seconds = max(seconds, bucket.wait(units))
        # A float's last digit is no reason to wait.
        if seconds > 1e-9:
            return seconds
        for bucket, units in ((self._requests, 1), (self._tokens, tokens)):
            if bucket is not None:
                bucket.level -= units
        return 0.0

    def headers(self, tokens: int) -> dict[str, str]:
        """What Mistral tells about its limits; without a limit, the figures of a large account."""
        requests, per_minute = self._requests, self._tokens
        limit = 60_000 if requests is None else max(1, math.floor(requests.rate * 10))
        minute = 20_000_000 if per_minute is None else math.floor(per_minute.rate * 60)
        return {
            "x-ratelimit-limit-req-10-second": str(limit),
            "x-ratelimit-remaining-req-10-second": str(_left(requests, limit - 1)),
            "x-ratelimit-limit-tokens-minute": str(minute),
            "x-ratelimit-remaining-tokens-minute": str(_left(per_minute, minute - tokens)),
            "x-ratelimit-limit-tokens-month": "200000000000",
            "x-ratelimit-remaining-tokens-month": str(200_000_000_000 - tokens),
            "x-ratelimit-tokens-query-cost": str(tokens),
        }


def _bucket(rate: float | None, burst: float) -> Bucket | None:
    if rate is None:
        return None
    if rate <= 0:
        raise ValueError(f"a rate limit must be above zero, not {rate}")
    return Bucket(rate, max(1.0, rate * burst))


def _left(bucket: Bucket | None, unlimited: int) -> int:
    return max(0, unlimited if bucket is None else math.floor(bucket.level))
