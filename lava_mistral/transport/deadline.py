"""Bound the time of a call: one moment on the monotonic clock, asked before each step that may wait."""

from __future__ import annotations

import time

from lava_mistral.transport.failures import DeadlineExceeded


class Deadline:
    """The moment by which something must have happened.

    Args:
        seconds: from now; `None` for no limit.
        outer: one that holds too.
    """

    __slots__ = ("_moment",)

    def __init__(self, seconds: float | None, outer: Deadline | None = None) -> None:
        self._moment = None if seconds is None else time.monotonic() + seconds
        if outer is not None and outer._moment is not None:
            self._moment = outer._moment if self._moment is None else min(self._moment, outer._moment)

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

    def share(self, parts: int, longest: float) -> Deadline:
        """Return a deadline for one of so many steps, of at most `longest` seconds, that leaves time for the others."""
        left = self.left()
        return Deadline(longest if left is None else min(left / parts, longest), self)
