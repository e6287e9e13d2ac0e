"""What the threads and tasks of a call do beside obeying: how many there are, and whose turn it is."""

from __future__ import annotations

import asyncio
import base64
import gc
import random
import struct
import time
from collections.abc import Sequence
from typing import Any

import pytest

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.decoding import read_rows
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.results import partial_of
from lava_mistral.gateway import LocalGateway
from lava_mistral.mistral.limits import MAX_REQUEST_TOKENS
from tests.embedding.test_engine import engine_for
from tests.fakes.vector_service import MODES, Mode, VectorService, error, run

DRAW = random.Random(0)
ROW = base64.b64encode(struct.pack("<1024f", *(DRAW.random() for _ in range(1024)))).decode()


class AllAtOnce:
    """Answers requests when so many of them are there, all at the same moment.

    Args:
        together: how many.
    """

    def __init__(self, together: int) -> None:
        self._together = together
        self._waiting = 0
        self.all = asyncio.Event()

    async def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        data = [{"index": place, "embedding": ROW} for place in range(len(inputs))]
        self._waiting += 1
        if self._waiting == self._together:
            self.all.set()
        await self.all.wait()
        return EmbeddingAnswer(response={"data": data}, headers={}, request_id="r")  # type: ignore[typeddict-item]


async def busiest(call: Any) -> float:
    """The most processor seconds of this thread between two turns of another task, but for one time in a hundred."""
    spans: list[float] = []

    async def tick() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            spans.append(time.thread_time() - before)

    # A run of the collector takes as long as all that other tests have left.
    gc.collect()
    gc.disable()
    try:
        ticking = asyncio.create_task(tick())
        await call
        ticking.cancel()
    finally:
        gc.enable()
    return sorted(spans)[len(spans) * 99 // 100]


async def test_the_event_loop_has_its_turn_while_answers_that_come_together_are_decoded() -> None:
    engine = EmbeddingEngine(None, AllAtOnce(24), count_tokens=lambda text: 64, max_concurrency=24)
    texts = [str(number) for number in range(24 * 256)]
    await EmbeddingEngine(None, AllAtOnce(1), count_tokens=lambda text: 64).aembed(["warm"], as_numpy=True)
    data = [{"index": place, "embedding": ROW} for place in range(256)]
    began = time.thread_time()
    for _ in range(3):
        read_rows(data, 256, dimension=1024)
    one = (time.thread_time() - began) / 3
    assert await busiest(engine.aembed(texts, as_numpy=True)) < 10 * one


async def test_the_event_loop_has_its_turn_while_a_stream_hands_on() -> None:
    engine = EmbeddingEngine(None, AllAtOnce(4), count_tokens=lambda text: 64, max_concurrency=4)

    async def take() -> None:
        async for _, vector in engine.aembed_iter([str(number) for number in range(4 * 256)]):
            for _ in range(40):
                sum(vector)

    assert await busiest(take()) < 0.05


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_answers_that_wait_to_be_decoded_are_kept(ending: str) -> None:
    service = AllAtOnce(8)
    engine = EmbeddingEngine(None, service, count_tokens=lambda text: 64, max_concurrency=8)

    def fail(progress: Any) -> None:
        raise ZeroDivisionError

    call = asyncio.create_task(
        engine.aembed([str(number) for number in range(8 * 256)], on_progress=fail if ending == "failed" else None)
    )
    await service.all.wait()
    if ending == "cancelled":
        # The requests have ended, and nothing is decoded yet.
        await asyncio.sleep(0)
        call.cancel()
    with pytest.raises((asyncio.CancelledError, ZeroDivisionError)) as caught:
        await call
    partial = partial_of(caught.value)
    assert partial is not None
    assert len(partial) == 8 * 256


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_counts_more_tokens_is_understood_after_a_few_refusals(mode: Mode) -> None:
    def refuse(inputs: list[str]) -> Any:
        if sum(map(service.tokens, inputs)) <= MAX_REQUEST_TOKENS:
            return None
        return error(400, "Too many tokens overall, split into more batches.", "3210")

    service = VectorService(tokens=lambda text: int(1.28 * len(text)), fault=refuse)
    texts = [f"{number}".ljust(400) for number in range(1_500)]
    engine = service.engine(count_tokens=len, max_concurrency=4)
    run(mode, engine, texts)
    first = len(service.bodies)
    # Not more than what was planned before the first answer is refused.
    assert first <= 47 + 30
    run(mode, engine, texts)
    assert len(service.bodies) - first <= 52


@pytest.mark.parametrize("mode", MODES)
def test_one_absurd_count_of_tokens_does_not_shrink_later_batches(mode: Mode) -> None:
    service = VectorService(tokens=lambda text: 10**9 if text == "absurd" else len(text))
    engine = service.engine(count_tokens=len, max_concurrency=2)
    engine.embed(["absurd"])
    run(mode, engine, [f"{number}".ljust(400) for number in range(500)])
    assert len(service.bodies) <= 15


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_work_is_not_spread_over_more_requests_than_the_account_keeps_busy(mode: Mode) -> None:
    texts = [f"{number} ".ljust(300, "x") for number in range(100)]
    with LocalGateway(latency=0.05, requests_per_second=12) as gateway:
        engine = engine_for(gateway, count_tokens=lambda text: 1_600)
        engine.embed(["warm"])
        run(mode, engine, texts)
        assert sum(request.status == 200 for request in gateway.requests) == 1 + 10
    with LocalGateway(latency=0.05) as gateway:
        engine = engine_for(gateway, count_tokens=lambda text: 1_600)
        engine.embed(["warm"])
        run(mode, engine, texts)
        assert len(gateway.requests) > 1 + 10


def test_many_lists_of_floats_are_warned_of() -> None:
    engine = VectorService().engine(model="next-embed", dimensions=1, count_tokens=lambda text: 30)
    texts = ["same"] * 50_000
    with pytest.warns(UserWarning, match="50,000 vectors as lists of floats take 8 times the memory of arrays"):
        engine.embed(texts)
    engine.embed(texts, as_numpy=True)
