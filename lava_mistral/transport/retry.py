"""Decide from a failure whether to try again and how long to wait."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from lava_mistral.defaults import DEFAULT_MAX_RETRIES
from lava_mistral.errors import LavaError

_log = logging.getLogger("lava_mistral")

RETRIED_STATUSES: Final = frozenset((408, 429, 500, 502, 503, 504, 521, 522, 523, 524))
"""The statuses of an answer, or of an error inside a stream, after which another try can help.

521 to 524 are Cloudflare's, for a server behind it that can't be reached or does not answer.
"""


def parse_retry_after(value: str | None, *, now: float | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header, in seconds or as an HTTP date; `None` where it makes no sense."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            seconds = moment.timestamp() - (time.time() if now is None else now)
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a failed call is tried again.

    Args:
        max_retries: tries after the first one.
        initial: seconds; the first wait is drawn between 0 and this, each later one from twice the range (full jitter).
        longest: seconds; no range grows beyond it.
        max_total: seconds from the first try after which no further try begins. A `Retry-After` that would pass
            it ends the tries at once, since waiting less would be refused again.
    """

    max_retries: int = DEFAULT_MAX_RETRIES
    initial: float = 0.5
    longest: float = 20.0
    max_total: float = 300.0

    def wait(
        self, error: LavaError, *, tries: int, elapsed: float, draw: Callable[[float, float], float] = random.uniform
    ) -> float | None:
        """Seconds to wait after so many tries, the first included, or `None` when `error` is final."""
        if not error.retryable or tries > self.max_retries:
            return None
        jitter = draw(0.0, min(self.longest, self.initial * 2.0 ** min(tries - 1, 60)))
        # The server's own wish is a lower bound; the jitter on top keeps many callers from returning at once.
        seconds = jitter if error.retry_after is None else error.retry_after + min(jitter, 1.0)
        return seconds if elapsed + seconds <= self.max_total else None


@dataclass
class Attempts:
    """One call's way through a policy: count a failure, be told what to do."""

    policy: RetryPolicy
    tries: int = 0
    started: float = field(default_factory=time.monotonic)

    def failed(self, error: LavaError) -> float | None:
        """Seconds to wait before the next try, or `None` when `error` is final."""
        self.tries += 1
        seconds = self.policy.wait(error, tries=self.tries, elapsed=time.monotonic() - self.started)
        level = logging.INFO if self.tries == 1 else logging.WARNING
        if seconds is not None and _log.isEnabledFor(level):
            # As text: a log that is kept must not keep the error's frames.
            _log.log(level, "retry %d of %d in %.1f s: %s", self.tries, self.policy.max_retries, seconds, str(error))
        return seconds
