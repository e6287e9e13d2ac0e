"""Connect, send and receive in sync code, each step within a deadline."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from lava_mistral._locks import after_fork
from lava_mistral.transport.failures import Deadline

_OF_TCP = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
SOCKET_OPTIONS = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _OF_TCP.items() if hasattr(socket, name)
]
"""Small writes go out at once; a peer that is gone is noticed a minute later, however long the timeout is; and a
firewall that forgets silent connections, as those on which a model thinks for minutes, sees some traffic."""

_Addresses = list[tuple[str, int]]
_lookups: dict[tuple[str, int], Future[_Addresses]] = {}
# A thread that asks does not exist in the child.
after_fork(_lookups.clear)


class Socket:
    """A TCP or TLS connection in sync code."""

    def __init__(self) -> None:
        self._socket: Any = None

    def resolve(self, host: str, port: int, deadline: Deadline) -> _Addresses:
        """Return the addresses of a host, as `(ip, port)`."""
        with suppress(OSError):
            return addresses(host, port, socket.AI_NUMERICHOST)
        return look_up(host, port).result(deadline.left())

    def connect(self, address: tuple[str, int], deadline: Deadline) -> None:
        """Open a TCP connection."""
        self._socket = socket.create_connection(address, deadline.left())
        for option in SOCKET_OPTIONS:
            self._socket.setsockopt(*option)

    def start_tls(self, context: Callable[[], ssl.SSLContext], hostname: str, deadline: Deadline) -> None:
        """Turn the connection into TLS."""
        trusted = context()
        self._socket.settimeout(deadline.left())
        self._socket = trusted.wrap_socket(self._socket, server_hostname=hostname)

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all bytes; the limit is one for all of them."""
        self._socket.settimeout(deadline.left())
        self._socket.sendall(data)

    def receive(self, deadline: Deadline) -> bytes:
        """Return the next bytes; none at the end of the connection."""
        self._socket.settimeout(deadline.left())
        data: bytes = self._socket.recv(65536)
        return data

    @property
    def quiet(self) -> bool:
        """Whether the connection is open and nothing has come that nobody asked for."""
        try:
            self._socket.setblocking(False)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the connection, at once."""
        if self._socket is not None:
            self._socket.close()


def look_up(host: str, port: int) -> Future[_Addresses]:
    """Resolve a host in a thread that nobody has to wait for; who asks for the same host meanwhile shares it.

    The system's resolver takes no limit of time, and may try for half a minute. In an executor of asyncio's it would
    hold up others, and the end of the event loop.
    """
    pending = _lookups.get((host, port))
    if pending is not None and not pending.done():
        return pending
    found: Future[_Addresses] = Future()
    found.set_running_or_notify_cancel()  # a task that is cancelled ends its own waiting alone

    def ask() -> None:
        try:
            found.set_result(addresses(host, port))
        except Exception as error:  # noqa: BLE001  whoever waits gets it
            found.set_exception(error)
        finally:
            _lookups.pop((host, port), None)

    threading.Thread(target=ask, name="lava-mistral-resolver", daemon=True).start()
    _lookups[host, port] = found
    return found


def addresses(host: str, port: int, flags: int = 0) -> _Addresses:
    """Return the addresses of a host as `(ip, port)`, each once."""
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((entry[4][0], entry[4][1]) for entry in found))
