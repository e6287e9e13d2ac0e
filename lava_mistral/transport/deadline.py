"""Bound the time of a call: one moment on the monotonic clock, asked before each step that may wait."""

from __future__ import annotations

import time

from lava_mistral.transport.failures import DeadlineExceeded


class Deadline:
    """The moment by which something must have happened.

    Args:
        seconds: from now; `None` for no limit.
    """

    __slots__ = ("_moment",)

    def __init__(self, seconds: float | None) -> None:
        self._moment = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Return the seconds that are left, more than zero, or `None` where there is no limit.

        Raises:
            DeadlineExceeded: none are left.
        """
        if self._moment is None:
            return None
        seconds = self._moment - time.monotonic()
        if seconds <= 0.0:
            raise DeadlineExceeded("the time was over")
        return seconds

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self._moment is not None and time.monotonic() >= self._moment

    def within(self, seconds: float | None) -> Deadline:
        """Return this deadline, or the one so many seconds from now where that is sooner."""
        if seconds is None:
            return self
        sooner = Deadline(seconds)
        if self._moment is not None and sooner._moment is not None:
            sooner._moment = min(self._moment, sooner._moment)
        return sooner

    def share(self, parts: int, longest: float) -> Deadline:
        """Return a deadline for one of so many steps, of at most `longest` seconds, that leaves time for the others."""
        left = self.left()
        return self.within(longest if left is None else min(left / parts, longest))
