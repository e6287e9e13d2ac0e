"""No async call blocks the event loop, also the first of a process: nothing is read, waited for or slept in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lava_mistral.gateway import LocalGateway
from tests.fakes.warm_python import WarmPython

WAYS = {
    "core chat": "await core.chat(ASK)",
    "core stream": "async for _ in await core.stream(ASK): pass",
    "core embeddings": "await core.embed(['one', 'two'] * 100)",
    "core vectors as they come": "async for _ in core.embed_iter(['one', 'two']): pass",
    "core spend limit": "await AsyncLavaMistral(**SETTINGS, spend_limit=1).chat(ASK)",
    "core models": "await core.models()",
    "core block": "\n    with billed_to('cus_1', 'chat'): await core.chat(ASK)",
    "core usage": "\n    with track_usage() as usage: await core.chat(ASK)\n    assert usage.requests == 1",
    "core reconciling": "\n    with track_usage() as usage: await core.chat(ASK)\n    await core.reconcile(usage)",
    "core stream under a limit": "async for _ in await AsyncLavaMistral(**SETTINGS, spend_limit=1).stream(ASK): pass",
    "core tokens": "count_tokens('déjà vu', 'my-own')",
    "chat": "await chat().ainvoke('Hi')",
    "chat stream": "async for _ in chat().astream('Hi'): pass",
    "chat batch": "await chat().abatch(['Hi'] * 20)",
    "chat that streams": "await chat(streaming=True).ainvoke('Hi')",
    "chat events": "async for _ in chat().astream_events('Hi'): pass",
    "chat tools": "assert (await chat().bind_tools([add], tool_choice='any').ainvoke('1 and 2')).tool_calls",
    "chat streamed tools": "async for _ in chat().bind_tools([add], tool_choice='any').astream('1 and 2'): pass",
    "chat structured": "await chat().with_structured_output({'title': 'Sum', 'type': 'object'}).ainvoke('Hi')",
    "chat spend limit": "await chat(spend_limit=1).ainvoke('Hi')",
    "chat tokens": "chat(model='my-own').get_num_tokens('Hi')",
    "chat tokens of messages": "chat(model='my-own').get_num_tokens_from_messages(MESSAGES, [add])",
    "embeddings": "await embeddings().aembed_documents(['one', 'two'] * 100)",
    "query": "await embeddings().aembed_query('one')",
    "embeddings as they come": "async for _ in embeddings().aembed_iter(['one', 'two']): pass",
    "embeddings spend limit": "await embeddings(spend_limit=1).aembed_query('one')",
    "refused": "\n    try: await core.chat([])\n    except LavaError: pass",
}
CORE = """
import asyncio, os, sys
from blockbuster import blockbuster_ctx
from lava_mistral import AsyncLavaMistral, LavaError, billed_to, count_tokens, track_usage
"""
LANGCHAIN = f"""{CORE}
from langchain_core.messages import HumanMessage
from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
MESSAGES = [HumanMessage("Hi")]
"""
SCRIPT = """
{imports}
SETTINGS = {{"api_key": os.environ["KEY"], "base_url": os.environ["URL"]}}
ASK = [{{"role": "user", "content": "Hi"}}]

def chat(**more):
    return ChatLavaMistral(**SETTINGS, **more)

def embeddings(**more):
    return LavaMistralEmbeddings(**SETTINGS, **more)

def add(a: int, b: int) -> int:
    "Add 1 and 2."
    return a + b

async def main():
    core = AsyncLavaMistral(**SETTINGS)
    {way}

async def guarded():
    # The loop's own start is no part of it.
    with blockbuster_ctx(["lava_mistral", "langchain_lava_mistral"]):
        for _ in range(2):
            await main()

asyncio.run(guarded())
"""
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(warm_python: Callable[..., WarmPython], gateway: LocalGateway) -> Run:
    """Runs a way in a process of its own that has imported, and done nothing yet."""

    def run(way: str, imports: str) -> subprocess.CompletedProcess[bytes]:
        script = SCRIPT.format(imports=imports, way=way)
        return warm_python(imports).run(script, KEY=gateway.secret_key, URL=gateway.base_url)

    return run


@pytest.mark.parametrize("way", WAYS)
def test_nothing_blocks_the_event_loop(way: str, run: Run) -> None:
    done = run(WAYS[way], CORE if way.startswith("core") else LANGCHAIN)
    assert done.returncode == 0, done.stderr.decode()


def test_a_call_that_blocks_would_be_seen(run: Run) -> None:
    sleeping = "import lava_mistral.client.clients as module; exec(compile('import time; time.sleep(0)', "
    done = run(f"{sleeping}module.__file__, 'exec'))", CORE)
    assert b"BlockingError: Blocking call to time.sleep" in done.stderr


def test_certificates_are_read_beside_the_event_loop(
    warm_python: Callable[..., WarmPython], gateway: LocalGateway, tmp_path: Path
) -> None:
    # Who reads a FIFO waits until somebody writes to it: here a task of the very loop.
    pipe = tmp_path / "certificates.pem"
    os.mkfifo(pipe)
    script = """
import asyncio, os, certifi
from lava_mistral import APIConnectionError, AsyncLavaMistral, ConfigurationError

async def main():
    client = AsyncLavaMistral(api_key=os.environ["KEY"], base_url="https://127.0.0.1:9/v1", max_retries=0)
    call = asyncio.ensure_future(client.chat([{"role": "user", "content": "Hi"}]))
    while not call.done():
        try:
            end = os.open(os.environ["SSL_CERT_FILE"], os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            with open(certifi.where(), "rb") as file:
                data = file.read()
            os.set_blocking(end, True)
            await asyncio.to_thread(os.write, end, data)
            os.close(end)
            break
    try:
        await call
    except (APIConnectionError, ConfigurationError) as error:
        print(type(error).__name__)

asyncio.run(main())
"""
    done = warm_python(CORE).run(script, KEY=gateway.secret_key, SSL_CERT_FILE=str(pipe))
    assert done.stdout.strip() == b"APIConnectionError", done.stderr.decode()
