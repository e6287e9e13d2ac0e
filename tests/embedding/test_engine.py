"""The ingestion engine over real HTTP and in memory: order, limits, fallbacks, resuming, streams, processes."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas
import pyarrow
import pytest

from lava_mistral import (
    AsyncLavaMistral,
    AuthenticationError,
    Billing,
    ConfigurationError,
    InvalidRequestError,
    LavaError,
    LavaMistral,
    ServerError,
    billed_to,
)
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.limiter import ThreadSignal
from lava_mistral.embedding.results import EmbeddingProgress, EmbeddingUsage, PartialEmbedding
from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.faults import Reset, Status, WrongVectors
from lava_mistral.mistral.limits import MAX_REQUEST_INPUTS, MAX_REQUEST_TOKENS
from lava_mistral.transport.flow import drive
from lava_mistral.transport.retry import RetryPolicy
from tests.fakes.processes import embed_in_both_ways
from tests.fakes.vector_service import (
    HASTY,
    MODES,
    Mode,
    VectorService,
    engine_threads,
    error,
    passages,
    run,
    vector_of,
)
from tests.fakes.waiting import PATIENCE, aeventually, eventually


def engine_for(gateway: LocalGateway, **settings: Any) -> EmbeddingEngine:
    access: dict[str, Any] = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    return EmbeddingEngine(LavaMistral(**access), AsyncLavaMistral(**access), **settings)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


class TestRight:
    """Every vector is the one of its text."""

    def test_each_text_gets_its_own_vector_in_order(self, gateway: LocalGateway, mode: Mode) -> None:
        texts = passages(1_200)
        engine = engine_for(gateway)
        vectors = run(mode, engine, texts)
        assert len(vectors) == len(texts)
        for place in (0, 1, 511, 512, 777, 1_199):
            [alone] = engine.embed([texts[place]]).vectors
            assert vectors[place] == alone
        assert all(type(number) is float for number in vectors[0])
        batches = [request for request in gateway.requests if len(request.body["input"]) > 1]
        assert len(batches) >= 3
        for request in batches:
            assert request.status == 200
            assert len(request.body["input"]) <= MAX_REQUEST_INPUTS
            assert request.usage is not None
            assert request.usage["prompt_tokens"] <= MAX_REQUEST_TOKENS
            assert request.body["encoding_format"] == "base64"

    def test_arrays_on_request(self, mode: Mode) -> None:
        texts = [*passages(50), "again", "again"]
        vectors = run(mode, VectorService().engine(count_tokens=lambda text: 900), texts, as_numpy=True)
        assert np.array_equal(np.array(vectors), np.array([vector_of(text) for text in texts], np.float32))
        assert vectors[0].dtype == np.float32

    def test_one_array_for_a_whole_call(self) -> None:
        result = VectorService().engine().embed(passages(3), as_numpy=True)
        assert result.vectors.shape == (3, 1024)

    def test_nothing_in_nothing_out(self, mode: Mode) -> None:
        service = VectorService()
        assert run(mode, service.engine(), []) == []
        assert service.bodies == []
        assert service.engine().embed([], as_numpy=True).vectors.shape[0] == 0

    def test_a_repeated_text_is_sent_once_and_each_has_a_list_of_its_own(self, mode: Mode) -> None:
        service = VectorService()
        texts = ["b", "a", "b", "b", "a", "c"]
        vectors = run(mode, service.engine(), texts)
        assert vectors == [vector_of(text) for text in texts]
        assert sorted(service.sent) == ["a", "b", "c"]
        vectors[0][0] = 7.0
        assert vectors[2][0] != 7.0
        assert service.engine().embed(texts).duplicates == 3

    def test_the_usage_is_what_the_gateway_charged(self, gateway: LocalGateway) -> None:
        result = engine_for(gateway).embed(passages(900))
        assert result.tokens == sum(request.usage["prompt_tokens"] for request in gateway.requests if request.usage)
        assert result.cost == sum((request.cost for request in gateway.requests), Decimal(0)) > 0
        assert result.requests == len(gateway.requests)
        assert set(result.request_ids) == {request.request_id for request in gateway.requests}

    def test_the_cost_of_an_unknown_model_is_unknown(self) -> None:
        service = VectorService()
        assert service.engine(model="next-embed").embed(["a"]).cost is None

    def test_the_cost_of_an_answer_without_usage_is_unknown(self) -> None:
        answer = {"data": [{"index": 0, "embedding": vector_of("a")}]}
        result = VectorService([httpx.Response(200, json=answer)]).engine().embed(["a"])
        assert (result.vectors, result.tokens, result.cost) == ([vector_of("a")], 0, None)

    def test_any_iterable_of_texts_will_do(self) -> None:
        texts: Any = (str(number) for number in range(3))
        assert VectorService().engine().embed(texts).vectors == [vector_of(str(number)) for number in range(3)]

    def test_base64_that_nobody_asked_for_is_refused_where_the_dimension_is_unknown(self) -> None:
        answer = {"data": [{"index": 0, "embedding": "AAAA"}]}
        service = VectorService([httpx.Response(200, json=answer)] * 5)
        with pytest.raises(ServerError, match="base64 of 3 bytes came, for vectors of unknown dimensions"):
            service.engine(model="next-embed").embed(["a"])

    def test_vectors_of_another_length(self, gateway: LocalGateway, mode: Mode) -> None:
        [vector] = run(mode, engine_for(gateway, dimensions=256), ["short"])
        assert len(vector) == 256
        assert gateway.requests[0].body["output_dimension"] == 256

    @pytest.mark.parametrize("size", [0, 2, 4])
    def test_an_unknown_dimension_is_learned_from_numbers_before_base64_is_asked_for(self, size: Any) -> None:
        service = VectorService(base64=size)
        engine = service.engine(model="next-embed")
        assert engine.embed(["a"]).vectors == [vector_of("a")]
        assert engine.embed(["b"]).vectors == [vector_of("b")]
        assert [body["encoding_format"] for body in service.bodies] == ["float", "base64"]


class TestRefusedBefore:
    """What is sure to fail is not sent."""

    @pytest.mark.parametrize("bad", ["", None, 7, b"bytes", "word " * 13_000])
    def test_a_bad_input_is_named_before_anything_is_sent(self, mode: Mode, bad: Any) -> None:
        service = VectorService()
        with pytest.raises(InvalidRequestError, match="input 2 ") as caught:
            run(mode, service.engine(), ["fine", "fine too", bad, "fine again"])
        assert caught.value.origin == "client"
        assert bad not in service.sent
        if mode in ("sync", "async"):
            assert service.bodies == []

    def test_half_a_surrogate_pair_is_mended(self, mode: Mode) -> None:
        service = VectorService()
        assert run(mode, service.engine(), ["half \udc00"]) == [vector_of("half \ufffd")]

    def test_an_empty_text_gets_zeros_or_the_vector_of_a_placeholder_on_request(self, mode: Mode) -> None:
        texts = ["a", "", "b", ""]
        service = VectorService()
        zeros = [0.0] * 1024
        assert run(mode, service.engine(on_empty="skip"), texts) == [vector_of("a"), zeros, vector_of("b"), zeros]
        assert service.sent == ["a", "b"]
        dot = vector_of(".")
        assert run(mode, service.engine(on_empty="placeholder"), texts) == [vector_of("a"), dot, vector_of("b"), dot]
        skipped = run(mode, service.engine(on_empty="skip"), ["", "a"], as_numpy=True)
        assert np.array_equal(np.array(skipped), np.array([zeros, vector_of("a")], np.float32))

    def test_how_empty_texts_are_met_must_be_known(self) -> None:
        with pytest.raises(ConfigurationError, match="on_empty must be"):
            EmbeddingEngine(on_empty="ignore")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="length is not known for 'next-embed'"):
            EmbeddingEngine(model="next-embed", on_empty="skip")

    def test_string_scalars_of_a_column_are_texts(self, mode: Mode) -> None:
        column: Any = pyarrow.chunked_array([["a", "b"], ["c"]])
        assert run(mode, VectorService().engine(), column) == [vector_of(text) for text in "abc"]
        assert run(mode, VectorService().engine(), np.array(["a", "b"])) == [vector_of("a"), vector_of("b")]  # type: ignore[arg-type]

    def test_a_stream_hands_on_all_before_a_bad_input(self) -> None:
        service = VectorService()
        stream = service.engine().embed_iter(["a", "b", "", "c"])
        assert [next(stream), next(stream)] == [(0, vector_of("a")), (1, vector_of("b"))]
        with pytest.raises(InvalidRequestError, match="input 2 is empty") as caught:
            next(stream)
        assert caught.value.partial.next_index == 2

    def test_one_text_is_not_many(self, mode: Mode) -> None:
        with pytest.raises(ConfigurationError, match=r"write \[text\]"):
            run(mode, VectorService().engine(), "one text")
        frame: Any = pandas.DataFrame({"text": ["one"]})
        with pytest.raises(ConfigurationError, match=r"got a DataFrame: write frame\['column'\]"):
            run(mode, VectorService().engine(), frame)

    @pytest.mark.parametrize(
        "setting", [{"max_concurrency": 0}, {"dimensions": 0}, {"max_retries": -1}, {"max_concurrency": -3}]
    )
    def test_settings_that_can_not_be(self, setting: dict[str, int]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(setting))):
            EmbeddingEngine(**setting)

    def test_a_client_that_was_not_given(self) -> None:
        with pytest.raises(ConfigurationError, match="without client="):
            EmbeddingEngine().embed(["a"])
        with pytest.raises(ConfigurationError, match="without async_client="):
            asyncio.run(EmbeddingEngine().aembed(["a"]))


class TestMended:
    """What goes wrong on the way, over real HTTP."""

    def test_faults_of_every_kind_on_the_way(self, gateway: LocalGateway, mode: Mode) -> None:
        texts = passages(1_000)
        engine = engine_for(gateway, max_concurrency=4, retry=replace(HASTY, max_retries=9))
        right = engine.embed(texts).vectors
        gateway.queue(
            Status(429, retry_after=0.05),
            503,
            Reset(),
            WrongVectors("short"),
            WrongVectors("shuffled"),
            WrongVectors("duplicated"),
            WrongVectors("nan"),
            WrongVectors("dimension"),
            WrongVectors("empty"),
        )
        assert run(mode, engine, texts) == right
        assert gateway.queued == 0

    def test_retries_and_paid_but_wrong_answers_are_counted(self) -> None:
        service = VectorService([error(500), "short"])
        result = service.engine().embed(["four"])
        assert (result.requests, result.retries, result.tokens) == (3, 2, 8)
        assert len(result.request_ids) == 2

    def test_too_many_tokens_after_all_is_split_and_learned(self, mode: Mode) -> None:
        def limit(inputs: list[str]) -> Any:
            if sum(map(len, inputs)) > MAX_REQUEST_TOKENS:
                return error(400, "Too many tokens overall, split into more batches.", "3210")
            return None

        service = VectorService(fault=limit)
        texts = ["x" * 100 + str(place) for place in range(1_500)]
        # Half of the truth is counted.
        engine = service.engine(count_tokens=lambda text: len(text) // 2, max_concurrency=2)
        assert run(mode, engine, texts) == [vector_of(text) for text in texts]
        refused = sum(sum(map(len, body["input"])) > MAX_REQUEST_TOKENS for body in service.bodies)
        assert 1 <= refused <= 16
        later = len(service.bodies)
        assert run(mode, engine, texts) == [vector_of(text) for text in texts]
        assert all(sum(map(len, body["input"])) <= MAX_REQUEST_TOKENS for body in service.bodies[later:])

    @pytest.mark.parametrize(
        "refusal",
        [
            error(400, "Too many tokens overall, split into more batches."),
            error(422, "Too many inputs in one request"),
            error(413, "Request entity too large"),
        ],
        ids=lambda refusal: refusal.status_code,
    )
    def test_a_request_that_is_too_large_is_split_however_that_is_said(
        self, mode: Mode, refusal: httpx.Response
    ) -> None:
        service = VectorService(fault=lambda inputs: refusal if len(inputs) > 3 else None)
        texts = passages(20)
        engine = service.engine(count_tokens=lambda text: 1_600, max_concurrency=2)
        assert run(mode, engine, texts) == [vector_of(text) for text in texts]

    def test_one_text_that_is_too_large_and_a_limit_by_the_minute_are_not_split(self) -> None:
        service = VectorService(fault=lambda inputs: error(413, "Request entity too large"))
        with pytest.raises(InvalidRequestError, match="too large"):
            service.engine().embed(["a"])
        assert len(service.bodies) == 1
        service = VectorService([error(429, "Too many tokens per minute")])
        assert len(service.engine().embed(["a", "b"]).vectors) == 2
        assert [len(body["input"]) for body in service.bodies] == [2, 2]

    def test_an_input_that_only_mistral_knows_is_too_long_is_named(self, mode: Mode) -> None:
        def limit(inputs: list[str]) -> Any:
            if "long" not in inputs:
                return None
            return error(400, f"Input id {inputs.index('long')} has 9000 tokens, exceeding max 8192 tokens.", "3210")

        texts = [*passages(30), "long", *passages(30, seed=1)]
        with pytest.raises(InvalidRequestError, match="input 30 has 9,000 tokens") as caught:
            run(mode, VectorService(fault=limit).engine(count_tokens=lambda text: 2_000), texts)
        assert caught.value.status_code == 400

    def test_floats_where_base64_is_ignored(self, mode: Mode) -> None:
        with LocalGateway(base64=False) as gateway:
            engine = engine_for(gateway)
            vectors = run(mode, engine, ["one", "two"])
        assert [len(vector) for vector in vectors] == [1024, 1024]

    def test_floats_where_base64_is_refused_and_never_asked_again(self, mode: Mode) -> None:
        refusal = error(422, "body.encoding_format: Input should be 'float'")
        service = VectorService([refusal])
        engine = service.engine(retry=RetryPolicy(max_retries=0))
        assert run(mode, engine, ["a"]) == [vector_of("a")]
        assert run(mode, engine, ["b"]) == [vector_of("b")]
        assert [body["encoding_format"] for body in service.bodies] == ["base64", "float", "float"]

    def test_floats_where_base64_can_not_be_read(self, mode: Mode) -> None:
        service = VectorService(["unreadable"])
        engine = service.engine(retry=RetryPolicy(max_retries=0))
        assert run(mode, engine, ["a"]) == [vector_of("a")]
        assert [body["encoding_format"] for body in service.bodies] == ["base64", "float"]

    def test_a_refusal_for_another_reason_is_not_taken_for_a_matter_of_encoding(self) -> None:
        service = VectorService([error(400, "Invalid model: x", "1500")])
        with pytest.raises(InvalidRequestError, match="Invalid model"):
            service.engine().embed(["a"])
        assert len(service.bodies) == 1

    def test_a_wrong_dimension_that_lasts_is_an_error_that_names_the_inputs(self) -> None:
        service = VectorService(base64=0, fault=lambda inputs: "dimension")
        with pytest.raises(ServerError, match=r"input 0 can't be used: .* 1024 dimensions, one of 1023"):
            service.engine().embed(["a", "b"])

    def test_a_bug_in_the_client_reaches_the_caller_as_it_is(self, mode: Mode) -> None:
        service = VectorService([TypeError("a bug")] * 3)  # type: ignore[list-item]
        with pytest.raises(TypeError, match="a bug"):
            run(mode, service.engine(count_tokens=lambda text: 8_000), passages(9))


class TestInterrupted:
    """What was paid for is kept."""

    @pytest.mark.parametrize("mode", ["sync", "async"])
    @pytest.mark.parametrize("as_numpy", [False, True])
    def test_a_call_is_resumed_without_paying_twice(self, mode: Mode, as_numpy: bool) -> None:
        texts = [*passages(100), *passages(3)]
        service = VectorService(fault=lambda inputs: error(402, "empty") if texts[70] in inputs else None)
        engine = service.engine(max_concurrency=2, count_tokens=lambda text: 1_600)
        with pytest.raises(LavaError) as caught:
            run(mode, engine, texts, as_numpy=as_numpy)
        partial: PartialEmbedding = pickle.loads(pickle.dumps(caught.value)).partial
        assert 60 <= len(partial) < len(texts)
        assert partial.vectors == {index: vector_of(texts[index]) for index in partial.vectors}
        assert partial.usage.tokens == sum(map(len, service.sent)) - sum(
            len(text) for body in service.bodies if texts[70] in body["input"] for text in body["input"]
        )
        assert "vectors" in repr(partial)
        assert len(repr(partial)) < 300
        rest = VectorService()
        vectors = run(mode, rest.engine(), texts, resume_from=partial, as_numpy=as_numpy)
        assert np.array_equal(np.array(vectors), np.array([vector_of(text) for text in texts], np.float32))
        assert set(rest.sent) == {text for index, text in enumerate(texts) if index not in partial.vectors}

    @pytest.mark.parametrize("mode", ["iter", "async iter"])
    def test_a_stream_is_resumed_where_it_broke(self, mode: Mode) -> None:
        texts = passages(100)
        taken: dict[int, Any] = {}
        service = VectorService(
            # The failing batch is slow, so that some after it are done before.
            latency=lambda: 0.0,
            fault=lambda inputs: error(402, "empty") if texts[40] in inputs else None,
        )
        engine = service.engine(max_concurrency=3, count_tokens=lambda text: 1_600)

        async def collect() -> None:
            async for index, vector in engine.aembed_iter(texts):
                taken[index] = vector

        with pytest.raises(LavaError) as caught:
            if mode == "iter":
                for index, vector in engine.embed_iter(texts):
                    taken[index] = vector
            else:
                asyncio.run(collect())
        partial: PartialEmbedding = caught.value.partial
        assert sorted(taken) == list(range(partial.next_index))
        assert partial.next_index <= 40
        rest = VectorService()

        async def go_on() -> list[tuple[int, Any]]:
            return [pair async for pair in rest.engine().aembed_iter(iter(texts), resume_from=partial)]

        pairs = (
            list(rest.engine().embed_iter(iter(texts), resume_from=partial)) if mode == "iter" else asyncio.run(go_on())
        )
        assert [index for index, _ in pairs] == list(range(partial.next_index, 100))
        taken.update(pairs)
        assert taken == {index: vector_of(text) for index, text in enumerate(texts)}
        assert not set(rest.sent) & {texts[index] for index in (*range(partial.next_index), *partial.vectors)}

    @pytest.mark.parametrize("mode", MODES)
    def test_other_texts_are_not_taken_for_those_that_were_done(self, mode: Mode) -> None:
        texts = passages(30)

        def fault(inputs: list[str]) -> Any:
            if texts[0] not in inputs:
                return None
            # Another request is in flight, and may end.
            eventually(lambda: len(service.bodies) >= 2)
            return error(402)

        service = VectorService(fault=fault)
        with pytest.raises(LavaError) as caught:
            service.engine(max_concurrency=2, count_tokens=lambda text: 1_600).embed(texts)
        assert len(caught.value.partial) > 0
        with pytest.raises(InvalidRequestError, match="is not the text that was embedded before"):
            run(mode, VectorService().engine(), passages(30, seed=5), resume_from=caught.value.partial)

    def test_requests_in_flight_may_end_and_count(self) -> None:
        texts = passages(8)
        gone = threading.Event()

        def fault(inputs: list[str]) -> Any:
            if texts[0] in inputs:
                gone.wait(5)
                return error(401)
            if texts[7] in inputs:
                gone.set()
            return None

        engine = VectorService(latency=0.05, fault=fault).engine(max_concurrency=8, count_tokens=lambda text: 9_000)
        with pytest.raises(AuthenticationError) as caught:
            engine.embed(texts)
        assert sorted(caught.value.partial.vectors) == [1, 2, 3, 4, 5, 6, 7]


class TestLimit:
    """Never more in flight than asked, whoever calls."""

    def test_ten_threads_and_two_event_loops_share_one_limit(self) -> None:
        with LocalGateway(latency=0.02) as gateway:
            engine = engine_for(gateway, max_concurrency=5, count_tokens=lambda text: 1_600)
            results: list[list[list[float]]] = []

            def call(place: int) -> None:
                results.append(engine.embed(passages(60, seed=place)).vectors)

            async def acall(place: int) -> None:
                halves = passages(60, seed=place)
                results.extend(
                    [result.vectors for result in await asyncio.gather(engine.aembed(halves), engine.aembed(halves))]
                )

            threads = [threading.Thread(target=call, args=(place,)) for place in range(10)]
            threads += [threading.Thread(target=lambda p=place: asyncio.run(acall(p))) for place in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert len(results) == 14
            assert gateway.max_in_flight == 5
            assert engine.limiter.rate.in_flight == 0

    @pytest.mark.parametrize("mode", MODES)
    def test_all_lanes_are_used(self, mode: Mode) -> None:
        with LocalGateway(latency=0.1) as gateway:
            engine = engine_for(gateway, max_concurrency=6, count_tokens=lambda text: 1_600)
            run(mode, engine, passages(300))
            assert gateway.max_in_flight == 6

    def test_one_request_needs_no_thread(self) -> None:
        threads: set[str] = set()

        def look(inputs: list[str]) -> None:
            threads.add(threading.current_thread().name)

        VectorService(fault=look).engine().embed(["a", "b"])
        assert threads == {threading.current_thread().name}

    def test_a_rate_limit_is_used_and_hardly_ever_hit(self) -> None:
        with LocalGateway(requests_per_second=40, latency=0.01) as gateway:
            engine = engine_for(gateway, count_tokens=lambda text: 1_600)
            began = time.monotonic()
            result = engine.embed(passages(2_000))
            seconds = time.monotonic() - began
        # Forty at once, the rest as they are allowed.
        assert result.requests - result.retries >= 90
        assert result.retries <= 10
        assert seconds >= 1.2

    def test_bounded_time_when_everything_fails(self, mode: Mode) -> None:
        began = time.monotonic()
        service = VectorService(fault=lambda inputs: error(503))
        with pytest.raises(ServerError):
            run(mode, service.engine(count_tokens=lambda text: 1_600), passages(500))
        assert time.monotonic() - began < PATIENCE


class TestStreams:
    """Constant memory, back-pressure, and nothing left behind."""

    def test_an_endless_source_is_read_only_as_far_as_needed(self) -> None:
        read = 0

        def endless() -> Iterator[str]:
            nonlocal read
            while True:
                read += 1
                yield f"text {read}"

        service = VectorService()
        with service.engine(max_concurrency=2, count_tokens=lambda text: 1_600).embed_iter(endless()) as stream:
            for _ in range(25):
                next(stream)
            time.sleep(0.1)
            # Ten texts a batch; four batches may be between the first that has not left and the last that has come.
            assert read <= 25 + 50
            assert stream.usage.requests >= 2
        sent = len(service.bodies)
        time.sleep(0.05)
        assert len(service.bodies) == sent
        assert engine_threads() == []

    async def test_an_endless_async_source_is_read_only_as_far_as_needed(self) -> None:
        read = 0

        async def endless() -> AsyncIterator[str]:
            nonlocal read
            while True:
                read += 1
                yield f"text {read}"

        before = asyncio.all_tasks()
        engine = VectorService(latency=0.001).engine(max_concurrency=2, count_tokens=lambda text: 1_600)
        async with engine.aembed_iter(endless()) as stream:
            for _ in range(25):
                await anext(stream)
            await asyncio.sleep(0.1)
            assert read <= 25 + 50
            assert stream.usage.requests >= 2
        assert asyncio.all_tasks() == before

    def test_repeated_texts_do_not_fill_the_memory_or_block_the_stream(self) -> None:
        def source() -> Iterator[str]:
            yield "first"
            for _ in range(20_000):
                yield "again"
            yield "last"

        service = VectorService()
        stream = service.engine(max_concurrency=2).embed_iter(source())
        assert sum(1 for _ in stream) == 20_002
        assert stream.usage.duplicates == 19_999
        assert sorted(service.sent) == ["again", "first", "last"]

    def test_a_text_that_comes_again_much_later_is_sent_again(self) -> None:
        texts = [*(str(number) for number in range(5_000)), "0", "4999"]
        service = VectorService()
        stream = service.engine(count_tokens=lambda text: 30).embed_iter(texts, as_numpy=True)
        assert [vector[0] for _, vector in stream] == [vector_of(text)[0] for text in texts]
        assert stream.usage.duplicates == 1
        assert service.sent.count("0") == 2

    async def test_repeated_texts_do_not_block_an_async_stream(self) -> None:
        service = VectorService()
        stream = service.engine(max_concurrency=2).aembed_iter("same" for _ in range(20_000))
        assert len([index async for index, _ in stream]) == 20_000
        assert service.sent == ["same"]

    async def test_an_async_source_that_pauses_does_not_hold_back_what_it_gave(self) -> None:
        more = asyncio.Event()

        async def source() -> AsyncIterator[str]:
            yield "early"
            await more.wait()
            yield "late"

        stream = VectorService().engine().aembed_iter(source())
        assert await asyncio.wait_for(anext(stream), 5) == (0, vector_of("early"))
        more.set()
        assert await asyncio.wait_for(anext(stream), 5) == (1, vector_of("late"))
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_an_error_of_the_source_comes_after_what_came_before_it(self, asynchronous: bool) -> None:
        def source() -> Iterator[str]:
            yield "one"
            yield "two"
            raise OSError("the disk is gone")

        taken: list[int] = []
        engine = VectorService().engine()
        with pytest.raises(OSError, match="the disk is gone"):
            if asynchronous:
                async for index, _ in engine.aembed_iter(source()):
                    taken.append(index)
            else:
                for index, _ in engine.embed_iter(source()):
                    taken.append(index)
        assert taken == [0, 1]

    def test_memory_is_flat(self) -> None:
        """All vectors would be 82 MB as arrays, and 670 MB as lists."""
        program = Path(__file__).with_name("flat_memory.py")
        grown = subprocess.run(
            [sys.executable, str(program), "20000"], capture_output=True, text=True, check=True, timeout=120
        )
        assert float(grown.stdout.split()[0]) < 60

    def test_a_stream_that_is_dropped_leaves_no_thread(self) -> None:
        stream = VectorService(latency=0.01).engine(count_tokens=lambda text: 1_600).embed_iter(passages(500))
        next(stream)
        del stream
        eventually(lambda: not engine_threads())


class TestCancelled:
    """Giving up works, at once."""

    async def test_a_cancelled_task_ends_its_requests_and_leaves_no_task(self) -> None:
        with LocalGateway(latency=30) as gateway:
            engine = engine_for(gateway, max_concurrency=3, count_tokens=lambda text: 1_600)
            before = asyncio.all_tasks()
            call = asyncio.create_task(engine.aembed(passages(200)))
            await aeventually(lambda: gateway.in_flight == 3)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert asyncio.all_tasks() == before
            assert engine.limiter.rate.in_flight == 0
            await aeventually(lambda: gateway.in_flight == 0)

    async def test_a_call_that_takes_too_long_is_cut(self) -> None:
        engine = VectorService(latency=30).engine(max_concurrency=2)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.aembed(["a"]), 0.05)
        assert engine.limiter.rate.in_flight == 0

    @pytest.mark.usefixtures("interruptible")
    def test_the_keyboard_interrupts_a_sync_call(self) -> None:
        asked, over = threading.Event(), threading.Event()

        def silence() -> float:
            asked.set()
            over.wait(PATIENCE)
            return 0.0

        def interrupt() -> None:
            asked.wait(PATIENCE)
            os.kill(os.getpid(), signal.SIGINT)

        engine = VectorService(latency=silence).engine(max_concurrency=3, count_tokens=lambda text: 1_600)
        keyboard = threading.Thread(target=interrupt)
        keyboard.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine.embed(passages(500))
        # It does not wait for the answers.
        assert time.monotonic() - began < PATIENCE / 2
        over.set()
        keyboard.join()
        # The requests in flight end by themselves; nothing new is begun.
        eventually(lambda: not engine_threads())
        assert engine.limiter.rate.in_flight == 0

    @pytest.mark.usefixtures("interruptible")
    def test_a_program_that_is_interrupted_ends(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("interrupted.py"))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"under way\n"
                child.send_signal(signal.SIGINT)
                assert child.wait(PATIENCE) != 0
            finally:
                child.kill()

    def test_a_callback_that_fails_ends_the_call(self, mode: Mode) -> None:
        def fail(progress: EmbeddingProgress) -> None:
            raise ZeroDivisionError

        engine = VectorService().engine(max_concurrency=2, count_tokens=lambda text: 1_600)
        with pytest.raises(ZeroDivisionError):
            run(mode, engine, passages(200), on_progress=fail)
        eventually(lambda: engine.limiter.rate.in_flight == 0)


class TestEverywhere:
    """Event loops, processes, copies."""

    async def test_sync_code_in_a_running_loop(self) -> None:
        engine = VectorService(latency=0.001).engine(count_tokens=lambda text: 1_600)
        texts = passages(100)
        assert engine.embed(texts).vectors == [vector_of(text) for text in texts]
        assert [vector for _, vector in engine.embed_iter(texts)] == [vector_of(text) for text in texts]

    def test_one_event_loop_after_another(self, gateway: LocalGateway) -> None:
        engine = engine_for(gateway, max_concurrency=2, count_tokens=lambda text: 1_600)
        first = asyncio.run(engine.aembed(passages(50))).vectors
        assert asyncio.run(engine.aembed(passages(50))).vectors == first

    async def test_the_event_loop_goes_on_meanwhile(self) -> None:
        engine = VectorService(latency=0.3).engine(max_concurrency=2)
        call = asyncio.create_task(engine.aembed(["a"]))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.001)
            ticks += 1
        assert ticks >= 3

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
    def test_a_copy_works_with_a_limit_of_its_own(self, gateway: LocalGateway, duplicate: Any) -> None:
        engine = engine_for(gateway, max_concurrency=3)
        engine.embed(["warm"])
        other = duplicate(engine)
        assert other.limiter is not engine.limiter
        assert other.embed(["a"]).vectors == engine.embed(["a"]).vectors
        assert repr(other) == "EmbeddingEngine(model='mistral-embed', max_concurrency=3)"

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_forked_and_spawned_workers(self, gateway: LocalGateway, spawned: Executor, method: str) -> None:
        engine = engine_for(gateway, max_concurrency=2, count_tokens=len)
        texts = passages(600)
        right = engine.embed(texts).vectors
        # A lock that a thread holds at the moment of the fork would stay locked for ever in the child.
        held = drive(engine.limiter.acquire(1, ThreadSignal(threading.Event())))
        if method == "spawn":
            results = list(spawned.map(embed_in_both_ways, [engine] * 2, [texts] * 2))
        else:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                results = pool.starmap(embed_in_both_ways, [(engine, texts)] * 3)
        assert all(result == right for result in results)
        engine.limiter.release(held, None)


class TestBilling:
    """Who pays is known in every thread and task."""

    def test_billed_to_holds_in_the_lanes(self, gateway: LocalGateway, mode: Mode) -> None:
        engine = engine_for(gateway, max_concurrency=4, count_tokens=lambda text: 1_600)
        with billed_to("c_7", "chunks", {"job": "nightly"}):
            run(mode, engine, passages(100), lava_metadata={"step": "embed"})
        assert len(gateway.requests) >= 5
        for request in gateway.requests:
            assert (request.customer_id, request.meter_slug) == ("c_7", "chunks")
            assert request.metadata == {"job": "nightly", "step": "embed"}

    def test_billing_of_a_call(self, gateway: LocalGateway, mode: Mode) -> None:
        billing = Billing(customer_id="c_8", meter_slug="m")
        run(mode, engine_for(gateway), ["a"], billing=billing)
        assert gateway.requests[0].customer_id == "c_8"

    def test_a_stream_is_billed_to_whom_it_was_begun_for(self, gateway: LocalGateway) -> None:
        engine = engine_for(gateway, max_concurrency=2, count_tokens=lambda text: 1_600)
        with billed_to("c_1", "m"):
            stream = engine.embed_iter(passages(50))
        with billed_to("c_2", "m"):
            assert len(list(stream)) == 50
        assert {request.customer_id for request in gateway.requests} == {"c_1"}

    async def test_an_async_stream_is_billed_to_whom_it_was_begun_for(self, gateway: LocalGateway) -> None:
        engine = engine_for(gateway, max_concurrency=2, count_tokens=lambda text: 1_600)
        with billed_to("c_1", "m"):
            stream = engine.aembed_iter(passages(50))
        with billed_to("c_2", "m"):
            assert len([index async for index, _ in stream]) == 50
        assert {request.customer_id for request in gateway.requests} == {"c_1"}


class TestProgress:
    """What a caller sees meanwhile."""

    def test_progress_grows_to_the_total_in_the_callers_thread(self, mode: Mode) -> None:
        seen: list[EmbeddingProgress] = []
        threads: set[int] = set()

        def tell(progress: EmbeddingProgress) -> None:
            seen.append(progress)
            threads.add(threading.get_ident())

        engine = VectorService().engine(max_concurrency=2, count_tokens=lambda text: 1_600)
        run(mode, engine, passages(95), on_progress=tell)
        done = [progress.done for progress in seen]
        assert done == sorted(done)
        assert all(progress.total == 95 for progress in seen)
        assert done[-1] == 95
        assert threads == {threading.get_ident()}
        # After each batch, and of a stream once more when all is handed on.
        assert len(seen) == seen[-1].usage.requests + mode.endswith("iter")

    def test_a_bar_is_drawn_on_request(self, mode: Mode, capsys: pytest.CaptureFixture[str]) -> None:
        run(mode, VectorService().engine(count_tokens=lambda text: 1_600), passages(40), show_progress=True)
        assert "40/40" in capsys.readouterr().err

    def test_silence_otherwise(self, mode: Mode, capsys: pytest.CaptureFixture[str]) -> None:
        run(mode, VectorService().engine(), passages(40))
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", "")


class TestClients:
    """`embed` and `embed_iter` of the clients."""

    def test_the_client_embeds(self, gateway: LocalGateway) -> None:
        client = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        result = client.embed(["a", "b"])
        assert [len(vector) for vector in result.vectors] == [1024, 1024]
        assert isinstance(result, EmbeddingUsage)
        seen: list[EmbeddingProgress] = []
        stream = client.embed_iter(iter(["a", "b"]), on_progress=seen.append)
        assert [vector for _, vector in stream] == result.vectors
        assert client.embed(["a", "b"], on_progress=seen.append).vectors == result.vectors
        assert [progress.total for progress in (seen[0], seen[-1])] == [None, 2]
        assert pickle.loads(pickle.dumps(client)).embed(["a", "b"]).vectors == result.vectors

    async def test_the_async_client_embeds(self, gateway: LocalGateway) -> None:
        client = AsyncLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        result = await client.embed(["a", "b"], as_numpy=True)
        assert result.vectors.shape == (2, 1024)
        pairs = [pair async for pair in client.embed_iter(["a", "b"])]
        assert [index for index, _ in pairs] == [0, 1]

    def test_one_limit_for_all_calls_of_a_client(self) -> None:
        with LocalGateway(latency=0.3) as gateway:
            client = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
            threads = [
                threading.Thread(target=client.embed, args=([str(place)],), kwargs={"max_concurrency": 2})
                for place in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert gateway.max_in_flight == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", ["billng", "clock", "total"])
def test_an_option_that_does_not_exist_is_refused_with_those_that_do(mode: Mode, option: str) -> None:
    service = VectorService()
    with pytest.raises(TypeError, match=rf"'{option}'; there are billing, lava_metadata, as_numpy, .*resume_from"):
        run(mode, service.engine(), ["one text"], **{option: None})
    assert service.bodies == []
