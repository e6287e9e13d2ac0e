"""Connect, send and receive in sync code, each step within a deadline."""

from __future__ import annotations

import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lava_mistral.transport.deadline import Deadline
from lava_mistral.transport.failures import ConnectionBroken, DeadlineExceeded

AT_ONCE = 64 * 1024
"""Bytes of one read."""


class Socket:
    """A TCP or TLS connection in sync code."""

    def __init__(self) -> None:
        self._socket: Any = None

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[tuple[str, int]]:
        """Return the addresses of a host, as `(ip, port)`."""
        with suppress(OSError):
            return numeric_addresses(host, port)
        # The system's resolver takes no limit of time, and may try for half a minute.
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(unique(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
            except (OSError, UnicodeError) as error:
                answers.put(ConnectionBroken(f"{host} has no address: {error}"))

        threading.Thread(target=ask, name="lava-mistral-resolver", daemon=True).start()
        try:
            answer: list[tuple[str, int]] | ConnectionBroken = answers.get(timeout=deadline.left())
        except queue.Empty:
            raise DeadlineExceeded(f"no address of {host} in time") from None
        if isinstance(answer, ConnectionBroken):
            raise answer
        return answer

    def connect(self, address: tuple[str, int], deadline: Deadline) -> None:
        """Open a TCP connection."""
        try:
            self._socket = socket.create_connection(address, deadline.left())
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise failure(error) from None

    def start_tls(self, context: Callable[[], ssl.SSLContext], hostname: str, deadline: Deadline) -> None:
        """Turn the connection into TLS."""
        trusted = context()
        try:
            self._socket.settimeout(deadline.left())
            self._socket = trusted.wrap_socket(self._socket, server_hostname=hostname)
        except OSError as error:
            raise failure(error) from None

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all bytes; the limit is one for all of them."""
        try:
            self._socket.settimeout(deadline.left())
            self._socket.sendall(data)
        except OSError as error:
            raise failure(error) from None

    def receive(self, deadline: Deadline) -> bytes:
        """Return the next bytes; none at the end of the connection."""
        try:
            self._socket.settimeout(deadline.left())
            data: bytes = self._socket.recv(AT_ONCE)
            return data
        except OSError as error:
            raise failure(error) from None

    @property
    def quiet(self) -> bool:
        """Whether the connection is open and nothing has come that nobody asked for."""
        if self._socket.fileno() < 0:
            return False
        unread = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return not unread and not readable(self._socket.fileno())

    def close(self) -> None:
        """Close the connection, at once."""
        if self._socket is not None:
            self._socket.close()


def failure(error: Exception) -> ConnectionBroken | DeadlineExceeded:
    """Return the failure that an exception of a socket stands for."""
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the time was over")
    # The text of an OSError names no address; that of an SSLError says what is wrong with the certificate.
    return ConnectionBroken(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def numeric_addresses(host: str, port: int) -> list[tuple[str, int]]:
    """Return the addresses of a host that is written as one.

    Raises:
        OSError: it is a name.
    """
    return unique(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))


def unique(found: list[Any]) -> list[tuple[str, int]]:
    """Return what `getaddrinfo` found as `(ip, port)`, each once."""
    return list(dict.fromkeys((entry[4][0], entry[4][1]) for entry in found))


def readable(descriptor: int) -> bool:
    """Whether bytes, or the end of the connection, have come."""
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
