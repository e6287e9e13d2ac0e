"""One chat model in a process of its own, which a benchmark tells what to do: `python contenders.py NAME URL`.

It reads a line of JSON for each piece of work, `["call", 100]`, and answers with the CPU it took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

KEY = "aks_test_benchmark"
MODEL = "mistral-small-2603"
CROWD = 200
"""Streams at once, and the chunks of each."""
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
Paced = dict[str, Any]
"""Arguments of a stream that the server reads as its pace."""
WHOLE: Paced = {}
EACH: Paced = {"top_p": 0.5}
SLOW: Paced = {"top_p": 0.25, "max_tokens": CROWD}


class LangChain:
    def __init__(self, model: Any) -> None:
        self.model = model

    def call(self) -> None:
        assert self.model.invoke("Hello").content

    def stream(self, pace: Paced) -> Iterator[Any]:
        return self.model.stream("Hello", **pace)

    async def acall(self) -> None:
        assert (await self.model.ainvoke("Hello")).content

    async def astream(self, pace: Paced) -> AsyncIterator[Any]:
        # An empty chunk that only says that an answer begins is no token.
        async for chunk in self.model.astream("Hello", **pace):
            if chunk.content or chunk.response_metadata.get("finish_reason"):
                yield chunk


class LlamaIndex:
    def __init__(self, llm: Any) -> None:
        from llama_index.core.llms import ChatMessage

        self.llm, self.messages = llm, [ChatMessage("Hello")]

    def call(self) -> None:
        assert self.llm.chat(self.messages).message.content

    def stream(self, pace: Paced) -> Iterator[Any]:
        return self.llm.stream_chat(self.messages, **pace)

    async def acall(self) -> None:
        assert (await self.llm.achat(self.messages)).message.content

    async def astream(self, pace: Paced) -> AsyncIterator[Any]:
        async for chunk in await self.llm.astream_chat(self.messages, **pace):
            yield chunk


class Core:
    def __init__(self, url: str) -> None:
        import lava_mistral

        self.client = lava_mistral.LavaMistral(api_key=KEY, base_url=url)
        self.async_client = lava_mistral.AsyncLavaMistral(api_key=KEY, base_url=url)

    def call(self) -> None:
        assert self.client.chat(BODY["messages"]).text

    def stream(self, pace: Paced) -> Iterator[Any]:
        return iter(self.client.stream(BODY["messages"], **pace))

    async def acall(self) -> None:
        assert (await self.async_client.chat(BODY["messages"])).text

    async def astream(self, pace: Paced) -> AsyncIterator[Any]:
        async with await self.async_client.stream(BODY["messages"], **pace) as stream:
            async for delta in stream:
                yield delta


class Bare:
    """An HTTP client with orjson, without checks, retries or types: what a carrier costs."""

    def __init__(self, library: Any, url: str) -> None:
        self.url = f"{url}/chat/completions"
        self.client = library.Client(limits=library.Limits(max_connections=None))
        self.async_client = library.AsyncClient(limits=library.Limits(max_connections=None))

    def call(self) -> None:
        import orjson

        answer = self.client.post(self.url, content=orjson.dumps(BODY), headers={"authorization": KEY})
        assert orjson.loads(answer.content)["choices"]

    def stream(self, pace: Paced) -> Iterator[Any]:
        body = json.dumps({**BODY, **pace, "stream": True})
        with self.client.stream("POST", self.url, content=body) as answer:
            yield from _events(answer.iter_raw())

    async def acall(self) -> None:
        import orjson

        answer = await self.async_client.post(self.url, content=orjson.dumps(BODY), headers={"authorization": KEY})
        assert orjson.loads(answer.content)["choices"]

    async def astream(self, pace: Paced) -> AsyncIterator[Any]:
        body = json.dumps({**BODY, **pace, "stream": True})
        async with self.async_client.stream("POST", self.url, content=body) as answer:
            async for event in _aevents(answer.aiter_raw()):
                yield event


class BareAiohttp:
    """The same over aiohttp, which has no sync form."""

    def __init__(self, url: str) -> None:
        self.url, self.session = f"{url}/chat/completions", None

    async def _open(self) -> Any:
        import aiohttp

        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self.session

    async def acall(self) -> None:
        import orjson

        session = await self._open()
        async with session.post(self.url, data=orjson.dumps(BODY), headers={"authorization": KEY}) as answer:
            assert orjson.loads(await answer.read())["choices"]

    async def astream(self, pace: Paced) -> AsyncIterator[Any]:
        session = await self._open()
        async with session.post(self.url, data=json.dumps({**BODY, **pace, "stream": True})) as answer:
            async for event in _aevents(answer.content.iter_any()):
                yield event


def _parsed(event: bytes) -> Any:
    import orjson

    return None if event == b"data: [DONE]" else orjson.loads(event[6:])["choices"][0]["delta"]


def _events(pieces: Iterator[bytes]) -> Iterator[Any]:
    rest = b""
    for piece in pieces:
        *events, rest = (rest + piece).split(b"\n\n")
        yield from filter(None, map(_parsed, events))


async def _aevents(pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    rest = b""
    async for piece in pieces:
        *events, rest = (rest + piece).split(b"\n\n")
        for delta in filter(None, map(_parsed, events)):
            yield delta


def _langchain_mistralai(url: str) -> Any:
    from langchain_mistralai import ChatMistralAI

    return LangChain(ChatMistralAI(api_key="k", base_url=url, model=MODEL))


def _llama_index_mistralai(url: str) -> Any:
    from llama_index.llms.mistralai import MistralAI

    return LlamaIndex(MistralAI(api_key="k", endpoint=url.removesuffix("/v1"), model="mistral-small-latest"))


def _langchain(url: str) -> Any:
    from langchain_lava_mistral import ChatLavaMistral

    return LangChain(ChatLavaMistral(api_key=KEY, base_url=url))


def _llama_index(url: str) -> Any:
    from llama_index_lava_mistral import ChatLavaMistral

    return LlamaIndex(ChatLavaMistral(api_key=KEY, base_url=url))


def _httpx(url: str) -> Any:
    import httpx

    return Bare(httpx, url)


def _httpx2(url: str) -> Any:
    import httpx2

    return Bare(httpx2, url)


REFERENCE = "langchain-mistralai"
CONTENDERS: dict[str, Callable[[str], Any]] = {
    REFERENCE: _langchain_mistralai,
    "ours, LangChain": _langchain,
    "llama-index-llms-mistralai": _llama_index_mistralai,
    "ours, LlamaIndex": _llama_index,
    "ours, no framework": Core,
    "httpx and orjson alone": _httpx,
    "httpx2 and orjson alone": _httpx2,
    "aiohttp and orjson alone": BareAiohttp,
}


def count(chunks: Iterator[Any]) -> int:
    return sum(1 for _ in chunks)


async def acount(chunks: AsyncIterator[Any]) -> int:
    return len([None async for _ in chunks])


async def crowd(model: Any) -> dict[str, float]:
    """Time to the first token of many streams begun at once, and the CPU of a chunk."""
    firsts: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def one() -> int:
        chunks = model.astream(SLOW)
        await anext(chunks)
        firsts.append(time.perf_counter() - began)
        return 1 + await acount(chunks)

    counts = await asyncio.gather(*(one() for _ in range(CROWD)))
    return {
        "first token p50 ms": sorted(firsts)[CROWD // 2] * 1e3,
        "first token p99 ms": sorted(firsts)[int(CROWD * 0.99)] * 1e3,
        "wall s": time.perf_counter() - began,
        "cpu µs a chunk": (time.process_time() - cpu) / sum(counts) * 1e6,
    }


async def repeat(work: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        await work()


def main() -> None:
    model = CONTENDERS[sys.argv[1]](sys.argv[2])
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            kind, times = json.loads(line)
            started = time.process_time()
            if kind == "crowd":
                print(json.dumps(runner.run(crowd(model))), flush=True)
                continue
            if kind == "async call":
                runner.run(repeat(model.acall, times))
            elif kind.startswith("async"):
                pace = EACH if kind == "async chunk, one a write" else WHOLE
                runner.run(repeat(lambda pace=pace: acount(model.astream(pace)), times))
            else:
                pace = EACH if kind == "chunk, one a write" else WHOLE
                for _ in range(times):
                    if kind == "call":
                        model.call()
                    else:
                        count(model.stream(pace))
            print(json.dumps((time.process_time() - started) / times * 1e6), flush=True)


if __name__ == "__main__":
    main()
