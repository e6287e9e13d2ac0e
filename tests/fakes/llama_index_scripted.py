"""A Mistral behind Lava that says what a test scripts, and callers that run one scenario in sync and async code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import httpx
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from llama_index_lava_mistral import ChatLavaMistral

T = TypeVar("T")

KEY = "aks_test_0123456789hushhush"
USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


def answer(
    content: Any = "Hi", *, calls: Sequence[Any] = (), finish_reason: str = "stop", **more: Any
) -> dict[str, Any]:
    """A chat answer that is not streamed."""
    message = {"role": "assistant", "content": content, "tool_calls": list(calls) or None}
    return {
        "id": "cmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "mistral-small-2603",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": USAGE,
        **more,
    }


def chunk(delta: Any = None, *, finish_reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """One event of a streamed answer."""
    return {
        "id": "cmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "mistral-small-2603",
        "choices": [{"index": index, "delta": delta or {}, "finish_reason": finish_reason}],
        "p": "abcdef",
        **more,
    }


def stream(*deltas: Any, finish_reason: str = "stop") -> list[dict[str, Any]]:
    """The events of a whole streamed answer, as Mistral sends them."""
    first = chunk({"role": "assistant", "content": ""})
    events = [chunk({"content": delta} if isinstance(delta, str) else delta) for delta in deltas]
    return [first, *events, chunk({"content": ""}, finish_reason=finish_reason, usage=USAGE)]


def call(name: str, arguments: Any, *, id: str = "a1B2c3D4e", **more: Any) -> dict[str, Any]:
    """A tool call on the wire."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}, **more}


class OneByOne(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose pieces come one at a time."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Scripted:
    """Answers with what it was told, the last thing for ever, and keeps what it was asked.

    Args:
        *answers: a dictionary is an answer, a list of dictionaries a stream, an int a status.
        together: a stream's events come in one piece instead of one by one.
    """

    def __init__(self, *answers: Any, together: bool = False) -> None:
        self._answers = list(answers or [answer()])
        self._together = together
        self.requests: list[httpx.Request] = []
        self.streams: list[OneByOne] = []

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies that came, parsed."""
        return [json.loads(request.content) for request in self.requests]

    @property
    def body(self) -> dict[str, Any]:
        """The last body that came."""
        return self.bodies[-1]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        said = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        headers = {"x-lava-request-id": f"req_{len(self.requests)}"}
        if isinstance(said, int):
            body = {"object": "error", "message": "no", "type": "x", "code": "1"}
            return httpx.Response(said, headers=headers, json=body)
        if isinstance(said, dict):
            return httpx.Response(200, headers=headers, json=said)
        pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in said] + [b"data: [DONE]\n\n"]
        if self._together:
            pieces = [b"".join(pieces)]
        headers["content-type"] = "text/event-stream; charset=utf-8"
        self.streams.append(OneByOne(pieces))
        return httpx.Response(200, headers=headers, stream=self.streams[-1])

    def llm(self, **settings: Any) -> ChatLavaMistral:
        """A model that talks to this."""
        transport = httpx.MockTransport(self)
        return ChatLavaMistral(
            **{
                "api_key": KEY,
                "max_retries": 0,
                "http_client": httpx.Client(transport=transport),
                "async_http_client": httpx.AsyncClient(transport=transport),
            }
            | settings
        )


async def gathered(responses: Coroutine[Any, Any, Any]) -> list[Any]:
    return [response async for response in await responses]


class Caller:
    """Calls a model's methods, each in an event loop of its own where it is async."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous

    def __repr__(self) -> str:
        return "async" if self.asynchronous else "sync"

    def one(self, subject: Any, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """What `subject.method(…)` or `await subject.amethod(…)` returns."""
        if not self.asynchronous:
            return getattr(subject, method)(*args, **kwargs)

        async def run() -> Any:
            return await getattr(subject, f"a{method}")(*args, **kwargs)

        return asyncio.run(run())

    def all(self, subject: Any, method: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Everything that a streaming method gives."""
        if not self.asynchronous:
            return list(getattr(subject, method)(*args, **kwargs))
        return asyncio.run(gathered(getattr(subject, f"a{method}")(*args, **kwargs)))

    def chat(self, llm: ChatLavaMistral, *args: Any, **kwargs: Any) -> ChatResponse:
        response = self.one(llm, "chat", *args, **kwargs)
        assert isinstance(response, ChatResponse)
        return response

    def stream_chat(self, llm: ChatLavaMistral, *args: Any, **kwargs: Any) -> list[ChatResponse]:
        return self.all(llm, "stream_chat", *args, **kwargs)

    def complete(self, llm: ChatLavaMistral, *args: Any, **kwargs: Any) -> CompletionResponse:
        response = self.one(llm, "complete", *args, **kwargs)
        assert isinstance(response, CompletionResponse)
        return response

    def stream_complete(self, llm: ChatLavaMistral, *args: Any, **kwargs: Any) -> list[CompletionResponse]:
        return self.all(llm, "stream_complete", *args, **kwargs)


def ask(text: str = "Hello") -> list[ChatMessage]:
    """A conversation of one question."""
    return [ChatMessage(role="user", content=text)]
