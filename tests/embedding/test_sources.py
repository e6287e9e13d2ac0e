"""Sources that pause, that belong to a thread, that are long or hold long texts."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from lava_mistral import AuthenticationError, InvalidRequestError
from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.engine import EmbeddingEngine
from tests.fakes.vector_service import VectorService, engine_threads, error, passages, vector_of
from tests.fakes.waiting import eventually

TEXTS = passages(100)


def test_a_source_that_pauses_gets_its_vectors_handed_on_between_two_texts() -> None:
    begin = time.monotonic()
    given: list[float] = []

    def source() -> Iterator[str]:
        yield from (f"text {number}" for number in range(520))
        for number in range(520, 524):
            time.sleep(0.3)
            given.append(time.monotonic() - begin)
            yield f"text {number}"

    taken: dict[int, float] = {}
    for index, vector in VectorService().engine().embed_iter(source()):
        assert vector == vector_of(f"text {index}")
        taken[index] = time.monotonic() - begin
    assert len(taken) == 524
    # All that was ready comes after the first pause, and what the pause cut off from a full batch soon after.
    assert taken[511] < given[1]
    assert taken[519] < given[2]
    assert taken[521] < given[3]


def test_what_is_ready_is_handed_on_before_much_more_is_read() -> None:
    """A source that takes three milliseconds a text would need seconds to fill every lane."""
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for number in range(3_000):
            time.sleep(0.003)
            read += 1
            yield str(number)

    with VectorService().engine(max_concurrency=16, count_tokens=lambda text: 160).embed_iter(source()) as stream:
        next(stream)
        assert read <= 100 + 100
        for _ in range(99):
            next(stream)
        assert read <= 100 + 200


def test_lanes_are_filled_before_vectors_are_handed_on_where_the_source_is_quick() -> None:
    service = VectorService(latency=0.4)
    with service.engine(max_concurrency=4, count_tokens=lambda text: 1_600).embed_iter(TEXTS) as stream:
        next(stream)
        assert service.most_in_flight == 4


def test_a_cursor_that_belongs_to_its_thread_may_be_the_source() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table chunks (text)")
    connection.executemany("insert into chunks values (?)", [(text,) for text in TEXTS])
    rows = (text for (text,) in connection.execute("select text from chunks order by rowid"))
    engine = VectorService().engine(count_tokens=lambda text: 1_600)
    assert [vector for _, vector in engine.embed_iter(rows)] == [vector_of(text) for text in TEXTS]
    connection.close()


class TestReadInThread:
    """A thread of its own reads a source that waits for others."""

    def test_an_endless_queue_does_not_hold_back_what_it_gave(self) -> None:
        texts: queue.Queue[str | None] = queue.Queue()
        stream = VectorService().engine().embed_iter(iter(texts.get, None), read_in_thread=True)
        for number in range(3):
            texts.put(f"text {number}")
            texts.put(f"also {number}")
            assert next(stream) == (2 * number, vector_of(f"text {number}"))
            assert next(stream) == (2 * number + 1, vector_of(f"also {number}"))
        texts.put(None)
        assert next(stream, None) is None
        eventually(lambda: not engine_threads())

    def test_all_is_there_in_order(self) -> None:
        texts = passages(3_000)
        engine = VectorService().engine(max_concurrency=4, count_tokens=lambda text: 800)
        pairs = list(engine.embed_iter(iter(texts), read_in_thread=True))
        assert pairs == [(index, vector_of(text)) for index, text in enumerate(texts)]

    def test_it_reads_only_as_far_as_needed_and_ends_with_the_stream(self) -> None:
        read = 0

        def endless() -> Iterator[str]:
            nonlocal read
            while True:
                read += 1
                yield f"text {read}"

        engine = VectorService().engine(max_concurrency=2, count_tokens=lambda text: 1_600)
        with engine.embed_iter(endless(), read_in_thread=True) as stream:
            for _ in range(25):
                next(stream)
            time.sleep(0.1)
            assert read <= 25 + 50 + 512 + 1
        eventually(lambda: not engine_threads())
        before = read
        time.sleep(0.05)
        assert read == before

    def test_its_error_comes_after_what_came_before_it(self) -> None:
        def source() -> Iterator[str]:
            yield from TEXTS[:30]
            raise OSError("the disk is gone")

        taken = []
        engine = VectorService().engine(count_tokens=lambda text: 1_600)
        with pytest.raises(OSError, match="the disk is gone") as caught:
            for index, _ in engine.embed_iter(source(), read_in_thread=True):
                taken.append(index)
        assert taken == list(range(30))
        assert caught.value.partial.next_index == 30  # type: ignore[attr-defined]

    def test_a_bad_text_is_named(self) -> None:
        bad: Any = [*TEXTS[:5], None]
        with pytest.raises(InvalidRequestError, match="input 5 must be text, not NoneType"):
            list(VectorService().engine().embed_iter(iter(bad), read_in_thread=True))

    def test_context_variables_are_those_of_the_call(self) -> None:
        variable = contextvars.ContextVar("variable", default="outside")
        seen: set[str] = set()

        def source() -> Iterator[str]:
            seen.add(f"{variable.get()} in {threading.current_thread().name}")
            yield "a"

        token = variable.set("inside")
        stream = VectorService().engine().embed_iter(source(), read_in_thread=True)
        variable.reset(token)
        assert len(list(stream)) == 1
        assert seen == {"inside in lava-mistral-source"}


class TestAsyncReadInThread:
    """The same for async code: a source that blocks would stop the event loop."""

    async def test_a_queue_of_threads_does_not_stop_the_loop_or_hold_back_what_it_gave(self) -> None:
        texts: queue.Queue[str | None] = queue.Queue()
        stream = VectorService().engine().aembed_iter(iter(texts.get, None), read_in_thread=True)
        for number in range(3):
            texts.put(f"text {number}")
            assert await asyncio.wait_for(anext(stream), 10) == (number, vector_of(f"text {number}"))
        texts.put(None)
        assert await anext(stream, None) is None
        await asyncio.to_thread(eventually, lambda: not engine_threads())

    async def test_an_error_does_not_wait_for_a_source_that_waits(self) -> None:
        texts: queue.Queue[str | None] = queue.Queue()
        texts.put("the only one")
        stream = VectorService([error(401)]).engine().aembed_iter(iter(texts.get, None), read_in_thread=True)
        try:
            with pytest.raises(AuthenticationError):
                await asyncio.wait_for(anext(stream), 10)
        finally:
            texts.put(None)
        await asyncio.to_thread(eventually, lambda: not engine_threads())

    @pytest.mark.parametrize("left", [True, False])
    async def test_it_ends_with_the_stream(self, left: bool) -> None:
        def source() -> Iterator[str]:
            yield from (f"text {number}" for number in range(20_000))
            raise OSError("the disk is gone")

        stream = VectorService().engine(max_concurrency=2).aembed_iter(source(), read_in_thread=True, as_numpy=True)
        if left:
            assert (await anext(stream))[0] == 0
            await stream.aclose()
        else:
            taken = []
            with pytest.raises(OSError, match="the disk is gone"):
                async for index, _ in stream:
                    taken.append(index)
            assert taken == list(range(20_000))
        await asyncio.to_thread(eventually, lambda: not engine_threads())

    def test_a_loop_that_is_gone_is_not_woken(self) -> None:
        texts: queue.Queue[str | None] = queue.Queue()
        texts.put("first")

        async def take() -> None:
            async with VectorService().engine().aembed_iter(iter(texts.get, None), read_in_thread=True) as stream:
                await anext(stream)

        asyncio.run(take())
        texts.put("nobody waits for this")
        eventually(lambda: not engine_threads())

    async def test_an_async_source_is_read_as_ever(self) -> None:
        async def source() -> AsyncIterator[str]:
            yield "a"

        pairs = [pair async for pair in VectorService().engine().aembed_iter(source(), read_in_thread=True)]
        assert pairs == [(0, vector_of("a"))]


class Prepared:
    """Answers at once with vectors that cost nothing to make."""

    sent = 0

    async def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        self.sent += len(inputs)
        data = [{"index": place, "embedding": [1.0]} for place in range(len(inputs))]
        return EmbeddingAnswer(response={"data": data}, headers={}, request_id="r")  # type: ignore[typeddict-item]


@pytest.mark.parametrize("way", ["call", "stream", "resumed stream"])
async def test_the_event_loop_has_its_turn_while_many_texts_are_looked_at(way: str) -> None:
    service = Prepared()
    engine = EmbeddingEngine(None, service, model="next-embed", count_tokens=lambda text: 4)
    texts = [str(number) for number in range(50_000)]
    lag = 0.0

    async def wait_for_the_first_request() -> None:
        nonlocal lag
        while not service.sent:
            before = time.process_time()
            await asyncio.sleep(0)
            lag = max(lag, time.process_time() - before)

    if way == "call":
        call: Any = engine.aembed(texts, as_numpy=True)
    elif way == "stream":
        # Equal texts make no batch for long.
        call = anext(engine.aembed_iter(["same"] * 10_000 + texts, as_numpy=True))
    else:
        from lava_mistral.embedding.results import PartialEmbedding

        far = PartialEmbedding({}, {}, next_index=40_000)
        call = anext(engine.aembed_iter(texts, as_numpy=True, resume_from=far))
    # A collection of all that the process holds may take longer than what is measured.
    gc.disable()
    try:
        await asyncio.gather(wait_for_the_first_request(), asyncio.ensure_future(call))
    finally:
        gc.enable()
    assert lag < 0.06
