"""`LavaMistralEmbeddings`: Mistral's embeddings through Lava as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack, cast
from uuid import uuid4

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index_instrumentation import get_dispatcher

from lava_mistral.calls.arguments import refuse_keys
from lava_mistral.defaults import (
    DEFAULT_EMBEDDING_MODEL,
    DEFAULT_EMBEDDING_RETRIES,
    DEFAULT_MAX_CONCURRENCY,
    OnEmpty,
    OutputDtype,
)
from lava_mistral.embedding.results import EmbedOptions
from lava_mistral.errors import LavaError
from lava_mistral.frameworks.backends import EngineOwner
from lava_mistral.frameworks.settings import setting
from lava_mistral.transport.flow import Flow, adrive, drive
from llama_index_lava_mistral._instrumentation import billing_of, observed
from llama_index_lava_mistral._params import LavaSettings

if TYPE_CHECKING:
    from lava_mistral.embedding.drivers import EmbeddingStream, Prefetch

dispatcher = get_dispatcher(__name__)

# Where LlamaIndex looks for vectors.
_COLLECTION: Final = "embeddings"


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


class LavaMistralEmbeddings(LavaSettings, EngineOwner, BaseEmbedding):
    """Mistral's embeddings through the Lava AI gateway, for LlamaIndex. (`langchain_lava_mistral` has LangChain's.)

    Any number of texts are packed into requests within Mistral's limits, `num_workers` of which are under way at once,
    in sync code as in async; a repeated text is embedded once. The settings are its fields;
    `LavaMistralEmbeddings.model_fields[…].description` says what each means.

    Each method also takes `billing=`, `lava_metadata=` and the other `EmbedOptions` of the engine. Whatever a batch
    raises, a `KeyboardInterrupt` too, has `partial`: the vectors that were there, for `resume_from=` of a later call
    with the same texts, so that nothing is paid twice. An `embeddings_cache` gets them as well.
    """

    model_name: str = Field(DEFAULT_EMBEDDING_MODEL, description="Mistral's name of the model.")
    embed_batch_size: int = Field(2048, description="Texts for each turn of the rate limiter.", gt=0, le=2048)
    dimensions: int | None = Field(None, description="Length of the vectors.", gt=0)
    output_dtype: OutputDtype | None = Field(None, description="How their numbers are rounded; binary packs eight.")
    on_empty: OnEmpty = Field(
        "raise", description="What becomes of an empty text: 'raise', 'skip' (zeros) or 'placeholder' (a full stop)."
    )
    # What follows changes no vector: `IngestionPipeline` makes the key of its cache of all that is not excluded.
    num_workers: int | None = setting(None, "Requests under way at most; 16 by default.", gt=0)
    show_progress_bar: bool = setting(False, "Draw a progress bar for batches.")
    embeddings_cache: Any | None = setting(None, "A key-value store of vectors; none by default.")
    max_retries: int = setting(DEFAULT_EMBEDDING_RETRIES, "How often a failed request is tried again.", ge=0)

    _backend_arguments: ClassVar[Mapping[str, str]] = {**EngineOwner._backend_arguments, "model": "model_name"}
    _synonyms: ClassVar[Mapping[str, str]] = {
        **LavaSettings._synonyms,
        "model": "model_name",
        "max_concurrency": "num_workers",
        "max_concurrent_requests": "num_workers",
        "output_dimension": "dimensions",
    }

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serializes the model."""
        return "LavaMistralEmbeddings"

    @property
    def max_concurrency(self) -> int:
        """Requests under way at most."""
        return DEFAULT_MAX_CONCURRENCY if self.num_workers is None else self.num_workers

    def to_payload(self) -> dict[str, Any]:
        """Return what events say of the model; nothing secret."""
        payload = super().to_payload()
        return payload if self.dimensions is None else {**payload, "dimensions": self.dimensions}

    @observed()
    def get_query_embedding(self, query: str, **options: Unpack[EmbedOptions]) -> Embedding:
        """Return the vector of a question."""
        return drive(self._embed(False, [query], options))[0]

    @observed()
    async def aget_query_embedding(self, query: str, **options: Unpack[EmbedOptions]) -> Embedding:
        """Return the vector of a question."""
        return (await adrive(self._embed(True, [query], options)))[0]

    @observed()
    def get_text_embedding(self, text: str, **options: Unpack[EmbedOptions]) -> Embedding:
        """Return the vector of a text."""
        return drive(self._embed(False, [text], options))[0]

    @observed()
    async def aget_text_embedding(self, text: str, **options: Unpack[EmbedOptions]) -> Embedding:
        """Return the vector of a text."""
        return (await adrive(self._embed(True, [text], options)))[0]

    @observed()
    def get_text_embedding_batch(  # type: ignore[misc]  # LlamaIndex takes show_progress by position too
        self, texts: list[str], show_progress: bool = False, **options: Unpack[EmbedOptions]
    ) -> list[Embedding]:
        """Return the vectors of any number of texts, in their order."""
        return drive(self._embed(False, texts, {**options, "show_progress": show_progress}))

    @observed()
    async def aget_text_embedding_batch(  # type: ignore[misc]  # LlamaIndex takes show_progress by position too
        self, texts: list[str], show_progress: bool = False, **options: Unpack[EmbedOptions]
    ) -> list[Embedding]:
        """Return the same as `get_text_embedding_batch`; the event loop goes on meanwhile."""
        return await adrive(self._embed(True, texts, {**options, "show_progress": show_progress}))

    def _embed(self, asynchronous: bool, texts: list[str], options: Any) -> Flow[list[Embedding]]:
        """Embed texts with LlamaIndex's events, cache and rate limiter."""
        from llama_index_lava_mistral.callbacks import listening

        engine, settings, payload = self._backend(), self._for_the_engine(options), self.to_payload()
        cache, limiter, held = self.embeddings_cache, self.rate_limiter, dict[str, Embedding]()
        dispatcher.event(EmbeddingStartEvent(model_dict=payload))
        event = self.callback_manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: payload})
        with event as told, listening():
            if cache is not None:
                if asynchronous:
                    yield asyncio.to_thread(engine.check, texts)
                else:
                    engine.check(texts)
                for text in dict.fromkeys(texts):
                    if entry := (yield (cache.aget if asynchronous else cache.get)(text, _COLLECTION)):
                        held[text] = next(iter(entry.values()))
            if limiter is not None:
                missing = texts if cache is None else dict.fromkeys(texts).keys() - held
                for _ in range(0, len(missing), self.embed_batch_size):
                    yield limiter.async_acquire() if asynchronous else limiter.acquire()
            if cache is None:
                result = yield (engine.aembed if asynchronous else engine.embed)(texts, **settings)
                vectors: list[Embedding] = result.vectors
            else:
                vectors = yield from _stored(asynchronous, engine, cache, texts, held, settings)
            told.on_end(payload={EventPayload.CHUNKS: texts, EventPayload.EMBEDDINGS: vectors})
        # Not validated: that would look at, and copy, a thousand numbers a text.
        dispatcher.event(EmbeddingEndEvent.model_construct(chunks=texts, embeddings=vectors))
        return vectors

    def embed_iter(self, texts: Iterable[str], **options: Unpack[EmbedOptions]) -> EmbeddingStream:
        """Return the vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        There are no events, no cache and no turn of the rate limiter here. `resume_from` may be the `partial` of the
        stream itself.
        """
        stream: EmbeddingStream = self._open("embed_iter", texts, **options)
        return stream

    def aembed_iter(
        self, texts: AsyncIterable[str] | Iterable[str], **options: Unpack[EmbedOptions]
    ) -> EmbeddingStream:
        """Return the same as `embed_iter` for `async for`; the source may be async too."""
        stream: EmbeddingStream = self._open("aembed_iter", texts, **options)
        return stream

    def prefetch(
        self, nodes: Iterable[BaseNode], batch_size: int = 64, **options: Unpack[EmbedOptions]
    ) -> Prefetch[BaseNode]:
        """Embed ahead of a loop that fills an index or a vector store, which gets copies of the nodes with vectors:

            for batch in embed_model.prefetch(nodes):
                index.insert_nodes(batch)

        While the store writes a batch, requests for the next ones are in flight; an error comes when all before was
        handed on. All that is given is embedded, so leave out what the store has. There are no events and no cache.
        """
        batches = self._open("prefetch", nodes, _text_of, _embedded, batch_size=batch_size, **options)
        return cast("Prefetch[BaseNode]", batches)

    def aprefetch(
        self, nodes: AsyncIterable[BaseNode] | Iterable[BaseNode], batch_size: int = 64, **options: Unpack[EmbedOptions]
    ) -> Prefetch[BaseNode]:
        """Do the same as `prefetch` for `async for` and `ainsert_nodes`; the source may be async too."""
        batches = self._open("aprefetch", nodes, _text_of, _embedded, batch_size=batch_size, **options)
        return cast("Prefetch[BaseNode]", batches)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give the nodes their vectors. A pipeline gives each of its steps the arguments of all."""
        with _naming(nodes):
            return super().__call__(nodes, **_own(kwargs))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give the nodes their vectors; see `__call__`."""
        with _naming(nodes):
            return await super().acall(nodes, **_own(kwargs))

    # LlamaIndex's base class wants these four.
    def _get_query_embedding(self, query: str) -> Embedding:
        return drive(self._embed(False, [query], {}))[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await adrive(self._embed(True, [query], {})))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_query_embedding(text)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await self._aget_query_embedding(text)

    def _open(self, method: str, *given: Any, **options: Any) -> Any:
        from llama_index_lava_mistral.callbacks import listening

        with listening():
            return getattr(self._backend(), method)(*given, **self._for_the_engine(options))

    def _for_the_engine(self, options: Any) -> dict[str, Any]:
        """Return the options of a call as the engine takes them."""
        refuse_keys(options)
        given = {**options, "billing": billing_of(options.get("billing"))}
        given["show_progress"] = options.get("show_progress") or self.show_progress_bar
        if self.trace_metadata:
            from llama_index_lava_mistral.callbacks import traced

            given["lava_metadata"] = traced(options.get("lava_metadata"))
        return given


