"""`LavaMistralEmbeddings` for LangChain: Mistral's embedding models through Lava."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, Unpack, cast

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict

from langchain_lava_mistral._params import SYNONYMS, LavaSettings
from langchain_lava_mistral.callbacks import counted_embedding, traced
from langchain_lava_mistral.errors import translated
from lava_mistral.defaults import DEFAULT_EMBEDDING_RETRIES, DEFAULT_MAX_CONCURRENCY, OnEmpty, OutputDtype
from lava_mistral.embedding.results import EmbedOptions
from lava_mistral.frameworks.backends import EngineOwner

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from lava_mistral.embedding.drivers import EmbeddingStream, Prefetch

_SYNONYMS = {"max_concurrent_requests": "max_concurrency", "output_dimension": "dimensions"}
T = TypeVar("T")
D = TypeVar("D", bound="Document | str")
Source: TypeAlias = AsyncIterable[T] | Iterable[T]


class LavaMistralEmbeddings(LavaSettings, EngineOwner, Embeddings):
    """Mistral's embedding models through Lava, for LangChain (`langchain_lava_mistral`).

        LavaMistralEmbeddings().embed_documents(["one text", "another"])

    Any number of texts of at most 8,192 tokens each can be given at once: they are put into requests within Mistral's
    limits, `max_concurrency` of them in flight at most, for all threads and event loops that use the object together. A
    text that comes several times is sent once. `max_retries` and `timeout` are those of each request.

    Args:
        trace_metadata: add the id of the LangChain run that a call is part of to the metadata, as `langchain_run_id`.
        spend_limit: as for `ChatLavaMistral`, like all that is not here; each request is held against it.
        dimensions: length of the vectors, for models that can shorten them.
        output_dtype: how their numbers are rounded, for models that can; `"binary"` and `"ubinary"` put eight
            dimensions into a number.
        on_empty: what becomes of an empty text: `"raise"`, `"skip"` (a vector of zeros) or `"placeholder"` (a full stop
            is embedded).

    Raises:
        pydantic.ValidationError: a setting is wrong, misspelt or has no meaning here (it is a `ValueError`).
    """

    model: str = "mistral-embed"
    dimensions: int | None = None
    output_dtype: OutputDtype | None = None
    on_empty: OnEmpty = "raise"
    max_concurrency: int = DEFAULT_MAX_CONCURRENCY
    max_retries: int = DEFAULT_EMBEDDING_RETRIES
    show_progress_bar: bool = False

    model_config = ConfigDict(extra="forbid")

    _synonyms: ClassVar[Mapping[str, str]] = SYNONYMS | _SYNONYMS

    def embed_documents(self, texts: list[str], **options: Unpack[EmbedOptions]) -> list[list[float]]:
        """Return the vectors of the texts, in their order.

        Args:
            **options: `billing` and `lava_metadata` for this call; `on_progress`, told in the calling thread after each
                batch; `resume_from`, the `partial` of the error that ended an earlier call with the same texts, or of a
                stream: what it had got is not paid again; `as_numpy` for float32 arrays.

        Raises:
            InvalidRequestError: one of the texts can't be embedded; nothing was sent.
            LavaError: a request failed for good. Whatever is raised, be it a `KeyboardInterrupt` or the cancellation of
                a task, has `partial`: the vectors that are there.
        """
        return cast("list[list[float]]", self._begun("embed", texts, **options).vectors)

    async def aembed_documents(self, texts: list[str], **options: Unpack[EmbedOptions]) -> list[list[float]]:
        """Return the vectors of the texts, in their order; see `embed_documents`."""
        with translated(), counted_embedding():
            result = await self._begun("aembed", texts, **options)
        return cast("list[list[float]]", result.vectors)

    def embed_query(self, text: str, **options: Unpack[EmbedOptions]) -> list[float]:
        """Return the vector of one text; see `embed_documents`."""
        options.setdefault("show_progress", False)
        return self.embed_documents([text], **options)[0]

    async def aembed_query(self, text: str, **options: Unpack[EmbedOptions]) -> list[float]:
        """Return the vector of one text; see `embed_documents`."""
        options.setdefault("show_progress", False)
        return (await self.aembed_documents([text], **options))[0]

    def embed_iter(self, texts: Iterable[str], **options: Unpack[EmbedOptions]) -> EmbeddingStream:
        """Return the vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        The source is read once, not far ahead of what was taken, where the iteration takes place; while it pauses, so
        does that. For the options see `embed_documents`.
        """
        return cast("EmbeddingStream", self._begun("embed_iter", texts, **options))

    def aembed_iter(self, texts: Source[str], **options: Unpack[EmbedOptions]) -> EmbeddingStream:
        """Return the same as `embed_iter` for `async for`; the source may be async too."""
        return cast("EmbeddingStream", self._begun("aembed_iter", texts, **options))

    def prefetch(self, documents: Iterable[D], batch_size: int = 64, **options: Unpack[EmbedOptions]) -> Prefetch[D]:
        """Embed ahead of a loop that fills a vector store, which gets the documents in batches:

            for batch in embeddings.prefetch(documents):
                store.add_documents(batch)

        While the store writes a batch, requests for the next ones are in flight; what the store asks of this object
        about the texts of the batch is answered without a request. All that is given is embedded, so leave out what the
        store has. For the options see `embed_documents`; with `resume_from`, what had been handed on is passed over.
        """
        batches = self._begun("prefetch", documents, *_OF_DOCUMENTS, batch_size=batch_size, **options)
        return cast("Prefetch[D]", batches)

    def aprefetch(self, documents: Source[D], batch_size: int = 64, **options: Unpack[EmbedOptions]) -> Prefetch[D]:
        """Do the same as `prefetch` for `async for` and `aadd_documents`; the source may be async too."""
        batches = self._begun("aprefetch", documents, *_OF_DOCUMENTS, batch_size=batch_size, **options)
        return cast("Prefetch[D]", batches)

    def _begun(self, way: str, *given: Any, **options: Any) -> Any:
        """Begin a call of the engine, counted for the handlers around it."""
        with translated(), counted_embedding():
            if self.trace_metadata:
                options["lava_metadata"] = traced(options.get("lava_metadata"))
            engine = self._backend()
            engine.translated = translated
            return getattr(engine, way)(*given, **{"show_progress": self.show_progress_bar, **options})


# The text of a document, and what becomes of it and its vector.
_OF_DOCUMENTS: Any = (lambda each: each if isinstance(each, str) else each.page_content, lambda each, vector: each)
