"""Who pays is said by `billing=` or a block: its names elsewhere are refused before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ChatMessage
from pydantic import BaseModel

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral import AsyncLavaMistral, LavaMistral
from lava_mistral.gateway import LocalGateway

HELLO: Any = [{"role": "user", "content": "Hello"}]
LANGCHAIN: Any = langchain_lava_mistral.ChatLavaMistral
LLAMA: Any = llama_index_lava_mistral.ChatLavaMistral
WAYS: dict[str, Callable[[dict[str, Any], dict[str, str]], Any]] = {
    "core": lambda access, given: LavaMistral(**access).chat(HELLO, **given),
    "core, stream": lambda access, given: LavaMistral(**access).stream(HELLO, **given),
    "core, async": lambda access, given: asyncio.run(AsyncLavaMistral(**access).chat(HELLO, **given)),
    "core, embed": lambda access, given: LavaMistral(**access).embed(["Hello"], **given),
    "core, embedding request": lambda access, given: LavaMistral(**access).embedding_request(["Hello"], **given),
    "langchain, model": lambda access, given: LANGCHAIN(**access, **given),
    "langchain, call": lambda access, given: LANGCHAIN(**access).invoke("Hello", **given),
    "langchain, stream": lambda access, given: next(LANGCHAIN(**access).stream("Hello", **given)),
    "langchain, async": lambda access, given: asyncio.run(LANGCHAIN(**access).ainvoke("Hello", **given)),
    "langchain, bind": lambda access, given: LANGCHAIN(**access).bind(**given),
    "langchain, model_kwargs": lambda access, given: LANGCHAIN(**access, model_kwargs=given),
    "langchain, embeddings": lambda access, given: langchain_lava_mistral.LavaMistralEmbeddings(**access, **given),
    "langchain, embedding": lambda access, given: langchain_lava_mistral.LavaMistralEmbeddings(**access).embed_query(
        "Hello", **given
    ),
    "llama_index, model": lambda access, given: LLAMA(**access, **given),
    "llama_index, call": lambda access, given: LLAMA(**access).chat([ChatMessage("Hello")], **given),
    "llama_index, stream": lambda access, given: LLAMA(**access).stream_complete("Hello", **given),
    "llama_index, async": lambda access, given: asyncio.run(LLAMA(**access).acomplete("Hello", **given)),
    "llama_index, embeddings": lambda access, given: llama_index_lava_mistral.LavaMistralEmbeddings(**access, **given),
    "llama_index, embedding": lambda access, given: llama_index_lava_mistral.LavaMistralEmbeddings(
        **access
    ).get_text_embedding("Hello", **given),
}


@pytest.mark.parametrize("name", ["customer_id", "meter_slug", "customer", "user"])
@pytest.mark.parametrize("way", WAYS)
def test_the_names_of_who_pays_are_refused_with_what_to_write(way: str, name: str, gateway: LocalGateway) -> None:
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    with pytest.raises(ValueError, match=rf"{name} can't .*billing=Billing\(customer_id=.*billed_to\(customer_id"):
        WAYS[way](access, {name: "cus"})
    assert gateway.requests == []


class Colour(BaseModel):
    name: str


def test_a_variable_of_a_prompt_may_have_such_a_name(gateway: LocalGateway) -> None:
    llm = LLAMA(api_key=gateway.secret_key, base_url=gateway.base_url)
    assert isinstance(llm.structured_predict(Colour, PromptTemplate("What does {user} like?"), user="Ada"), Colour)
    assert "Ada" in str(gateway.requests[0].body)
