"""`LavaMistralEmbeddings` for LangChain: Mistral's embedding models through Lava."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Self, cast

import httpx
from langchain_core.embeddings import Embeddings
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, InstanceOf, PrivateAttr, model_validator

from langchain_lava_mistral._fields import (
    BillingField,
    Key,
    SpendLimitField,
    environment_key,
    environment_url,
    shared_in,
)
from langchain_lava_mistral.callbacks import counted_embedding, traced
from langchain_lava_mistral.errors import translated
from lava_mistral._fork import new_lock
from lava_mistral.billing.identity import Billing
from lava_mistral.billing.pickling import carried_fields
from lava_mistral.client._base import DEFAULT_EMBEDDING_MODEL, DEFAULT_TIMEOUT
from lava_mistral.client.async_client import AsyncLavaMistral
from lava_mistral.client.sync_client import LavaMistral
from lava_mistral.embedding.engine import (
    DEFAULT_MAX_CONCURRENCY,
    DEFAULT_MAX_RETRIES,
    AsyncEmbedder,
    AsyncEmbeddingStream,
    EmbeddingEngine,
    EmbeddingStream,
    EmbeddingUsage,
    PartialEmbedding,
    SyncEmbedder,
)
from lava_mistral.embedding.progress import OnProgress

_building = new_lock()


class LavaMistralEmbeddings(BaseModel, Embeddings):
    """Mistral's embedding models through Lava, for LangChain (`langchain_lava_mistral`).

    Any number of texts of at most 8,192 tokens each can be given at once: they are put into requests within Mistral's
    limits, and as many requests as allowed are in flight, in sync code too. A text that comes several times is sent
    once. Vectors are lists of floats in the order of the texts.

        LavaMistralEmbeddings().embed_documents(["one text", "another"])

    One object can serve any number of threads and event loops: `max_concurrency` holds for all of them together.

    Args:
        model: the model's name; `model_name` is understood too.
        api_key: Lava's secret key or a forward token, or a function returning it. By default `LAVA_FORWARD_TOKEN`,
            then `LAVA_SECRET_KEY`. A missing key is reported by the first call.
        base_url: by default `LAVA_BASE_URL`, else by the key: production or sandbox.
        billing: who pays.
        lava_metadata: text pairs that Lava stores with each request.
        trace_metadata: add the id of the LangChain run that a call is part of to them, as `langchain_run_id`.
        spend_limit: USD that all calls of this object may cost together, or a `SpendLimit` to share. A request that
            could pass it is refused before it is sent (`SpendLimitError`).
        dimensions: length of the vectors, for models that can shorten them.
        max_concurrency: requests in flight at most.
        max_retries: how often a failed request is repeated.
        timeout: seconds for one request; `None` for no limit.
        show_progress_bar: draw a progress bar.
        http_client: an `httpx.Client` to send with; it stays yours to close.
        http_async_client: an `httpx.AsyncClient` for async calls.

    Raises:
        pydantic.ValidationError: a setting is wrong (it is a `ValueError`).
    """

    model: str = Field(default=DEFAULT_EMBEDDING_MODEL, validation_alias=AliasChoices("model", "model_name"))
    api_key: Key | None = Field(default_factory=environment_key, exclude=True, repr=False)
    base_url: str | None = Field(default_factory=environment_url)
    billing: BillingField | None = Field(default=None, exclude=True)
    lava_metadata: dict[str, str] | None = None
    trace_metadata: bool = False
    spend_limit: SpendLimitField | None = Field(default=None, exclude=True)
    dimensions: int | None = None
    max_concurrency: int = Field(
        default=DEFAULT_MAX_CONCURRENCY, validation_alias=AliasChoices("max_concurrency", "max_concurrent_requests")
    )
    max_retries: int = DEFAULT_MAX_RETRIES
    timeout: float | None = Field(default=DEFAULT_TIMEOUT, validation_alias=AliasChoices("timeout", "request_timeout"))
    show_progress_bar: bool = False
    http_client: InstanceOf[httpx.Client] | None = Field(default=None, exclude=True, repr=False)
    http_async_client: InstanceOf[httpx.AsyncClient] | None = Field(default=None, exclude=True, repr=False)

    # An error must not show the key that was given beside the wrong setting.
    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True
    )

    _held: tuple[dict[str, Any], EmbeddingEngine] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_settings(self) -> LavaMistralEmbeddings:
        with translated():
            self._engine()
        return self

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        # The engine holds the key, which the fields may not carry.
        private = {**(state["__pydantic_private__"] or {}), "_held": None}
        return {**state, "__dict__": carried_fields(state["__dict__"]), "__pydantic_private__": private}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = super().__deepcopy__(shared_in(self, memo))
        # An engine of its own: a limit holds for one object.
        copied._held = None
        return copied

    def __repr_name__(self) -> str:
        return f"langchain_lava_mistral.{type(self).__name__}"

    def embed_documents(
        self,
        texts: list[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
    ) -> list[list[float]]:
        """The vectors of the texts, in their order.

        Args:
            texts: what to embed, any number of them.
            billing: who pays for this call.
            lava_metadata: stored by Lava with each of its requests.
            on_progress: told in the calling thread after each batch.
            resume_from: `partial` of the error that ended an earlier call with the same texts; what it had got is
                not paid again.

        Raises:
            InvalidRequestError: one of the texts can't be embedded; nothing was sent.
            LavaError: a request failed for good. Whatever is raised, be it a `KeyboardInterrupt` or the cancellation of
                a task, has `partial`: the vectors that are there.
        """
        with translated(), counted_embedding():
            result = self._engine().embed(
                texts,
                billing=billing,
                lava_metadata=self._stored(lava_metadata),
                show_progress=self.show_progress_bar,
                on_progress=on_progress,
                resume_from=resume_from,
            )
        vectors: list[list[float]] = result.vectors
        return vectors

    async def aembed_documents(
        self,
        texts: list[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
    ) -> list[list[float]]:
        """The vectors of the texts, in their order; see `embed_documents`."""
        with translated(), counted_embedding():
            result = await self._engine().aembed(
                texts,
                billing=billing,
                lava_metadata=self._stored(lava_metadata),
                show_progress=self.show_progress_bar,
                on_progress=on_progress,
                resume_from=resume_from,
            )
        vectors: list[list[float]] = result.vectors
        return vectors

    def embed_query(
        self, text: str, *, billing: Billing | None = None, lava_metadata: Mapping[str, str] | None = None
    ) -> list[float]:
        """The vector of one text; see `embed_documents`."""
        with translated(), counted_embedding():
            result = self._engine().embed([text], billing=billing, lava_metadata=self._stored(lava_metadata))
        vector: list[float] = result.vectors[0]
        return vector

    async def aembed_query(
        self, text: str, *, billing: Billing | None = None, lava_metadata: Mapping[str, str] | None = None
    ) -> list[float]:
        """The vector of one text; see `embed_documents`."""
        with translated(), counted_embedding():
            result = await self._engine().aembed([text], billing=billing, lava_metadata=self._stored(lava_metadata))
        vector: list[float] = result.vectors[0]
        return vector

    def embed_iter(
        self,
        texts: Iterable[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> VectorStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        Args:
            texts: what to embed; read once, not far ahead of what was taken.
            billing: who pays for these requests.
            lava_metadata: stored by Lava with each of them.
            as_numpy: give float32 arrays rather than lists of floats.
            on_progress: told in the iterating thread after each batch.
            resume_from: `partial` of the error that ended an earlier stream over the same source, or of the stream
                itself, where it was left.
            read_in_thread: read the source in a thread of its own: for one that waits for others, such as a queue.
                By default it is read where the iteration takes place, which is held up while the source pauses.
        """
        with translated(), counted_embedding():
            return VectorStream(
                self._engine().embed_iter(
                    texts,
                    billing=billing,
                    lava_metadata=self._stored(lava_metadata),
                    as_numpy=as_numpy,
                    show_progress=self.show_progress_bar,
                    on_progress=on_progress,
                    resume_from=resume_from,
                    read_in_thread=read_in_thread,
                )
            )

    def aembed_iter(
        self,
        texts: AsyncIterable[str] | Iterable[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> AsyncVectorStream:
        """Like `embed_iter`, for `async for`; the source may be async too."""
        with translated(), counted_embedding():
            return AsyncVectorStream(
                self._engine().aembed_iter(
                    texts,
                    billing=billing,
                    lava_metadata=self._stored(lava_metadata),
                    as_numpy=as_numpy,
                    show_progress=self.show_progress_bar,
                    on_progress=on_progress,
                    resume_from=resume_from,
                    read_in_thread=read_in_thread,
                )
            )

    def _stored(self, metadata: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """What Lava stores with a call that begins now, beside the model's own."""
        return traced(metadata) if self.trace_metadata else metadata

    def _engine(self) -> EmbeddingEngine:
        """The engine of the present settings: one for all calls, since it keeps the limit."""
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        held = self._held
        if held is None or held[0] != settings:
            with _building:
                held = self._held
                if held is None or held[0] != settings:
                    held = self._held = (settings, self._build())
        return held[1]

    def _build(self) -> EmbeddingEngine:
        common: dict[str, Any] = {
            "api_key": self.api_key,
            "base_url": self.base_url,
            "billing": self.billing,
            "metadata": self.lava_metadata,
            "timeout": self.timeout,
            "spend_limit": self.spend_limit,
        }
        return EmbeddingEngine(
            cast("SyncEmbedder", LavaMistral(**common, http_client=self.http_client)),
            cast("AsyncEmbedder", AsyncLavaMistral(**common, http_client=self.http_async_client)),
            model=self.model,
            dimensions=self.dimensions,
            max_concurrency=self.max_concurrency,
            max_retries=self.max_retries,
        )


class VectorStream(Iterator[tuple[int, Any]]):
    """Vectors as they become ready: iterate for `(index, vector)`; `usage` says what they have taken so far.

    It is a context manager too, which closes it.
    """

    def __init__(self, stream: EmbeddingStream) -> None:
        self._stream = stream

    @property
    def usage(self) -> EmbeddingUsage:
        """Tokens, cost and requests so far."""
        return self._stream.usage

    def partial(self) -> PartialEmbedding:
        """What is there and was not handed on, for `resume_from=` of a later stream over the same source."""
        return self._stream.partial()

    def __next__(self) -> tuple[int, Any]:
        with translated():
            return next(self._stream)

    def close(self) -> None:
        """Give it up: nothing more is read or sent."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class AsyncVectorStream(AsyncIterator[tuple[int, Any]]):
    """Vectors as they become ready, in async code; see `VectorStream`."""

    def __init__(self, stream: AsyncEmbeddingStream) -> None:
        self._stream = stream

    @property
    def usage(self) -> EmbeddingUsage:
        """Tokens, cost and requests so far."""
        return self._stream.usage

    def partial(self) -> PartialEmbedding:
        """What is there and was not handed on, for `resume_from=` of a later stream over the same source."""
        return self._stream.partial()

    async def __anext__(self) -> tuple[int, Any]:
        with translated():
            return await anext(self._stream)

    async def aclose(self) -> None:
        """Give it up: nothing more is read or sent."""
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()
