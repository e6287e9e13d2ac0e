"""Open connections, directly or through a proxy, and use them again: one flow for sync and async code."""

from __future__ import annotations

import base64
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.deadline import Deadline
from lava_mistral.transport.failures import ConnectionBroken, ConnectTimeout, DeadlineExceeded, NotConnected
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.http11 import Head, Http11
from lava_mistral.transport.request import Headers, Request, Url

KEEPALIVE = 30.0
"""Seconds that an idle connection is kept."""
LONGEST_CONNECT = 15.0
"""Seconds for a connection to be there, where the call may take longer."""

_LONGEST_ADDRESS = 2.0
"""Seconds for one address of a host that has others, such as one of IPv6 that leads nowhere."""


class AnySocket(Protocol):
    """A `Socket` or an `AsyncSocket`; each step is one of a flow."""

    def resolve(self, host: str, port: int, deadline: Deadline) -> Any: ...
    def connect(self, address: tuple[str, int], deadline: Deadline) -> Any: ...
    def start_tls(self, context: Callable[[], ssl.SSLContext], hostname: str, deadline: Deadline) -> Any: ...
    def send(self, data: bytes, deadline: Deadline) -> Any: ...
    def receive(self, deadline: Deadline) -> Any: ...
    def close(self) -> None: ...
    @property
    def quiet(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy of HTTP, and what proves to it who we are."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Read an address of the form `http://user:password@host:port`."""
        parts = urlsplit(url)
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return cls(parts.hostname or "", parts.port or 80, authorization)

    @property
    def headers(self) -> dict[str, str]:
        """What proves to it who we are, if it asks for that."""
        return {} if self.authorization is None else {"proxy-authorization": self.authorization}


class Route(NamedTuple):
    """Where a connection leads: requests with the same route may share one."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None


class Connection:
    """An open connection."""

    def __init__(self, socket: AnySocket) -> None:
        self.socket = socket
        self.http = Http11()
        self.idle_since = 0.0

    def ask(self, request: Request, deadline: Deadline) -> Flow[Head]:
        """Send a request and wait for the headers of its answer."""
        # A server may answer, and close, before it has read a large body: then the answer is what counts.
        with suppress(ConnectionBroken):
            yield self.socket.send(self.http.request(request), deadline)
        while (head := self.http.head) is None:
            self.http.feed((yield self.socket.receive(deadline)))
        return head

    def open(self, route: Route, context: Callable[[], ssl.SSLContext], deadline: Deadline) -> Flow[None]:
        """Connect.

        Raises:
            NotConnected: it was not possible, or not in time.
            ConfigurationError: the proxy can't be used like this.
        """
        try:
            yield from self._connect(route, context, deadline)
        except DeadlineExceeded as error:
            raise ConnectTimeout(f"{_place(route)}: {error}") from None
        except ConnectionBroken as error:
            raise NotConnected(f"{_place(route)}: {error}") from None

    def _connect(self, route: Route, context: Callable[[], ssl.SSLContext], deadline: Deadline) -> Flow[None]:
        proxy = route.proxy
        host, port = (route.host, route.port) if proxy is None else (proxy.host, proxy.port)
        addresses = yield self.socket.resolve(host, port, deadline)
        for place, address in enumerate(addresses):
            others = len(addresses) - place - 1
            try:
                yield self.socket.connect(address, deadline.share(others + 1, _LONGEST_ADDRESS) if others else deadline)
                break
            except (DeadlineExceeded, ConnectionBroken):
                if not others:
                    raise
        if proxy is not None:
            yield from self._tunnel(proxy, route, deadline)
        if route.scheme == "https":
            yield self.socket.start_tls(context, route.host, deadline)

    def _tunnel(self, proxy: Proxy, route: Route, deadline: Deadline) -> Flow[None]:
        target = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
        url = Url(*route[:3], target, target)
        # No variable here holds the password, which a traceback might show.
        head = yield from self.ask(Request("CONNECT", url, target, {"host": target} | proxy.headers), deadline)
        if head.status == 407:
            raise ConfigurationError(
                f"The proxy {proxy.host}:{proxy.port} wants a user and a password that it accepts (status 407): write "
                "them into the environment's HTTPS_PROXY, http://user:password@host:port."
            )
        if not 200 <= head.status < 300:
            raise ConnectionBroken(f"the proxy {proxy.host}:{proxy.port} refused the tunnel (status {head.status})")
        self.http = Http11()

    @property
    def reusable(self) -> bool:
        """Whether an answer is over and another request may follow it."""
        return self.http.in_order and self.socket.quiet

    @property
    def fresh(self) -> bool:
        """Whether an idle connection is still good: not too old, not closed, and without bytes that came unasked."""
        return time.monotonic() - self.idle_since < KEEPALIVE and self.socket.quiet

    def rest(self) -> None:
        """Begin to be idle."""
        self.http.restart()
        self.idle_since = time.monotonic()

    def close(self) -> None:
        """Close at once."""
        self.socket.close()


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
            while idle and not (connection := idle.pop()).fresh:
                connection.close()
                connection = None
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
            while not idle[0].fresh:
                idle.popleft().close()
        idle.append(connection)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their answers end."""
        self.closed = True
        for idle in self._idle.values():
            with suppress(IndexError):
                while True:
                    idle.pop().close()


def _place(route: Route) -> str:
    return f"{route.host}:{route.port}"
