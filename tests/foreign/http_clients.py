"""Call Mistral with libraries that know nothing of this project, through Lava's transports: `make clients`.

    python tests/foreign/http_clients.py [docs/reference/foreign-clients.md]

The table of a page that is named is written anew. The exit status is 1 if a call fails.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import httpx2

import lava_mistral
import lava_mistral.httpx2
from lava_mistral.gateway import LocalGateway, Status

MODEL = "mistral-small-2603"
QUESTION = "Water is wet. Is water wet?"
ANSWER = "Water is wet."
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
URL = "https://api.mistral.ai/v1"
CALLS = ("chat", "stream", "embeddings", "error", "async chat", "async stream", "async embeddings", "async error")

Rows = dict[str, Callable[[], Any]]


def clients(gateway: LocalGateway, library: Any) -> tuple[Any, Any]:
    """Make a sync and an async client of httpx or httpx2 that send to Lava."""
    module: Any = lava_mistral if library is httpx else lava_mistral.httpx2
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    return (
        library.Client(transport=module.LavaTransport(**access)),
        library.AsyncClient(transport=module.AsyncLavaTransport(**access)),
    )


def mistral_sdk(gateway: LocalGateway) -> Rows:
    from mistralai.client import Mistral

    client, async_client = clients(gateway, httpx2)
    sdk = Mistral(api_key="unused", client=client, async_client=async_client)

    def stream() -> str:
        with sdk.chat.stream(model=MODEL, messages=MESSAGES) as events:
            return "".join(str(event.data.choices[0].delta.content or "") for event in events)

    async def async_stream() -> str:
        async with await sdk.chat.stream_async(model=MODEL, messages=MESSAGES) as events:
            return "".join([str(event.data.choices[0].delta.content or "") async for event in events])

    async def async_chat() -> Any:
        return (await sdk.chat.complete_async(model=MODEL, messages=MESSAGES)).choices[0].message.content

    async def async_embed() -> Any:
        return (await sdk.embeddings.create_async(model="mistral-embed", inputs=["a"])).data[0].embedding

    return {
        "chat": lambda: sdk.chat.complete(model=MODEL, messages=MESSAGES).choices[0].message.content,
        "stream": stream,
        "embeddings": lambda: sdk.embeddings.create(model="mistral-embed", inputs=["a"]).data[0].embedding,
        "async chat": async_chat,
        "async stream": async_stream,
        "async embeddings": async_embed,
    }


def openai_sdk(gateway: LocalGateway) -> Rows:
    from openai import AsyncOpenAI, OpenAI

    client, async_client = clients(gateway, httpx2)
    sync = OpenAI(api_key="unused", base_url=URL, http_client=client, max_retries=0)
    asynchronous = AsyncOpenAI(api_key="unused", base_url=URL, http_client=async_client, max_retries=0)

    def stream() -> str:
        chunks = sync.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    async def async_chat() -> Any:
        answer = await asynchronous.chat.completions.create(model=MODEL, messages=MESSAGES)
        return answer.choices[0].message.content

    async def async_stream() -> str:
        chunks = await asynchronous.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    async def async_embed() -> Any:
        answer = await asynchronous.embeddings.create(model="mistral-embed", input=["a"], encoding_format="float")
        return answer.data[0].embedding

    def embed() -> Any:
        return sync.embeddings.create(model="mistral-embed", input=["a"], encoding_format="float").data[0].embedding

    return {
        "chat": lambda: sync.chat.completions.create(model=MODEL, messages=MESSAGES).choices[0].message.content,
        "stream": stream,
        "embeddings": embed,
        "async chat": async_chat,
        "async stream": async_stream,
        "async embeddings": async_embed,
    }


def pydantic_ai(gateway: LocalGateway) -> Rows:
    from pydantic_ai import Agent
    from pydantic_ai.models.mistral import MistralModel
    from pydantic_ai.providers.mistral import MistralProvider

    _, async_client = clients(gateway, httpx2)
    agent = Agent(MistralModel(MODEL, provider=MistralProvider(api_key="unused", http_client=async_client)))

    async def chat() -> str:
        return (await agent.run(QUESTION)).output

    async def stream() -> str:
        async with agent.run_stream(QUESTION) as result:
            return "".join([text async for text in result.stream_text(delta=True)])

    return {"async chat": chat, "async stream": stream}


def langchain_mistralai(gateway: LocalGateway) -> Rows:
    from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    headers = {"Content-Type": "application/json", "Accept": "application/json"}

    def own() -> dict[str, Any]:
        client, async_client = clients(gateway, httpx)
        for each in (client, async_client):
            each.base_url = URL
            each.headers.update(headers)
        return {"api_key": "unused", "client": client, "async_client": async_client, "max_retries": 1}

    chat = ChatMistralAI(model_name=MODEL, **own())
    embeddings = MistralAIEmbeddings(
        model="mistral-embed", tokenizer=Tokenizer(WordLevel({"a": 0}, unk_token="a")), **own()
    )

    async def async_chat() -> str:
        return (await chat.ainvoke(QUESTION)).text

    async def async_stream() -> str:
        return "".join([chunk.text async for chunk in chat.astream(QUESTION)])

    return {
        "chat": lambda: chat.invoke(QUESTION).text,
        "stream": lambda: "".join(chunk.text for chunk in chat.stream(QUESTION)),
        "embeddings": lambda: embeddings.embed_query("a"),
        "async chat": async_chat,
        "async stream": async_stream,
        "async embeddings": lambda: embeddings.aembed_query("a"),
    }


def instructor(gateway: LocalGateway) -> Rows:
    from instructor import Mode, from_mistral
    from mistralai.client import Mistral
    from pydantic import BaseModel

    class Reply(BaseModel):
        text: str

    client, async_client = clients(gateway, httpx2)
    sdk = Mistral(api_key="unused", client=client, async_client=async_client)
    options: dict[str, Any] = {"model": MODEL, "response_model": Reply, "messages": MESSAGES, "max_retries": 1}

    async def async_chat() -> object:
        patched: Any = from_mistral(sdk, mode=Mode.TOOLS, use_async=True)
        return await patched.chat.completions.create(**options)

    return {
        "chat": lambda: from_mistral(sdk, mode=Mode.TOOLS).chat.completions.create(**options),
        "async chat": async_chat,
    }


def litellm_client(gateway: LocalGateway) -> Rows:
    # It would fetch a list of prices otherwise.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm
    from litellm import acompletion, completion
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler

    litellm.suppress_debug_info = True
    client, async_client = clients(gateway, httpx)
    async_handler = AsyncHTTPHandler()
    async_handler.client = async_client
    shared: dict[str, Any] = {"model": f"mistral/{MODEL}", "messages": MESSAGES, "api_key": "unused", "max_retries": 0}
    sync = {**shared, "client": HTTPHandler(client=client)}
    asynchronous = {**shared, "client": async_handler}

    def text_of(chunk: Any) -> str:
        return chunk.choices[0].delta.content or ""

    async def async_chat() -> Any:
        return (await acompletion(**asynchronous)).choices[0].message.content

    async def async_stream() -> str:
        return "".join([text_of(chunk) async for chunk in await acompletion(**asynchronous, stream=True)])

    return {
        "chat": lambda: completion(**sync).choices[0].message.content,
        "stream": lambda: "".join(text_of(chunk) for chunk in completion(**sync, stream=True)),
        "async chat": async_chat,
        "async stream": async_stream,
    }


LIBRARIES: dict[str, tuple[str, Callable[[LocalGateway], Rows]]] = {
    "mistralai": ("httpx2", mistral_sdk),
    "openai": ("httpx2", openai_sdk),
    "pydantic-ai-slim": ("httpx2", pydantic_ai),
    "instructor": ("httpx2", instructor),
    "langchain-mistralai": ("httpx", langchain_mistralai),
    "litellm": ("httpx", litellm_client),
}


async def outcome(gateway: LocalGateway, call: str, rows: Rows) -> str:
    """Make one call and say "yes", "no" with the reason, or "–" where there is none to make."""
    failing = call.endswith("error")
    make = rows.get("async chat" if call.startswith("async") else "chat") if failing else rows.get(call)
    if make is None:
        return "–"
    before = len(gateway.requests)
    if failing:
        gateway.queue(Status(422))
    try:
        result = make() if call.startswith("async") else await asyncio.to_thread(make)
        if inspect.isawaitable(result):
            result = await result
    except Exception as error:  # noqa: BLE001 - each library has its own
        status = "422" in f"{error} {getattr(error, 'status_code', '')}"
        return "yes" if failing and status else f"no: {type(error).__name__}: {error}"
    sent = len(gateway.requests) - before
    right = len(result) == 1024 if "embeddings" in call else ANSWER in str(result)
    # instructor's answer is an object: that it is there is what counts.
    right = right or hasattr(result, "text")
    return "yes" if right and sent == 1 and not failing else f"no: {str(result)[:100]!r} from {sent} requests"


async def check() -> list[list[str]]:
    """Make every call of every library, each through a gateway of its own."""
    table = []
    for name, (http, make) in LIBRARIES.items():
        row = [name, version(name), f"{http} {version(http)}"]
        for call in CALLS:
            with LocalGateway() as gateway:
                row.append(await outcome(gateway, call, make(gateway)))
        print(*row, sep="  ", flush=True)
        table.append(row)
    return table


def main(*pages: str) -> int:
    """Print what works; write the tables of the pages."""
    rows = asyncio.run(check())
    heads = ["library", "version", "sends with", *CALLS]
    lines = [f"| {' | '.join(row)} |\n" for row in [heads, ["---"] * len(heads), *rows]]
    failed = sum(cell.startswith("no") for row in rows for cell in row)
    worked = sum(cell == "yes" for row in rows for cell in row)
    for page in () if failed else pages:
        text = Path(page).read_text("utf-8")
        new = re.sub(
            r"^\| library .*?\n(?!\|)", lambda _: "".join(lines), text, count=1, flags=re.DOTALL | re.MULTILINE
        )
        Path(page).write_text(new, "utf-8")
    print(f"{worked} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
