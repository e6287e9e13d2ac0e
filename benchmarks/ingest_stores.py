"""How people fill vector stores with the frameworks: contenders of `ingest.py`.

A store of no cost shows what a way of writing leaves of the engine's speed; the frameworks' stores in memory and
Qdrant's local mode show it beside the work of a store. What they return are the vectors that the store was given.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

KEY = "aks_test_benchmark"
LOOP = 64
"""Documents that are written at once in a loop, as batches of stores commonly are."""
INDEX_BATCH = 2_000
"""The `batch_size` of `index()` by the documentation."""

Embed = Callable[[list[str]], Any]


def _langchain(url: str) -> tuple[Any, Callable[[list[str]], list[Any]]]:
    from langchain_core.documents import Document

    from langchain_lava_mistral import LavaMistralEmbeddings

    return LavaMistralEmbeddings(api_key=KEY, base_url=url), lambda texts: [Document(text) for text in texts]


def _langchain_store(kind: str, model: Any) -> tuple[Any, list[list[float]]]:
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

    seen: list[list[float]] = []

    class Seeing(Embeddings):
        """Notes the vectors that a store gets."""

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            vectors = model.embed_documents(texts)
            seen.extend(vectors)
            return vectors

        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            vectors = await model.aembed_documents(texts)
            seen.extend(vectors)
            return vectors

        def embed_query(self, text: str) -> list[float]:
            return model.embed_query(text)

    class Nothing(VectorStore):
        """Keeps nothing."""

        def add_texts(self, texts: Any, metadatas: Any = None, **options: Any) -> list[str]:
            texts = list(texts)
            Seeing().embed_documents(texts)
            return options.get("ids") or [""] * len(texts)

        def delete(self, ids: Any = None, **options: Any) -> bool:
            return True

        @classmethod
        def from_texts(cls, *given: Any, **options: Any) -> Any:
            raise NotImplementedError

        def similarity_search(self, *given: Any, **options: Any) -> Any:
            raise NotImplementedError

    if kind == "nothing":
        return Nothing(), seen
    if kind == "memory":
        return InMemoryVectorStore(Seeing()), seen
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(":memory:")
    client.create_collection("texts", VectorParams(size=1024, distance=Distance.COSINE))
    return QdrantVectorStore(client, "texts", Seeing(), validate_collection_config=False), seen


def _key(document: Any) -> str:
    # Qdrant's ids are UUIDs.
    return str(uuid.uuid5(uuid.NAMESPACE_OID, document.page_content))


def _index(kind: str, **options: Any) -> Callable[[str], Embed]:
    def contender(url: str) -> Embed:
        from langchain_core.indexing import InMemoryRecordManager, index

        model, documents = _langchain(url)

        def embed(texts: list[str]) -> Any:
            manager = InMemoryRecordManager("texts")
            manager.create_schema()
            store, seen = _langchain_store(kind, model)
            index(documents(texts), manager, store, key_encoder=_key, **options)
            return seen

        return embed

    return contender


def _langchain_loop(kind: str, *, ahead: bool, run_async: bool = False) -> Callable[[str], Embed]:
    def contender(url: str) -> Embed:
        model, documents = _langchain(url)

        def embed(texts: list[str]) -> Any:
            store, seen = _langchain_store(kind, model)
            made = documents(texts)

            async def fill() -> None:
                async for batch in model.aprefetch(made, LOOP):
                    await store.aadd_documents(batch)

            if run_async:
                asyncio.run(fill())
            elif ahead:
                for batch in model.prefetch(made, LOOP):
                    store.add_documents(batch)
            else:
                for start in range(0, len(made), LOOP):
                    store.add_documents(made[start : start + LOOP])
            return seen

        return embed

    return contender


def _cache_backed(url: str) -> Embed:
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_core.stores import InMemoryByteStore

    model, _ = _langchain(url)

    def embed(texts: list[str]) -> Any:
        return CacheBackedEmbeddings.from_bytes_store(
            model, InMemoryByteStore(), namespace=model.model, key_encoder="sha256"
        ).embed_documents(texts)

    return embed


def _llama_index(url: str) -> tuple[Any, Callable[[list[str]], list[Any]]]:
    from llama_index.core.schema import TextNode

    from llama_index_lava_mistral import LavaMistralEmbeddings

    return LavaMistralEmbeddings(api_key=KEY, base_url=url), lambda texts: [TextNode(text=text) for text in texts]


def _llama_index_store(kind: str) -> tuple[Any, list[list[float]]]:
    from llama_index.core.vector_stores import SimpleVectorStore
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

    seen: list[list[float]] = []
    base: Any = {"nothing": BasePydanticVectorStore, "memory": SimpleVectorStore}.get(kind)
    options: dict[str, Any] = {}
    if base is None:
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from qdrant_client import QdrantClient

        base = QdrantVectorStore
        options = {"client": QdrantClient(":memory:"), "collection_name": "texts"}

    class Store(base):  # type: ignore[misc]
        """Notes the vectors that it gets."""

        stores_text: bool = True

        @property
        def client(self) -> Any:
            return None if kind == "nothing" else super().client

        def add(self, nodes: Any, **options: Any) -> list[str]:
            seen.extend(node.get_embedding() for node in nodes)
            return [node.node_id for node in nodes] if kind == "nothing" else super().add(nodes, **options)

        def delete(self, ref_doc_id: str, **options: Any) -> None:
            raise NotImplementedError

        def query(self, query: Any, **options: Any) -> Any:
            raise NotImplementedError

    return Store(**options), seen


def _pipeline(kind: str, **options: Any) -> Callable[[str], Embed]:
    def contender(url: str) -> Embed:
        from llama_index.core.ingestion import IngestionPipeline

        model, nodes = _llama_index(url)

        def embed(texts: list[str]) -> Any:
            store, seen = _llama_index_store(kind)
            IngestionPipeline(transformations=[model], vector_store=store, **options).run(nodes=nodes(texts))
            return seen

        return embed

    return contender


def _vector_index(kind: str, way: str) -> Callable[[str], Embed]:
    def contender(url: str) -> Embed:
        from llama_index.core import StorageContext, VectorStoreIndex

        model, nodes = _llama_index(url)

        def embed(texts: list[str]) -> Any:
            store, seen = _llama_index_store(kind)
            made = nodes(texts)
            context = StorageContext.from_defaults(vector_store=store)
            if way == "whole":
                VectorStoreIndex(made, storage_context=context, embed_model=model)
                return seen
            index = VectorStoreIndex([], storage_context=context, embed_model=model)
            if way == "ahead":
                for batch in model.prefetch(made, LOOP):
                    index.insert_nodes(batch)
            else:
                for start in range(0, len(made), LOOP):
                    index.insert_nodes(made[start : start + LOOP])
            return seen

        return embed

    return contender


CONTENDERS: dict[str, Callable[[str], Embed]] = {
    "ours, LangChain index()": _index("nothing"),
    f"ours, LangChain index(batch_size={INDEX_BATCH})": _index("nothing", batch_size=INDEX_BATCH),
    f"ours, LangChain index(batch_size={INDEX_BATCH}), in memory": _index("memory", batch_size=INDEX_BATCH),
    f"ours, LangChain index(batch_size={INDEX_BATCH}), Qdrant": _index("qdrant", batch_size=INDEX_BATCH),
    "ours, LangChain add_documents by 64": _langchain_loop("nothing", ahead=False),
    "ours, LangChain prefetch": _langchain_loop("nothing", ahead=True),
    "ours, LangChain prefetch async": _langchain_loop("nothing", ahead=True, run_async=True),
    "ours, LangChain prefetch, in memory": _langchain_loop("memory", ahead=True),
    "ours, LangChain prefetch, Qdrant": _langchain_loop("qdrant", ahead=True),
    "ours, CacheBackedEmbeddings": _cache_backed,
    "ours, IngestionPipeline": _pipeline("nothing"),
    "ours, IngestionPipeline without its cache": _pipeline("nothing", disable_cache=True),
    "ours, IngestionPipeline, in memory": _pipeline("memory"),
    "ours, VectorStoreIndex": _vector_index("nothing", "whole"),
    "ours, insert_nodes by 64": _vector_index("nothing", "loop"),
    "ours, LlamaIndex prefetch": _vector_index("nothing", "ahead"),
    "ours, LlamaIndex prefetch, in memory": _vector_index("memory", "ahead"),
    "ours, LlamaIndex prefetch, Qdrant": _vector_index("qdrant", "ahead"),
}
_NEEDED = {"Qdrant": "qdrant_client", "CacheBackedEmbeddings": "langchain_classic"}
for _part, _package in _NEEDED.items():
    if find_spec(_package) is None:
        CONTENDERS = {name: contender for name, contender in CONTENDERS.items() if _part not in name}
