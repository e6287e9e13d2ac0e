"""Open connections, directly or through a proxy, and use them again: one flow for sync and async code."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.async_sockets import AsyncSocket
from lava_mistral.transport.environment import Proxy, proxy_for, ssl_context
from lava_mistral.transport.failures import (
    ConnectionBroken,
    ConnectTimeout,
    Deadline,
    DeadlineExceeded,
    NotConnected,
    TransportError,
)
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.http11 import Http11
from lava_mistral.transport.request import Headers, Request, Url
from lava_mistral.transport.sockets import Socket

LONGEST_CONNECT = 15.0
"""Seconds for a connection to be there, where the call may take longer."""

_LONGEST_ADDRESS = 2.0
"""Seconds for one address of a host that has others, such as one of IPv6 that leads nowhere."""

KEEPALIVE = 30.0
"""Seconds that an idle connection is kept."""

# Each step of either is one of a flow and may raise an `OSError`.
_AnySocket: TypeAlias = Socket | AsyncSocket


class Route(NamedTuple):
    """Where a connection leads: requests with the same route may share one."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None


class Connection:
    """An open connection."""

    def __init__(self, socket: _AnySocket) -> None:
        self.socket = socket
        self.http = Http11()
        self.idle_since = 0.0

    def ask(self, request: Request, deadline: Deadline) -> Flow[None]:
        """Send a request and wait for the headers of its answer."""
        try:
            yield self.socket.send(self.http.request(request), deadline)
        except TimeoutError:
            raise
        except OSError:
            # A server may answer, and close, before it has read a large body: then the answer is what counts.
            pass
        while self.http.status is None:
            self.http.feed((yield self.socket.receive(deadline)))

    def open(self, route: Route, deadline: Deadline) -> Flow[None]:
        """Connect; raises NotConnected where that is not possible in time."""
        host, port = (route.host, route.port) if route.proxy is None else (route.proxy.host, route.proxy.port)
        try:
            addresses = yield self.socket.resolve(host, port, deadline)
            for others in reversed(range(len(addresses))):
                left = deadline.left()
                share = _LONGEST_ADDRESS if left is None else min(left / (others + 1), _LONGEST_ADDRESS)
                try:
                    yield self.socket.connect(addresses[~others], Deadline(share, deadline) if others else deadline)
                    break
                except (TransportError, OSError):
                    if not others:
                        raise
            if route.proxy is not None:
                yield from self._tunnel(route.proxy, route, deadline)
            if route.scheme == "https":
                yield self.socket.start_tls(ssl_context, route.host, deadline)
        except (TransportError, OSError) as error:
            late = isinstance(error, DeadlineExceeded | TimeoutError)
            raise (ConnectTimeout if late else NotConnected)(f"{route.host}:{route.port}: {_said(error)}") from None

    def _tunnel(self, proxy: Proxy, route: Route, deadline: Deadline) -> Flow[None]:
        target = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
        request = Request("CONNECT", Url(*route[:3], target, target), target, {"host": target})
        if proxy.authorization is not None:
            request.headers["proxy-authorization"] = proxy.authorization
        yield from self.ask(request, deadline)
        status = self.http.status or 0
        if status == 407:
            raise ConfigurationError(
                f"The proxy {proxy.host}:{proxy.port} wants a user and a password that it accepts (status 407): write "
                "them into the environment's HTTPS_PROXY, http://user:password@host:port."
            )
        if not 200 <= status < 300:
            raise ConnectionBroken(f"the proxy {proxy.host}:{proxy.port} refused the tunnel (status {status})")
        self.http = Http11()


class PooledResponse:
    """An answer whose connection goes back to the pool when its body is whole."""

    def __init__(self, pool: Pool, route: Route, connection: Connection, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._pool, self._route = pool, route
        self._connection: Connection | None = connection

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
                raise _failure(error) from None
            raise
        if not data:
            self._connection = None
            self._pool.put(self._route, connection)
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
    """Idle connections by route, the latest first. No request ever waits for another one's connection."""

    def __init__(self, new_socket: Callable[[], _AnySocket]) -> None:
        self._new_socket = new_socket
        self._idle: dict[Route, deque[Connection]] = {}
        self._routes: dict[tuple[str, str, int], Route] = {}
        self.closed = False

    def send(self, request: Request, deadline: Deadline) -> Flow[PooledResponse]:
        """Send a request and wait for the headers of its answer; raises TransportError where none come."""
        place = request.url[:3]
        route = self._routes.get(place)
        if route is None:
            route = self._routes[place] = Route(*place, proxy_for(*place[:2]))
        connection: Connection | None = None
        idle = self._idle.get(route)
        # Adding to and taking from a deque is one step, whichever threads share it.
        try:
            while idle and connection is None:
                kept = idle.pop()
                # Not too old, not closed, and without bytes that came unasked.
                if time.monotonic() - kept.idle_since < KEEPALIVE and kept.socket.quiet:
                    connection = kept
                else:
                    kept.socket.close()
        except IndexError:
            # Another thread took the last one.
            connection = None
        try:
            if connection is None:
                connection = Connection(self._new_socket())
                yield from connection.open(route, Deadline(LONGEST_CONNECT, deadline))
            yield from connection.ask(request, deadline)
        except BaseException as error:
            # The environment may name another proxy by now.
            self._routes.pop(place, None)
            if connection is not None:
                connection.socket.close()
            if isinstance(error, OSError):
                raise _failure(error) from None
            raise
        http = connection.http
        assert http.status is not None
        return PooledResponse(self, route, connection, http.status, http.headers)

    def put(self, route: Route, connection: Connection) -> None:
        """Keep a connection whose answer is over, if it can be used again."""
        if self.closed or not connection.http.in_order:
            connection.socket.close()
            return
        connection.http.restart()
        connection.idle_since = time.monotonic()
        idle = self._idle.setdefault(route, deque())
        with suppress(IndexError):
            while connection.idle_since - idle[0].idle_since >= KEEPALIVE:
                idle.popleft().socket.close()
        idle.append(connection)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their answers end."""
        self.closed = True
        for idle in self._idle.values():
            with suppress(IndexError):
                while True:
                    idle.pop().socket.close()


def _failure(error: OSError) -> TransportError:
    """Return the failure that an exception of a socket stands for."""
    return (DeadlineExceeded if isinstance(error, TimeoutError) else ConnectionBroken)(_said(error))


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the time was over"
    # The text of an OSError names no address; that of an SSLError says what is wrong with the certificate.
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
