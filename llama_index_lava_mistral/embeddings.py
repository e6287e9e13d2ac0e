"""`LavaMistralEmbeddings`: Mistral's embeddings through Lava as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypedDict, TypeVar, Unpack, cast

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index_instrumentation import get_dispatcher

from lava_mistral.billing.identity import Billing
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.calls.defaults import DEFAULT_EMBEDDING_MODEL
from lava_mistral.embedding.engine import (
    DEFAULT_MAX_CONCURRENCY,
    DEFAULT_MAX_RETRIES,
    AsyncEmbeddingStream,
    EmbeddingEngine,
    EmbeddingStream,
    PartialEmbedding,
)
from lava_mistral.embedding.input_validation import OnEmpty
from lava_mistral.embedding.results import OnProgress
from lava_mistral.errors import LavaError
from llama_index_lava_mistral._cache import COLLECTION, CachedBatch
from llama_index_lava_mistral._params import LavaSettings, clients_of
from llama_index_lava_mistral._redaction import billing_of, redacted, without_span
from llama_index_lava_mistral.callbacks import listening, traced

dispatcher = get_dispatcher(__name__)

_S = TypeVar("_S")


class BatchOptions(TypedDict, total=False):
    """Options of a call; the last two of calls for many texts.

    `on_progress` is called in the calling thread after each batch. `resume_from` is the `partial` of the error that
    ended an earlier call with the same texts, so that nothing is paid twice.
    """

    billing: Billing | None
    lava_metadata: Mapping[str, str] | None
    on_progress: OnProgress | None
    resume_from: PartialEmbedding | None


class StreamOptions(BatchOptions, total=False):
    """Options of a stream of vectors.

    `as_numpy` gives float32 arrays rather than lists of floats. `read_in_thread` reads the source in a thread of its
    own: for one that waits for others, such as a queue.
    """

    show_progress: bool
    as_numpy: bool
    read_in_thread: bool


_OF_A_CALL: Final = ("billing", "lava_metadata")
_OF_A_BATCH: Final = ("show_progress", *BatchOptions.__annotations__)
_OF_A_STREAM: Final = tuple(StreamOptions.__annotations__)
_OF_ENGINES: Final = ("model_name", "dimensions", "max_concurrency", "on_empty")

# The options of the call under way, for which LlamaIndex's inner methods have no place.
_options: ContextVar[Mapping[str, Any]] = ContextVar("llama_index_lava_mistral_options", default=MappingProxyType({}))


@contextmanager
def _call(options: Mapping[str, Any], known: Sequence[str] = _OF_A_CALL) -> Iterator[None]:
    """Hold the options of a call while LlamaIndex's own method, which opens the span, makes it."""
    refuse_keys(options)
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}; a batch takes {', '.join(known)}")
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


@contextmanager
def _naming(nodes: Sequence[BaseNode]) -> Iterator[None]:
    """Add the ids of nodes to an error about some of their texts."""
    try:
        yield
    except LavaError as error:
        if inputs := error.inputs:
            named = [nodes[index] for index in inputs[:10]]
            names = [f"{n.node_id!r} of document {n.ref_doc_id!r}" if n.ref_doc_id else repr(n.node_id) for n in named]
            error.message += f" (node {', '.join(names)})"
        raise


