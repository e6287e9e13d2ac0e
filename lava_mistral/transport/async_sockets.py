"""Connect, send and receive in an event loop, each step within a deadline."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.failures import Deadline
from lava_mistral.transport.sockets import SOCKET_OPTIONS, addresses, look_up

_MOST_PIECES = 8  # of 256 KB at most


class AsyncSocket(asyncio.Protocol):
    """A TCP or TLS connection in async code, with the methods of `Socket`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # An `asyncio.Transport` from when it is connected.
        self._transport: Any = None
        self._received: list[bytes] = []
        self._ended = False
        self._lost: Exception | None = None
        self._full = False
        self._waiter: asyncio.Future[None] | None = None
        # One timer a connection, which is set anew when it rings early: one for each wait costs a fifth of a call.
        self._alarm: asyncio.TimerHandle | None = None
        self._until: float | None = None

    async def resolve(self, host: str, port: int, deadline: Deadline) -> list[tuple[str, int]]:
        with suppress(OSError):
            return addresses(host, port, socket.AI_NUMERICHOST)
        async with asyncio.timeout(deadline.left()):
            return await asyncio.wrap_future(look_up(host, port))

    async def connect(self, address: tuple[str, int], deadline: Deadline) -> None:
        async with asyncio.timeout(deadline.left()):
            await self._loop.create_connection(lambda: self, *address)
        for option in SOCKET_OPTIONS:
            self._transport.get_extra_info("socket").setsockopt(*option)

    async def start_tls(self, context: Callable[[], ssl.SSLContext], hostname: str, deadline: Deadline) -> None:
        async with asyncio.timeout(deadline.left()):
            # The first one reads the certificates from files.
            trusted = await self._loop.run_in_executor(None, context)
            transport = None
            if not self._transport.is_closing():  # asyncio would wait for an answer that can't come
                transport = await self._loop.start_tls(self._transport, self, trusted, server_hostname=hostname)
            if transport is None:
                raise ConnectionResetError("the connection was closed during the TLS handshake")
            self._transport = transport

    async def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all bytes, or stop where an answer comes before they are all taken."""
        self._transport.write(data)
        while self._full and not self._received:
            await self._wait(deadline)

    async def receive(self, deadline: Deadline) -> bytes:
        while not self._received:
            if self._lost is not None:
                raise self._lost if isinstance(self._lost, OSError) else ConnectionError(str(self._lost))
            if self._ended:
                return b""
            await self._wait(deadline)
        data = b"".join(self._received)
        if len(self._received) > _MOST_PIECES:
            self._transport.resume_reading()
        self._received.clear()
        return data

    @property
    def quiet(self) -> bool:
        """Whether the connection is open, all was sent and nothing has come that nobody asked for."""
        transport = self._transport
        return (
            not transport.is_closing()
            and not self._received
            and not transport.get_write_buffer_size()
            and not _readable(transport.get_extra_info("socket").fileno())
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
            # A loop that ends may take no further step.
            self._transport.abort()
        else:
            with suppress(RuntimeError):  # the loop is closed, and with it what it held
                self._loop.call_soon_threadsafe(self._transport.abort)

    async def _wait(self, deadline: Deadline) -> None:
        left = deadline.left()
        if self._waiter is not None:
            raise ConfigurationError("Two tasks read one stream at the same time; only one can have the next chunk.")
        self._waiter = self._loop.create_future()
        self._until = None if left is None else self._loop.time() + left
        if self._until is not None and (self._alarm is None or self._alarm.when() > self._until):
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(self._until, self._ring)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _ring(self) -> None:
        self._alarm = None
        if self._waiter is None or self._waiter.done() or self._until is None:
            return
        if self._until > self._loop.time():
            self._alarm = self._loop.call_at(self._until, self._ring)
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if len(self._received) > _MOST_PIECES:
            self._transport.pause_reading()
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


def _readable(descriptor: int) -> bool:
    """Whether bytes, or the end of the connection, have come."""
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
