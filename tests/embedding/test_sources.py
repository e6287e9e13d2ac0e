"""Sources that pause, that belong to a thread, that are long or hold long texts."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from lava_mistral import AuthenticationError, InvalidRequestError
from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.engine import EmbeddingEngine
from tests.fakes.vector_service import VectorService, error, passages, vector_of

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


def feed() -> tuple[asyncio.Queue[str | None], AsyncIterator[str]]:
    """A queue, and the source that it is."""
    texts: asyncio.Queue[str | None] = asyncio.Queue()

    async def source() -> AsyncIterator[str]:
        while (text := await texts.get()) is not None:
            yield text

    return texts, source()


class TestAsyncSources:
    """What is read by a task, ahead of the iteration."""

    async def test_a_queue_does_not_hold_back_what_it_gave(self) -> None:
        texts, source = feed()
        stream = VectorService().engine().aembed_iter(source)
        for number in range(3):
            texts.put_nowait(f"text {number}")
            texts.put_nowait(f"also {number}")
            assert await asyncio.wait_for(anext(stream), 10) == (2 * number, vector_of(f"text {number}"))
            assert await asyncio.wait_for(anext(stream), 10) == (2 * number + 1, vector_of(f"also {number}"))
        texts.put_nowait(None)
        assert await anext(stream, None) is None

    async def test_an_error_does_not_wait_for_a_source_that_waits(self) -> None:
        texts, source = feed()
        texts.put_nowait("the only one")
        with pytest.raises(AuthenticationError):
            await asyncio.wait_for(anext(VectorService([error(401)]).engine().aembed_iter(source)), 10)

    @pytest.mark.parametrize("left", [True, False])
    async def test_it_is_read_as_far_as_needed_in_order_and_ends_with_the_stream(self, left: bool) -> None:
        read = 0

        async def source() -> AsyncIterator[str]:
            nonlocal read
            for read in range(1, 20_001):
                yield f"text {read}"
            raise OSError("the disk is gone")

        engine = VectorService().engine(max_concurrency=2, count_tokens=lambda text: 160)
        stream = engine.aembed_iter(source(), as_numpy=True)
        if left:
            assert (await anext(stream))[0] == 0
            # Two batches of a hundred are done at once, two wait, one is being filled.
            assert read <= 500 + 10
            await stream.aclose()
        else:
            taken = []
            with pytest.raises(OSError, match="the disk is gone") as caught:
                async for index, _ in stream:
                    taken.append(index)
            assert taken == list(range(20_000))
            assert caught.value.partial.next_index == 20_000  # type: ignore[attr-defined]
        assert len(asyncio.all_tasks()) == 1

    async def test_a_bad_text_is_named(self) -> None:
        async def source() -> AsyncIterator[Any]:
            for text in (*TEXTS[:5], None):
                yield text

        with pytest.raises(InvalidRequestError, match="input 5 must be text, not NoneType"):
            _ = [pair async for pair in VectorService().engine().aembed_iter(source())]


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
