"""Streams are billed to where they were asked for, wherever they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

from lava_mistral import billed_to, track_usage
from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from tests.fakes.llama_index_scripted import Caller, ask

pytestmark = pytest.mark.filterwarnings("ignore:The `json` method is deprecated")


def prompt() -> PromptTemplate:
    """A new one, since LlamaIndex puts its parser into it."""
    return PromptTemplate("Say 'hi'.")


class Said(BaseModel):
    text: str


def open_stream(caller: Caller, subject: Any, method: str, *args: Any) -> Any:
    """The stream, opened where this is called, and a function that reads it to its end."""
    if not caller.asynchronous:
        items: Iterator[Any] = getattr(subject, method)(*args)
        return lambda: list(items)
    loop = asyncio.new_event_loop()
    responses: AsyncIterator[Any] = loop.run_until_complete(getattr(subject, f"a{method}")(*args))

    async def read() -> list[Any]:
        return [each async for each in responses]

    def end() -> list[Any]:
        try:
            return loop.run_until_complete(read())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    return end


@pytest.mark.parametrize("way", ["objects", "objects by tool", "structured model", "tools", "chat", "prompt"])
def test_a_stream_is_billed_to_where_it_was_asked_for(gateway: LocalGateway, caller: Caller, way: str) -> None:
    llm: Any = ChatLavaMistral(base_url=gateway.base_url, api_key=gateway.secret_key)
    method, arguments = "stream_structured_predict", (Said, prompt())
    match way:
        case "objects by tool":
            llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
        case "structured model":
            llm = llm.as_structured_llm(Said)
            method, arguments = "stream_chat", (ask(),)
        case "tools":
            method, arguments = "stream_chat_with_tools", ([], "Hello")
        case "chat":
            method, arguments = "stream_chat", (ask(),)
        case "prompt":
            method, arguments = "stream", (prompt(),)
    with track_usage() as asked, billed_to("c_1", "m", metadata={"app": "tests"}):
        read = open_stream(caller, llm, method, *arguments)
    with track_usage() as elsewhere, billed_to("c_2", "m"):
        assert read()
    (request,) = gateway.requests
    assert (request.customer_id, request.metadata) == ("c_1", {"app": "tests"})
    assert (asked.requests, elsewhere.requests) == (1, 0)


def test_what_the_reader_does_between_two_objects_is_billed_to_the_reader(
    gateway: LocalGateway, caller: Caller
) -> None:
    llm = ChatLavaMistral(base_url=gateway.base_url, api_key=gateway.secret_key)

    def sync() -> None:
        with billed_to("c_1", "m"):
            objects = llm.stream_structured_predict(Said, prompt())
        with billed_to("c_2", "m"):
            next(iter(objects))
            llm.complete("Hello")

    async def asynchronous() -> None:
        with billed_to("c_1", "m"):
            objects = await llm.astream_structured_predict(Said, prompt())
        with billed_to("c_2", "m"):
            async for _ in objects:
                await llm.acomplete("Hello")
                break

    if caller.asynchronous:
        asyncio.run(asynchronous())
    else:
        sync()
    assert [request.customer_id for request in gateway.requests] == ["c_1", "c_2"]


def test_a_query_engine_is_billed_to_where_its_stream_is_read(gateway: LocalGateway, caller: Caller) -> None:
    """LlamaIndex asks the model when the first word is read; the question is embedded at once."""
    access: dict[str, Any] = {"base_url": gateway.base_url, "api_key": gateway.secret_key}
    index = VectorStoreIndex.from_documents(
        [Document(text="The Rhine is 766 miles long.")],
        embed_model=LavaMistralEmbeddings(**access),
        transformations=[TokenTextSplitter(tokenizer=str.split)],
    )
    gateway.reset()
    engine = index.as_query_engine(llm=ChatLavaMistral(**access), streaming=True)

    async def asynchronous() -> None:
        with billed_to("c_1", "m"):
            response: Any = await engine.aquery("How long is the Rhine?")
        with billed_to("c_2", "m"):
            async for _ in response.async_response_gen():
                pass

    if caller.asynchronous:
        asyncio.run(asynchronous())
    else:
        with billed_to("c_1", "m"):
            response: Any = engine.query("How long is the Rhine?")
        with billed_to("c_2", "m"):
            list(response.response_gen)
    assert [(request.kind, request.customer_id) for request in gateway.requests] == [
        ("embeddings", "c_1"),
        ("chat", "c_2"),
    ]
