"""Every row of the conformance table, for this package."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from lava_mistral import AsyncLavaTransport, LavaTransport
from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from tests.llama_index.conformance import Row, rows


class Ours:
    """This package."""

    name = "llama_index_lava_mistral"

    def llm(self, gateway: LocalGateway, **settings: Any) -> ChatLavaMistral:
        return ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)

    def embeddings(self, gateway: LocalGateway, **settings: Any) -> LavaMistralEmbeddings:
        return LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


class Peer:
    """llama-index-llms-mistralai, whose client is sent through Lava by this project's transport."""

    name = "llama-index-llms-mistralai"

    def _client(self, gateway: LocalGateway) -> Any:
        from mistralai.client import Mistral

        way = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
        return Mistral(
            api_key="unused",
            client=httpx.Client(transport=LavaTransport(**way), timeout=30),
            async_client=httpx.AsyncClient(transport=AsyncLavaTransport(**way), timeout=30),
        )

    def llm(self, gateway: LocalGateway, **settings: Any) -> Any:
        from llama_index.llms.mistralai import MistralAI

        llm = MistralAI(**{"api_key": "unused", "model": "mistral-small-latest"} | settings)
        llm._client = self._client(gateway)
        return llm

    def embeddings(self, gateway: LocalGateway, **settings: Any) -> Any:
        from llama_index.embeddings.mistralai import MistralAIEmbedding

        embeddings = MistralAIEmbedding(api_key="unused", **settings)
        embeddings._client = self._client(gateway)
        return embeddings


@pytest.fixture(scope="module")
def shared() -> Any:
    with LocalGateway() as gateway:
        yield gateway


@pytest.fixture
def clean(shared: LocalGateway) -> LocalGateway:
    """One gateway for the whole table, without what the last row left."""
    shared.reset()
    return shared


@pytest.mark.parametrize("row", [pytest.param(row, id=str(row)) for row in rows()])
def test_the_table(row: Row, clean: LocalGateway) -> None:
    row.run(Ours(), clean)


PLAIN = ["text: a chat is answered", "tools: a tool is called", "blocks: a picture", "embeddings: a batch"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("row", [pytest.param(row, id=str(row)) for row in rows() if str(row).split(" [")[0] in PLAIN])
def test_the_peer_passes_the_plain_rows(row: Row, clean: LocalGateway) -> None:
    """So that a row which it fails is about the row, and not about how it is reached."""
    row.run(Peer(), clean)
