"""Provide `AsyncLavaMistral`, the framework-free client for async code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lava_mistral.billing.identity import Billing
from lava_mistral.calls.call import MODELS_URL, Call
from lava_mistral.calls.responses import Completion, EmbeddingAnswer
from lava_mistral.client.records import AsyncHistory
from lava_mistral.embedding.rate_limit import DEFAULT_MAX_CONCURRENCY
from lava_mistral.mistral.types import Message, ModelCard
from lava_mistral.transport.flow import adrive
from lava_mistral.transport.pools import async_pool

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import (
        AsyncEmbeddingStream,
        EmbeddingEngine,
        EmbeddingResult,
        PartialEmbedding,
    )
    from lava_mistral.embedding.progress import OnProgress

from lava_mistral.client._base import DEFAULT_CHAT_MODEL, DEFAULT_EMBEDDING_MODEL, ClientBase, OnRetry, Transport
from lava_mistral.client.streams import AsyncChatStream

_T = TypeVar("_T")


class AsyncLavaMistral(ClientBase, AsyncHistory):
    """Mistral's models through Lava in async code, without a framework; see `LavaMistral` for the arguments."""

    _asynchronous = True

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        repair_messages: bool = True,
        timeout: float | None = None,
        on_retry: OnRetry | None = None,
        **parameters: Any,
    ) -> Completion:
        """One answer; see `LavaMistral.chat`."""
        call = self._chat_call(
            messages,
            model,
            parameters,
            stream=False,
            repair=repair_messages,
            identity=self._identity(billing, lava_metadata),
            timeout=timeout,
        )

        return await adrive(self._completed(call, on_retry))

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        repair_messages: bool = True,
        timeout: float | None = None,
        stream_chunk_timeout: float | None = None,
        on_retry: OnRetry | None = None,
        **parameters: Any,
    ) -> AsyncChatStream:
        """One answer, delta by delta; see `LavaMistral.stream`."""
        call = self._chat_call(
            messages,
            model,
            parameters,
            stream=True,
            repair=repair_messages,
            identity=self._identity(billing, lava_metadata),
            timeout=timeout,
            gap=stream_chunk_timeout,
        )

        return await adrive(self._opened(call, AsyncChatStream, on_retry))

    async def embedding_request(
        self,
        inputs: Sequence[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        encoding_format: str | None = None,
        output_dimension: int | None = None,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> EmbeddingAnswer:
        """One embeddings request, sent once; see `LavaMistral.embedding_request`."""
        identity = self._identity(billing, lava_metadata)
        call = self._embedding_call(inputs, model, encoding_format, output_dimension, identity, timeout)
        return call.embedding(await adrive(self._answer(call)))

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
    ) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; see `LavaMistral.embed`."""
        return await self._engine(model, dimensions, max_concurrency).aembed(
            texts,
            billing=billing,
            lava_metadata=lava_metadata,
            as_numpy=as_numpy,
            show_progress=show_progress,
            on_progress=on_progress,
            resume_from=resume_from,
        )

    def embed_iter(
        self,
        texts: AsyncIterable[str] | Iterable[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> AsyncEmbeddingStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        The arguments are those of `embed`; the source may be async. Iterate with `async for`.
        """
        return self._engine(model, dimensions, max_concurrency).aembed_iter(
            texts,
            billing=billing,
            lava_metadata=lava_metadata,
            as_numpy=as_numpy,
            show_progress=show_progress,
            on_progress=on_progress,
            resume_from=resume_from,
            read_in_thread=read_in_thread,
        )

    def _engine(self, model: str, dimensions: int | None, max_concurrency: int) -> EmbeddingEngine:
        from lava_mistral.embedding.engine import EmbeddingEngine

        key = (model, dimensions, max_concurrency)
        engine: EmbeddingEngine | None = self._engines.get(key)
        if engine is None:
            new = EmbeddingEngine(None, self, **self._engine_settings(model, dimensions, max_concurrency))
            engine = self._engines.setdefault(key, new)
        return engine

    async def models(self) -> list[ModelCard]:
        """The models that Mistral lists for the account that serves the call."""
        call = Call(MODELS_URL, self._identity(None, None), self._timeout)
        return list((await self._ask(call)).get("data", []))

    async def _ask(self, call: Call) -> dict[str, Any]:
        return await adrive(self._asked(call))

    def _shared_transport(self) -> Transport:
        return async_pool()

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)
