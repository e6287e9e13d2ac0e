"""Plays an answer to a client: bytes, pauses, standstills and cuts, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from lava_mistral.gateway.faults import Cut, Stall, Step, to_bytes
from lava_mistral.gateway.server.http import Connection, Send
from lava_mistral.mistral.types import Usage


@dataclass(slots=True)
class Answer:
    """What the provider answers; header names are in lower case, the body is whole or in steps."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterator[Step | Usage] = b""  # A usage among the steps comes before the bytes that tell it.
    delay: float = 0.0  # Seconds until the first byte.
    usage: Usage | None = None  # What a whole body tells.
    reset: bool = False  # Reset the connection instead.


async def play(
    answer: Answer,
    request_id: str,
    connection: Connection,
    send: Send,
    *,
    settle: Callable[[Usage], None],
    ending: Callable[[], None],
) -> bool:
    """Send an answer, and return whether all of it went to a client that was still there.

    `settle` is called before usage is told, and `ending` before the last byte: whoever has read it finds the request
    paid and ended.
    """
    if not await _wait(connection, answer.delay):
        return False
    if answer.reset:
        connection.close(reset=True)
        return False
    body, told = answer.body, {**answer.headers, "x-lava-request-id": request_id}
    if answer.status in (204, 304):
        # RFC 9110, section 8.6: an answer without a body has no length either.
        body = b""
        told.pop("content-type", None)
    elif isinstance(body, bytes):
        told["content-length"] = str(len(body))
    if isinstance(body, bytes):
        if answer.usage is not None:
            settle(answer.usage)
        ending()
    headers = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
        return not connection.gone
    loop = asyncio.get_running_loop()
    due = loop.time()
    for step in body:
        if connection.gone:
            return False
        match step:
            case dict():
                settle(step)
            case bytes() | str():
                await send({"type": "http.response.body", "body": to_bytes(step), "more_body": True})
            case Cut(clean=True):
                break
            case Cut(reset=reset):
                connection.close(reset=reset)
                return False
            case Stall():
                await connection.lost.wait()
            case seconds:
                # Late chunks do not delay the next ones: under load the pace of a stream stays what was asked for.
                due += seconds
                if not await _wait(connection, due - loop.time()):
                    return False
    ending()
    await send({"type": "http.response.body", "body": b""})
    return not connection.gone


async def _wait(connection: Connection, seconds: float) -> bool:
    """Wait, and say whether the client is still there."""
    if seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(connection.lost.wait(), seconds)
    return not connection.gone
