"""Provide `AsyncLavaMistral`, the framework-free client for async code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from lava_mistral.billing.scope import present_scope
from lava_mistral.calls.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.calls.responses import Completion, EmbeddingAnswer
from lava_mistral.client._base import ClientBase
from lava_mistral.client.options import (
    ChatOptions,
    EmbeddingRequestOptions,
    EmbedIterOptions,
    EmbedOptions,
    StreamOptions,
)
from lava_mistral.client.records import AsyncHistory
from lava_mistral.client.streams import AsyncChatStream
from lava_mistral.mistral.types import Message, ModelCard
from lava_mistral.pricing.tokenizers import preload
from lava_mistral.transport.flow import adrive
from lava_mistral.transport.pools import async_pool

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import AsyncEmbeddingStream, EmbeddingEngine, EmbeddingResult


class AsyncLavaMistral(ClientBase, AsyncHistory):
    """Mistral's models through Lava in async code, without a framework; see `LavaMistral` for the arguments."""

    _asynchronous = True
    _shared_transport = staticmethod(async_pool)

    async def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Completion:
        """One answer; see `LavaMistral.chat`."""
        await self._load_tokenizer(options)
        answer: Completion = await adrive(self._chat(messages, options))
        return answer

    async def stream(self, messages: Sequence[Message], **options: Unpack[StreamOptions]) -> AsyncChatStream:
        """One answer, delta by delta; see `LavaMistral.stream`."""
        await self._load_tokenizer(options)
        opened: AsyncChatStream = await adrive(self._chat(messages, options, AsyncChatStream))
        return opened

    async def embedding_request(
        self, inputs: Sequence[str], **options: Unpack[EmbeddingRequestOptions]
    ) -> EmbeddingAnswer:
        """One embeddings request, sent once; see `LavaMistral.embedding_request`."""
        return await adrive(self._embedding(inputs, options))

    async def embed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; see `LavaMistral.embed`."""
        engine, given = self._engine(options)
        found: EmbeddingResult = await engine.aembed(texts, **given)
        return found

    def embed_iter(
        self, texts: AsyncIterable[str] | Iterable[str], **options: Unpack[EmbedIterOptions]
    ) -> AsyncEmbeddingStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        The arguments are those of `embed`; the source may be async. Iterate with `async for`.
        """
        engine, given = self._engine(options)
        stream: AsyncEmbeddingStream = engine.aembed_iter(texts, **given)
        return stream

    async def models(self) -> list[ModelCard]:
        """The models that Mistral lists for the account that serves the call."""
        return await adrive(self._listed())

    async def _load_tokenizer(self, options: ChatOptions | StreamOptions) -> None:
        """Load what a spend limit counts prompts with, in a thread, before the first call would do so in the loop."""
        scope = present_scope()
        if self.spend_limit is not None or (scope is not None and scope.limits):
            await preload(options.get("model", DEFAULT_CHAT_MODEL))

    def _new_engine(self, settings: dict[str, Any]) -> EmbeddingEngine:
        from lava_mistral.embedding.engine import EmbeddingEngine

        return EmbeddingEngine(None, self, **settings)

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)
