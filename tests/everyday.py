"""Use every part of the packages once, without test tools: run where dependencies are the oldest or newest allowed.

Usage: python -W error::DeprecationWarning:lava_mistral tests/everyday.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

from pydantic import BaseModel

import langchain_lava_mistral as langchain
import llama_index_lava_mistral as llama_index
from lava_mistral import AsyncLavaMistral, LavaMistral, billed_to, count_tokens, estimate_cost, track_usage
from lava_mistral.gateway import LocalGateway


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


HELLO: Any = [{"role": "user", "content": "Hello"}]
ADA = '"Ada" is 36 years old.'


def use_core() -> None:
    client = LavaMistral()
    assert client.chat(HELLO).text
    with client.stream(HELLO) as stream:
        assert "".join(delta.text for delta in stream)
    assert len(client.embed(["a", "b"]).vectors) == 2
    assert list(client.embed_iter(["a", "b"], as_numpy=True))
    assert count_tokens("Hello").exact
    assert estimate_cost("Hello", "mistral-small-2603", max_tokens=10).high


async def use_core_async() -> None:
    client = AsyncLavaMistral()
    assert (await client.chat(HELLO)).text
    async with await client.stream(HELLO) as stream:
        assert [delta async for delta in stream]
    assert len((await client.embed(["a", "b"])).vectors) == 2


def use_langchain() -> None:
    model = langchain.ChatLavaMistral()
    assert model.invoke("Hello").text
    assert list(model.stream("Hello"))
    assert model.bind_tools([weather], tool_choice="any").invoke('Weather in "Paris"?').tool_calls
    assert model.with_structured_output(Person).invoke(ADA) == Person(name="Ada", age=36)
    assert asyncio.run(model.ainvoke("Hello")).text
    embeddings = langchain.LavaMistralEmbeddings()
    assert len(embeddings.embed_documents(["a", "b"])) == len(asyncio.run(embeddings.aembed_documents(["a", "b"])))


async def messages_after_two_runs(llm: llama_index.ChatLavaMistral) -> int:
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.workflow import Context

    agent = FunctionAgent(llm=llm)
    context = Context(agent)
    for _ in range(2):
        await agent.run("Hello", ctx=context)
    return len((await context.store.get("memory")).get_all())


def use_llama_index() -> None:
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool

    llm = llama_index.ChatLavaMistral()
    assert llm.complete("Hello").text
    assert list(llm.stream_complete("Hello"))
    response = llm.chat_with_tools([FunctionTool.from_defaults(weather)], 'Weather in "Paris"?', tool_required=True)
    assert llm.get_tool_calls_from_response(response)
    assert llm.structured_predict(Person, PromptTemplate("{x}"), x=ADA) == Person(name="Ada", age=36)
    assert asyncio.run(llm.acomplete("Hello")).text
    assert asyncio.run(messages_after_two_runs(llm)) == 4
    embeddings = llama_index.LavaMistralEmbeddings()
    assert len(embeddings.get_text_embedding_batch(["a", "b"])) == 2


def use_command_line() -> None:
    for arguments in (["models", "--json"], ["usage", "--json"], ["doctor", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "lava_mistral", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        json.loads(done.stdout)


def main() -> None:
    import lava_mistral.ray  # noqa: F401

    with LocalGateway() as gateway, track_usage() as usage, billed_to(metadata={"app": "everyday"}):
        os.environ.update(gateway.environ)
        for use in (use_core, lambda: asyncio.run(use_core_async()), use_langchain, use_llama_index, use_command_line):
            use()
    assert usage.requests
    assert usage.unknown == 0
    print(f"every part works: {usage!r}")


if __name__ == "__main__":
    main()
