"""Flows: the same logic over values and over awaitables."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from lava_mistral.transport.flow import Flow, adrive, drive

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Source:
    """Gives numbers, or fails, at once or later."""

    def __init__(self, asynchronous: bool) -> None:
        self._asynchronous = asynchronous

    def number(self, value: int) -> Any:
        if self._asynchronous:
            return self._later(value)
        if value < 0:
            raise ValueError(value)
        return value

    async def _later(self, value: int) -> int:
        await asyncio.sleep(0)
        if value < 0:
            raise ValueError(value)
        return value


async def run(flow: Flow[Any], asynchronous: bool) -> Any:
    return await adrive(flow) if asynchronous else drive(flow)


@both
async def test_steps_give_their_values(asynchronous: bool) -> None:
    def total(source: Source) -> Flow[int]:
        one = yield source.number(1)
        nothing = yield None
        assert nothing is None
        return one + (yield source.number(2))

    assert await run(total(Source(asynchronous)), asynchronous) == 3


@both
async def test_a_step_that_fails_raises_where_it_was_made(asynchronous: bool) -> None:
    def careful(source: Source) -> Flow[int]:
        try:
            return (yield source.number(-1))
        except ValueError:
            return (yield source.number(5))

    assert await run(careful(Source(asynchronous)), asynchronous) == 5


@both
async def test_what_is_raised_after_a_failure_has_no_context(asynchronous: bool) -> None:
    def translating(source: Source) -> Flow[int]:
        failed = False
        try:
            yield source.number(-1)
        except ValueError:
            failed = True
        if failed:
            raise KeyError("translated")
        return 0

    with pytest.raises(KeyError) as caught:
        await run(translating(Source(asynchronous)), asynchronous)
    assert caught.value.__context__ is None
    assert "ValueError" not in "".join(traceback.format_exception(caught.value))


async def test_a_cancelled_flow_can_end_in_order() -> None:
    ended = []

    def waiting() -> Flow[None]:
        try:
            yield asyncio.sleep(60)
        finally:
            yield asyncio.sleep(0)
            ended.append(True)

    task = asyncio.create_task(adrive(waiting()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


def test_a_coroutine_that_is_closed_closes_its_flow() -> None:
    ended = []

    def waiting() -> Flow[None]:
        try:
            yield asyncio.sleep(60)
        finally:
            ended.append(True)

    async def never() -> None:
        await adrive(waiting())

    coroutine = never()
    loop = asyncio.new_event_loop()

    async def step() -> None:
        coroutine.send(None)
        coroutine.close()

    loop.run_until_complete(step())
    loop.close()
    assert ended == [True]
