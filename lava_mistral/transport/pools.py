"""Pools of idle connections, shared by every client: one a process for sync code, one an event loop for async code.

Proxies and certificate authorities from the environment are honoured. A forked child starts with none; what belongs
to an event loop is closed when it shuts down its async generators, as `asyncio.run` does.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import ssl
import sys
import time
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from lava_mistral._locks import ForkSafeLock
from lava_mistral.billing.identity import is_loopback
from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.connections import LONGEST_CONNECT, AnySocket, Connection, Proxy, Route
from lava_mistral.transport.deadline import Deadline
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.http11 import Head
from lava_mistral.transport.request import Headers, Request, Url

KEEPALIVE = 30.0
"""Seconds that an idle connection is kept."""

_T = TypeVar("_T")
_PROXY_VARIABLES = tuple(
    spelled for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for spelled in (name, name.upper())
)

_lock = ForkSafeLock()
_of_process: dict[Any, Any] = {}
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Any]] = WeakKeyDictionary()
# A forked child must not close what its parent still uses; keeping the objects alive keeps their finalizers quiet.
_inherited: list[object] = []


class PooledResponse:
    """An answer whose connection goes back to the pool when its body is whole."""

    def __init__(self, pool: Pool, route: Route, connection: Connection, head: Head) -> None:
        self.status: int = head.status
        self.headers: Headers = head.headers
        self._pool, self._route = pool, route
        self._connection: Connection | None = connection

    def receive(self, deadline: Deadline) -> Flow[bytes]:
        """Wait for the next bytes of the body; none at its end."""
        if self._connection is None:
            return b""
        try:
            data: bytes | None
            while (data := self._connection.http.body()) is None:
                self._connection.http.feed((yield self._connection.socket.receive(deadline)))
        except BaseException:
            self.close()
            raise
        if not data:
            connection, self._connection = self._connection, None
            self._pool.put(self._route, connection)
        return data

    def close(self) -> None:
        """Close the connection, unless it is back in the pool."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


class Pool:
    """Idle connections by route, the latest first. No request ever waits for another one's connection.

    Args:
        new_socket: makes a socket that is not connected.
        context: the certificates to trust, asked for when they are needed.
        proxy_for: the proxy to use for an address, if any.
    """

    def __init__(
        self,
        new_socket: Callable[[], AnySocket],
        context: Callable[[], ssl.SSLContext],
        proxy_for: Callable[[Url], Proxy | None],
    ) -> None:
        self._new_socket, self._context, self._proxy_for = new_socket, context, proxy_for
        self._idle: dict[Route, deque[Connection]] = {}
        self._routes: dict[tuple[str, str, int], Route] = {}
        self.closed = False

    def send(self, request: Request, deadline: Deadline) -> Flow[PooledResponse]:
        """Send a request and wait for the headers of its answer.

        Raises:
            TransportError: no answer came.
        """
        url = request.url
        route = self._routes.get(url[:3])
        if route is None:
            route = self._routes[url[:3]] = Route(*url[:3], self._proxy_for(url))
        connection: Connection | None = None
        idle = self._idle.get(route)
        # Adding to and taking from a deque is one step, whichever threads share it.
        with suppress(IndexError):
            while idle and connection is None:
                kept = idle.pop()
                if _fresh(kept):
                    connection = kept
                else:
                    kept.close()
        try:
            if connection is None:
                connection = Connection(self._new_socket())
                yield from connection.open(route, self._context, Deadline(LONGEST_CONNECT, deadline))
            head = yield from connection.ask(request, deadline)
        except BaseException:
            # The environment may name another proxy by now.
            self._routes.pop(url[:3], None)
            if connection is not None:
                connection.close()
            raise
        return PooledResponse(self, route, connection, head)

    def put(self, route: Route, connection: Connection) -> None:
        """Keep a connection whose answer is over, if it can be used again."""
        if self.closed or not connection.reusable:
            connection.close()
            return
        connection.rest()
        idle = self._idle.setdefault(route, deque())
        with suppress(IndexError):
            while not _fresh(idle[0]):
                idle.popleft().close()
        idle.append(connection)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their answers end."""
        self.closed = True
        for idle in self._idle.values():
            with suppress(IndexError):
                while True:
                    idle.pop().close()


def _fresh(connection: Connection) -> bool:
    """Whether an idle connection is still good: not too old, not closed, and without bytes that came unasked."""
    return time.monotonic() - connection.idle_since < KEEPALIVE and connection.socket.quiet


def sync_pool() -> Pool:
    """Return the process's pool."""
    pool: Pool | None = _of_process.get("own")
    return per_process("own", _new_sync_pool) if pool is None else pool


