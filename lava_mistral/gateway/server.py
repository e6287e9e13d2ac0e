"""uvicorn in a thread of its own, with a hand on each connection; plays answers to clients in real time."""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from lava_mistral.gateway.faults import Cut, Stall, Step, to_bytes
from lava_mistral.mistral.types import Usage

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class HttpConnection(HttpToolsProtocol):
    """One client's connection, which the application may break; it is `scope["lava.connection"]`."""

    def __init__(self, traffic: "Traffic", read_timeout: float, **given: Any) -> None:
        super().__init__(**given)
        self._traffic, self._read_timeout, self._answering = traffic, read_timeout, 0
        self.lost = asyncio.Event()
        self.app, self._application = self._serve, self.app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wire: socket.socket = transport.get_extra_info("socket")
        # asyncio leaves Nagle's algorithm on for this kind of listening socket; each small answer would wait 40 ms.
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head_due = self.loop.call_later(self._read_timeout, self.close)
        counts = self._traffic
        counts.open.add(self)
        counts.connections += 1
        counts.max_connections = max(counts.max_connections, len(counts.open))

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self._head_due.cancel()
        self._answering += 1
        scope["lava.connection"] = self
        try:
            await self._application(scope, receive, send)
        finally:
            self._answering -= 1

    def data_received(self, data: bytes) -> None:
        if not self._answering and self._head_due.cancelled():
            self._head_due = self.loop.call_later(self._read_timeout, self.close)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_due.cancel()
        super().connection_lost(exc)
        self._traffic.open.discard(self)
        self.lost.set()

    async def wait(self, seconds: float) -> bool:
        """Wait, and return whether the client is still there."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.lost.wait(), seconds)
        return not self.transport.is_closing()

    def close(self, *, reset: bool = False) -> None:
        """Close it at once, whatever the answer still owes; with a TCP reset if asked."""
        # The client may have gone first: then there is nothing left to tell it.
        with suppress(OSError):
            if reset:
                self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                # Closing alone would send nothing while a forked child holds a copy of the socket.
                self._wire.shutdown(socket.SHUT_RDWR)
        self.transport.abort()


@dataclass(slots=True)
class HttpAnswer:
    """What the provider answers; header names are in lower case, the body is whole or in steps."""

    status: int  # 0 resets the connection instead.
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterator[Step | Usage] = b""  # A usage among the steps comes before the bytes that tell it.
    delay: float = 0.0  # Seconds until the first byte.
    usage: Usage | None = None  # What a whole body tells.


async def played(answer: HttpAnswer, request_id: str, connection: HttpConnection) -> AsyncIterator[dict[str, Any]]:
    """Yield an answer's messages in ASGI's form, and each usage before the bytes that tell it.

    The last one has `more_body` false; it does not come where the answer is cut or the client has gone.
    """
    if not await connection.wait(answer.delay):
        return
    if not answer.status:
        connection.close(reset=True)
        return
    body, told = answer.body, {**answer.headers, "x-lava-request-id": request_id}
    if answer.status in (204, 304):
        # RFC 9110, section 8.6: an answer without a body has no length either.
        body = b""
        told.pop("content-type", None)
    elif isinstance(body, bytes):
        told["content-length"] = str(len(body))
    if answer.usage is not None:
        yield {"type": "usage", "usage": answer.usage}
    headers = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
    yield {"type": "http.response.start", "status": answer.status, "headers": headers}
    due = asyncio.get_running_loop().time()
    for step in () if isinstance(body, bytes) else body:
        if connection.transport.is_closing():
            return
        match step:
            case dict():
                yield {"type": "usage", "usage": step}
            case bytes() | str():
                yield {"type": "http.response.body", "body": to_bytes(step), "more_body": True}
            case Cut(clean=True):
                break
            case Cut(reset=reset):
                connection.close(reset=reset)
                return
            case Stall():
                await connection.lost.wait()
            case seconds:
                # Late chunks do not delay the next ones: under load the pace of a stream stays what was asked for.
                due += seconds
                if not await connection.wait(due - asyncio.get_running_loop().time()):
                    return
    yield {"type": "http.response.body", "body": body if isinstance(body, bytes) else b"", "more_body": False}


class Traffic:
    """Counts connections and requests, now and at most; a context for each request."""

    def __init__(self) -> None:
        self.open: set[HttpConnection] = set()
        self.in_flight = 0
        self.forget()

    def forget(self) -> None:
        self.connections = self.max_connections = len(self.open)
        self.max_in_flight = self.in_flight

    def __enter__(self) -> None:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def __exit__(self, *error: object) -> None:
        self.in_flight -= 1


class ServerThread:
    """A server in a daemon thread with an event loop of its own; a client has `read_timeout` seconds for a head."""

    def __init__(self, app: Any, address: tuple[str, int], read_timeout: float) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=2048)
        self.port: int = self._socket.getsockname()[1]
        self._pid = os.getpid()
        self._traffic: Traffic = app.traffic
        self._read_timeout = read_timeout
        silent: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        # uvicorn's 5 seconds would close connections under a client that pools them.
        self._config = uvicorn.Config(app, proxy_headers=False, timeout_keep_alive=75, **silent)
        self._ready, name = threading.Event(), f"lava-gateway-{self.port}"
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=name, daemon=True)
        self.thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self._loop, self._stopped, state = asyncio.get_running_loop(), asyncio.Event(), ServerState()
        given: dict[str, Any] = {"config": self._config, "server_state": state, "app_state": {}}
        server = await self._loop.create_server(
            lambda: HttpConnection(self._traffic, self._read_timeout, **given), sock=self._socket, backlog=2048
        )
        self._ready.set()
        await self._stopped.wait()
        # A connection that was accepted just now needs a turn of the loop to find its server still open.
        with suppress(NotImplementedError):
            self._loop.remove_reader(self._socket)
        await asyncio.sleep(0)
        # Closing alone would leave the port open while a forked child still holds a copy of the socket.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        server.close()
        patience = self._loop.time() + 2.0
        # The tasks are answers, which end when their client has gone, and connections that are only just accepted.
        while (others := asyncio.all_tasks() - {asyncio.current_task()}) or self._traffic.open:
            for connection in list(self._traffic.open):
                connection.close()
            if self._loop.time() > patience:
                for task in others:
                    task.cancel()
            await (asyncio.wait(others, timeout=0.05) if others else asyncio.sleep(0))

    def stop(self) -> None:
        """Break off what is under way, close every connection and end the thread."""
        # In a forked child neither the thread nor the loop is there, and the listening socket is the parent's.
        if os.getpid() == self._pid and self.thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self.thread.join()
        self._socket.close()
