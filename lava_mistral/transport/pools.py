"""Hold pools of idle connections, shared by every client: one a process for sync code, one an event loop for async.

A forked child starts with none; what belongs to an event loop is closed when it shuts down its async generators, as
`asyncio.run` does.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from lava_mistral._locks import ForkSafeLock, after_fork
from lava_mistral.transport.async_sockets import AsyncSocket
from lava_mistral.transport.connections import Pool
from lava_mistral.transport.sockets import Socket

_T = TypeVar("_T")

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
