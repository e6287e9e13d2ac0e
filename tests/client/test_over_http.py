"""The clients against a real server that fails in every way: over sockets, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lava_mistral import (
    APIConnectionError,
    APITimeoutError,
    AsyncLavaMistral,
    ConfigurationError,
    LavaError,
    LavaMistral,
    ServerError,
    StreamInterruptedError,
    StreamStalledError,
)
from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.faults import Garbage, Interrupted, Reset, Slow, Status
from tests.fakes.clients import Caller, at_once
from tests.fakes.waiting import PATIENCE, aeventually

ASK: list[Any] = [{"role": "user", "content": "Say something long about nothing in particular, please."}]


class OverHttp(Caller):
    """Calls a gateway; tries follow each other at once."""

    def __init__(self, gateway: LocalGateway, asynchronous: bool) -> None:
        super().__init__(asynchronous)
        self.gateway = gateway

    def caller(self, max_retries: int = 2, **settings: Any) -> Any:
        return self.client(gateway=self.gateway, retry=at_once(max_retries), **settings)

    async def chat(self, **settings: Any) -> Any:
        return await self.do(self.caller(**settings).chat(ASK))

    async def stream(self, **settings: Any) -> tuple[list[str], Any]:
        """The texts that came, and the error that ended them."""
        client, texts = self.caller(**settings), []
        try:
            if self.asynchronous:
                async with await client.stream(ASK) as stream:
                    async for delta in stream:
                        texts.append(delta.text)
            else:
                with client.stream(ASK) as stream:
                    texts.extend(delta.text for delta in stream)
        except LavaError as error:
            return texts, error
        return texts, None


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest, gateway: LocalGateway) -> OverHttp:
    return OverHttp(gateway, request.param == "async")


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("clean", StreamInterruptedError),
        ("closed", StreamInterruptedError),
        ("reset", StreamInterruptedError),
        ("stalled", StreamStalledError),
        ("error event", StreamInterruptedError),
        ("finish error", StreamInterruptedError),
    ],
)
async def test_a_broken_stream_raises_with_the_partial_turn(
    caller: OverHttp, how: Any, kind: type[StreamInterruptedError]
) -> None:
    caller.gateway.queue(Interrupted(after=4, how=how))
    texts, error = await caller.stream(stream_chunk_timeout=0.4 if how == "stalled" else PATIENCE)
    assert type(error) is kind
    assert texts
    assert error.partial.text.startswith("".join(texts))
    assert error.request_id == caller.gateway.requests[0].request_id
    assert len(caller.gateway.requests) == 1


async def test_a_stream_without_done_but_with_a_finish_reason_is_whole(caller: OverHttp) -> None:
    caller.gateway.queue(Interrupted(how="no done"))
    texts, error = await caller.stream()
    assert error is None
    assert "".join(texts)


@pytest.mark.parametrize("how", ["clean", "closed", "reset", "stalled", "error event"])
async def test_a_stream_broken_before_its_first_word_is_tried_again(caller: OverHttp, how: Any) -> None:
    caller.gateway.queue(Interrupted(after=1, how=how))
    texts, error = await caller.stream(stream_chunk_timeout=0.4 if how == "stalled" else PATIENCE)
    assert error is None
    assert "".join(texts)
    assert len(caller.gateway.requests) == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Reset(), APIConnectionError),
        (Slow(PATIENCE), APITimeoutError),
        (Garbage(), ServerError),
        (Status(503), ServerError),
    ],
)
async def test_a_failed_answer_is_tried_again_and_then_raised(
    caller: OverHttp, fault: Any, kind: type[LavaError]
) -> None:
    timeout = 0.5 if isinstance(fault, Slow) else PATIENCE
    caller.gateway.queue(fault)
    assert (await caller.chat(timeout=timeout)).text
    assert len(caller.gateway.requests) == 2
    caller.gateway.queue(fault)
    with pytest.raises(kind):
        await caller.chat(timeout=timeout, max_retries=0)


async def test_the_wait_for_the_first_byte_may_be_longer_than_the_gap_between_chunks(caller: OverHttp) -> None:
    caller.gateway.queue(Slow(0.5))
    texts, error = await caller.stream(timeout=PATIENCE, stream_chunk_timeout=0.3, max_retries=0)
    assert error is None
    assert "".join(texts)


async def test_a_gap_may_be_longer_than_the_wait_for_the_first_byte(caller: OverHttp) -> None:
    good = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    last = good.replace(b"null", b'"stop"')
    caller.gateway.queue([good, 0.6, last, "data: [DONE]\n\n"])
    texts, error = await caller.stream(timeout=0.4, stream_chunk_timeout=PATIENCE, max_retries=0)
    assert error is None
    assert "".join(texts) == "aa"


async def test_leaving_a_stream_closes_its_connection() -> None:
    with LocalGateway(pace=0.05) as gateway:
        settings: dict[str, Any] = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
        stream = LavaMistral(**settings).stream(ASK)
        next(stream)
        stream.close()
        stream.close()
        assert next(stream, None) is None
        async_stream = await AsyncLavaMistral(**settings).stream(ASK)
        await anext(async_stream)
        await async_stream.aclose()
        assert await anext(async_stream, None) is None
        await aeventually(lambda: not gateway.in_flight)


async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    with LocalGateway(latency=2 * PATIENCE) as gateway:
        client = AsyncLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        tasks = [asyncio.create_task(client.chat(ASK)) for _ in range(5)]
        await aeventually(lambda: gateway.in_flight == 5)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        await aeventually(lambda: not gateway.in_flight)


async def test_connections_are_used_again(caller: OverHttp) -> None:
    for _ in range(5):
        await caller.chat()
        await caller.stream()
    assert caller.gateway.connections <= 2


async def test_each_try_sends_the_idempotency_key(caller: OverHttp) -> None:
    client = caller.caller()
    caller.gateway.queue(Status(500), Status(500))
    await caller.do(client.chat(ASK, idempotency_key="k"))
    await caller.do(client.embedding_request(["a"], idempotency_key="e"))
    await caller.do(client.chat(ASK))
    keys = [request.headers.get("idempotency-key") for request in caller.gateway.requests]
    assert keys == ["k", "k", "k", "e", None]


async def test_a_spend_key_is_refused_before_anything_is_sent(caller: OverHttp) -> None:
    client = caller.caller(api_key="lava_sk_0123456789")
    for ask in (lambda: client.chat(ASK), lambda: client.stream(ASK), lambda: client.embed(["a"]), client.models):
        with pytest.raises(ConfigurationError, match=r"/forward.*wants a secret key") as caught:
            await caller.do(ask())
        assert "0123456789" not in str(caught.value)
    assert not caller.gateway.requests


async def test_vectors_of_another_type_are_asked_for(caller: OverHttp) -> None:
    asked = caller.caller().embedding_request(["a"], output_dtype="int8")
    item = (await caller.do(asked)).response["data"][0]
    assert all(isinstance(number, int) for number in item["embedding"])
