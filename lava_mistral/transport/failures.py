"""What can go wrong below HTTP, whichever library carries the request.

TransportError
├── NotConnected        no connection: DNS, refused, TLS, proxy; nothing was sent
│   └── ConnectTimeout      … in time
├── DeadlineExceeded    the connection was there, but the answer was not in time
└── ConnectionBroken    reset, closed too early, or not HTTP

These exceptions hold a text and nothing else: no request, no credential. The cause of one that a caller's own client
raised is that client's exception.
"""

from __future__ import annotations


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


def is_not_connected(error: BaseException | None) -> bool:
    """Whether an exception of this module, of httpx or of httpx2 says that there was no connection."""
    return not {"NotConnected", "ConnectError", "ConnectTimeout"}.isdisjoint(
        kind.__name__ for kind in type(error).__mro__
    )
