"""Growth: what a call costs as its conversation, tools, pictures, stream or company grow.

CPU of LangChain's `ChatLavaMistral` and of the core client against `chat_server.py`. Where the cost is linear, the
last column, CPU per piece, does not grow with the size.

    python benchmarks/growth.py [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from chat import server
from contenders import KEY
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral import LavaMistral

Row = tuple[int, float]
"""A size, and CPU in µs."""
PICTURE = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + os.urandom(100_000)).decode()


def cpu(work: Callable[[], object], repeats: int) -> float:
    """CPU of one `work` in µs, the least of three."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(repeats):
            work()
        taken.append((time.process_time() - began) / repeats * 1e6)
    return min(taken)


def history(size: int) -> list[BaseMessage]:
    """A conversation of an agent: question, call, result, answer, and so on, with a question at its end."""
    messages: list[BaseMessage] = []
    for number in range(0, size - 1, 4):
        call = {"name": "look_up", "args": {"what": f"number {number}"}, "id": f"call{number:05}"}
        messages += [
            HumanMessage(f"What is number {number}?"),
            AIMessage("", tool_calls=[call]),
            ToolMessage(f"Number {number} is {number}.", tool_call_id=call["id"]),
            AIMessage(f"It is {number}."),
        ]
    return [*messages[: (size - 1) // 4 * 4], HumanMessage("And now?")]


def tool(number: int) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"what": {"type": "string"}, "many": {"type": "integer"}}}
    function = {"name": f"tool_{number}", "description": "Look something up.", "parameters": parameters}
    return {"type": "function", "function": function}


def conversations(model: ChatLavaMistral) -> Iterator[Row]:
    for size in (10, 100, 1000, 4000):
        messages = history(size)
        yield len(messages), cpu(lambda messages=messages: model.invoke(messages), 2_000 // size + 2)


def tools(model: ChatLavaMistral) -> Iterator[Row]:
    for size in (1, 8, 32, 128):
        bound = model.bind_tools([tool(number) for number in range(size)])
        yield size, cpu(lambda bound=bound: bound.invoke("Hello"), 20)


def pictures(model: ChatLavaMistral) -> Iterator[Row]:
    for size in (1, 5, 20, 50):
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": PICTURE}}] * size
        messages = [HumanMessage([{"type": "text", "text": "What is this?"}, *parts])]
        yield size, cpu(lambda messages=messages: model.invoke(messages), 3)


def streams(model: ChatLavaMistral) -> Iterator[Row]:
    for size in (100, 1_000, 20_000, 200_000):
        taken = cpu(lambda size=size: [None for _ in model.stream("Hello", max_tokens=size)], 1)
        yield size, taken


def turns(client: LavaMistral, model: str) -> Iterator[Row]:
    """Streams of the core that are read to their end for the whole turn: text, content and thinking."""

    def work(size: int) -> None:
        with client.stream([{"role": "user", "content": "Hello"}], model=model, max_tokens=size) as stream:
            for _ in stream:
                pass
            assert stream.turn.content

    for size in (100, 1_000, 20_000, 200_000):
        yield size, cpu(lambda size=size: work(size), 1)


def crowds(model: ChatLavaMistral) -> Iterator[Row]:
    async def work(size: int) -> None:
        await asyncio.gather(*(model.ainvoke("Hello") for _ in range(size)))

    with asyncio.Runner() as runner:
        for size in (1, 10, 100, 1_000):
            yield size, cpu(lambda size=size: runner.run(work(size)), 1)


def idle(url: str, count: int = 1_000) -> dict[str, float]:
    """What models that have made one call each and wait leave behind, per model; sockets and threads in all."""
    ChatLavaMistral(api_key=KEY, base_url=url).invoke("Hello")
    gc.collect()
    memory, sockets, threads = _resident(), _sockets(), threading.active_count()
    models = [ChatLavaMistral(api_key=f"{KEY}_{number}", base_url=url) for number in range(count)]
    for model in models:
        model.invoke("Hello")
    gc.collect()
    return {
        "kB a model": (_resident() - memory) / count / 1024,
        "sockets": _sockets() - sockets,
        "threads": threading.active_count() - threads,
    }


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _sockets() -> int:
    def target(number: str) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            return ""

    return sum(target(number).startswith("socket:") for number in os.listdir("/proc/self/fd"))


def measure() -> tuple[dict[str, list[Row]], dict[str, float]]:
    """Sizes and CPU by what grows, and what idle models cost."""
    with server() as url:
        waiting = idle(url)
        model = ChatLavaMistral(api_key=KEY, base_url=url)
        client = LavaMistral(api_key=KEY, base_url=url, timeout=300)
        model.invoke("Hello")
        return {
            "messages of a conversation": [*conversations(model)],
            "tools": [*tools(model)],
            "pictures of 100 kB": [*pictures(model)],
            "chunks of a stream": [*streams(model)],
            "chunks of a turn, text": [*turns(client, "mistral-small-2603")],
            "chunks of a turn, thinking": [*turns(client, "magistral-medium-2509")],
            "async calls at once": [*crowds(model)],
        }, waiting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    rows, waiting = measure()
    if parser.parse_args().json:
        print(json.dumps({"growth": rows, "idle": waiting}))
        return
    for name, sizes in rows.items():
        for size, taken in sizes:
            print(f"{name:30} {size:8,} {taken:12,.0f} µs {taken / size:10,.1f} µs a piece")
    print("1,000 idle models:", ", ".join(f"{name} {value:,.1f}" for name, value in waiting.items()))


if __name__ == "__main__":
    main()
