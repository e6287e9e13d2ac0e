"""What can go wrong below HTTP, whichever library carries the request, and the time that bounds it.

The exceptions hold a text and nothing else: no request, no credential.
"""

from __future__ import annotations

import time


class TransportError(Exception):
    """The request or its answer did not come through."""


class NotConnected(TransportError):
    """There was no connection, so nothing was sent and nobody can have charged it."""


class ConnectTimeout(NotConnected):
    """There was no connection in time."""


class DeadlineExceeded(TransportError):
    """The time was over before the answer was there."""


class ConnectionBroken(TransportError):
    """The connection ended too early, or what came is not HTTP."""


class Deadline:
    """The moment by which something must have happened: seconds from now (`None`: never), or that of `outer`."""

    __slots__ = ("moment",)

    def __init__(self, seconds: float | None, outer: Deadline | None = None) -> None:
        self.moment = None if seconds is None else time.monotonic() + seconds
        if outer is not None and outer.moment is not None:
            self.moment = outer.moment if self.moment is None else min(self.moment, outer.moment)

    def left(self) -> float | None:
        """Return the seconds that are left, or `None` where there is no limit; raises DeadlineExceeded at zero."""
        if self.moment is None:
            return None
        seconds = self.moment - time.monotonic()
        if seconds <= 0.0:
            raise DeadlineExceeded("the time was over")
        return seconds

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.moment is not None and time.monotonic() >= self.moment


def is_not_connected(error: BaseException | None) -> bool:
    """Whether an exception of this module, of httpx or of httpx2 says that there was no connection."""
    return not {"NotConnected", "ConnectError", "ConnectTimeout"}.isdisjoint(
        kind.__name__ for kind in type(error).__mro__
    )
