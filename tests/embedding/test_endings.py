"""However a call of the engine ends: nothing is lost that was paid for, and no end is taken for another."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from lava_mistral import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    LavaError,
    ServerError,
    StreamInterruptedError,
)
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.results import PartialEmbedding, partial_of
from lava_mistral.transport.retry import RetryPolicy
from tests.fakes.vector_service import MODES, Mode, VectorService, engine_threads, error, passages, run, vector_of
from tests.fakes.waiting import PATIENCE, aeventually, eventually

TEXTS = passages(100)


def ten_a_batch(text: str) -> int:
    return 1_600


async def cancelled() -> None:
    """Await something that others have cancelled."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def right(partial: PartialEmbedding, texts: list[str] = TEXTS) -> bool:
    """Whether it holds vectors, each that of its text."""
    return len(partial) > 0 and all(vector == vector_of(texts[index]) for index, vector in partial.vectors.items())


def interrupted(mode: Mode) -> PartialEmbedding:
    """What a call got beside its first batch."""
    reached = threading.Event()

    def fault(inputs: list[str]) -> Any:
        if TEXTS[45] in inputs:
            reached.set()
        return error(402) if TEXTS[5] in inputs else None

    service = VectorService(fault=fault)
    # The first batch fails when others are done.
    service.latency = lambda: 0.3 if len(service.bodies) == 1 and not reached.is_set() else 0.0
    with pytest.raises(LavaError) as caught:
        run(mode, service.engine(max_concurrency=3, count_tokens=ten_a_batch), TEXTS)
    partial: PartialEmbedding = caught.value.partial
    assert len(partial) >= 20
    return partial


@pytest.mark.parametrize("mode", MODES)
def test_an_error_does_not_wait_for_the_pause_after_a_refusal_that_came_later(mode: Mode) -> None:
    service = VectorService(
        fault=lambda inputs: error(401) if TEXTS[0] in inputs else error(429, **{"retry-after": "30"}),
        latency=lambda: 0.02 if len(service.bodies) == 1 else 0.2,
    )
    engine = service.engine(retry=RetryPolicy(), max_concurrency=3, count_tokens=ten_a_batch)
    began = time.monotonic()
    with pytest.raises(AuthenticationError):
        run(mode, engine, TEXTS)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_text_that_can_not_be_counted_loses_nothing_that_is_under_way(mode: Mode) -> None:
    def count(text: str) -> int:
        if text == TEXTS[95]:
            raise ValueError("a special token")
        return 1_600

    service = VectorService(latency=0.1)
    with pytest.raises(ValueError, match="special token") as caught:
        run(mode, service.engine(max_concurrency=2, count_tokens=count), TEXTS)
    partial: PartialEmbedding = caught.value.partial  # type: ignore[attr-defined]
    assert right(partial)
    assert len(partial) == len(service.sent)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_that_are_refused_say_nothing_of_base64(mode: Mode) -> None:
    service = VectorService(fault=lambda inputs: error(400) if TEXTS[0] in inputs else None)
    engine = service.engine()
    with pytest.raises(InvalidRequestError):
        run(mode, engine, TEXTS[:1])
    run(mode, engine, TEXTS[1:2])
    assert [body["encoding_format"] for body in service.bodies] == ["base64", "float", "base64"]


