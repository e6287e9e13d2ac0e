"""No async path of the LlamaIndex package blocks the event loop: no file, socket or sleep but asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, BlockingError
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock, ImageBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import BaseModel

import lava_mistral
import llama_index_lava_mistral
from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from tests.llama_index.test_agents import memory, weather
from tests.llama_index.test_blocks import PNG

pytestmark = [
    # LlamaIndex's workflows look at pydantic's deprecated attributes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:workflows"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index"),
]
# What these packages' own frames do; LlamaIndex and its like read files where they please.
OURS = [lava_mistral, llama_index_lava_mistral]


class City(BaseModel):
    """A city."""

    name: str


class Ways:
    """The async ways to use the package, by name."""

    def __init__(self, gateway: LocalGateway, folder: Path) -> None:
        settings = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
        self.llm = ChatLavaMistral(**settings, spend_limit=1)
        self.embeddings = LavaMistralEmbeddings(**settings, embeddings_cache=SimpleKVStore())
        self.picture = folder / "a.png"
        self.picture.write_bytes(PNG)

    async def chat(self) -> None:
        assert (await self.llm.achat([ChatMessage("Hello")])).message.content

    async def stream(self) -> None:
        assert [each async for each in await self.llm.astream_chat([ChatMessage("Hello")])]

    async def complete(self) -> None:
        assert (await self.llm.acomplete("Hello")).text

    async def stream_complete(self) -> None:
        assert [each async for each in await self.llm.astream_complete("Hello")]

    async def structured(self) -> None:
        assert (await self.llm.astructured_predict(City, PromptTemplate("A city."))).name is not None

    async def structured_stream(self) -> None:
        assert [each async for each in await self.llm.astream_structured_predict(City, PromptTemplate("A city."))]

    async def files(self) -> None:
        blocks = [ImageBlock(path=self.picture), DocumentBlock(data=b"%PDF-1.4 x", title="a.pdf")]
        assert await self.llm.achat([ChatMessage(role="user", blocks=blocks)])

    async def agent(self) -> None:
        agent = FunctionAgent(tools=[weather], llm=self.llm)
        assert str(await agent.run("What is the weather in 'Paris'?", memory=memory()))

    async def react(self) -> None:
        agent = ReActAgent(tools=[weather], llm=self.llm)
        assert str(await agent.run("Hello", memory=memory()))

    async def embed(self) -> None:
        assert len(await self.embeddings.aget_text_embedding_batch([f"{n} word" for n in range(500)])) == 500

    async def query(self) -> None:
        assert await self.embeddings.aget_query_embedding("Hello")

    async def nodes(self) -> None:
        assert await self.embeddings.acall([TextNode(text="Hello")])

    async def embed_stream(self) -> None:
        async def source() -> AsyncIterator[str]:
            for n in range(100):
                yield f"{n} word"

        assert len([each async for each in self.embeddings.aembed_iter(source())]) == 100


WAYS = [name for name, way in vars(Ways).items() if asyncio.iscoroutinefunction(way)]


def watched(work: Callable[[], Awaitable[Any]]) -> None:
    """Run work in an event loop; a call that blocks it raises."""
    blockbuster = BlockBuster(scanned_modules=OURS)

    async def run() -> None:
        blockbuster.activate()
        try:
            await work()
        finally:
            blockbuster.deactivate()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("way", WAYS)
def test_the_loop_is_not_blocked(gateway: LocalGateway, tmp_path: Path, way: str) -> None:
    ways = Ways(gateway, tmp_path)
    watched(getattr(ways, way))
    assert gateway.requests


def test_a_call_that_blocks_is_noticed(gateway: LocalGateway, tmp_path: Path) -> None:
    """The check itself: a sync call inside of an async function reads a file."""
    ways = Ways(gateway, tmp_path)

    async def blocking() -> None:
        ways.llm.chat([ChatMessage(role="user", blocks=[ImageBlock(path=ways.picture)])])

    with pytest.raises(BlockingError):
        watched(blocking)
