"""`LavaMistralEmbeddings`: vectors in order, one limit, what is sent, what fails."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.exceptions import ModelInvalidRequestError, ModelPermissionDeniedError
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_lava_mistral import InvalidRequestError, LavaMistralEmbeddings
from lava_mistral import Billing, ConfigurationError, billed_to
from lava_mistral.embedding.results import partial_of
from lava_mistral.gateway import LocalGateway, Slow, Status, WrongVectors
from tests.langchain.scenario import KEY, Caller, Script, embeddings


def test_vectors_are_lists_of_floats_in_the_order_of_the_texts(gateway: LocalGateway, caller: Caller) -> None:
    model = embeddings(gateway)
    texts = ["the sky", "a cat", "the sky"]

    vectors = caller.embed(model, texts)

    assert [len(v) for v in vectors] == [1024] * 3
    assert all(type(x) is float for v in vectors for x in v)
    assert vectors[0] == vectors[2] != vectors[1]
    assert vectors[1] == pytest.approx(model.embed_query("a cat"), abs=1e-3)
    assert gateway.requests[0].body["input"] == ["the sky", "a cat"]


def test_no_texts_are_no_request(gateway: LocalGateway, caller: Caller) -> None:
    assert caller.embed(embeddings(gateway), []) == []
    assert gateway.requests == []


def test_many_texts_go_in_requests_within_mistrals_limits(gateway: LocalGateway, caller: Caller) -> None:
    texts = [f"text number {i}" for i in range(1_300)]
    vectors = caller.embed(embeddings(gateway, max_concurrency=4), texts)
    assert len(vectors) == 1_300
    assert all(r.status == 200 for r in gateway.requests)
    assert max(len(r.body["input"]) for r in gateway.requests) <= 512
    assert gateway.max_in_flight <= 4


def test_one_limit_holds_for_all_threads() -> None:
    with LocalGateway(latency=0.05) as gateway:
        model = embeddings(gateway, max_concurrency=3)
        with ThreadPoolExecutor(10) as pool:
            jobs = [pool.submit(model.embed_documents, [f"text {i} {j}" for j in range(3)]) for i in range(12)]
            assert all(len(job.result()) == 3 for job in jobs)
        assert gateway.max_in_flight <= 3


def test_a_copy_calls_and_a_changed_one_does_not_use_the_old_settings(gateway: LocalGateway) -> None:
    model = embeddings(gateway)
    model.embed_query("a")
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model.model_copy()):
        assert copied.embed_query("a")
    other = model.model_copy(update={"billing": Billing(meter_slug="m"), "lava_metadata": {"team": "red"}})
    other.embed_query("a")
    assert gateway.requests[-1].meter_slug == "m"
    assert gateway.requests[-1].metadata == {"team": "red"}
    model.embed_query("a")
    assert gateway.requests[-1].meter_slug is None
    assert model._backend() is model._backend()


def test_who_pays_for_a_call(gateway: LocalGateway, caller: Caller) -> None:
    model = embeddings(gateway, lava_metadata={"team": "red"})
    caller.embed(model, ["a"], billing=Billing("c_1", "m"), lava_metadata={"user": "ann"})
    with billed_to("c_2", "m"):
        caller.embed(model, ["a"])
    model.embed_query("a", billing=Billing("c_3", "m"), lava_metadata={"user": "bob"})
    asyncio.run(model.aembed_query("a", billing=Billing("c_4", "m"), lava_metadata={"user": "eve"}))
    assert [r.customer_id for r in gateway.requests] == ["c_1", "c_2", "c_3", "c_4"]
    assert [r.metadata.get("user") for r in gateway.requests] == ["ann", None, "bob", "eve"]
    assert all(r.metadata["team"] == "red" for r in gateway.requests)
    assert all(r.body.keys() <= {"model", "input", "encoding_format"} for r in gateway.requests)


def test_a_bad_text_is_named_before_anything_is_sent(gateway: LocalGateway, caller: Caller) -> None:
    with pytest.raises(ModelInvalidRequestError, match="1") as caught:
        caller.embed(embeddings(gateway), ["good", "word " * 13_000, "good"])
    assert isinstance(caught.value, InvalidRequestError)
    assert gateway.requests == []


def test_a_missing_key_is_not_put_down_to_a_text(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    for name in ("LAVA_SECRET_KEY", "LAVA_FORWARD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError) as caught:
        caller.embed(LavaMistralEmbeddings(), ["Hi"])
    assert "No Lava credential" in str(caught.value)
    assert "input 0" not in str(caught.value)


def test_a_failure_keeps_what_was_done_and_goes_on_from_there(gateway: LocalGateway, caller: Caller) -> None:
    model = embeddings(gateway, max_concurrency=1)
    texts = [f"text number {i} " + "word " * 100 for i in range(400)]
    gateway.queue(Slow(0.0), Status(403))

    with pytest.raises(ModelPermissionDeniedError) as caught:
        caller.embed(model, texts)

    partial: Any = caught.value.partial  # type: ignore[attr-defined]
    paid = [text for request in gateway.requests if request.status == 200 for text in request.body["input"]]
    assert 0 < len(partial) == len(paid) < len(texts)
    gateway.reset()
    assert len(caller.embed(model, texts, resume_from=partial)) == len(texts)
    assert not set(paid) & {text for request in gateway.requests for text in request.body["input"]}


def test_wrong_vectors_never_reach_a_text(gateway: LocalGateway, caller: Caller) -> None:
    texts = ["one", "two", "three"]
    right = caller.embed(embeddings(gateway), texts)
    for how in ("shuffled", "short", "duplicated", "nan"):
        gateway.queue(WrongVectors(how))  # type: ignore[arg-type]
        assert caller.embed(embeddings(gateway), texts) == right


def test_a_source_of_any_length(gateway: LocalGateway) -> None:
    model = embeddings(gateway)
    stream = model.embed_iter(f"text number {i}" for i in range(700))
    got = list(stream)
    assert [i for i, _ in got] == list(range(700))
    assert got[3][1] == pytest.approx(model.embed_query("text number 3"), abs=1e-3)
    assert stream.usage.requests >= 2
    stream.close()

    async def texts() -> AsyncIterator[str]:
        for i in range(30):
            yield f"text number {i}"

    async def run() -> None:
        stream = model.aembed_iter(texts())
        assert [i async for i, _ in stream] == list(range(30))
        assert stream.usage.tokens > 0
        await stream.aclose()
        partly = model.aembed_iter([f"text number {i}" for i in range(30)])
        assert (await anext(partly))[0] == 0
        await partly.aclose()

    asyncio.run(run())


def test_a_source_with_a_bad_text_says_so_as_langchain_does(gateway: LocalGateway) -> None:
    stream = embeddings(gateway).embed_iter(["good", ""])
    assert next(stream)[0] == 0
    with pytest.raises(ModelInvalidRequestError):
        next(stream)

    async def run() -> None:
        with pytest.raises(ModelInvalidRequestError):
            async for _ in embeddings(gateway).aembed_iter(["good", ""]):
                pass

    asyncio.run(run())


def test_shorter_vectors(caller: Caller) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
    vector = {"object": "embedding", "index": 0, "embedding": [0.5] * 256}
    script = Script({"id": "e", "object": "list", "model": "codestral-embed", "data": [vector], "usage": usage})
    assert caller.embed(script.embeddings(model="codestral-embed", dimensions=256), ["a"]) == [[0.5] * 256]
    assert script.body["output_dimension"] == 256


def test_a_progress_bar(gateway: LocalGateway, capsys: pytest.CaptureFixture[str], caller: Caller) -> None:
    caller.embed(embeddings(gateway, show_progress_bar=True), ["a", "b"])
    assert "2/2" in capsys.readouterr().err


def test_a_vector_store(gateway: LocalGateway, caller: Caller) -> None:
    store = InMemoryVectorStore(embeddings(gateway))
    documents = [Document("The cat sleeps on the sofa."), Document("Oslo is the capital of Norway.")]
    manager = InMemoryRecordManager("test")
    manager.create_schema()
    assert index(documents, manager, store, cleanup="full", key_encoder="sha256")["num_added"] == 2
    assert index(documents, manager, store, cleanup="full", key_encoder="sha256")["num_skipped"] == 2
    question = "What is the capital of Norway?"
    if caller.is_async:
        (best,) = asyncio.run(store.asimilarity_search(question, k=1))
    else:
        (best,) = store.similarity_search(question, k=1)
    assert best.page_content == documents[1].page_content


def test_each_request_is_tried_again_ten_times_by_default() -> None:
    assert LavaMistralEmbeddings(api_key=KEY).max_retries == 10


def test_a_wrong_setting_is_refused_without_showing_the_key() -> None:
    wrong: Any
    for wrong in ({"max_concurrency": 0}, {"dimensions": 0}, {"timeout": 0}, {"max_retries": -1}, {"chunk": 3}):
        with pytest.raises(ValueError, match="1 validation error") as caught:
            LavaMistralEmbeddings(api_key=KEY, **wrong)
        assert KEY not in str(caught.value)


def test_the_class_says_which_it_is_and_keeps_its_secrets() -> None:
    model = LavaMistralEmbeddings(api_key=KEY, billing=Billing(provider_key="SECRET"))  # type: ignore[arg-type]
    assert repr(model).startswith("langchain_lava_mistral.LavaMistralEmbeddings(")
    assert KEY not in repr(model) + str(model.model_dump())
    assert "SECRET" not in repr(model) + str(model.model_dump())


def test_a_stream_is_left_and_gone_on_with(gateway: LocalGateway) -> None:
    model = embeddings(gateway)
    texts = [f"text number {i}" for i in range(700)]
    right = dict(enumerate(model.embed_documents(texts)))
    gateway.reset()
    seen: list[Any] = []

    with model.embed_iter(iter(texts), as_numpy=True, on_progress=seen.append) as stream:
        index, vector = next(stream)
    assert (index, vector.dtype.name) == (0, "float32")
    assert seen
    # What was in flight ends in the background, and counts.
    while len(partial := stream.partial()) < 699:
        time.sleep(0.01)
    assert partial.next_index == 1
    rest = model.embed_iter(texts, resume_from=partial)
    assert dict(rest) == {i: right[i] for i in range(1, 700)}
    sent = [text for request in gateway.requests for text in request.body["input"]]
    assert len(sent) == len(set(sent)) == 700

    async def run() -> None:
        async with model.aembed_iter(texts, as_numpy=True, on_progress=seen.append) as stream:
            _, vector = await anext(stream)
            assert vector.shape == (1024,)
        partial = stream.partial()
        assert partial.next_index == 1
        assert [i async for i, _ in model.aembed_iter(texts, resume_from=partial)] == list(range(1, 700))

    asyncio.run(run())


def test_progress_is_told(gateway: LocalGateway, caller: Caller) -> None:
    seen: list[Any] = []
    caller.embed(embeddings(gateway), ["a", "b", "a"], on_progress=seen.append)
    assert [(progress.done, progress.total) for progress in seen] == [(3, 3)]


def test_a_call_that_takes_too_long_keeps_what_was_paid() -> None:
    with LocalGateway(faults=[(lambda request: "late" in request.body["input"], Slow(30.0))]) as gateway:
        model = embeddings(gateway)
        texts = [*(f"text number {i}" for i in range(512)), "late"]
        with pytest.raises(asyncio.TimeoutError) as caught:
            asyncio.run(asyncio.wait_for(model.aembed_documents(texts), 3))
        partial = partial_of(caught.value)
        assert partial is not None
        assert sorted(partial.vectors) == list(range(512))


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_empty_text_is_refused_skipped_or_replaced_as_asked(gateway: LocalGateway, way: str) -> None:
    def embed(**settings: Any) -> Any:
        model = LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)
        texts = ["one", "", "two"]
        return model.embed_documents(texts) if way == "sync" else asyncio.run(model.aembed_documents(texts))

    with pytest.raises(InvalidRequestError, match="1"):
        embed()
    assert not gateway.requests
    skipped = embed(on_empty="skip")
    assert set(skipped[1]) == {0.0}
    assert gateway.requests[-1].body["input"] == ["one", "two"]
    placed = embed(on_empty="placeholder")
    assert gateway.requests[-1].body["input"] == ["one", ".", "two"]
    assert placed[0] == skipped[0]
    with pytest.raises(ValueError, match="on_empty"):
        embed(on_empty="sometimes")
