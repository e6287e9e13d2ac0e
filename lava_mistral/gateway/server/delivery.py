"""Plays an answer to a client: bytes, pauses, standstills and cuts, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from lava_mistral.gateway.faults import Cut, Stall, Step, to_bytes
from lava_mistral.gateway.server.http import Connection, Send

_SHORT = 0.05  # Seconds of a pause that is not worth watching the client for.


@dataclass(slots=True)
class Answer:
    """What the provider answers; header names are in lower case, the body is whole or in steps."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterator[Step] = b""
    delay: float = 0.0  # Seconds until the first byte.
    before: Callable[[], None] | None = None  # Called just before the first byte, unless the client has gone.
    reset: bool = False  # Reset the connection instead.


async def play(
    answer: Answer, request_id: str, connection: Connection, send: Send, *, ending: Callable[[], None]
) -> bool:
    """Send an answer, and return whether all of it went to a client that was still there.

    `ending` is called before the last byte: whoever has read it finds the request ended.
    """
    if answer.delay > 0 and not await _wait(connection, answer.delay):
        return False
    if answer.reset:
        connection.close(reset=True)
        return False
    if answer.before is not None:
        answer.before()
    body, told = answer.body, {**answer.headers, "x-lava-request-id": request_id}
    if answer.status in (204, 304):
        # RFC 9110, section 8.6: an answer without a body has no length either.
        body = b""
        told.pop("content-type", None)
    elif isinstance(body, bytes):
        told["content-length"] = str(len(body))
    headers = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
    if isinstance(body, bytes):
        ending()
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
                late = loop.time() - due
                if late < 0 and not await _wait(connection, -late):
                    return False
    ending()
    await send({"type": "http.response.body", "body": b""})
    return not connection.gone


async def _wait(connection: Connection, seconds: float) -> bool:
    """Wait, and say whether the client is still there; a long wait ends when it goes."""
    if seconds <= _SHORT:
        await asyncio.sleep(seconds)
    else:
        with suppress(TimeoutError):
            await asyncio.wait_for(connection.lost.wait(), seconds)
    return not connection.gone
