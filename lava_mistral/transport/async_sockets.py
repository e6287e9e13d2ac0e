"""Connect, send and receive in an event loop, each step within a deadline."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from lava_mistral.transport.deadline import Deadline
from lava_mistral.transport.failures import ConnectionBroken, DeadlineExceeded
from lava_mistral.transport.sockets import failure, numeric_addresses, readable, unique

_MOST_BUFFERED = 1024 * 1024


class AsyncSocket(asyncio.Protocol):
    """A TCP or TLS connection in async code.

    One timer a connection bounds all its waits: it looks at the present deadline when it rings and is set anew where
    that has moved, so that a stream's chunk costs no timer.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received: list[bytes] = []
        self._buffered = 0
        self._ended = False
        self._lost: Exception | None = None
        self._full = False
        self._waiter: asyncio.Future[None] | None = None
        self._until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    async def resolve(self, host: str, port: int, deadline: Deadline) -> list[tuple[str, int]]:
        """Return the addresses of a host, as `(ip, port)`."""
        with suppress(OSError):
            return numeric_addresses(host, port)
        async with _in_time(deadline):
            return unique(await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    async def connect(self, address: tuple[str, int], deadline: Deadline) -> None:
        """Open a TCP connection."""
        async with _in_time(deadline):
            await self._loop.create_connection(lambda: self, *address)

    async def start_tls(self, context: Callable[[], ssl.SSLContext], hostname: str, deadline: Deadline) -> None:
        """Turn the connection into TLS."""
        async with _in_time(deadline):
            # The first one reads the certificates from files.
            trusted = await self._loop.run_in_executor(None, context)
            transport = await self._loop.start_tls(self._open, self, trusted, server_hostname=hostname)
            if transport is None:
                raise ConnectionBroken("the connection was closed during the TLS handshake")
            self._transport = transport

    async def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all bytes, or stop where an answer comes before they are all taken."""
        self._open.write(data)
        while self._full and not self._received:
            await self._wait(deadline)

    async def receive(self, deadline: Deadline) -> bytes:
        """Return the next bytes; none at the end of the connection."""
        while not self._received:
            if self._lost is not None:
                raise failure(self._lost)
            if self._ended:
                return b""
            await self._wait(deadline)
        data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received.clear()
        if self._buffered > _MOST_BUFFERED:
            self._open.resume_reading()
        self._buffered = 0
        return data

    @property
    def quiet(self) -> bool:
        """Whether the connection is open, all was sent and nothing has come that nobody asked for."""
        transport = self._transport
        return (
            transport is not None
            and not transport.is_closing()
            and not self._ended
            and not self._received
            and not transport.get_write_buffer_size()
            and not readable(transport.get_extra_info("socket").fileno())
        )

    def close(self) -> None:
        """Close the connection at once, from whatever thread."""
        if self._transport is None:
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._transport.abort()
        else:
            with suppress(RuntimeError):  # the loop is closed, and with it what it held
                self._loop.call_soon_threadsafe(self._transport.abort)

    @property
    def _open(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    async def _wait(self, deadline: Deadline) -> None:
        left = deadline.left()
        self._waiter = self._loop.create_future()
        if left is None:
            self._until = float("inf")
        else:
            self._until = time.monotonic() + left
            if self._alarm is None or self._alarm.when() > self._loop.time() + left:
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = self._loop.call_later(left, self._ring)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _ring(self) -> None:
        self._alarm = None
        if self._waiter is None or self._waiter.done() or self._until == float("inf"):
            return
        left = self._until - time.monotonic()
        if left > 0.0:
            self._alarm = self._loop.call_later(left, self._ring)
        else:
            self._waiter.set_exception(DeadlineExceeded("the time was over"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        full = self._buffered > _MOST_BUFFERED
        self._buffered += len(data)
        if self._buffered > _MOST_BUFFERED and not full:
            self._open.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended, self._lost, self._full = True, error, False
        if self._alarm is not None:
            self._alarm.cancel()
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()


@asynccontextmanager
async def _in_time(deadline: Deadline) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(deadline.left()):
            yield
    except (OSError, UnicodeError) as error:
        raise failure(error) from None
