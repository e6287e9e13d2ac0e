"""How long to wait for a connection to come free once its answer is whole.

Mistral's `[DONE]` ends an answer; the end of the body, which follows it, gives the connection back to its pool. It is
worth a moment, and no more: a proxy may hold it back while it writes down what the call cost.
"""

from __future__ import annotations

import threading
from asyncio import timeout as limited
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

PARTING: Final = 0.25
"""Seconds to wait for the end of a body whose content is complete."""


@contextmanager
def brief_reads(wire: Any) -> Iterator[None]:
    """A block in which this thread's reads from a connection wait for no longer than a moment.

    httpcore takes the limit of all reads of a body when its first byte is asked for, and offers no way to change it.

    Args:
        wire: the connection's `network_stream` (https://www.encode.io/httpcore/extensions/#network_stream), or `None`.
    """
    if wire is None:
        yield
        return
    read, owner = wire.read, threading.get_ident()

    def briefly(max_bytes: int, timeout: float | None = None) -> bytes:
        # When the body ends, another thread may have the connection before this one is done with it.
        data: bytes = read(max_bytes, PARTING if threading.get_ident() == owner else timeout)
        return data

    wire.read = briefly
    try:
        yield
    finally:
        vars(wire).pop("read", None)


__all__ = ["PARTING", "brief_reads", "limited"]
