"""One scenario in sync and async code; a Mistral behind Lava that says what a test scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, cast

import httpx
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable

from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from lava_mistral.gateway import LocalGateway

KEY = "aks_test_0123456789abcdefSECRET"
USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


class Caller:
    """Calls a runnable in sync code, or in async code under an event loop of its own."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async

    def invoke(self, runnable: Runnable[Any, Any], prompt: Any, config: Any = None, **kwargs: Any) -> Any:
        """One answer."""
        if self.is_async:
            return asyncio.run(_awaited(runnable.ainvoke(prompt, config, **kwargs)))
        return runnable.invoke(prompt, config, **kwargs)

    def stream(self, runnable: Runnable[Any, Any], prompt: Any, config: Any = None, **kwargs: Any) -> list[Any]:
        """All chunks of an answer."""
        if not self.is_async:
            return list(runnable.stream(prompt, config, **kwargs))

        async def collect() -> list[Any]:
            return [chunk async for chunk in runnable.astream(prompt, config, **kwargs)]

        return asyncio.run(collect())

    def first(self, runnable: Runnable[Any, Any], prompt: Any, count: int = 1, **kwargs: Any) -> list[Any]:
        """The first chunks; then the iterator is closed."""
        if not self.is_async:
            chunks = cast("Any", runnable.stream(prompt, **kwargs))
            taken = [next(chunks) for _ in range(count)]
            chunks.close()
            return taken

        async def take() -> list[Any]:
            chunks = cast("Any", runnable.astream(prompt, **kwargs))
            taken = [await anext(chunks) for _ in range(count)]
            await chunks.aclose()
            return taken

        return asyncio.run(take())

    def whole(self, runnable: Runnable[Any, Any], prompt: Any, config: Any = None, **kwargs: Any) -> AIMessageChunk:
        """A streamed answer, put together."""
        chunks = self.stream(runnable, prompt, config, **kwargs)
        return cast("AIMessageChunk", chunks[0].__add__(chunks[1:]) if chunks[1:] else chunks[0])

    def ask(self, streamed: bool, model: Runnable[Any, Any], prompt: Any, **kwargs: Any) -> AIMessage:
        """One message, by `invoke` or put together of a stream."""
        if streamed:
            return self.whole(model, prompt, **kwargs)
        return cast("AIMessage", self.invoke(model, prompt, **kwargs))

    def events(self, model: Any, prompt: Any) -> list[Any]:
        """The protocol events (version 3) of a streamed answer."""
        if not self.is_async:
            return list(model.stream_events(prompt, version="v3"))

        async def collect() -> list[Any]:
            stream = await model.astream_events(prompt, version="v3")
            seen = [event async for event in stream]
            # The callbacks hear of the end a moment later.
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
            return seen

        return asyncio.run(collect())

    def embed(self, model: LavaMistralEmbeddings, texts: list[str], **kwargs: Any) -> list[list[float]]:
        """Vectors of documents."""
        if self.is_async:
            return asyncio.run(_awaited(model.aembed_documents(texts, **kwargs)))
        return model.embed_documents(texts, **kwargs)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


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


def chunk(delta: Any = None, *, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of a streamed answer."""
    return {
        "id": "cmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "mistral-small-2603",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}],
        "p": "abcdef",
        **more,
    }


def events(*deltas: Any, finish_reason: str = "stop", usage: Any = USAGE) -> list[dict[str, Any]]:
    """The events of a whole streamed answer, as Mistral sends them; a string or list is a delta's content."""
    first = chunk({"role": "assistant", "content": ""})
    said = [chunk(delta if isinstance(delta, dict) else {"content": delta}) for delta in deltas]
    return [first, *said, chunk({"content": ""}, finish_reason=finish_reason, usage=usage)]


def sse(items: Sequence[Any], *, done: bool = True) -> bytes:
    """Events as the bytes of an event stream."""
    text = "".join(f"data: {json.dumps(item, ensure_ascii=False)}\n\n" for item in items)
    return (text + ("data: [DONE]\n\n" if done else "")).encode()


def call(name: str, arguments: Any, *, id: str | None = "a1B2c3D4e", **more: Any) -> dict[str, Any]:
    """A tool call on the wire."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}, **more}


class _Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose pieces come one at a time."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


class Script:
    """Answers with what it was told, the last thing for ever, and keeps what it was asked.

    Args:
        *answers: each a JSON body, a list of events (a stream), an `httpx.Response` or an exception.
    """

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    @property
    def bodies(self) -> list[Any]:
        """What was asked."""
        return [json.loads(request.content) for request in self.requests]

    @property
    def body(self) -> Any:
        """What was asked last."""
        return self.bodies[-1]

    def respond(self, request: httpx.Request) -> httpx.Response:
        """The next answer."""
        self.requests.append(request)
        told = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(told, Exception):
            raise told
        if isinstance(told, httpx.Response):
            return told
        headers = {"x-lava-request-id": f"req_{len(self.requests)}"}
        if isinstance(told, list):
            pieces = [sse([item], done=False) for item in told] + [b"data: [DONE]\n\n"]
            headers["content-type"] = "text/event-stream"
            return httpx.Response(200, headers=headers, stream=_Pieces(pieces))
        return httpx.Response(200, headers=headers, json=told)

    def model(self, **settings: Any) -> ChatLavaMistral:
        """A chat model that asks this script."""
        return ChatLavaMistral(**{**self._settings(self.respond), **settings})

    def embeddings(self, **settings: Any) -> LavaMistralEmbeddings:
        """An embeddings model that asks this script."""
        return LavaMistralEmbeddings(**{**self._settings(self.respond), **settings})

    @staticmethod
    def _settings(respond: Callable[[httpx.Request], httpx.Response]) -> dict[str, Any]:
        async def arespond(request: httpx.Request) -> httpx.Response:
            return respond(request)

        return {
            "api_key": KEY,
            "http_client": httpx.Client(transport=httpx.MockTransport(respond)),
            "http_async_client": httpx.AsyncClient(transport=httpx.MockTransport(arespond)),
        }


def chat(gateway: LocalGateway, **settings: Any) -> ChatLavaMistral:
    """A chat model that calls a gateway."""
    return ChatLavaMistral(**{"api_key": gateway.secret_key, "base_url": gateway.base_url, **settings})


def embeddings(gateway: LocalGateway, **settings: Any) -> LavaMistralEmbeddings:
    """An embeddings model that calls a gateway."""
    return LavaMistralEmbeddings(**{"api_key": gateway.secret_key, "base_url": gateway.base_url, **settings})
