"""Mistral behind Lava without a socket: what is on the wire, and a transport that says what a test scripts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import httpx

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
DONE = b"data: [DONE]\n\n"
_HEAD = {"id": "cmpl-1", "created": 1_700_000_000, "model": "mistral-small-2603"}


def answer(
    content: Any = "Hi", *, calls: Sequence[Any] = (), finish_reason: str = "stop", **more: Any
) -> dict[str, Any]:
    """A chat answer that is not streamed."""
    message = {"role": "assistant", "content": content, "tool_calls": list(calls) or None}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE, **more}


def chunk(delta: Any = None, *, finish_reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """One event of a streamed answer."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish_reason}
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice], "p": "abcdef", **more}


def events(*deltas: Any, finish_reason: str = "stop", usage: Any = USAGE) -> list[dict[str, Any]]:
    """The events of a whole streamed answer, as Mistral sends them; a string or list is a delta's content."""
    first = chunk({"role": "assistant", "content": ""})
    said = [chunk(delta if isinstance(delta, dict) else {"content": delta}) for delta in deltas]
    return [first, *said, chunk({"content": ""}, finish_reason=finish_reason, usage=usage)]


def sse(items: Sequence[Any], *, done: bool = True) -> bytes:
    """Events as the bytes of an event stream."""
    text = "".join(f"data: {json.dumps(item, ensure_ascii=False)}\n\n" for item in items)
    return text.encode() + (DONE if done else b"")


def event(content: str = "", finish_reason: str | None = None, **extra: Any) -> bytes:
    """One event of a streamed answer, as bytes."""
    return sse([chunk({"content": content}, finish_reason=finish_reason, **extra)], done=False)


def call(name: str, arguments: Any, *, id: str | None = "a1B2c3D4e", **more: Any) -> dict[str, Any]:
    """A tool call on the wire."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}, **more}


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces: bytes, seconds to wait, exceptions to raise. Knows what was taken and whether it
    was closed."""

    def __init__(self, *pieces: bytes | float | BaseException) -> None:
        self.pieces = pieces
        self.taken = 0
        self.closed = False

    def _piece(self, piece: bytes | BaseException) -> bytes:
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.taken += 1
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                yield self._piece(piece)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            self.taken += 1
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                yield self._piece(piece)

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


Answer: TypeAlias = (
    "dict[str, Any] | list[Any] | bytes | int | tuple[int, Any] | Pieces | httpx.Response | BaseException"
    " | Callable[[httpx.Request], Any]"
)


class Wire:
    """A transport that answers with what it was told, the last thing for ever, and keeps what it was asked.

    Args:
        *answers: a dictionary is a body, a list the events of a stream, bytes or `Pieces` a body of any kind, a number
            a status, a pair a status and a body, an exception is raised, a function makes one of these of the request.
        together: a stream's events come in one piece instead of one by one.
    """

    def __init__(self, *answers: Answer, together: bool = False) -> None:
        self._answers = list(answers or [answer()])
        self._together = together
        self.requests: list[httpx.Request] = []
        self.streams: list[Pieces] = []

    @property
    def bodies(self) -> list[Any]:
        """What was asked."""
        return [json.loads(request.content) for request in self.requests]

    @property
    def body(self) -> Any:
        """What was asked last."""
        return self.bodies[-1]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        told: Any = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        headers = {"x-lava-request-id": f"req_{len(self.requests)}"}
        if callable(told):
            told = told(request)
        if isinstance(told, BaseException):
            raise told
        if isinstance(told, httpx.Response):
            return told
        if isinstance(told, list):
            pieces = [*(sse([event], done=False) for event in told), DONE]
            told = Pieces(b"".join(pieces)) if self._together else Pieces(*pieces)
            headers["content-type"] = "text/event-stream; charset=utf-8"
        if isinstance(told, Pieces):
            self.streams.append(told)
            return httpx.Response(200, headers=headers, stream=told)
        if isinstance(told, bytes):
            return httpx.Response(200, headers=headers, content=told)
        if isinstance(told, int):
            told = told, {"object": "error", "message": "no", "type": "x", "code": "1"}
        status, body = told if isinstance(told, tuple) else (200, told)
        return httpx.Response(status, headers=headers, json=body)

    def http(self, asynchronous: bool = False) -> Any:
        """An HTTP client that asks this."""
        transport = httpx.MockTransport(self)
        return httpx.AsyncClient(transport=transport) if asynchronous else httpx.Client(transport=transport)
