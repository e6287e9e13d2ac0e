"""Provide `AsyncLavaMistral`, the framework-free client for async code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from lava_mistral.calls.responses import Completion
from lava_mistral.client._base import ClientBase
from lava_mistral.client.options import ChatOptions, EmbedIterOptions, EmbedOptions
from lava_mistral.client.records import AsyncHistory
from lava_mistral.client.streams import AsyncChatStream
from lava_mistral.mistral.types import Message
from lava_mistral.pricing.tokenizers import preload
from lava_mistral.transport.flow import adrive, adriven
from lava_mistral.transport.pools import async_pool

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import AsyncEmbeddingStream, EmbeddingResult


class AsyncLavaMistral(ClientBase, AsyncHistory):
    """Mistral's models through Lava in async code, without a framework; see `LavaMistral` for the arguments."""

    _asynchronous = True
    _shared_pool = staticmethod(async_pool)
    _sleep = staticmethod(asyncio.sleep)

    embedding_request = adriven(ClientBase._embedding_request)
    models = adriven(ClientBase._models)

    async def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Completion:
        """One answer; see `LavaMistral.chat`."""
        answer: Completion = await adrive(self._chat(messages, options))
        return answer

    async def stream(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> AsyncChatStream:
        """One answer, delta by delta; see `LavaMistral.stream`."""
        opened: AsyncChatStream = await adrive(self._chat(messages, options, AsyncChatStream))
        return opened

    async def embed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; see `LavaMistral.embed`."""
        engine, given = self._engine(options)
        found: EmbeddingResult = await engine.aembed(texts, **given)
        return found

    def embed_iter(
        self, texts: AsyncIterable[str] | Iterable[str], **options: Unpack[EmbedIterOptions]
    ) -> AsyncEmbeddingStream:
        """The vectors of a source of any length, which may be async; iterate with `async for`.

        See `LavaMistral.embed_iter`.
        """
        engine, given = self._engine(options)
        stream: AsyncEmbeddingStream = engine.aembed_iter(texts, **given)
        return stream

    def _load_tokenizer(self, model: str) -> Coroutine[Any, Any, None]:
        return preload(model)
