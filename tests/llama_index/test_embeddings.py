"""The embeddings: every method, batches, events, cache, pipelines with workers, and no vector on the wrong text."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from lava_mistral import Billing, InsufficientBalanceError, InvalidRequestError, RateLimitError, billed_to
from lava_mistral.gateway import LocalGateway, Status
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from tests.fakes.llama_index_scripted import KEY, Caller
from tests.llama_index.test_events import Events, Spans

TEXTS = [f"Text number {n} about {topic}." for n in range(40) for topic in ("rivers", "mountains", "cities")]


def model(gateway: LocalGateway, **settings: Any) -> LavaMistralEmbeddings:
    return LavaMistralEmbeddings(**{"api_key": gateway.secret_key, "base_url": gateway.base_url} | settings)


def alone(embeddings: LavaMistralEmbeddings, texts: list[str]) -> list[list[float]]:
    return [embeddings.get_text_embedding(text) for text in texts]


def close(some: Any, others: Any) -> bool:
    return bool(np.allclose(some, others, atol=1e-3))


def test_every_method_gives_the_vector_of_its_text(gateway: LocalGateway, caller: Caller) -> None:
    embeddings = model(gateway)
    query = caller.one(embeddings, "get_query_embedding", "rivers")
    text = caller.one(embeddings, "get_text_embedding", "rivers")
    (batch,) = caller.one(embeddings, "get_text_embedding_batch", ["rivers"])
    assert query == text == batch
    assert len(query) == 1024
    assert all(type(number) is float for number in query)
    aggregated = caller.one(embeddings, "get_agg_embedding_from_queries", ["rivers", "rivers"])
    assert close(aggregated, query)


def test_a_batch_is_in_order(gateway: LocalGateway, caller: Caller) -> None:
    embeddings = model(gateway)
    expected = alone(embeddings, TEXTS[::40])
    vectors = caller.one(embeddings, "get_text_embedding_batch", TEXTS)
    assert len(vectors) == len(TEXTS)
    assert close(vectors[::40], expected)


def test_no_texts_no_request(gateway: LocalGateway, caller: Caller) -> None:
    assert caller.one(model(gateway), "get_text_embedding_batch", []) == []
    assert gateway.requests == []


def test_requests_keep_mistrals_limits_and_the_limit_on_workers(gateway: LocalGateway, caller: Caller) -> None:
    texts = [f"{n} " + "word " * 190 for n in range(600)]
    vectors = caller.one(model(gateway, num_workers=3), "get_text_embedding_batch", texts)
    assert len(vectors) == 600
    assert all(request.status == 200 for request in gateway.requests)
    assert max(len(request.body["input"]) for request in gateway.requests) <= 512
    assert 1 < gateway.max_in_flight <= 3


def test_one_limit_for_all_threads(gateway: LocalGateway) -> None:
    embeddings = model(gateway, num_workers=2)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(embeddings.get_text_embedding_batch, [f"{n} {i}" for i in range(20)]) for n in range(16)]
        assert all(len(job.result()) == 20 for job in jobs)
    assert gateway.max_in_flight <= 2


def test_async_calls_do_not_block_the_loop() -> None:
    with LocalGateway(latency=0.3) as gateway:
        embeddings = model(gateway)

        async def run() -> int:
            ticks = 0
            calls = asyncio.gather(
                embeddings.aget_text_embedding("a"),
                embeddings.aget_query_embedding("b"),
                embeddings.aget_text_embedding_batch(["c", "d"]),
            )
            while not calls.done():
                await asyncio.sleep(0.01)
                ticks += 1
            await calls
            return ticks

        assert asyncio.run(run()) > 10
        assert gateway.max_in_flight == 3


def test_wrong_settings_are_refused() -> None:
    for settings in ({"num_workers": 0}, {"dimensions": 0}, {"embed_batch_size": 4096}, {"bogus": 1}):
        with pytest.raises(ValidationError):
            LavaMistralEmbeddings(**settings)


def test_settings_under_the_names_they_have_elsewhere() -> None:
    embeddings = LavaMistralEmbeddings(model="mistral-embed-2312", max_concurrency=5)
    assert (embeddings.model_name, embeddings.num_workers, embeddings.max_concurrency) == ("mistral-embed-2312", 5, 5)
    assert LavaMistralEmbeddings().max_concurrency == 16


def test_a_bad_text_is_named_before_anything_is_sent(gateway: LocalGateway, caller: Caller) -> None:
    with pytest.raises(InvalidRequestError, match="1"):
        caller.one(model(gateway), "get_text_embedding_batch", ["a", "", "c"])
    assert gateway.requests == []


def test_each_request_is_tried_again_ten_times_by_default() -> None:
    assert LavaMistralEmbeddings(api_key=KEY).max_retries == 10


def test_an_error_carries_what_was_done(gateway: LocalGateway, caller: Caller) -> None:
    gateway.queue(*[Status(429)] * 20)
    with pytest.raises(RateLimitError) as caught:
        caller.one(model(gateway, max_retries=0), "get_text_embedding_batch", ["a", "b"])
    assert len(caught.value.partial) == 0


def test_who_pays(gateway: LocalGateway, caller: Caller) -> None:
    embeddings = model(gateway, lava_metadata={"app": "x"})
    billing = Billing(customer_id="c_1", meter_slug="m")
    for method in ("get_query_embedding", "get_text_embedding"):
        caller.one(embeddings, method, "a", billing=billing, lava_metadata={"call": method})
    caller.one(embeddings, "get_text_embedding_batch", ["a"], billing=billing, lava_metadata={"call": "batch"})
    with billed_to("c_2", "m"):
        caller.one(embeddings, "get_query_embedding", "a")
    caller.one(embeddings, "get_query_embedding", "a")
    assert [request.customer_id for request in gateway.requests] == ["c_1", "c_1", "c_1", "c_2", None]
    assert gateway.requests[2].metadata == {"app": "x", "call": "batch"}
    assert gateway.requests[4].metadata == {"app": "x"}


def test_events_and_spans(gateway: LocalGateway, caller: Caller) -> None:
    root = get_dispatcher()
    events, spans = Events(), Spans()
    debug = LlamaDebugHandler(print_trace_on_end=False)
    embeddings = model(gateway, callback_manager=CallbackManager([debug]), embed_batch_size=2)
    root.add_event_handler(events)
    root.add_span_handler(spans)
    try:
        vectors = caller.one(embeddings, "get_text_embedding_batch", ["a", "b", "c"])
        caller.one(embeddings, "get_query_embedding", "q")
        caller.one(embeddings, "get_text_embedding", "t")
    finally:
        root.event_handlers.remove(events)
        root.span_handlers.remove(spans)
    kinds = [event for event in events.seen if event.class_name().startswith("Embedding")]
    ended = [event for event in kinds if event.class_name() == "EmbeddingEndEvent"]
    assert [event.chunks for event in ended] == [["a", "b", "c"], ["q"], ["t"]]
    assert ended[0].embeddings == vectors
    assert len(kinds) == 6
    assert all(event.span_id and event.id_ for event in ended)
    assert [len(pair) for pair in debug.get_event_pairs(CBEventType.EMBEDDING)] == [2] * 3
    prefix = "a" if caller.asynchronous else ""
    names = [told.partition("-")[0].partition(".")[2] for told in spans.told]
    # LlamaIndex gives its inner methods spans of their own.
    assert [name for name in names if not name.startswith("_")] == [
        f"{prefix}get_text_embedding_batch",
        f"{prefix}get_query_embedding",
        f"{prefix}get_text_embedding",
    ]
    assert KEY not in repr([event.model_dump() for event in events.seen])
    assert len(gateway.requests) == 3


def test_a_failed_batch_ends_its_events(gateway: LocalGateway, caller: Caller) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    gateway.queue(Status(401))
    with pytest.raises(Exception, match="401"):
        caller.one(model(gateway, callback_manager=CallbackManager([debug])), "get_text_embedding_batch", ["a", "b"])
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 1


def test_the_rate_limiter_is_asked_once_a_window(gateway: LocalGateway, caller: Caller) -> None:
    class Counting(TokenBucketRateLimiter):
        asked: int = 0

        def acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

        async def async_acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

    limiter = Counting(requests_per_minute=60)
    embeddings = model(gateway, rate_limiter=limiter, embed_batch_size=2)
    caller.one(embeddings, "get_text_embedding_batch", ["a", "b", "c"])
    caller.one(embeddings, "get_query_embedding", "a")
    assert limiter.asked == 3


def test_the_rate_limiter_is_not_charged_for_cached_vectors(gateway: LocalGateway, caller: Caller) -> None:
    class Counting(TokenBucketRateLimiter):
        asked: int = 0

        def acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

        async def async_acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

    limiter = Counting(requests_per_minute=60)
    embeddings = model(gateway, rate_limiter=limiter, embed_batch_size=2, embeddings_cache=SimpleKVStore())
    caller.one(embeddings, "get_text_embedding_batch", ["a", "b", "c", "d"])
    assert limiter.asked == 2
    caller.one(embeddings, "get_text_embedding_batch", ["a", "b", "c", "d"])
    caller.one(embeddings, "get_query_embedding", "a")
    assert limiter.asked == 2
    caller.one(embeddings, "get_text_embedding_batch", ["a", "b", "c", "new"])
    assert limiter.asked == 3


@pytest.mark.parametrize("setting", [True, False])
def test_progress_is_shown_where_asked_for(
    gateway: LocalGateway, caller: Caller, setting: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings = model(gateway, show_progress_bar=setting)
    caller.one(embeddings, "get_text_embedding_batch", ["a", "b"], show_progress=not setting)
    assert "2/2" in capsys.readouterr().err
    caller.one(model(gateway), "get_text_embedding_batch", ["a"])
    assert capsys.readouterr().err == ""


def test_the_cache_is_asked_first(gateway: LocalGateway, caller: Caller) -> None:
    store = SimpleKVStore()
    embeddings = model(gateway, embeddings_cache=store)
    first = caller.one(embeddings, "get_text_embedding_batch", ["a", "b", "a"])
    again = caller.one(embeddings, "get_text_embedding_batch", ["b", "c", "a"])
    assert again == [first[1], again[1], first[0]]
    assert caller.one(embeddings, "get_query_embedding", "a") == first[0]
    assert [request.body["input"] for request in gateway.requests] == [["a", "b"], ["c"]]
    json.loads(embeddings.to_json())


def test_a_dictionary_and_back_without_secrets() -> None:
    embeddings = LavaMistralEmbeddings(
        api_key=KEY, billing=Billing(provider_key="pk-hushhush"), dimensions=256, embed_batch_size=7
    )
    written = [
        embeddings.to_json(),
        repr(embeddings),
        str(embeddings.to_payload()),
        str(embeddings.model_json_schema()),
    ]
    assert not any("hushhush" in text for text in written)
    again = LavaMistralEmbeddings.from_dict(embeddings.to_dict())
    assert (again.dimensions, again.embed_batch_size, again.api_key) == (256, 7, None)
    assert json.loads(embeddings.to_json())["class_name"] == "LavaMistralEmbeddings"
    assert embeddings.to_payload()["dimensions"] == 256
    assert repr(embeddings).startswith("llama_index_lava_mistral.LavaMistralEmbeddings(")


def test_the_key_of_a_pipelines_cache_is_of_what_changes_vectors() -> None:
    nodes = [TextNode(text="a")]

    def key(**settings: Any) -> str:
        return str(get_transformation_hash(nodes, LavaMistralEmbeddings(**settings)))

    here = key(api_key=KEY, num_workers=4, timeout=9.0, max_retries=1, base_url="http://127.0.0.1:1/v1")
    assert here == key(api_key="aks_test_other", billing=Billing(), lava_metadata={"a": "b"}, show_progress_bar=True)
    assert here != key(dimensions=256)
    assert here != key(model_name="codestral-embed")


def test_pickled_and_copied_models_work(gateway: LocalGateway, caller: Caller) -> None:
    embeddings = model(gateway, billing=Billing(customer_id="c", meter_slug="m"))
    expected = caller.one(embeddings, "get_text_embedding", "a")
    for again in (pickle.loads(pickle.dumps(embeddings)), copy.deepcopy(embeddings)):
        assert caller.one(again, "get_text_embedding", "a") == expected
    assert {request.customer_id for request in gateway.requests} == {"c"}


def test_a_changed_setting_holds_from_the_next_call_on(gateway: LocalGateway, caller: Caller) -> None:
    embeddings = model(gateway, api_key="aks_test_wrong")
    with pytest.raises(Exception, match="401"):
        caller.one(embeddings, "get_text_embedding", "a")
    embeddings.api_key = gateway.secret_key  # type: ignore[assignment]  # as a notebook would
    assert len(caller.one(embeddings, "get_text_embedding", "a")) == 1024


def embed_in_a_process(embeddings: LavaMistralEmbeddings, text: str) -> tuple[list[float], list[float]]:
    """What a worker gets in sync code and in an event loop of its own."""
    return embeddings.get_text_embedding(text), asyncio.run(embeddings.aget_text_embedding(text))


def test_in_spawned_workers(gateway: LocalGateway) -> None:
    embeddings = model(gateway)
    expected = embeddings.get_text_embedding("a")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(embed_in_a_process, embeddings, "a").result(60) == (expected, expected)


DOCUMENTS = [
    Document(text=f"The river {name} flows through the country of {name}. It is long.", metadata={"name": name})
    for name in ("Loire", "Rhone", "Seine", "Garonne")
]


def test_an_ingestion_pipeline_and_its_cache(gateway: LocalGateway, caller: Caller) -> None:
    cache = IngestionCache()

    def pipeline() -> IngestionPipeline:
        return IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0), model(gateway)], cache=cache
        )

    run = pipeline()
    nodes = asyncio.run(run.arun(documents=DOCUMENTS)) if caller.asynchronous else run.run(documents=DOCUMENTS)
    requests = len(gateway.requests)
    assert requests == 1
    assert all(len(node.embedding) == 1024 for node in nodes)
    again = pipeline()
    same = asyncio.run(again.arun(documents=DOCUMENTS)) if caller.asynchronous else again.run(documents=DOCUMENTS)
    assert [node.embedding for node in same] == [node.embedding for node in nodes]
    assert len(gateway.requests) == requests


def test_an_ingestion_pipeline_with_workers(gateway: LocalGateway, caller: Caller) -> None:
    pipeline = IngestionPipeline(transformations=[model(gateway)])
    if caller.asynchronous:
        nodes = asyncio.run(pipeline.arun(documents=DOCUMENTS, num_workers=2))
    else:
        nodes = pipeline.run(documents=DOCUMENTS, num_workers=2)
    expected = {d.text: v for d, v in zip(DOCUMENTS, embed_nodes(gateway), strict=True)}
    assert len(nodes) == len(DOCUMENTS)
    assert all(close(node.embedding, expected[node.text]) for node in nodes)


def embed_nodes(gateway: LocalGateway) -> list[Any]:
    return [node.embedding for node in model(gateway)(copy.deepcopy(DOCUMENTS))]


@pytest.mark.usefixtures("idle_loop")
def test_an_index_answers_from_the_right_document(gateway: LocalGateway) -> None:
    llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    index = VectorStoreIndex.from_documents(
        DOCUMENTS, embed_model=model(gateway), storage_context=StorageContext.from_defaults()
    )
    (best, *_) = index.as_retriever(similarity_top_k=2).retrieve("Through which country flows the Seine?")
    assert best.node.metadata["name"] == "Seine"
    engine = index.as_query_engine(llm=llm, streaming=True, similarity_top_k=1)
    response = engine.query("Through which country flows the Seine?")
    assert "Seine" in "".join(response.response_gen)
    assert response.source_nodes[0].node.metadata["name"] == "Seine"


def test_an_index_in_async_code(gateway: LocalGateway) -> None:
    async def run() -> str:
        llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        index = VectorStoreIndex.from_documents(DOCUMENTS[:1], embed_model=model(gateway))
        return str(await index.as_query_engine(llm=llm).aquery("Through which country flows the Loire?"))

    assert "Loire" in asyncio.run(run())


def refusing(text: str) -> LocalGateway:
    """A gateway that has no more credit for requests with this text."""
    return LocalGateway(faults=[(lambda request: text in request.body["input"], Status(402))])


MANY = [f"{n} " + "word " * 190 for n in range(300)]


def test_a_failed_batch_is_gone_on_with(gateway: LocalGateway, caller: Caller) -> None:
    with refusing(MANY[-1]) as other, pytest.raises(InsufficientBalanceError) as caught:
        caller.one(model(other, num_workers=1), "get_text_embedding_batch", MANY)
    partial = caught.value.partial
    assert 0 < len(partial) < len(MANY)
    seen: list[Any] = []
    vectors = caller.one(model(gateway), "get_text_embedding_batch", MANY, resume_from=partial, on_progress=seen.append)
    sent = [text for request in gateway.requests for text in request.body["input"]]
    assert sorted(sent) == sorted(text for n, text in enumerate(MANY) if n not in partial.vectors)
    assert seen[-1].done == 300
    assert close(vectors[::75], alone(model(gateway), MANY[::75]))


@pytest.mark.parametrize("cached", [False, True])
def test_an_error_names_the_node_beside_the_index(gateway: LocalGateway, caller: Caller, cached: bool) -> None:
    store = SimpleKVStore() if cached else None
    nodes = [TextNode(text="good", id_="n_1"), TextNode(text="", id_="n_2"), TextNode(text="", id_="n_3")]
    run = caller.one if caller.asynchronous else (lambda subject, method, *args: subject(*args))
    nodes[1].relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="d_1")
    with pytest.raises(InvalidRequestError, match=r"input 1 is empty.*\(node 'n_2' of document 'd_1'\)"):
        run(model(gateway, embeddings_cache=store), "call", nodes)
    assert not gateway.requests


@pytest.mark.parametrize(("on_empty", "sent"), [("skip", ["a", "b"]), ("placeholder", ["a", ".", "b"])])
@pytest.mark.parametrize("cached", [False, True])
def test_an_empty_text_can_be_skipped_or_replaced(
    gateway: LocalGateway, caller: Caller, on_empty: str, sent: list[str], cached: bool
) -> None:
    store = SimpleKVStore() if cached else None
    embeddings = model(gateway, on_empty=on_empty, embeddings_cache=store)
    vectors = caller.one(embeddings, "get_text_embedding_batch", ["a", "", "b"])
    assert [len(vector) for vector in vectors] == [1024] * 3
    assert any(vectors[1]) == (on_empty == "placeholder")
    assert sorted(text for request in gateway.requests for text in request.body["input"]) == sorted(sent)


def test_an_argument_that_is_not_there_is_refused(gateway: LocalGateway, caller: Caller) -> None:
    with pytest.raises(TypeError, match="resume_form"):
        caller.one(model(gateway), "get_text_embedding_batch", ["a"], resume_form=None)
    assert gateway.requests == []
    # A pipeline hands every step the arguments of all.
    nodes = [TextNode(text="a")]
    IngestionPipeline(transformations=[model(gateway)]).run(nodes=nodes, for_another_step=1)
    assert nodes[0].embedding is not None


class TestCache:
    """What the cache holds is one thing, where a text stands another."""

    def test_what_was_paid_stands_at_its_text_and_is_kept(self, caller: Caller) -> None:
        store = SimpleKVStore()
        with refusing(MANY[-1]) as gateway:
            embeddings = model(gateway, embeddings_cache=store, num_workers=1)
            caller.one(embeddings, "get_text_embedding_batch", MANY[:10])
            with pytest.raises(InsufficientBalanceError, match=r"inputs \d+ to 299") as caught:
                caller.one(embeddings, "get_text_embedding_batch", MANY)
            partial = caught.value.partial
            assert len(partial) > 100
            for place in (0, 9, 10, 100):
                assert close(partial.vectors[place], alone(model(gateway), [MANY[place]])[0])
            assert set(store.get_all(collection="embeddings")) == {MANY[n] for n in partial.vectors}
            sent = len(gateway.requests)
            with pytest.raises(InsufficientBalanceError):
                caller.one(embeddings, "get_text_embedding_batch", MANY)
            again = [text for request in gateway.requests[sent:] for text in request.body["input"]]
            assert not set(again) & {MANY[n] for n in partial.vectors}

    def test_it_is_written_as_batches_come_in(self, gateway: LocalGateway, caller: Caller) -> None:
        """Whoever is killed in the middle (`kill -9`) has paid only for what was in flight."""
        asked_before_put: list[int] = []

        class Store(SimpleKVStore):
            def put(self, key: str, val: Any, collection: str = "data") -> None:
                asked_before_put.append(len(gateway.requests))
                super().put(key, val, collection)

            async def aput(self, key: str, val: Any, collection: str = "data") -> None:
                self.put(key, val, collection)

        embeddings = model(gateway, embeddings_cache=Store(), num_workers=1)
        caller.one(embeddings, "get_text_embedding_batch", MANY)
        assert len(asked_before_put) == len(MANY)
        # The first vectors are stored before the last request has left.
        assert asked_before_put[0] < len(gateway.requests) == asked_before_put[-1]

    def test_all_texts_are_checked_and_named_by_their_own_index(self, gateway: LocalGateway, caller: Caller) -> None:
        embeddings = model(gateway, embeddings_cache=SimpleKVStore())
        caller.one(embeddings, "get_text_embedding_batch", ["a", "b"])
        with pytest.raises(InvalidRequestError, match="input 3 is empty"):
            caller.one(embeddings, "get_text_embedding_batch", ["a", "b", "new", ""])
        assert len(gateway.requests) == 1

    def test_it_goes_with_what_an_earlier_call_had_got(self, gateway: LocalGateway, caller: Caller) -> None:
        with refusing("last") as other, pytest.raises(InsufficientBalanceError) as caught:
            caller.one(model(other, num_workers=1), "get_text_embedding_batch", [*MANY, "last"])
        store = SimpleKVStore()
        embeddings = model(gateway, embeddings_cache=store)
        caller.one(embeddings, "get_text_embedding_batch", ["last"])
        sent = len(gateway.requests)
        partial = caught.value.partial
        vectors = caller.one(embeddings, "get_text_embedding_batch", [*MANY, "last"], resume_from=partial)
        assert len(vectors) == 301
        asked = [text for request in gateway.requests[sent:] for text in request.body["input"]]
        assert set(asked) == set(MANY) - {MANY[n] for n in partial.vectors if n < 300}
        assert len(store.get_all(collection="embeddings")) == 301
        assert caller.one(embeddings, "get_text_embedding_batch", MANY) == vectors[:300]

    def test_a_vector_of_the_cache_is_not_the_callers_to_change(self, gateway: LocalGateway, caller: Caller) -> None:
        embeddings = model(gateway, embeddings_cache=SimpleKVStore())
        (first,) = caller.one(embeddings, "get_text_embedding_batch", ["a"])
        right = list(first)
        (second,) = caller.one(embeddings, "get_text_embedding_batch", ["a"])
        second[0] = 7.0
        assert caller.one(embeddings, "get_text_embedding_batch", ["a"]) == [right]


def test_a_source_of_any_length(gateway: LocalGateway) -> None:
    embeddings = model(gateway, lava_metadata={"app": "x"})
    texts = [f"text number {n}" for n in range(700)]
    seen: list[Any] = []
    billing = Billing(customer_id="c_1", meter_slug="m")
    with embeddings.embed_iter(iter(texts), billing=billing, on_progress=seen.append) as stream:
        first = next(stream)
    assert first[0] == 0
    assert close(first[1], alone(embeddings, texts[:1])[0])
    assert gateway.requests[0].customer_id == "c_1"
    assert gateway.requests[0].metadata == {"app": "x"}
    assert seen
    rest = list(embeddings.embed_iter(texts, resume_from=stream.partial(), as_numpy=True))
    assert [n for n, _ in rest] == list(range(1, 700))
    assert rest[0][1].dtype == np.float32

    async def run() -> None:
        async with embeddings.aembed_iter(texts) as stream:
            assert (await anext(stream))[0] == 0
        pairs = [pair async for pair in embeddings.aembed_iter(texts, resume_from=stream.partial())]
        assert [n for n, _ in pairs] == list(range(1, 700))

    asyncio.run(run())
    with pytest.raises(InvalidRequestError, match="input 1 is empty"):
        list(embeddings.embed_iter(["good", ""]))
