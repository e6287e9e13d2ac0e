"""Both frameworks behind one face: what is true of money must be true in each, in sync code and in async."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.base.llms.types import ChatMessage

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral.gateway import LocalGateway

_T = TypeVar("_T")


class Framework:
    """Makes models of one framework and calls them.

    Args:
        name: `"langchain"` or `"llama_index"`.
        asynchronous: call the async methods.
    """

    def __init__(self, name: str, *, asynchronous: bool) -> None:
        self.name = name
        self.asynchronous = asynchronous
        self.package: Any = langchain_lava_mistral if name == "langchain" else llama_index_lava_mistral

    def __repr__(self) -> str:
        return f"{self.name}-{'async' if self.asynchronous else 'sync'}"

    def llm(self, gateway: LocalGateway, **settings: Any) -> Any:
        """A chat model."""
        return self.package.ChatLavaMistral(**self._settings(gateway, settings))

    def embeddings(self, gateway: LocalGateway, **settings: Any) -> Any:
        """An embedding model."""
        return self.package.LavaMistralEmbeddings(**self._settings(gateway, settings))

    def _settings(self, gateway: LocalGateway, settings: dict[str, Any]) -> dict[str, Any]:
        return {"api_key": gateway.secret_key, "base_url": gateway.base_url, **settings}

    async def chat(self, llm: Any, text: str, **options: Any) -> Any:
        """One answer."""
        if self.name == "langchain":
            return await (llm.ainvoke(text, **options) if self.asynchronous else _now(llm.invoke(text, **options)))
        messages = [ChatMessage(role="user", content=text)]
        return await (llm.achat(messages, **options) if self.asynchronous else _now(llm.chat(messages, **options)))

    async def stream(self, llm: Any, text: str, take: int | None = None, **options: Any) -> list[Any]:
        """A streamed answer, or its first chunks; the rest is left.

        Args:
            llm: the model.
            text: the prompt.
            take: how many chunks; `None` for all.
            **options: of the call.
        """
        taken: list[Any] = []
        if self.asynchronous:
            if self.name == "langchain":
                chunks = llm.astream([HumanMessage(text)], **options)
            else:
                chunks = await llm.astream_chat([ChatMessage(role="user", content=text)], **options)
            try:
                async for chunk in chunks:
                    taken.append(chunk)
                    if len(taken) == take:
                        break
            finally:
                await chunks.aclose()
            return taken
        if self.name == "langchain":
            chunks = llm.stream([HumanMessage(text)], **options)
        else:
            chunks = llm.stream_chat([ChatMessage(role="user", content=text)], **options)
        try:
            for chunk in chunks:
                taken.append(chunk)
                if len(taken) == take:
                    break
        finally:
            chunks.close()
        return taken

    async def embed(self, model: Any, texts: list[str], **options: Any) -> list[list[float]]:
        """The vectors of texts."""
        method = "embed_documents" if self.name == "langchain" else "get_text_embedding_batch"
        made = getattr(model, f"a{method}" if self.asynchronous else method)(texts, **options)
        vectors: list[list[float]] = await made if self.asynchronous else made
        return vectors


async def _now(value: Any) -> Any:
    return value


def frameworks() -> Iterable[Framework]:
    """Every framework in both ways."""
    return [Framework(name, asynchronous=way) for name in ("langchain", "llama_index") for way in (False, True)]


@pytest.fixture(params=frameworks(), ids=repr)
def framework(request: pytest.FixtureRequest) -> Framework:
    """A framework, sync or async."""
    made: Framework = request.param
    return made


def run_now(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that waits for nothing, as those of a sync framework, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    coroutine.close()
    raise AssertionError("it waits for something: it is not sync")