class TestSources:
    """A source that ends early says so."""

    async def test_a_source_that_is_cancelled_by_others_does_not_end_the_stream_as_if_it_were_complete(self) -> None:
        async def source() -> AsyncIterator[str]:
            for text in TEXTS[:10]:
                yield text
            await cancelled()

        taken = []
        with pytest.raises(asyncio.CancelledError) as caught:
            async for index, _ in VectorService().engine().aembed_iter(source()):
                taken.append(index)
        assert taken == list(range(10))
        assert caught.value.partial.next_index == 10  # type: ignore[attr-defined]

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_a_plain_source_that_raises_it_does_neither(self, asynchronous: bool) -> None:
        def source() -> Iterator[str]:
            yield from TEXTS[:10]
            raise asyncio.CancelledError

        engine = VectorService().engine()
        with pytest.raises(asyncio.CancelledError):
            if asynchronous:
                _ = [index async for index, _ in engine.aembed_iter(source())]
            else:
                list(engine.embed_iter(source()))

    async def test_a_stream_whose_own_task_is_cancelled_ends_with_that(self) -> None:
        service = VectorService(latency=PATIENCE)
        stream = service.engine().aembed_iter(TEXTS)
        task = asyncio.ensure_future(anext(stream))
        await aeventually(lambda: service.in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestKept:
    """`partial` of whatever is raised, and of a stream that is left."""

    @pytest.mark.parametrize("prefetched", [False, True])
    async def test_one_whose_next_vectors_were_waited_for_in_vain_does_not_seem_complete(
        self, prefetched: bool
    ) -> None:
        service = VectorService(latency=lambda: PATIENCE if TEXTS[25] in service.bodies[-1]["input"] else 0.0)
        engine = service.engine(max_concurrency=1, count_tokens=ten_a_batch)
        stream: Any = engine.aembed_iter(TEXTS)
        if prefetched:
            stream = engine.aprefetch(TEXTS, str, lambda text, _: text, batch_size=10)
        got = []
        with pytest.raises(TimeoutError):
            while True:
                got.append(await asyncio.wait_for(anext(stream), 0.5))
        assert len(got) == (2 if prefetched else 20)
        with pytest.raises(StreamInterruptedError, match="cancelled"):
            await anext(stream)
        if not prefetched:
            assert stream.partial().vectors == {}

    @pytest.mark.usefixtures("interruptible")
    def test_the_keyboard_leaves_what_was_paid(self) -> None:
        paid = threading.Event()

        def fault(inputs: list[str]) -> None:
            # The last batch is under way for long; a moment after the others are done, the keyboard interrupts.
            if TEXTS[-1] in inputs:
                eventually(lambda: len(service.bodies) >= 10 and service.in_flight == 1)
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                paid.wait(PATIENCE)

        service = VectorService(fault=fault)
        try:
            with pytest.raises(KeyboardInterrupt) as caught:
                service.engine(max_concurrency=4, count_tokens=ten_a_batch).embed(TEXTS)
        finally:
            paid.set()
        partial = caught.value.partial  # type: ignore[attr-defined]
        [last] = [body["input"] for body in service.bodies if TEXTS[-1] in body["input"]]
        assert sorted(partial.vectors) == list(range(len(TEXTS) - len(last)))
        assert right(partial)
        assert partial.usage.requests == len(service.bodies) - 1
        eventually(lambda: not engine_threads())

    async def test_a_call_that_takes_too_long_leaves_what_was_paid(self) -> None:
        service = VectorService()

        def last() -> bool:
            return bool(service.bodies) and TEXTS[-1] in service.bodies[-1]["input"]

        # One request after another; the last does not end.
        service.latency = lambda: PATIENCE if last() else 0.0
        engine = service.engine(max_concurrency=1, count_tokens=ten_a_batch)
        with pytest.raises(asyncio.TimeoutError) as caught:
            async with asyncio.timeout(None) as limit:
                call = asyncio.create_task(engine.aembed(TEXTS))
                await aeventually(last)
                limit.reschedule(asyncio.get_running_loop().time())
                await call
        partial = partial_of(caught.value)
        assert partial is not None
        assert sorted(partial.vectors) == list(range(len(TEXTS) - len(service.bodies[-1]["input"])))
        assert right(partial)

    def test_an_error_of_other_origin_has_none(self) -> None:
        error = ValueError("no")
        error.__context__ = LavaError("a stream of chat", partial="a turn")
        assert partial_of(error) is None

    @pytest.mark.parametrize("mode", MODES)
    def test_whatever_is_raised_has_it_and_a_call_goes_on_from_there(self, mode: Mode) -> None:
        def fail(progress: Any) -> None:
            if progress.usage.requests == 6:
                raise ZeroDivisionError

        engine = VectorService().engine(max_concurrency=2, count_tokens=ten_a_batch)
        with pytest.raises(ZeroDivisionError) as caught:
            run(mode, engine, TEXTS, on_progress=fail)
        partial: PartialEmbedding = caught.value.partial  # type: ignore[attr-defined]
        rest = VectorService()
        if mode in ("sync", "async"):
            assert len(partial) >= 36
            assert run(mode, rest.engine(), TEXTS, resume_from=partial) == [vector_of(text) for text in TEXTS]
            assert not set(rest.sent) & {TEXTS[index] for index in partial.vectors}
        else:
            pairs = list(rest.engine().embed_iter(TEXTS, resume_from=partial))
            assert pairs == [(index, vector_of(TEXTS[index])) for index in range(partial.next_index, 100)]
            assert partial.next_index + len(partial) >= 60

    def test_a_stream_that_is_left_says_what_it_has(self) -> None:
        service = VectorService(latency=0.001)
        stream = service.engine(max_concurrency=3, count_tokens=ten_a_batch).embed_iter(TEXTS)
        for _ in range(25):
            next(stream)
        stream.close()
        # The requests that were in flight end and count.
        eventually(lambda: not engine_threads())
        partial = pickle.loads(pickle.dumps(stream.partial()))
        assert partial.next_index == 25
        assert right(partial)
        assert {*range(25), *partial.vectors} == {TEXTS.index(text) for text in service.sent}
        rest = VectorService()
        pairs = list(rest.engine().embed_iter(iter(TEXTS), resume_from=partial))
        assert pairs == [(index, vector_of(TEXTS[index])) for index in range(25, 100)]
        assert not set(rest.sent) & set(service.sent)

    async def test_an_async_stream_that_is_left_says_what_it_has(self) -> None:
        service = VectorService()
        engine = service.engine(max_concurrency=3, count_tokens=ten_a_batch)
        async with engine.aembed_iter(TEXTS) as stream:
            for _ in range(25):
                await anext(stream)
            await aeventually(lambda: not service.in_flight)
        partial = stream.partial()
        assert partial.next_index == 25
        assert {*range(25), *partial.vectors} == {TEXTS.index(text) for text in service.sent}
        assert right(partial)

    @pytest.mark.parametrize("mode", MODES)
    def test_a_refusal_before_anything_is_sent_gives_back_what_it_was_given(self, mode: Mode) -> None:
        given = interrupted(mode)
        with pytest.raises(InvalidRequestError, match="input 100 is empty") as caught:
            run(mode, VectorService().engine(), [*TEXTS, ""], resume_from=given)
        partial = caught.value.partial
        assert {index: partial.vectors[index] for index in given.vectors if index >= partial.next_index} == {
            index: vector for index, vector in given.vectors.items() if index >= partial.next_index
        }
        with pytest.raises(InvalidRequestError) as caught:
            VectorService().engine().embed([""])
        assert caught.value.partial is None

    @pytest.mark.parametrize("mode", ["iter", "async iter"])
    def test_what_a_resumed_stream_did_not_come_to_is_kept(self, mode: Mode) -> None:
        first = interrupted(mode)
        refusing = VectorService(fault=lambda inputs: error(402))
        with pytest.raises(LavaError) as caught:
            run(mode, refusing.engine(count_tokens=lambda text: 16_000), TEXTS, resume_from=first)
        second: PartialEmbedding = caught.value.partial
        assert second.vectors == first.vectors

        def broken() -> Iterator[str]:
            yield TEXTS[0]
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="disk") as failed:
            run(mode, VectorService().engine(), broken(), resume_from=second)  # type: ignore[arg-type]
        third: PartialEmbedding = failed.value.partial  # type: ignore[attr-defined]
        assert third.next_index == 1
        assert third.vectors == first.vectors

    def test_a_source_that_breaks_before_the_place_of_the_interruption_does_not_move_it_back(self) -> None:
        stream = VectorService().engine().embed_iter(TEXTS)
        for _ in range(50):
            next(stream)
        stream.close()

        def broken() -> Iterator[str]:
            yield TEXTS[0]
            raise OSError

        with pytest.raises(OSError) as caught:  # noqa: PT011
            list(VectorService().engine().embed_iter(broken(), resume_from=stream.partial()))
        assert caught.value.partial.next_index == 50  # type: ignore[attr-defined]


