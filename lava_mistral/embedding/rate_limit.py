"""Decide when the next request may go out, so that an account's limits are used and not hit. Pure: no I/O, no sleep.

- By the rate-limit headers of every answer, the gap between two requests grows as what is left shrinks. All processes
  that share the account see the same figures and get equal shares.
- A refusal halves how many may be in flight, below one too, and pauses everyone for as long as the server asks.
- Every answer adds a little back, so that processes which share a limit that no header tells converge too.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

Outcome = Literal["answered", "refused", "failed"]

_HEADER = re.compile(r"x-ratelimit-(limit|remaining)-(req|tokens)-(?:(\d{1,6})-)?(second|minute)$")
_SECONDS: Final = {"second": 1.0, "minute": 60.0}

AT_EASE: Final = 0.5  # with at least this share of what can be left, nothing is held back
HORIZON: Final = 0.15  # below, the pace would use up what is left in this share of the time in which it fills up again
EMPTY: Final = 0.25  # with nothing left, a request goes out every quarter of that time, to see whether it was renewed
DECREASE: Final = 0.5  # what a refusal leaves of the width
INCREASE: Final = 0.05  # what an answer adds to it up to a width of 2; less beyond, so that shares become equal
SLOWEST: Final = 3.0  # seconds between two requests at the smallest width
NARROWEST: Final = 0.01


class Stopped(Exception):
    """The call that was waiting has been given up."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Allow one request; `requests` and `tokens` had been started `at` that time, these included."""

    requests: int
    tokens: int
    at: float


@dataclass(slots=True)
class Window:
    """One of the account's limits: so many requests or tokens in so many seconds, as the answer of `seen` told it."""

    seconds: float
    limit: float
    remaining: float
    started: int  # by this process, then
    seen: float
    most: float  # that was ever left: a limit that refills steadily may never have more than a little in stock

    def gap(self, cost: int, started: int, now: float) -> float:
        """Seconds to leave between the last request and one of this cost."""
        if now - self.seen >= self.seconds:
            return 0.0
        # What was started since then is used up already, although the server has not said so yet.
        left = self.remaining - (started - self.started)
        refill = self.limit / self.seconds
        renewal = self.most / refill
        if left < cost:
            return min(self.seconds, max(EMPTY * renewal, (cost - max(left, 0.0)) / refill))
        return 0.0 if left >= AT_EASE * self.most else HORIZON * renewal * cost / left


@dataclass(slots=True)
class AdaptiveRateLimiter:
    """Set the pace of one engine; all times in seconds.

    Attributes:
        longest_wait: a longer pause is not waited for: each request's own patience ends before.
        first_pause: after a refusal that names none; it doubles up to `longest_pause` while refusals follow each other.
        width: how many may be in flight; below 1, which share of the time one may be.
        latency: what a request takes, on the average of the latest.
    """

    max_concurrency: int
    longest_wait: float = 300.0
    first_pause: float = 0.5
    longest_pause: float = 20.0
    draw: Callable[[float, float], float] = random.uniform
    in_flight: int = 0
    width: float = field(init=False)
    latency: float = 0.0
    paused_until: float = -math.inf
    windows: dict[tuple[str, float], Window] = field(default_factory=dict)
    _requests: int = 0
    _tokens: int = 0
    _last_start: float = -math.inf
    _last_decrease: int = 0
    _refusals: int = 0
    # Varies the gaps, so that no process is in step with another one, always a moment too late.
    _swing: float = 1.0

    def __post_init__(self) -> None:
        self.width = float(self.max_concurrency)

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a request of this many tokens may start; 0 for now, infinity for after another's end."""
        if self.in_flight >= max(1, int(self.width)):
            return math.inf
        gap = min(SLOWEST, self.latency / self.width) if self.width < 1.0 else 0.0
        for (kind, _), window in self.windows.items():
            cost, started = (1, self._requests) if kind == "req" else (tokens, self._tokens)
            gap = max(gap, window.gap(cost, started, now))
        return max(0.0, self.paused_until - now, self._last_start + gap * self._swing - now)

    def start(self, now: float, tokens: int) -> Permit:
        """Count a request as started."""
        permit = Permit(self._requests + 1, self._tokens + tokens, now)
        self._swing = self.draw(0.8, 1.2)
        self._last_start = now
        self._requests, self._tokens = permit.requests, permit.tokens
        # Last, without a call after it: where Ctrl-C comes before, nothing was started.
        self.in_flight += 1
        return permit

    @property
    def useful_concurrency(self) -> int:
        """How many requests at once the account keeps busy (Little's law); 1 before the first answer."""
        if not self.latency:
            return 1
        width = self.width
        for (kind, seconds), window in self.windows.items():
            if kind == "req":
                width = min(width, window.limit / seconds * self.latency)
        return max(1, int(width))

    def end(
        self,
        permit: Permit,
        now: float,
        outcome: Outcome,
        *,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Count a request as ended and learn from its answer; `"failed"` says nothing about the pace."""
        self.in_flight -= 1
        if headers is not None:
            self._read(headers, permit, now)
        if outcome == "answered":
            if permit.requests > self._last_decrease:
                self._refusals = 0
            self.latency += (now - permit.at - self.latency) * (0.2 if self.latency else 1.0)
            self.width = min(float(self.max_concurrency), self.width + min(INCREASE, 2.0 * INCREASE / self.width))
        elif outcome == "refused":
            self._refused(permit, now, retry_after)

    def _refused(self, permit: Permit, now: float, retry_after: float | None) -> None:
        # Requests that were under way when the first of them was refused tell the same story once more.
        if permit.requests > self._last_decrease:
            self._last_decrease = self._requests
            self._refusals += 1
            # Not so narrow that two starts are more than SLOWEST apart, and never wider than before.
            narrowest = max(NARROWEST, self.latency / SLOWEST)
            self.width = min(self.width, max(narrowest, self.width * DECREASE))
        elif retry_after is None:
            return
        if retry_after is None:
            longest = min(self.longest_pause, self.first_pause * 2.0 ** min(self._refusals - 1, 16))
            pause = self.draw(longest / 2.0, longest)
        else:
            # The jitter keeps processes that were told the same from returning together.
            pause = retry_after + self.draw(0.0, min(1.0, self.first_pause + 0.25 * retry_after))
        if pause <= self.longest_wait:
            self.paused_until = max(self.paused_until, now + pause)

    def _read(self, headers: Mapping[str, str], permit: Permit, now: float) -> None:
        told: dict[tuple[str, float], dict[str, float]] = {}
        for name, value in headers.items():
            match = _HEADER.match(name) or _HEADER.match(name.lower())
            if match is not None:
                what, kind, number, unit = match.groups()
                with suppress(ValueError):
                    told.setdefault((kind, _SECONDS[unit] * int(number or 1)), {})[what] = float(value)
        for (kind, seconds), figures in told.items():
            started = permit.requests if kind == "req" else permit.tokens
            old = self.windows.get((kind, seconds))
            if old is not None and old.started > started and now - old.seen < seconds:
                continue
            limit, left = figures.get("limit", 0.0), figures.get("remaining", math.nan)
            if seconds > 0 and 0 < limit < math.inf and 0 <= left <= limit:
                # An account holds a second's worth at least, also when others have left nothing to see.
                most = max(left, limit / seconds, 1.0 if old is None else old.most)
                self.windows[kind, seconds] = Window(seconds, limit, left, started, now, most)
