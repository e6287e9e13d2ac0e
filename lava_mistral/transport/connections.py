"""Open a connection, directly or through a proxy, and ask over it: one flow for sync and async code."""

from __future__ import annotations

import os
import socket
import ssl
import time
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

CONNECT_TIMEOUT = 15.0
"""Seconds for a connection to be there, where the call may take longer."""

_LONGEST_ADDRESS = 2.0
"""Seconds for one address of a host that has others, such as one of IPv6 that leads nowhere."""

_failed: dict[tuple[str, int], float] = {}
"""When an address could not be connected to: it is tried after the others of its host from then on."""

AnySocket: TypeAlias = Socket | AsyncSocket
"""Each step of either is one of a flow and may raise an `OSError`."""


class Connection:
    """An open connection."""

    def __init__(self, socket: AnySocket) -> None:
        self.socket = socket
        self.http = Http11()
        self.kept_until = 0.0

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
            addresses = sorted((yield self.socket.resolve(host, port, deadline)), key=_failed_at)
            for others in reversed(range(len(addresses))):
                left, address = deadline.left(), addresses[~others]
                share = _LONGEST_ADDRESS if left is None else min(left / (others + 1), _LONGEST_ADDRESS)
                try:
                    yield self.socket.connect(address, Deadline(share, deadline) if others else deadline)
                    _failed.pop(address, None)
                    break
                except (TransportError, OSError):
                    _failed[address] = time.monotonic()
                    if not others:
                        raise
            if proxy is not None:
                yield from self._tunnel(proxy, url, deadline)
            if url.scheme == "https":
                yield self.socket.start_tls(ssl_context, url.host, deadline)
        except (TransportError, OSError) as error:
            late = isinstance(error, DeadlineExceeded) or _is_late(error)
            way = "" if proxy is None else f" through the proxy {host}:{port}"
            raise (ConnectTimeout if late else NotConnected)(f"{url.host}:{url.port}{way}: {_said(error)}") from None

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
        if status == 403:
            raise ConfigurationError(
                f"The proxy {proxy.host}:{proxy.port} refused the tunnel (status 403): ask who runs it to allow "
                f"{url.host}, or name that host in NO_PROXY."
            )
        if not 200 <= status < 300:
            raise ConnectionBroken(f"it refused the tunnel (status {status})")
        self.http = Http11()


def failure_of(error: OSError) -> TransportError:
    """Return the failure that an exception of a socket stands for."""
    return (DeadlineExceeded if _is_late(error) else ConnectionBroken)(_said(error))


def _is_late(error: Exception) -> bool:
    # One with a number is the system's: the peer is gone (see SOCKET_OPTIONS).
    return isinstance(error, TimeoutError) and error.errno is None


def _said(error: Exception) -> str:
    if _is_late(error):
        return "the time was over"
    number = getattr(error, "errno", None)
    if number and not isinstance(error, ssl.SSLError | socket.gaierror):
        # asyncio has texts of its own, which don't say what is wrong.
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error) or "the connection was closed"


def _failed_at(address: tuple[str, int]) -> float:
    return _failed.get(address, 0.0)
