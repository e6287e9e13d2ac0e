"""Open connections, directly or through a proxy, and use them again: one flow for sync and async code."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

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
from lava_mistral.transport.request import Request, Url
from lava_mistral.transport.sockets import Socket

LONGEST_CONNECT = 15.0
"""Seconds for a connection to be there, where the call may take longer."""

_LONGEST_ADDRESS = 2.0
"""Seconds for one address of a host that has others, such as one of IPv6 that leads nowhere."""

KEEPALIVE = 30.0
"""Seconds that an idle connection is kept."""

# Each step of either is one of a flow and may raise an `OSError`.
_AnySocket: TypeAlias = Socket | AsyncSocket


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

    def open(self, url: Url, deadline: Deadline) -> Flow[None]:
        """Connect; raises NotConnected where that is not possible in time."""
        proxy = proxy_for(url.scheme, url.host)
        host, port = (url.host, url.port) if proxy is None else (proxy.host, proxy.port)
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
            if proxy is not None:
                yield from self._tunnel(proxy, url, deadline)
            if url.scheme == "https":
                yield self.socket.start_tls(ssl_context, url.host, deadline)
        except (TransportError, OSError) as error:
            late = isinstance(error, DeadlineExceeded | TimeoutError)
            raise (ConnectTimeout if late else NotConnected)(f"{url.host}:{url.port}: {_said(error)}") from None

    def _tunnel(self, proxy: Proxy, url: Url, deadline: Deadline) -> Flow[None]:
        target = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
        request = Request("CONNECT", url._replace(target=target), target, {"host": target})
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
                raise _failure(error) from None
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

    def __init__(self, new_socket: Callable[[], _AnySocket]) -> None:
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
                if time.monotonic() - kept.idle_since < KEEPALIVE and kept.socket.quiet:
                    connection = kept
                else:
                    kept.socket.close()
        try:
            if connection is None:
                connection = Connection(self._new_socket())
                yield from connection.open(request.url, Deadline(LONGEST_CONNECT, deadline))
            yield from connection.ask(request, deadline)
        except BaseException as error:
            if connection is not None:
                connection.socket.close()
            if isinstance(error, OSError):
                raise _failure(error) from None
            raise
        http = connection.http
        assert http.status is not None
        return PooledResponse(http.status, http.headers, self, idle, connection)

    def put(self, idle: deque[Connection], connection: Connection) -> None:
        """Keep a connection whose answer is over with the others of its kind, if it can be used again."""
        if self.closed or not connection.http.in_order:
            connection.socket.close()
            return
        connection.http.restart()
        connection.idle_since = time.monotonic()
        with suppress(IndexError):
            while connection.idle_since - idle[0].idle_since >= KEEPALIVE:
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


def _failure(error: OSError) -> TransportError:
    """Return the failure that an exception of a socket stands for."""
    return (DeadlineExceeded if isinstance(error, TimeoutError) else ConnectionBroken)(_said(error))


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the time was over"
    # The text of an OSError names no address; that of an SSLError says what is wrong with the certificate.
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