class LavaMistralEmbeddings(LavaSettings, BaseEmbedding):
    """Mistral's embeddings through the Lava AI gateway, for LlamaIndex. (`langchain_lava_mistral` has LangChain's.)

    Any number of texts: they are packed into requests within Mistral's limits, `num_workers` of which are under way at
    once, in sync code as in async; a repeated text is embedded once. `embed_batch_size` says for how many texts there
    is an event and a turn of the rate limiter, not how many go into a request.

    Each method also takes `billing=` and `lava_metadata=`; those for many texts take `resume_from=` as well: the
    `partial` of what an earlier call with the same texts raised, so that nothing is paid twice.

    The settings are the fields of this class: `LavaMistralEmbeddings.model_fields[…].description` says what each means.
    The model's name can be given by position.

    Raises:
        LavaError: from every call that fails. Whatever a batch raises, a `KeyboardInterrupt` or the cancellation of a
            task too, has `partial`: the vectors that were there. An `embeddings_cache` gets them as well.
    """

    model_name: str = Field(DEFAULT_EMBEDDING_MODEL, description="Mistral's name of the model.")
    embed_batch_size: int = Field(2048, description="Texts for each event.", gt=0, le=2048)
    dimensions: int | None = Field(None, description="Length of the vectors.", gt=0)
    on_empty: OnEmpty = Field(
        "raise", description="What becomes of an empty text: 'raise', 'skip' (zeros) or 'placeholder' (a full stop)."
    )
    # What follows changes no vector: `IngestionPipeline` makes the key of its cache of all that is not excluded.
    num_workers: int | None = Field(None, description="Requests under way at most; 16 by default.", gt=0, exclude=True)
    show_progress_bar: bool = Field(False, description="Draw a progress bar for batches.", exclude=True)
    embeddings_cache: Any | None = Field(
        None, description="A key-value store of vectors; none by default.", exclude=True
    )
    max_retries: int = Field(
        DEFAULT_MAX_RETRIES, description="How often a failed request is tried again.", ge=0, exclude=True
    )

    _synonyms: ClassVar[Mapping[str, str]] = {
        **LavaSettings._synonyms,
        "model": "model_name",
        "max_concurrency": "num_workers",
        "max_concurrent_requests": "num_workers",
        "output_dimension": "dimensions",
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
    def get_query_embedding(self, query: str, **options: Unpack[BatchOptions]) -> Embedding:
        """Return the vector of a question."""
        with _call(options):
            return super().get_query_embedding(query)

    @without_span
    async def aget_query_embedding(self, query: str, **options: Unpack[BatchOptions]) -> Embedding:
        """Return the vector of a question."""
        with _call(options):
            return await super().aget_query_embedding(query)

    @without_span
    def get_text_embedding(self, text: str, **options: Unpack[BatchOptions]) -> Embedding:
        """Return the vector of a text."""
        with _call(options):
            return super().get_text_embedding(text)

    @without_span
    async def aget_text_embedding(self, text: str, **options: Unpack[BatchOptions]) -> Embedding:
        """Return the vector of a text."""
        with _call(options):
            return await super().aget_text_embedding(text)

    @redacted
    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **options: Unpack[BatchOptions]
    ) -> list[Embedding]:
        """Return the vectors of the texts, in their order.

        Args:
            texts: what to embed, any number of them.
            show_progress: draw a progress bar.
            **options: see `BatchOptions`.

        Raises:
            TypeError: there is no such option.
            LavaError: the call failed; `partial` has the vectors that are there.
        """
        with _call({"show_progress": show_progress, **options}, _OF_A_BATCH), self._events(texts) as finish:
            batch = CachedBatch(texts)
            if (cache := self.embeddings_cache) is not None:
                self._engine().check(texts)
                for text in batch.distinct:
                    batch.look_up(text, cache.get(key=text, collection=COLLECTION))
            if self.rate_limiter is not None:
                for _ in self._windows(texts if cache is None else batch.missing):
                    self.rate_limiter.acquire()
            if cache is None:
                return finish(self._get_text_embeddings(texts))
            with self._open(EmbeddingEngine.embed_iter, texts, **self._for_the_engine(batch)) as stream:
                try:
                    for index, vector in stream:
                        for key, entry in batch.take(index, vector):
                            cache.put(key=key, val=entry, collection=COLLECTION)
                except BaseException as error:
                    # What was paid for is kept, even where the cache fails too.
                    with suppress(Exception):
                        for key, entry in batch.rest(error):
                            cache.put(key=key, val=entry, collection=COLLECTION)
                    raise
            return finish(batch.vectors)

    @redacted
    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **options: Unpack[BatchOptions]
    ) -> list[Embedding]:
        """Like `get_text_embedding_batch`; the event loop goes on meanwhile."""
        with _call({"show_progress": show_progress, **options}, _OF_A_BATCH), self._events(texts) as finish:
            batch = CachedBatch(texts)
            if (cache := self.embeddings_cache) is not None:
                await asyncio.to_thread(self._engine().check, texts)
                for text in batch.distinct:
                    batch.look_up(text, await cache.aget(key=text, collection=COLLECTION))
            if self.rate_limiter is not None:
                for _ in self._windows(texts if cache is None else batch.missing):
                    await self.rate_limiter.async_acquire()
            if cache is None:
                return finish(await self._aget_text_embeddings(texts))
            async with self._open(EmbeddingEngine.aembed_iter, texts, **self._for_the_engine(batch)) as stream:
                try:
                    async for index, vector in stream:
                        for key, entry in batch.take(index, vector):
                            await cache.aput(key=key, val=entry, collection=COLLECTION)
                except BaseException as error:
                    with suppress(Exception):
                        for key, entry in batch.rest(error):
                            await cache.aput(key=key, val=entry, collection=COLLECTION)
                    raise
            return finish(batch.vectors)

    def embed_iter(self, texts: Iterable[str], **options: Unpack[StreamOptions]) -> EmbeddingStream:
        """Return the vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        There are no events and no cache here, and no turn of the rate limiter: the engine keeps its own pace.

        Args:
            texts: what to embed; read once, not far ahead of what was taken.
            **options: see `StreamOptions`. `resume_from` may be the `partial` of the stream itself.
        """
        with _call(options, _OF_A_STREAM):
            return self._open(EmbeddingEngine.embed_iter, texts, **self._for_the_engine())

    def aembed_iter(
        self, texts: AsyncIterable[str] | Iterable[str], **options: Unpack[StreamOptions]
    ) -> AsyncEmbeddingStream:
        """Like `embed_iter`, for `async for`; the source may be async too."""
        with _call(options, _OF_A_STREAM):
            return self._open(EmbeddingEngine.aembed_iter, texts, **self._for_the_engine())

    def prefetch(
        self, nodes: Iterable[BaseNode], batch_size: int = 64, **options: Unpack[BatchOptions]
    ) -> Generator[list[BaseNode], None, None]:
        """Embed ahead of a loop that fills an index or a vector store, which gets copies of the nodes with vectors:

            for batch in embed_model.prefetch(nodes):
                index.insert_nodes(batch)

        While the store writes a batch, requests for the next ones are in flight. Memory does not grow with the number
        of nodes. All that is given is embedded, so leave out what the store has. There are no events and no cache here.

        Args:
            nodes: what to embed; read once, not far ahead of the loop. An error comes when all before was handed on.
            batch_size: nodes that the loop gets at once.
            **options: see `BatchOptions`; with `resume_from`, what had been handed on is passed over.
        """
        with _call(options, _OF_A_BATCH):
            return self._open(
                EmbeddingEngine.prefetch, nodes, _text_of, _embedded, batch_size=batch_size, **self._for_the_engine()
            )

    def aprefetch(
        self, nodes: AsyncIterable[BaseNode] | Iterable[BaseNode], batch_size: int = 64, **options: Unpack[BatchOptions]
    ) -> AsyncGenerator[list[BaseNode], None]:
        """Do the same as `prefetch` for `async for` and `ainsert_nodes`; the source may be async too."""
        with _call(options, _OF_A_BATCH):
            return self._open(
                EmbeddingEngine.aprefetch, nodes, _text_of, _embedded, batch_size=batch_size, **self._for_the_engine()
            )

    def _open(self, method: Callable[..., _S], *given: Any, **options: Any) -> _S:
        with listening():
            return method(self._engine(), *given, **options)

    @without_span
    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give the nodes their vectors. A pipeline gives each of its steps the arguments of all."""
        with _naming(nodes):
            return super().__call__(nodes, **{name: kwargs[name] for name in _OF_A_BATCH if name in kwargs})

    @without_span
    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give the nodes their vectors; see `__call__`."""
        with _naming(nodes):
            return await super().acall(nodes, **{name: kwargs[name] for name in _OF_A_BATCH if name in kwargs})

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embeddings([query])[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self._aget_text_embeddings([query]))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return cast("list[Embedding]", self._open(EmbeddingEngine.embed, texts, **self._for_the_engine()).vectors)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        with listening():
            result = await self._engine().aembed(texts, **self._for_the_engine())
        return cast("list[Embedding]", result.vectors)

    def _for_the_engine(self, batch: CachedBatch | None = None) -> dict[str, Any]:
        """Return the options of the call under way, as the engine takes them."""
        options = dict(_options.get())
        options["show_progress"] = options.get("show_progress") or self.show_progress_bar
        options["billing"] = billing_of(options.get("billing"))
        if self.trace_metadata:
            options["lava_metadata"] = traced(options.get("lava_metadata"))
        if batch is not None:
            options["resume_from"] = batch.resume_from(options.get("resume_from"))
        return options

    def _windows(self, items: list[_S]) -> list[list[_S]]:
        size = self.embed_batch_size
        return [items[start : start + size] for start in range(0, len(items), size)]

    @contextmanager
    def _events(self, texts: list[str]) -> Iterator[Callable[[list[Embedding]], list[Embedding]]]:
        """Send LlamaIndex's events, one for each window of texts, around the one call that embeds them all."""
        payload = self.to_payload()
        windows = self._windows(texts)
        with ExitStack() as stack:
            events = []
            for _ in windows:
                dispatcher.event(EmbeddingStartEvent(model_dict=payload))
                event = self.callback_manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: payload})
                events.append(stack.enter_context(event))

            def finish(embeddings: list[Embedding]) -> list[Embedding]:
                for event, window, vectors in zip(events, windows, self._windows(embeddings), strict=True):
                    event.on_end(payload={EventPayload.CHUNKS: window, EventPayload.EMBEDDINGS: vectors})
                    # Not validated: that would look at, and copy, a thousand numbers a text.
                    dispatcher.event(EmbeddingEndEvent.model_construct(chunks=window, embeddings=vectors))
                return embeddings

            yield finish

    def _engine(self) -> EmbeddingEngine:
        """Return the engine of these settings, which is kept: the limit on requests under way is its own."""
        return self._build_once(
            self._client_settings() | {name: getattr(self, name) for name in _OF_ENGINES}, _engine_of
        )


def _text_of(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def _embedded(node: BaseNode, vector: Embedding) -> BaseNode:
    return node.model_copy(update={"embedding": vector})


def _engine_of(settings: Mapping[str, Any]) -> EmbeddingEngine:
    clients = clients_of({name: value for name, value in settings.items() if name not in _OF_ENGINES})
    engine = {name: settings[name] for name in _OF_ENGINES if name != "model_name"}
    return EmbeddingEngine(*clients, model=settings["model_name"], max_retries=settings["max_retries"], **engine)
