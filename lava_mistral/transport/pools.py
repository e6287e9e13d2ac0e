"""Hold pools of idle connections, shared by every client: one a process for sync code, one an event loop for async.

A forked child starts with none; what belongs to an event loop is closed when it shuts down its async generators, as
`asyncio.run` does.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from lava_mistral._locks import ForkSafeLock, after_fork
from lava_mistral.transport.async_sockets import AsyncSocket
from lava_mistral.transport.connections import CONNECT_TIMEOUT, AnySocket, Connection, failure_of
from lava_mistral.transport.failures import Deadline
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.request import Request
from lava_mistral.transport.sockets import Socket

_T = TypeVar("_T")

KEEPALIVE_EXPIRY: Final = 30.0
"""Seconds that an idle connection is kept, unless the server says that it keeps it for fewer."""


@dataclass(eq=False, repr=False)
class PooledResponse:
    """An answer whose connection goes back to the pool when its body is whole."""

    status: int
    headers: dict[str, str]
    _pool: Pool
    _idle: deque[Connection]
    _connection: Connection | None

    def receive(self, deadline: Deadline) -> Flow[bytes]:
        """Wait for the next bytes of the body; none at its end."""
        connection = self._connection
        if connection is None:
            return b""
        try:
            data: bytes | None
            while (data := connection.http.body()) is None:
                connection.http.feed((yield connection.socket.receive(deadline)))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise failure_of(error) from None
            raise
        if not data:
            self._connection = None
            self._pool.put(self._idle, connection)
        return data

    def close(self) -> None:
        """Close the connection, unless it is back in the pool."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.socket.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


class Pool:
    """Idle connections by scheme, host and port. No request ever waits for another one's connection."""

    def __init__(self, new_socket: Callable[[], AnySocket]) -> None:
        self._new_socket = new_socket
        self.idle: dict[tuple[str, str, int], deque[Connection]] = {}
        self.closed = False

    def send(self, request: Request, deadline: Deadline) -> Flow[PooledResponse]:
        """Send a request and wait for the headers of its answer; raises TransportError where none come."""
        idle = self.idle.setdefault(request.url[:3], deque())
        connection: Connection | None = None
        # Adding to and taking from a deque is one step, whichever threads share it.
        with suppress(IndexError):
            while connection is None:
                kept = idle.pop()
                # Not too old, not closed, and without bytes that came unasked.
                if time.monotonic() < kept.kept_until and kept.socket.quiet:
                    connection = kept
                else:
                    kept.socket.close()
        try:
            if connection is None:
                connection = Connection(self._new_socket())
                yield from connection.open(request.url, Deadline(CONNECT_TIMEOUT, deadline))
            yield from connection.ask(request, deadline)
        except BaseException as error:
            if connection is not None:
                connection.socket.close()
            if isinstance(error, OSError):
                raise failure_of(error) from None
            raise
        http = connection.http
        assert http.status is not None
        return PooledResponse(http.status, http.headers, self, idle, connection)

    def put(self, idle: deque[Connection], connection: Connection) -> None:
        """Keep a connection whose answer is over with the others of its kind, if it can be used again."""
        if self.closed or not connection.http.in_order:
            connection.socket.close()
            return
        now = time.monotonic()
        connection.kept_until = now + min(connection.http.stays_open_for, KEEPALIVE_EXPIRY)
        connection.http.restart()
        with suppress(IndexError):
            while idle[0].kept_until <= now:
                idle.popleft().socket.close()
        idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        for idle in list(self.idle.values()):
            with suppress(IndexError):
                while True:
                    idle.pop().socket.close()

    async def aclose(self) -> None:
        """Close the idle connections, and those in use when their answers end."""
        self.closed = True
        self.close()


SYNC_POOL: Final = Pool(Socket)
"""The process's connections."""
_lock = ForkSafeLock()
_of_process: dict[Any, Any] = {}
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Any]] = WeakKeyDictionary()
# A forked child must not close what its parent still uses; keeping the objects alive keeps their finalizers quiet.
_inherited: list[object] = []


def async_pool() -> Pool:
    """Return the running event loop's pool."""
    return per_loop(AsyncSocket, lambda: Pool(AsyncSocket))


def per_process(key: Any, make: Callable[[], _T]) -> _T:
    """Return what the process holds under a key; made at first, and closed with `close()` at the end."""
    with _lock:
        if key not in _of_process:
            _of_process[key] = make()
        held: _T = _of_process[key]
        return held


def per_loop(key: Any, make: Callable[[], _T]) -> _T:
    """Return what the running event loop holds under a key; made at first, and closed with `aclose()` at its end."""
    loop = asyncio.get_running_loop()
    held = _of_loops.get(loop)
    if held is None:
        with _lock:
            for other in [known for known in _of_loops if known.is_closed()]:
                del _of_loops[other]
            held = _of_loops.setdefault(loop, {})
        # Its first step makes the loop know the generator, and so finish it on shutdown.
        keeper = held[_close_with_loop] = _close_with_loop(held)
        with suppress(StopIteration):
            keeper.__anext__().send(None)
    if key not in held:
        held[key] = make()
    found: _T = held[key]
    return found


async def _close_with_loop(held: dict[Any, Any]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        # The generator holds its loop, so an entry left here would keep the loop alive.
        held.pop(_close_with_loop, None)
        while held:
            await held.popitem()[1].aclose()


def close_sync_pools() -> None:
    """Close the process's connections; the next request opens new ones."""
    with _lock:
        held = [SYNC_POOL, *_of_process.values()]
        _of_process.clear()
    for each in held:
        each.close()


def _forget() -> None:
    _inherited.append((SYNC_POOL.idle, dict(_of_process), [dict(held) for held in _of_loops.values()]))
    SYNC_POOL.idle = {}
    _of_process.clear()
    _of_loops.clear()


after_fork(_forget)
atexit.register(close_sync_pools)
