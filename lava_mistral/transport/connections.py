"""Open connections, directly or through a proxy, and use them again: one flow for sync and async code."""

from __future__ import annotations

import base64
import ssl
import time
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
from lava_mistral.transport.request import Request, Url

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

    def rest(self) -> None:
        """Begin to be idle."""
        self.http.restart()
        self.idle_since = time.monotonic()

    def close(self) -> None:
        """Close at once."""
        self.socket.close()


def _place(route: Route) -> str:
    return f"{route.host}:{route.port}"