class TestFailed:
    """What follows a failure."""

    @pytest.mark.parametrize("mode", ["iter", "async iter"])
    def test_a_stream_sends_nothing_more(self, mode: Mode) -> None:
        service = VectorService(fault=lambda inputs: error(402))
        # While the first request is under way the next two are made ready. The second may go out before the failure
        # of the first was seen; it takes long enough for that.
        service.latency = lambda: 0.1 if len(service.bodies) == 1 else 0.5
        with pytest.raises(LavaError):
            run(mode, service.engine(max_concurrency=1, count_tokens=ten_a_batch), TEXTS)
        assert len(service.bodies) <= 2


class TestMixed:
    """Vectors of unlike models are never put together."""

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("other", [{"model": "codestral-embed"}, {"dimensions": 8}])
    def test_another_model_or_length_is_refused(self, mode: Mode, other: dict[str, Any]) -> None:
        partial = interrupted("sync")
        service = VectorService()
        with pytest.raises(ConfigurationError, match="vectors of mistral-embed with 1,024 dimensions, and this call"):
            run(mode, service.engine(**other), TEXTS, resume_from=partial)
        assert service.bodies == []

    def test_the_same_length_said_explicitly_is_the_same(self) -> None:
        partial = interrupted("sync")
        assert len(VectorService().engine(dimensions=1024).embed(TEXTS, resume_from=partial).vectors) == 100

    def test_nothing_is_mixed_with_nothing(self) -> None:
        with pytest.raises(LavaError) as caught:
            VectorService(fault=lambda inputs: error(402)).engine().embed(["a"])
        engine = VectorService().engine(model="codestral-embed", dimensions=8)
        assert len(engine.embed(["a"], resume_from=caught.value.partial).vectors[0]) == 8


