"""Loops that fill vector stores while the engine embeds ahead: in both frameworks, sync and async."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from lava_mistral import ConfigurationError, InvalidRequestError, partial_of
from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.faults import Slow, Status
from tests.fakes.vector_service import VectorService, engine_threads, vector_of
from tests.fakes.waiting import eventually

TEXTS = [f"Text number {number} about {topic}." for number in range(100) for topic in ("rivers", "mountains", "seas")]
LONG = [f"{number} " + "word " * 1_000 for number in range(100)]


class LangChain:
    """Documents and a vector store of LangChain."""

    def __init__(self, gateway: LocalGateway, **settings: Any) -> None:
        from langchain_lava_mistral import LavaMistralEmbeddings

        self.model = LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)
        self.store = InMemoryVectorStore(self.model)

    def item(self, text: str) -> Any:
        return Document(text)

    def text(self, item: Any) -> str:
        return str(item.page_content)

    def add(self, batch: list[Any]) -> None:
        # A store may ask in an order and in numbers of its own.
        self.store.add_documents(batch[::-2])
        self.store.add_documents([document for document in batch if document not in batch[::-2]])

    async def aadd(self, batch: list[Any]) -> None:
        await self.store.aadd_documents(batch[::-1])

    def vectors(self) -> dict[str, list[float]]:
        return {entry["text"]: entry["vector"] for entry in self.store.store.values()}

    def alone(self, text: str) -> list[float]:
        return list(self.model.embed_query(text))


class LlamaIndex:
    """Nodes and an index of LlamaIndex."""

    def __init__(self, gateway: LocalGateway, **settings: Any) -> None:
        from llama_index_lava_mistral import LavaMistralEmbeddings

        self.model = LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)
        self.index = VectorStoreIndex([], embed_model=self.model)

    def item(self, text: str) -> Any:
        return TextNode(text=text)

    def text(self, item: Any) -> str:
        return str(item.text)

    def add(self, batch: list[Any]) -> None:
        self.index.insert_nodes(batch)

    async def aadd(self, batch: list[Any]) -> None:
        self.index.insert_nodes(batch)

    def vectors(self) -> dict[str, list[float]]:
        found = self.index.vector_store.data.embedding_dict  # type: ignore[attr-defined]
        return {self.text(self.index.docstore.get_node(key)): vector for key, vector in found.items()}

    def alone(self, text: str) -> list[float]:
        return list(self.model.get_query_embedding(text))


Make = Callable[..., Any]


@pytest.fixture(params=[LangChain, LlamaIndex])
def framework(request: pytest.FixtureRequest) -> Make:
    chosen: Make = request.param
    return chosen


@pytest.fixture(params=["sync", "async", "async source"])
def fill(request: pytest.FixtureRequest) -> Callable[..., int]:
    """Fill the store of a framework; how many batches that took."""

    async def source(items: Iterable[Any]) -> AsyncIterator[Any]:
        for item in items:
            yield item

    async def filled(into: Any, items: Iterable[Any], **options: Any) -> int:
        batches = 0
        given = source(items) if request.param == "async source" else items
        async for batch in into.model.aprefetch(given, **options):
            await into.aadd(batch)
            batches += 1
        return batches

    def fill(into: Any, texts: Iterable[str], **options: Any) -> int:
        items = map(into.item, texts)
        if request.param != "sync":
            return asyncio.run(filled(into, items, **options))
        batches = 0
        for batch in into.model.prefetch(items, **options):
            into.add(batch)
            batches += 1
        return batches

    return fill


def sent(gateway: LocalGateway) -> list[str]:
    return [text for request in gateway.requests for text in request.body["input"]]


def test_each_text_has_its_vector_and_is_sent_once(gateway: LocalGateway, framework: Make, fill: Make) -> None:
    into = framework(gateway)
    assert fill(into, TEXTS, batch_size=64) == 5
    assert sorted(sent(gateway)) == sorted(TEXTS)
    vectors = into.vectors()
    assert vectors.keys() == set(TEXTS)
    for text in TEXTS[::50]:
        assert vectors[text] == pytest.approx(into.alone(text), abs=1e-3)


def test_many_requests_are_in_flight(framework: Make, fill: Make) -> None:
    with LocalGateway(latency=0.1) as gateway:
        fill(framework(gateway, max_concurrency=4), LONG, batch_size=2)
        assert gateway.max_in_flight == 4


def test_requests_go_on_while_the_store_writes(gateway: LocalGateway, framework: Make) -> None:
    into = framework(gateway, max_concurrency=2)
    for _ in into.model.prefetch(map(into.item, LONG), batch_size=1):
        # The first batch came with the first request; others follow without the loop's help.
        eventually(lambda: len(gateway.requests) >= 3)
        break


def test_what_was_not_foreseen_is_embedded_as_usual(gateway: LocalGateway) -> None:
    into = LangChain(gateway)
    for batch in into.model.prefetch(map(into.item, TEXTS[:10])):
        before = len(gateway.requests)
        vectors = into.model.embed_documents(["another", *map(into.text, batch)])
        assert [request.body["input"] for request in gateway.requests[before:]] == [["another"]]
        assert vectors[1] == pytest.approx(into.alone(TEXTS[0]), abs=1e-3)
    before = len(gateway.requests)
    into.model.embed_documents(TEXTS[:1])
    assert len(gateway.requests) == before + 1


def test_an_endless_source_is_read_only_as_far_as_needed(gateway: LocalGateway, framework: Make) -> None:
    read = 0

    def items() -> Iterator[Any]:
        nonlocal read
        for number in count():
            read += 1
            yield into.item(f"{number} " + "word " * 1_000)

    into = framework(gateway, max_concurrency=2)
    batches = into.model.prefetch(items(), batch_size=8)
    assert [len(next(batches)) for _ in range(3)] == [8, 8, 8]
    assert read < 24 + 100
    batches.close()
    eventually(lambda: not engine_threads())
    number = len(gateway.requests)
    assert len(sent(gateway)) <= read
    assert len(gateway.requests) == number


def test_an_error_comes_after_all_that_came_before(gateway: LocalGateway, framework: Make, fill: Make) -> None:
    into = framework(gateway)
    with pytest.raises(InvalidRequestError, match="input 70 is empty"):
        fill(into, [*TEXTS[:70], "", *TEXTS[70:]], batch_size=64)
    assert into.vectors().keys() == set(TEXTS[:70])


def test_a_loop_that_failed_goes_on(gateway: LocalGateway, framework: Make, fill: Make) -> None:
    into = framework(gateway, max_concurrency=1, max_retries=0)
    gateway.queue(Slow(0.001), Slow(0.001), Status(402))
    with pytest.raises(Exception, match="402") as caught:
        fill(into, LONG, batch_size=4)
    before = into.vectors().keys()
    assert 0 < len(before) < len(LONG)
    fill(into, LONG, batch_size=4, resume_from=partial_of(caught.value))
    assert into.vectors().keys() == set(LONG)
    good = [text for request in gateway.requests if request.status == 200 for text in request.body["input"]]
    assert sorted(good) == sorted(LONG)


def test_empty_texts_and_half_surrogates(gateway: LocalGateway, fill: Make) -> None:
    into = LangChain(gateway, on_empty="placeholder")
    texts = ["", "half \ud800 of a pair", "whole"]
    fill(into, texts, batch_size=3)
    assert into.vectors().keys() == set(texts)
    assert sent(gateway).count("half \ufffd of a pair") == 1


def test_a_batch_of_none_is_refused(gateway: LocalGateway, framework: Make, fill: Make) -> None:
    with pytest.raises(ConfigurationError, match="batch_size must be at least 1, not 0"):
        fill(framework(gateway), TEXTS, batch_size=0)
    assert gateway.requests == []


def test_a_store_that_fails_ends_the_requests() -> None:
    service = VectorService()
    engine = service.engine(max_concurrency=2, count_tokens=lambda text: 1_600)

    def fill() -> None:
        for batch in engine.prefetch(TEXTS, str, lambda text, vector: (text, vector), batch_size=10):
            assert [vector for _, vector in batch] == [vector_of(text) for text, _ in batch]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    eventually(lambda: not engine_threads())
    assert len(service.sent) < len(TEXTS)


def test_what_fails_to_be_made_of_an_item_ends_the_requests() -> None:
    service = VectorService(latency=0.01)

    def embedded(item: str, vector: object) -> str:
        if item == "14":
            raise KeyError(item)
        return item

    engine = service.engine(max_concurrency=2, count_tokens=lambda text: 4_000)
    batches = engine.prefetch(map(str, count()), str, embedded, batch_size=10)
    assert [next(batches), next(batches)] == [[str(at) for at in range(10)], ["10", "11", "12", "13"]]
    with pytest.raises(KeyError):
        next(batches)
    eventually(lambda: not engine_threads())


def test_memory_is_flat() -> None:
    """All vectors would be 670 MB as lists."""
    program = Path(__file__).with_name("flat_memory.py")
    command = [sys.executable, str(program), "20000", "prefetch"]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert float(grown.stdout.split()[0]) < 120


def test_an_index_of_large_batches_pays_once_for_what_is_unchanged(gateway: LocalGateway) -> None:
    into = LangChain(gateway)
    manager = InMemoryRecordManager("texts")
    manager.create_schema()
    for added in (len(TEXTS), 0):
        before = len(gateway.requests)
        done = index(map(into.item, TEXTS), manager, into.store, batch_size=2_000, key_encoder="sha256")
        assert done["num_added"] == added
        assert (len(gateway.requests) > before) == (added > 0)
    assert sorted(sent(gateway)) == sorted(TEXTS)
