"""`LavaMistralEmbeddings`: Mistral's embeddings through Lava as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, TypeVar, cast

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode
from llama_index_instrumentation import get_dispatcher

from lava_mistral.billing.identity import Billing
from lava_mistral.calls.defaults import DEFAULT_EMBEDDING_MODEL
from lava_mistral.embedding.engine import (
    DEFAULT_MAX_CONCURRENCY,
    DEFAULT_MAX_RETRIES,
    AsyncEmbeddingStream,
    EmbeddingEngine,
    EmbeddingStream,
    PartialEmbedding,
)
from lava_mistral.embedding.progress import OnProgress
from lava_mistral.embedding.results import known_vectors
from llama_index_lava_mistral._params import LavaSettings, clients_of
from llama_index_lava_mistral._redaction import without_span
from llama_index_lava_mistral.callbacks import listening, traced

dispatcher = get_dispatcher(__name__)

_F = TypeVar("_F", bound=Callable[..., Any])
_S = TypeVar("_S")

_CACHE: Final = "embeddings"
"""The collection in which LlamaIndex looks for vectors."""
_OF_A_BATCH: Final = ("show_progress", "billing", "lava_metadata", "on_progress", "resume_from")


@dataclass(frozen=True)
class _Options:
    """What one call says beside its texts; LlamaIndex's inner methods have no place for it."""

    billing: Billing | None = None
    lava_metadata: Mapping[str, str] | None = None
    show_progress: bool = False
    on_progress: OnProgress | None = None
    resume_from: PartialEmbedding | None = None


_NOTHING_SAID = _Options()
_options: ContextVar[_Options] = ContextVar("llama_index_lava_mistral_options", default=_NOTHING_SAID)


@contextmanager
def _call(
    billing: Billing | None,
    lava_metadata: Mapping[str, str] | None,
    show_progress: bool = False,
    on_progress: OnProgress | None = None,
    resume_from: PartialEmbedding | None = None,
) -> Iterator[None]:
    token = _options.set(_Options(billing, lava_metadata, show_progress, on_progress, resume_from))
    try:
        yield
    finally:
        _options.reset(token)


def _refuse(kwargs: Mapping[str, Any]) -> None:
    # LlamaIndex's signature has a place for anything; a misspelt name would be lost in it.
    if kwargs:
        known = ", ".join(_OF_A_BATCH)
        raise TypeError(f"unexpected keyword argument {next(iter(kwargs))!r}; a batch takes {known}")