def async_pool() -> Pool:
    """Return the running event loop's pool."""
    return per_loop("own", _new_async_pool)


def _new_sync_pool() -> Pool:
    from lava_mistral.transport.sockets import Socket

    return Pool(Socket, ssl_context, proxy_for)


def _new_async_pool() -> Pool:
    from lava_mistral.transport.async_sockets import AsyncSocket

    return Pool(AsyncSocket, ssl_context, proxy_for)


def per_process(key: Any, make: Callable[[], _T]) -> _T:
    """Return what the process holds under a key; made at first, and closed with `close()` at the end."""
    with _lock:
        if key not in _of_process:
            _of_process[key] = make()
        held: _T = _of_process[key]
        return held


def per_loop(key: Any, make: Callable[[], _T]) -> _T:
    """Return what the running event loop holds under a key; made at first, and closed when the loop ends."""
    loop = asyncio.get_running_loop()
    held = _of_loops.get(loop)
    if held is None:
        with _lock:
            for other in [known for known in _of_loops if known.is_closed()]:
                del _of_loops[other]
            held = _of_loops.setdefault(loop, {})
        # Its first step makes the loop know the generator, and so finish it on shutdown.
        keeper = _close_with_loop(held)
        held[_close_with_loop] = keeper
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
            resource = held.popitem()[1]
            if hasattr(resource, "aclose"):
                await resource.aclose()
            else:
                resource.close()


def close_sync_pools() -> None:
    """Close the process's connections; the next request opens new ones."""
    with _lock:
        pools = list(_of_process.values())
        _of_process.clear()
    for pool in pools:
        pool.close()


async def close_async_pools() -> None:
    """Close the running event loop's connections; the next request opens new ones."""
    with _lock:
        held = _of_loops.pop(asyncio.get_running_loop(), {})
    keeper = held.get(_close_with_loop)
    if keeper is not None:
        await keeper.aclose()


def _after_fork() -> None:
    _inherited.append((dict(_of_process), [dict(held) for held in _of_loops.values()]))
    _of_process.clear()
    _of_loops.clear()


atexit.register(close_sync_pools)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@lru_cache(maxsize=1)
def ssl_context() -> ssl.SSLContext:
    """Return the certificates to trust: those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's.

    Raises:
        ConfigurationError: they can't be read.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and not folder:
        import certifi

        file = certifi.where()
    try:
        # Reading them takes 20 to 60 ms.
        context = ssl.create_default_context(cafile=file or None, capath=folder or None)
    except OSError as error:
        raise ConfigurationError(
            f"The certificates in SSL_CERT_FILE or SSL_CERT_DIR ({file or folder}) can't be read: {error}."
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def proxy_for(url: Url) -> Proxy | None:
    """Return the proxy that the environment names for an address, by the rules of the standard library.

    Raises:
        ConfigurationError: it is one that only a client of your own can use.
    """
    proxy = environment_proxy(url.scheme, url.host)
    if proxy is not None and not proxy.startswith("http://"):
        raise ConfigurationError(
            f"The environment names a proxy of {proxy.partition('://')[0]}:// for {url.host}; only http:// works "
            "without a client of your own. Give http_client=httpx.Client(proxy=…), for SOCKS with httpx[socks]."
        )
    return None if proxy is None else Proxy.parse(proxy)


def environment_proxy(scheme: str, host: str) -> str | None:
    """Return the proxy that the environment names for a host, whatever its kind."""
    if is_loopback(host):
        return None
    return _environment_proxy(scheme, host, tuple(map(os.environ.get, _PROXY_VARIABLES)))


@lru_cache(maxsize=64)
def _environment_proxy(scheme: str, host: str, _environment: tuple[str | None, ...]) -> str | None:
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
