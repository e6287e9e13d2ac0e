"""Servers on raw sockets, which may break every rule of HTTP."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.fakes.wire import event

USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-lava-request-id: r\r\n\r\n"
)
END = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


WORD = chunked(event("Hello"))
LAST = chunked(event("", "stop", usage=USAGE) + b"data: [DONE]\n\n")


def answer_to(request: bytes, text: str = "Hello") -> bytes:
    """A good body for a request: a completion, or vectors of eight numbers."""
    asked = json.loads(request.partition(b"\r\n\r\n")[2])
    if "input" in asked:
        data = [{"index": index, "embedding": [0.5] * 8} for index in range(len(asked["input"]))]
        body: dict[str, Any] = {"model": asked["model"], "data": data, "usage": USAGE}
    else:
        message = {"role": "assistant", "content": text}
        body = {"id": "c", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return json.dumps(body | {"usage": USAGE}).encode()


def whole(body: bytes, status: str = "200 OK", headers: bytes = b"") -> bytes:
    """An answer with a Content-Length."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n".encode()
    return head + headers + b"\r\n" + body


class Peer:
    """One connection, as the server has it."""

    def __init__(self, connection: socket.socket, closing: threading.Event) -> None:
        self.socket, self._closing = connection, closing
        self._reading = connection.makefile("rb")

    def request(self) -> bytes | None:
        """Read a request; `None` where the client has left."""
        head, length = b"", 0
        while (line := self._reading.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
            head += line
        return head + line + self._reading.read(length) if line else None

    def send(self, *steps: bytes | float) -> bool:
        """Send bytes, and wait for each number of seconds; false where the client has left meanwhile."""
        for step in steps:
            if isinstance(step, bytes):
                self.socket.sendall(step)
            elif self.left_within(step):
                return False
        return True

    def left_within(self, seconds: float) -> bool:
        """Wait, but not longer than the client stays; whether it has left. What it sends stays unread."""
        until = time.monotonic() + seconds
        self.socket.settimeout(0.02)
        try:
            while time.monotonic() < until and not self._closing.is_set():
                with suppress(TimeoutError):
                    if self.socket.recv(1, socket.MSG_PEEK) == b"":
                        return True
                    # Peeking does not wait for the end behind bytes that nobody reads.
                    time.sleep(0.02)
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(None)

    def reset(self) -> None:
        """Break the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Server:
    """Gives each connection to `serve`, in a thread of its own; the connection ends when that returns."""

    def __init__(self, serve: Callable[[Peer], None]) -> None:
        self._serve = serve
        self.connections = 0
        self.ended = threading.Semaphore(0)
        """Released for each connection that is over."""
        self._open: list[socket.socket] = []
        self._closing = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._run, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _run(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self._serve(Peer(connection, self._closing))
        self.ended.release()

    def close(self) -> None:
        """Close every connection."""
        self._closing.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


class RawServer(Server):
    """Answers each request with the same steps: bytes to send, seconds to wait."""

    def __init__(self, *script: bytes | float) -> None:
        self.requests = 0

        def serve(peer: Peer) -> None:
            while peer.request() is not None:
                self.requests += 1
                peer.send(*script)

        super().__init__(serve)
