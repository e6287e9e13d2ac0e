"""uvicorn in a thread of its own, with a hand on each connection."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, TypeAlias

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_NO_LINGER = struct.pack("ii", 1, 0)


class Connection:
    """One client's connection, which the application may break; it is `scope["lava.connection"]`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.lost: asyncio.Event = asyncio.Event()

    @property
    def gone(self) -> bool:
        """Whether nobody listens any more."""
        return self._transport.is_closing()

    def close(self, *, reset: bool = False) -> None:
        """Close it at once, whatever the answer still owes; with a TCP reset if asked."""
        wire = self._transport.get_extra_info("socket")
        if wire is not None:
            # The client may have gone first: then there is nothing left to tell it.
            with suppress(OSError):
                if reset:
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                else:
                    # Closing alone would send nothing while a forked child holds a copy of the socket.
                    wire.shutdown(socket.SHUT_RDWR)
        self._transport.abort()


class Traffic:
    """Counts connections and requests, now and at most."""

    def __init__(self) -> None:
        self.open: set[Connection] = set()
        self.connections = self.max_connections = 0
        self.in_flight = self.max_in_flight = 0

    def connected(self, connection: Connection) -> None:
        self.open.add(connection)
        self.connections += 1
        self.max_connections = max(self.max_connections, len(self.open))

    def disconnected(self, connection: Connection) -> None:
        self.open.discard(connection)
        connection.lost.set()

    def begin(self) -> None:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def end(self) -> None:
        self.in_flight -= 1

    def forget(self) -> None:
        """Begin the maxima anew."""
        self.connections = self.max_connections = len(self.open)
        self.max_in_flight = self.in_flight


class _Server(uvicorn.Server):
    """uvicorn's server, stopped by an event instead of a look at a flag ten times a second."""

    def __init__(self, config: uvicorn.Config, traffic: Traffic) -> None:
        super().__init__(config)
        self._traffic = traffic
        self._stop: asyncio.Event | None = None
        self.running = threading.Event()

    async def main_loop(self) -> None:
        self._stop = asyncio.Event()
        self.running.set()
        while not self.should_exit:
            await self.on_tick(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)

    def stop(self) -> None:
        """End `main_loop`; called in the loop's thread."""
        self.should_exit = True
        if self._stop is not None:
            self._stop.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything at once: an answer that is still under way is broken off."""
        for server in self.servers:
            for listening in server.sockets:
                # Closing alone would leave the port open while a forked child still holds a copy of the socket.
                with suppress(OSError):
                    listening.shutdown(socket.SHUT_RDWR)
            server.close()
        loop = asyncio.get_running_loop()
        patience = loop.time() + 2.0
        # The tasks are answers, which end when their client has gone, and connections that are only just accepted.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for connection in list(self._traffic.open):
                connection.close()
            if loop.time() > patience:
                for task in others:
                    task.cancel()
            await asyncio.wait(others, timeout=0.05)
        for connection in list(self._traffic.open):
            connection.close()
        await asyncio.gather(*(connection.lost.wait() for connection in self._traffic.open))


def _protocol(traffic: Traffic, read_timeout: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which counts connections, shows each one to the application and bounds a head's time."""
    base: Any = H11Protocol
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        # The parser in C is optional; the one in Python does the same more slowly.
        pass
    else:
        base = HttpToolsProtocol

    class Protocol(base):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.shown = shown = Connection(transport)
            self.answering = 0
            self.deadline: asyncio.TimerHandle | None = None
            self._expect_head()
            traffic.connected(shown)
            app: App = self.app  # type: ignore[has-type]

            async def bound(scope: Scope, receive: Receive, send: Send) -> None:
                self._drop_deadline()
                self.answering += 1
                scope["lava.connection"] = shown
                try:
                    await app(scope, receive, send)
                finally:
                    self.answering -= 1

            self.app = bound

        def data_received(self, data: bytes) -> None:
            if not self.answering:
                self._expect_head()
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._drop_deadline()
            super().connection_lost(exc)
            traffic.disconnected(self.shown)

        def _expect_head(self) -> None:
            if self.deadline is None:
                self.deadline = asyncio.get_running_loop().call_later(read_timeout, self.shown.close)

        def _drop_deadline(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return Protocol


class ServerThread:
    """A server in a daemon thread with an event loop of its own.

    Args:
        app: the ASGI application.
        traffic: where connections are counted.
        host: the address to listen on.
        port: the port; 0 for a free one.
        read_timeout: seconds that a client may take to send a request's head.
    """

    def __init__(self, app: App, traffic: Traffic, *, host: str, port: int, read_timeout: float) -> None:
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._pid = os.getpid()
        config = uvicorn.Config(
            app,
            http=_protocol(traffic, read_timeout),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # A hundred pairs of metadata make a header of 50 kB.
            h11_max_incomplete_event_size=1 << 18,
            # uvicorn's 5 seconds would close connections under a client that pools them.
            timeout_keep_alive=75,
        )
        self._server = _Server(config, traffic)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"lava-gateway-{self.port}", daemon=True)
        _running.add(self)
        self._thread.start()
        self._server.running.wait()
        if not self._server.started:
            self._socket.close()
            raise RuntimeError("the gateway's server thread ended before it served; its error is on the standard error")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        finally:
            self._server.running.set()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self._loop.close()

    def stop(self) -> None:
        """Break off what is under way, close every connection and end the thread."""
        _running.discard(self)
        if os.getpid() != self._pid:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._server.stop)
            self._thread.join()
        self._socket.close()

    def forget(self) -> None:
        """In a forked child: let go of the listening socket, which is the parent's to answer."""
        self._socket.close()

    def join(self) -> None:
        """Wait until the server ends."""
        self._thread.join()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for a socket that names its protocol, as `create_server` does not;
    # with it, each small answer waits 40 ms for an acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except BaseException:
        listening.close()
        raise
    return listening


_running: weakref.WeakSet[ServerThread] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_running):
        server.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
