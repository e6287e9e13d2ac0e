"""Chat, side by side: client CPU of a call, of a streamed chunk, and 200 streams at once, in one run on one machine.

Every contender answers the same server in interleaved rounds; the table gives the median and the ratio to
langchain-mistralai. Run: `python benchmarks/chat.py [--rounds 7] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("chat_server.py")
CHUNKS = 500
KEY = "aks_test_benchmark"
REFERENCE = "langchain-mistralai"


@contextmanager
def server(chunks: int = CHUNKS, pause: float = 0.0) -> Iterator[str]:
    """The address, ending in `/v1`, of a server that streams `chunks` chunks `pause` seconds apart."""
    process = subprocess.Popen([sys.executable, SERVER, str(chunks), str(pause)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def contenders(url: str) -> dict[str, Any]:
    """Chat models by name; each has invoke/stream and their async forms under the names below."""
    import langchain_mistralai
    from llama_index.llms.mistralai import MistralAI

    import langchain_lava_mistral
    import lava_mistral
    import llama_index_lava_mistral

    settings = {"api_key": KEY, "base_url": url}
    return {
        REFERENCE: LangChain(langchain_mistralai.ChatMistralAI(api_key="k", base_url=url, model="mistral-small-2603")),
        "ours, LangChain": LangChain(langchain_lava_mistral.ChatLavaMistral(**settings)),
        "llama-index-llms-mistralai": LlamaIndex(
            MistralAI(api_key="k", endpoint=url.removesuffix("/v1"), model="mistral-small-latest")
        ),
        "ours, LlamaIndex": LlamaIndex(llama_index_lava_mistral.ChatLavaMistral(**settings)),
        "ours, no framework": Core(lava_mistral.LavaMistral(**settings), lava_mistral.AsyncLavaMistral(**settings)),
    }


class LangChain:
    def __init__(self, model: Any) -> None:
        self.model = model

    def call(self) -> None:
        assert self.model.invoke("Hello").content

    def stream(self) -> int:
        return sum(1 for _ in self.model.stream("Hello"))

    async def acall(self) -> None:
        assert (await self.model.ainvoke("Hello")).content

    async def astream(self, first: Callable[[], None] = lambda: None) -> int:
        count = 0
        async for chunk in self.model.astream("Hello"):
            count += 1
            if count == 2 or (count == 1 and chunk.content):
                first()
        return count


class LlamaIndex:
    def __init__(self, llm: Any) -> None:
        from llama_index.core.llms import ChatMessage

        self.llm = llm
        self.messages = [ChatMessage("Hello")]

    def call(self) -> None:
        assert self.llm.chat(self.messages).message.content

    def stream(self) -> int:
        return sum(1 for _ in self.llm.stream_chat(self.messages))

    async def acall(self) -> None:
        assert (await self.llm.achat(self.messages)).message.content

    async def astream(self, first: Callable[[], None] = lambda: None) -> int:
        count = 0
        async for _ in await self.llm.astream_chat(self.messages):
            count += 1
            if count == 1:
                first()
        return count


class Core:
    def __init__(self, client: Any, async_client: Any) -> None:
        self.client, self.async_client = client, async_client
        self.messages = [{"role": "user", "content": "Hello"}]

    def call(self) -> None:
        assert self.client.chat(self.messages).text

    def stream(self) -> int:
        return sum(1 for _ in self.client.stream(self.messages))

    async def acall(self) -> None:
        assert (await self.async_client.chat(self.messages)).text

    async def astream(self, first: Callable[[], None] = lambda: None) -> int:
        count = 0
        async with await self.async_client.stream(self.messages) as stream:
            async for _ in stream:
                count += 1
                if count == 1:
                    first()
        return count


def cpu(work: Callable[[], object], repeats: int) -> float:
    """Client CPU of one call of `work`, in µs."""
    started = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - started) / repeats * 1e6


async def acpu(work: Callable[[], Awaitable[object]], repeats: int) -> float:
    started = time.process_time()
    for _ in range(repeats):
        await work()
    return (time.process_time() - started) / repeats * 1e6


async def measure_async(models: dict[str, Any], rounds: int, figures: dict[str, dict[str, list[float]]]) -> None:
    for round_number in range(rounds + 1):
        for name, model in models.items():
            call = await acpu(model.acall, 40)
            chunk = await acpu(model.astream, 2) / CHUNKS
            if round_number:
                figures[name]["async call"].append(call)
                figures[name]["async chunk"].append(chunk)


async def crowd(model: Any, streams: int) -> tuple[list[float], float, int]:
    """Time to the first token of each of many streams begun at once, the wall time, and the chunks seen."""
    await model.acall()
    began = time.perf_counter()
    firsts: list[float] = []
    counts = await asyncio.gather(
        *(model.astream(lambda: firsts.append(time.perf_counter() - began)) for _ in range(streams))
    )
    return sorted(firsts), time.perf_counter() - began, sum(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    kinds = ("call", "chunk", "async call", "async chunk")
    figures: dict[str, dict[str, list[float]]] = {}
    with server() as url:
        models = contenders(url)
        figures = {name: {kind: [] for kind in kinds} for name in models}
        for round_number in range(options.rounds + 1):  # the first one warms up
            for name, model in models.items():
                call, chunk = cpu(model.call, 40), cpu(model.stream, 2) / CHUNKS
                if round_number:
                    figures[name]["call"].append(call)
                    figures[name]["chunk"].append(chunk)
        asyncio.run(measure_async(models, options.rounds, figures))
    medians = {name: {kind: statistics.median(seen[kind]) for kind in kinds} for name, seen in figures.items()}

    crowds: dict[str, dict[str, float]] = {}
    with server(200, 0.01) as url:
        for name, model in contenders(url).items():
            cpu_before = time.process_time()
            firsts, wall, chunks = asyncio.run(crowd(model, options.streams))
            crowds[name] = {
                "first token p50 ms": firsts[len(firsts) // 2] * 1e3,
                "first token p99 ms": firsts[int(len(firsts) * 0.99)] * 1e3,
                "wall s": wall,
                "cpu µs a chunk": (time.process_time() - cpu_before) / chunks * 1e6,
            }

    if options.json:
        print(json.dumps({"medians": medians, "streams": crowds}, indent=2))
        return
    reference = medians[REFERENCE]
    print(f"client CPU, µs (ratio to {REFERENCE}); a stream has {CHUNKS} chunks in one write")
    for name, row in medians.items():
        cells = "  ".join(f"{kind} {row[kind]:8.1f} ({row[kind] / reference[kind]:5.2f})" for kind in kinds)
        print(f"{name:28} {cells}")
    print(f"\n{options.streams} streams at once, 200 chunks each, 10 ms a chunk")
    for name, row in crowds.items():
        print(f"{name:28} " + "  ".join(f"{kind} {value:8.1f}" for kind, value in row.items()))


if __name__ == "__main__":
    main()
