"""Connect, send and receive in sync code, each step within a deadline."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from lava_mistral.transport.failures import Deadline


class Socket:
    """A TCP or TLS connection in sync code."""

    def __init__(self) -> None:
        self._socket: Any = None

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[tuple[str, int]]:
        """Return the addresses of a host, as `(ip, port)`."""
        with suppress(OSError):
            return addresses(host, port, socket.AI_NUMERICHOST)
        # The system's resolver takes no limit of time, and may try for half a minute.
        found: Future[list[tuple[str, int]]] = Future()

        def ask() -> None:
            try:
                found.set_result(addresses(host, port))
            except OSError as error:
                found.set_exception(error)

        threading.Thread(target=ask, name="lava-mistral-resolver", daemon=True).start()
        return found.result(deadline.left())

    def connect(self, address: tuple[str, int], deadline: Deadline) -> None:
        """Open a TCP connection."""
        self._socket = socket.create_connection(address, deadline.left())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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


def addresses(host: str, port: int, flags: int = 0) -> list[tuple[str, int]]:
    """Return the addresses of a host as `(ip, port)`, each once."""
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((entry[4][0], entry[4][1]) for entry in found))