def _ours(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a pipeline's arguments that are for embeddings: each of its steps gets all of them."""
    return {name: value for name, value in kwargs.items() if name in _OF_A_BATCH}


def _from_cache(texts: Sequence[str], found: Mapping[str, Embedding]) -> _Options:
    """The call under way, going on from what the cache holds."""
    said = _options.get()
    return replace(said, resume_from=known_vectors(texts, found, said.resume_from))


def _got(error: BaseException, texts: Sequence[str], found: Mapping[str, Embedding]) -> dict[str, Embedding]:
    """The vectors that a failed call got beside those of the cache."""
    partial = getattr(error, "partial", None)
    vectors = partial.vectors if isinstance(partial, PartialEmbedding) else {}
    return {texts[index]: vector for index, vector in vectors.items() if texts[index] not in found}


def _held(vector: Embedding) -> dict[str, Embedding]:
    """A vector as LlamaIndex keeps one in a store."""
    return {str(uuid.uuid4()): vector}


def _vector_in(held: Mapping[str, Any]) -> Embedding:
    return cast("Embedding", next(iter(held.values())))


class LavaMistralEmbeddings(LavaSettings, BaseEmbedding):
    """Mistral's embeddings through the Lava AI gateway, for LlamaIndex. (`langchain_lava_mistral` has LangChain's.)

    Any number of texts: they are packed into requests within Mistral's limits, `num_workers` of which are under way at
    once, in sync code as in async; a repeated text is embedded once. `embed_batch_size` says for how many texts there
    is an event and a turn of the rate limiter, not how many go into a request.

    Each method also takes `billing=` and `lava_metadata=`; those for many texts take `resume_from=` as well: the
    `partial` of what an earlier call with the same texts raised, so that nothing is paid twice.

    Args:
        model_name: Mistral's name of the model; `model` for short.
        api_key: Lava's secret key or a forward token: text, a `SecretStr` or a function returning it. By default
            `LAVA_FORWARD_TOKEN`, then `LAVA_SECRET_KEY`, read when a call is made.
        base_url: by default `LAVA_BASE_URL`, else what the key's prefix says.
        billing: who pays.
        lava_metadata: text pairs that Lava stores with each request.
        trace_metadata: add the id of the call's span to them, as `llama_index_span_id`.
        spend_limit: USD that all calls of this object may cost together, or a `SpendLimit` to share. A request that
            could pass it is refused before it is sent (`SpendLimitError`).
        dimensions: length of the vectors, for models that can shorten them.
        num_workers: requests under way at most, whoever calls; `max_concurrency` is another name of it.
        show_progress_bar: draw a progress bar for batches, as `show_progress=True` of a call does.
        timeout: seconds for one request.
        max_retries: how often a failed request is tried again.
        http_client: an `httpx.Client` to send with; `async_http_client` its async twin.

    Raises:
        LavaError: from every call that fails. Whatever a batch raises, a `KeyboardInterrupt` or the cancellation of a
            task too, has `partial`: the vectors that were there. An `embeddings_cache` gets them as well.
    """

    model_name: str = Field(default=DEFAULT_EMBEDDING_MODEL, description="Mistral's name of the model.")
    embed_batch_size: int = Field(default=2048, description="Texts for each event.", gt=0, le=2048)
    dimensions: int | None = Field(default=None, description="Length of the vectors.", gt=0)
    # What follows changes no vector: `IngestionPipeline` makes the key of its cache of all that is not excluded.
    num_workers: int | None = Field(
        default=None, description="Requests under way at most; 16 by default.", gt=0, exclude=True
    )
    show_progress_bar: bool = Field(default=False, description="Draw a progress bar for batches.", exclude=True)
    embeddings_cache: Any | None = Field(
        default=None, description="A key-value store of vectors; none by default.", exclude=True
    )
    max_retries: int = Field(
        default=DEFAULT_MAX_RETRIES, description="How often a failed request is tried again.", ge=0, exclude=True
    )

    _synonyms: ClassVar[Mapping[str, str]] = {
        **LavaSettings._synonyms,
        "model": "model_name",
        "max_concurrency": "num_workers",
    }

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serializes the model."""
        return "LavaMistralEmbeddings"

    @property
    def max_concurrency(self) -> int:
        """Requests under way at most."""
        return DEFAULT_MAX_CONCURRENCY if self.num_workers is None else self.num_workers

    def to_payload(self) -> dict[str, Any]:
        """What events say of the model; nothing secret."""
        payload = super().to_payload()
        return payload if self.dimensions is None else {**payload, "dimensions": self.dimensions}

    @without_span
    def get_query_embedding(
        self, query: str, *, billing: Billing | None = None, lava_metadata: Mapping[str, str] | None = None
    ) -> Embedding:
        """The vector of a question."""
        with _call(billing, lava_metadata):
            return super().get_query_embedding(query)

    @without_span
    async def aget_query_embedding(
        self, query: str, *, billing: Billing | None = None, lava_metadata: Mapping[str, str] | None = None
    ) -> Embedding:
        """The vector of a question."""
        with _call(billing, lava_metadata):
            return await super().aget_query_embedding(query)

    @without_span
    def get_text_embedding(
        self, text: str, *, billing: Billing | None = None, lava_metadata: Mapping[str, str] | None = None
    ) -> Embedding:
        """The vector of a text."""
        with _call(billing, lava_metadata):
            return super().get_text_embedding(text)

    @without_span
    async def aget_text_embedding(
        self, text: str, *, billing: Billing | None = None, lava_metadata: Mapping[str, str] | None = None
    ) -> Embedding:
        """The vector of a text."""
        with _call(billing, lava_metadata):
            return await super().aget_text_embedding(text)

    def get_text_embedding_batch(
        self,
        texts: list[str],
        show_progress: bool = False,
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        **kwargs: Any,
    ) -> list[Embedding]:
        """The vectors of the texts, in their order.

        Args:
            texts: what to embed, any number of them.
            show_progress: draw a progress bar.
            billing: who pays for this call.
            lava_metadata: stored by Lava with each of its requests.
            on_progress: told in the calling thread after each batch.
            resume_from: `partial` of what ended an earlier call with the same texts; what it had got is not paid again.

        Raises:
            TypeError: there is no such argument.
            LavaError: the call failed; `partial` has the vectors that are there.
        """
        _refuse(kwargs)
        show_progress = show_progress or self.show_progress_bar
        call = _call(billing, lava_metadata, show_progress, on_progress, resume_from)
        with call, self._events(texts) as finish:
            for _ in self._windows(texts):
                if self.rate_limiter is not None:
                    self.rate_limiter.acquire()
            if self.embeddings_cache is not None:
                embeddings = self._get_text_embeddings_cached(texts)
            else:
                embeddings = self._get_text_embeddings(texts)
            finish(embeddings)
        return embeddings

    async def aget_text_embedding_batch(
        self,
        texts: list[str],
        show_progress: bool = False,
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        **kwargs: Any,
    ) -> list[Embedding]:
        """Like `get_text_embedding_batch`; the event loop goes on meanwhile."""
        _refuse(kwargs)
        show_progress = show_progress or self.show_progress_bar
        call = _call(billing, lava_metadata, show_progress, on_progress, resume_from)
        with call, self._events(texts) as finish:
            for _ in self._windows(texts):
                if self.rate_limiter is not None:
                    await self.rate_limiter.async_acquire()
            if self.embeddings_cache is not None:
                embeddings = await self._aget_text_embeddings_cached(texts)
            else:
                embeddings = await self._aget_text_embeddings(texts)
            finish(embeddings)
        return embeddings

    def embed_iter(
        self,
        texts: Iterable[str],
        show_progress: bool = False,
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> EmbeddingStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        There are no events and no cache here, and no turn of the rate limiter: the engine keeps its own pace.

        Args:
            texts: what to embed; read once, not far ahead of what was taken.
            show_progress: draw a progress bar.
            billing: who pays for these requests.
            lava_metadata: stored by Lava with each of them.
            as_numpy: give float32 arrays rather than lists of floats.
            on_progress: told in the iterating thread after each batch.
            resume_from: `partial` of what ended an earlier stream over the same source, or of the stream itself.
            read_in_thread: read the source in a thread of its own: for one that waits for others, such as a queue.
        """
        return self._stream(
            EmbeddingEngine.embed_iter,
            texts,
            _Options(billing, lava_metadata, show_progress or self.show_progress_bar, on_progress, resume_from),
            as_numpy=as_numpy,
            read_in_thread=read_in_thread,
        )

    def aembed_iter(
        self,
        texts: AsyncIterable[str] | Iterable[str],
        show_progress: bool = False,
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> AsyncEmbeddingStream:
        """Like `embed_iter`, for `async for`; the source may be async too."""
        return self._stream(
            EmbeddingEngine.aembed_iter,
            texts,
            _Options(billing, lava_metadata, show_progress or self.show_progress_bar, on_progress, resume_from),
            as_numpy=as_numpy,
            read_in_thread=read_in_thread,
        )

    def _stream(self, method: Callable[..., _S], texts: Any, said: _Options, **how: bool) -> _S:
        with listening():
            return method(self._engine(), texts, **self._said(said), **how)

    @without_span
    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """The nodes, each with its vector."""
        return super().__call__(nodes, **_ours(kwargs))

    @without_span
    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """The nodes, each with its vector."""
        return await super().acall(nodes, **_ours(kwargs))

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embeddings([query])[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self._aget_text_embeddings([query]))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed(texts, _options.get())

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self._aembed(texts, _options.get())

    def _get_text_embeddings_cached(self, texts: list[str]) -> list[Embedding]:
        store = self.embeddings_cache
        assert store is not None
        self._engine().check(texts)
        looked_up = ((text, store.get(key=text, collection=_CACHE)) for text in dict.fromkeys(texts))
        found = {text: _vector_in(held) for text, held in looked_up if held}
        try:
            embeddings = self._embed(texts, _from_cache(texts, found))
        except BaseException as error:
            # What was paid for is kept, even where the store fails too.
            with suppress(Exception):
                for text, vector in _got(error, texts, found).items():
                    store.put(key=text, val=_held(vector), collection=_CACHE)
            raise
        for text, vector in dict(zip(texts, embeddings, strict=True)).items():
            if text not in found:
                store.put(key=text, val=_held(vector), collection=_CACHE)
        return embeddings

    async def _aget_text_embeddings_cached(self, texts: list[str]) -> list[Embedding]:
        store = self.embeddings_cache
        assert store is not None
        await asyncio.to_thread(self._engine().check, texts)
        found = {}
        for text in dict.fromkeys(texts):
            if held := await store.aget(key=text, collection=_CACHE):
                found[text] = _vector_in(held)
        try:
            embeddings = await self._aembed(texts, _from_cache(texts, found))
        except BaseException as error:
            # What was paid for is kept, even where the store fails too.
            with suppress(Exception):
                for text, vector in _got(error, texts, found).items():
                    await store.aput(key=text, val=_held(vector), collection=_CACHE)
            raise
        for text, vector in dict(zip(texts, embeddings, strict=True)).items():
            if text not in found:
                await store.aput(key=text, val=_held(vector), collection=_CACHE)
        return embeddings

    def _embed(self, texts: list[str], said: _Options) -> list[Embedding]:
        with listening():
            return cast("list[Embedding]", self._engine().embed(texts, **self._said(said)).vectors)

    async def _aembed(self, texts: list[str], said: _Options) -> list[Embedding]:
        with listening():
            result = await self._engine().aembed(texts, **self._said(said))
        return cast("list[Embedding]", result.vectors)

    def _said(self, options: _Options) -> dict[str, Any]:
        """What a call says beside its texts."""
        said = dict(vars(options))
        if self.trace_metadata:
            said["lava_metadata"] = traced(said["lava_metadata"])
        return said

    def _windows(self, texts: list[str]) -> list[list[str]]:
        size = self.embed_batch_size
        return [texts[start : start + size] for start in range(0, len(texts), size)]

    @contextmanager
    def _events(self, texts: list[str]) -> Iterator[Callable[[list[Embedding]], None]]:
        """LlamaIndex's events, one for each window of texts, around the one call that embeds them all."""
        payload = self.to_payload()
        windows = self._windows(texts)
        with ExitStack() as stack:
            events = []
            for _ in windows:
                dispatcher.event(EmbeddingStartEvent(model_dict=payload))
                event = self.callback_manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: payload})
                events.append(stack.enter_context(event))

            def finish(embeddings: list[Embedding]) -> None:
                start = 0
                for event, window in zip(events, windows, strict=True):
                    vectors = embeddings[start : start + len(window)]
                    start += len(window)
                    event.on_end(payload={EventPayload.CHUNKS: window, EventPayload.EMBEDDINGS: vectors})
                    # Not validated: that would look at, and copy, a thousand numbers a text.
                    dispatcher.event(EmbeddingEndEvent.model_construct(chunks=window, embeddings=vectors))

            yield finish

    def _engine(self) -> EmbeddingEngine:
        """Return the engine of these settings, which is kept: the limit on requests under way is its own."""
        settings = self._client_settings() | {
            "model": self.model_name,
            "dimensions": self.dimensions,
            "max_concurrency": self.max_concurrency,
        }
        return self._build_once(settings, _engine_of)


def _engine_of(settings: Mapping[str, Any]) -> EmbeddingEngine:
    client = dict(settings)
    engine = {name: client.pop(name) for name in ("model", "dimensions", "max_concurrency")}
    return EmbeddingEngine(*clients_of(client), **engine, max_retries=client["max_retries"])
