"""What the transport is worth: a library that knows nothing of Lava goes through it, unchanged.

langchain-mistralai brings its own HTTP code. Given a client with `LavaTransport`, it chats, streams, calls tools and
embeds through the gateway, on the customer's bill.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lava_mistral import AsyncLavaTransport, Billing, LavaTransport
from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import Caller

URL = "https://api.mistral.ai/v1"


@pytest.fixture
def lava(gateway: LocalGateway) -> dict[str, Any]:
    access: dict[str, Any] = {
        "api_key": gateway.secret_key,
        "base_url": gateway.base_url,
        "billing": Billing("c_1", "m"),
        "metadata": {"team": "red"},
    }
    return {
        "client": httpx.Client(transport=LavaTransport(**access), base_url=URL),
        "async_client": httpx.AsyncClient(transport=AsyncLavaTransport(**access), base_url=URL),
    }


def test_langchain_mistralai_chats(gateway: LocalGateway, lava: dict[str, Any], caller: Caller) -> None:
    model = ChatMistralAI(model_name="mistral-small-2603", api_key="unused", **lava)  # type: ignore[arg-type]

    assert caller.invoke(model, "Is the sky blue?").text
    assert caller.whole(model, "Is the sky blue?").text
    tool = {"name": "get_weather", "description": "d", "parameters": {"type": "object", "properties": {}}}
    assert caller.invoke(model.bind_tools([tool], tool_choice="any"), "Oslo?").tool_calls[0]["name"] == "get_weather"

    assert [r.path for r in gateway.requests] == ["/v1/chat/completions"] * 3
    assert {(r.customer_id, r.metadata["team"], r.status) for r in gateway.requests} == {("c_1", "red", 200)}


def test_langchain_mistralai_embeds(gateway: LocalGateway, lava: dict[str, Any], caller: Caller) -> None:
    # Without one it would fetch a tokenizer from the internet when it is made.
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    model = MistralAIEmbeddings(model="mistral-embed", api_key="unused", tokenizer=tokenizer, **lava)  # type: ignore[arg-type]

    texts = ["a cat", "the sky"]
    vectors = asyncio.run(model.aembed_documents(texts)) if caller.is_async else model.embed_documents(texts)

    assert [len(vector) for vector in vectors] == [1024, 1024]
    assert gateway.requests[0].path == "/v1/embeddings"
    assert gateway.requests[0].customer_id == "c_1"