def _stored(
    asynchronous: bool, engine: Any, cache: BaseKVStore, texts: list[str], held: dict[str, Embedding], settings: Any
) -> Flow[list[Embedding]]:
    """Return the vectors of texts; the cache, which holds some, gets each of the others as it comes."""
    from lava_mistral.embedding.results import as_list, known_vectors, partial_of

    settings["resume_from"] = known_vectors(texts, held, settings.get("resume_from"))
    stream: Any = (engine.aembed_iter if asynchronous else engine.embed_iter)(texts, **settings)
    vectors: list[Embedding] = []

    def store(text: str, vector: Embedding) -> Flow[None]:
        if text not in held:
            held[text] = vector
            # A copy: the caller may change the vector.
            entry = {str(uuid4()): as_list(vector)}
            yield (cache.aput if asynchronous else cache.put)(text, entry, _COLLECTION)

    try:
        while item := (yield anext(stream, None) if asynchronous else next(stream, None)):
            vectors.append(item[1])
            yield from store(texts[item[0]], item[1])
    except GeneratorExit:
        raise
    except BaseException as error:
        partial = replace(known_vectors(texts, held, partial_of(error)), next_index=0)
        error.partial = partial  # type: ignore[attr-defined]
        # What was paid for is kept, even where the cache fails too.
        with suppress(Exception):
            for index, vector in partial.vectors.items():
                yield from store(texts[index], vector)
        yield stream.aclose() if asynchronous else stream.close()
        raise
    return vectors


def _own(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return those of the arguments of a pipeline that embeddings take."""
    return {name: value for name, value in kwargs.items() if name in EmbedOptions.__annotations__}


def _text_of(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def _embedded(node: BaseNode, vector: Embedding) -> BaseNode:
    return node.model_copy(update={"embedding": vector})
