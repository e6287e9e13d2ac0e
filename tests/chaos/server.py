"""Serve faults over raw sockets.

`/f/NUMBER/CELL/…` answers with that fault, `/f/NUMBER,NUMBER,/CELL/…` with one after the other and then well; `/counts`
tells the requests of each cell. It is a process of its own, prints its ports as JSON and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from typing import Any

from tests.chaos.answers import Reply, good, kind_of
from tests.chaos.faults import FAULTS

NAMED = list(FAULTS.values())
COUNTS: dict[str, int] = {}
LINGER_NOT = struct.pack("ii", 1, 0)


class Gone(Exception):
    """The connection is over."""


class Connection:
    """One connection; see `faults.Exchange`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.body: dict[str, Any] = {}
        self.kind, self.attempt, self.credential = "chat", 0, ""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self.reader.at_eof() or self.writer.is_closing():
            raise Gone

    async def silence(self) -> None:
        await self.reader.read()
        raise Gone

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.writer.transport.abort()
        raise Gone

    def close(self) -> None:
        raise Gone

    async def reply(self, reply: Reply) -> None:
        await self.send(reply.head() + reply.framed())
        if reply.framing == "close":
            raise Gone

    async def serve(self) -> None:
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *lines = head.decode("latin-1").split("\r\n")
            path = line.split(" ")[1].split("?")[0]
            if path == "/counts":
                await self.reply(Reply(json.dumps(COUNTS).encode()))
                continue
            headers = dict(part.lower().split(": ", 1) for part in lines if ": " in part)
            self.credential = next((p[22:] for p in lines if p.lower().startswith("authorization: bearer ")), "")
            _, _, names, cell, *_ = path.split("/")
            self.attempt = COUNTS[cell] = COUNTS.get(cell, 0) + 1
            # One fault for every request, or one for each of the first requests and good answers from then on.
            numbers = [int(number) for number in names.split(",") if number]
            if names.endswith(","):
                numbers = numbers[self.attempt - 1 : self.attempt]
            fault = NAMED[numbers[0]] if numbers else None
            if fault is not None and fault.before_sending:
                await fault.respond(self)
            self.body = json.loads(await self._read_body(headers))
            self.kind = kind_of(self.body)
            await (self.reply(good(self.body)) if fault is None else fault.respond(self))

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await Connection(reader, writer).serve()
    except (Gone, asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def accept_and_reset(listener: socket.socket) -> None:
    while True:
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        accepted.close()


async def main() -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**20, backlog=500)
    refusing, resetting = socket.socket(), socket.socket()
    for bound in (refusing, resetting):
        bound.bind(("127.0.0.1", 0))
    resetting.listen(100)
    resetting.setblocking(False)
    task = asyncio.create_task(accept_and_reset(resetting))
    sockets = {"faults": server.sockets[0], "refuses": refusing, "resets": resetting}
    print(json.dumps({name: bound.getsockname()[1] for name, bound in sockets.items()}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    task.cancel()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