BAD_USAGES: list[Any] = [
    {"prompt_tokens": "12"},
    {"prompt_tokens": 12.5},
    {"prompt_tokens": 12, "prompt_tokens_details": "x"},
    {"prompt_tokens": 12, "num_cached_tokens": [1]},
    "twelve",
]


@pytest.mark.parametrize("usage", BAD_USAGES, ids=repr)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_usage_that_can_not_be_counted_with_is_none(mode: Mode, usage: Any) -> None:
    answer = {"data": [{"index": 0, "embedding": vector_of("a")}], "usage": usage}
    engine = VectorService([httpx.Response(200, json=answer)]).engine()
    result = engine.embed(["a"]) if mode == "sync" else asyncio.run(engine.aembed(["a"]))
    assert (result.vectors, result.tokens, result.cost) == ([vector_of("a")], 0, None)


async def test_an_async_call_notices_a_failure_while_it_plans() -> None:
    """Answers may come faster than batches are made."""

    def slowly(text: str) -> int:
        time.sleep(0.001)
        return 1_600

    service = VectorService(fault=lambda inputs: error(402))
    told: list[Any] = []
    with pytest.raises(LavaError):
        engine = service.engine(max_concurrency=16, count_tokens=slowly)
        await engine.aembed(passages(1_000), on_progress=told.append)
    assert len(service.bodies) <= 30

    with pytest.raises(ZeroDivisionError):
        await VectorService().engine(count_tokens=slowly).aembed(passages(1_000), on_progress=lambda p: 1 // 0)


def test_progress_of_a_resumed_stream_begins_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    first = VectorService().engine().embed_iter(TEXTS)
    for _ in range(60):
        next(first)
    first.close()
    seen: list[Any] = []
    engine = VectorService().engine(count_tokens=ten_a_batch)
    rest = engine.embed_iter(TEXTS, resume_from=first.partial(), on_progress=seen.append, show_progress=True)
    assert len(list(rest)) == 40
    assert seen[0].done >= 60
    assert (seen[-1].done, seen[-1].total) == (100, 100)
    assert "100/100" in capsys.readouterr().err


def test_progress_of_a_call_with_nothing_left_to_do() -> None:
    partial = interrupted("sync")
    known = {index: row for index, row in partial.rows.items() if index < 50}
    texts = [TEXTS[index] for index in sorted(known)]
    moved = PartialEmbedding(
        {place: known[index] for place, index in enumerate(sorted(known))},
        {place: partial.digests[index] for place, index in enumerate(sorted(known))},
    )
    seen: list[Any] = []
    EmbeddingEngine(VectorService().client()).embed(texts, resume_from=moved, on_progress=seen.append)
    assert [(progress.done, progress.total) for progress in seen] == [(len(texts), len(texts))]
    EmbeddingEngine(VectorService().client()).embed([], on_progress=seen.append)
    assert len(seen) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_that_is_left_sends_nothing_more(asynchronous: bool) -> None:
    service = VectorService(latency=lambda: 0.3)
    engine = service.engine(max_concurrency=1, count_tokens=ten_a_batch)

    async def aleave() -> None:
        stream = engine.aembed_iter(TEXTS)
        await anext(stream)
        await aeventually(lambda: len(service.bodies) == 2)
        await stream.aclose()
        await asyncio.sleep(0.7)

    if asynchronous:
        asyncio.run(aleave())
    else:
        stream = engine.embed_iter(TEXTS)
        next(stream)
        eventually(lambda: len(service.bodies) == 2)
        stream.close()
        eventually(lambda: not engine_threads())
    # The next batches had been made ready.
    assert len(service.bodies) == 2


@pytest.mark.parametrize("mode", MODES)
def test_what_is_in_flight_when_another_request_fails_is_kept(mode: Mode) -> None:
    service = VectorService(fault=lambda inputs: error(402) if TEXTS[5] in inputs else None)
    service.latency = lambda: 0.05 if len(service.bodies) == 1 else 0.4
    with pytest.raises(LavaError) as caught:
        run(mode, service.engine(max_concurrency=3, count_tokens=ten_a_batch), TEXTS)
    assert len(caught.value.partial) >= 10


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_can_not_be_used_is_named_with_its_request(mode: Mode) -> None:
    answer = httpx.Response(200, json={"data": [], "usage": {}}, headers={"x-lava-request-id": "req_42"})
    with pytest.raises(ServerError, match="can't be used") as caught:
        run(mode, VectorService(fault=lambda inputs: answer).engine(), ["a"])
    assert caught.value.request_id == "req_42"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_text_that_comes_again_after_thousands_is_sent_once(mode: Mode) -> None:
    service = VectorService()
    texts = ["again", *(f"text {number}" for number in range(4_200)), "again"]
    run(mode, service.engine(count_tokens=lambda text: 5), texts)
    assert sum(body["input"].count("again") for body in service.bodies) == 1
