"""Every paid request is told of once, to those who listened where its call began."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import io
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import httpx
import pytest
from rich.console import Console

from langchain_lava_mistral import LavaUsageCallbackHandler
from lava_mistral import (
    AsyncLavaMistral,
    Billing,
    CallRecord,
    InvalidRequestError,
    LavaError,
    Model,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
    UsageTotals,
    billed_to,
    track_usage,
)
from lava_mistral.billing.lava_record_types import ModelUsage, RequestRecord
from lava_mistral.billing.metering import open_call_meter
from lava_mistral.billing.scope import resolve_billing
from lava_mistral.billing.usage import LANGCHAIN_RUN, subscribe, unsubscribe
from lava_mistral.billing.usage_totals import OTHER, listen
from lava_mistral.pricing.catalog import add_model
from llama_index_lava_mistral import LavaUsageHandler
from tests.fakes import wire
from tests.fakes.clients import Caller, at_once
from tests.fakes.waiting import PATIENCE, aeventually
from tests.fakes.wire import DONE, Pieces, Wire

ASK: list[Any] = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500, "num_cached_tokens": 400}
# 600 tokens at $0.15 a million, 400 cached ones at a tenth of it, 500 at $0.60.
COST = Decimal("0.000396")


def event(content: str, finish: str | None = None, **extra: Any) -> bytes:
    """An event under a name that has no price."""
    return wire.event(content, finish, **{"model": "m"} | extra)


def answer(finish_reason: str = "stop", **changes: Any) -> dict[str, Any]:
    """An answer under a name that has no price."""
    return wire.answer(finish_reason=finish_reason) | {"model": "m", "usage": USAGE} | changes


WHOLE = (event("Hi"), event("", "stop", usage=USAGE), DONE)
VECTORS = {"id": "e", "object": "list", "model": "mistral-embed", "data": [], "usage": {"prompt_tokens": 10}}


class Scripted(Caller):
    """A client that asks a script."""

    def client(self, *answers: Any, **settings: Any) -> Any:
        return super().client(Wire(*answers), **settings)


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Scripted:
    return Scripted(request.param == "async")


class Told(list[CallRecord]):
    """A listener that keeps what it is told."""

    __hash__ = object.__hash__

    def __call__(self, record: CallRecord) -> None:
        self.append(record)


@pytest.fixture
def told() -> Iterator[Told]:
    records = Told()
    subscribe(records)
    yield records
    unsubscribe(records)


async def test_a_chat_is_told_with_all_that_is_known_of_it(caller: Scripted, told: Told) -> None:
    client = caller.client(answer(), metadata={"app": "a"})
    billing = Billing(customer_id="c_1", meter_slug="chat")
    with listen((), "run-1"):
        await caller.do(client.chat(ASK, billing=billing, lava_metadata={"team": "t"}))
    assert told == [
        CallRecord(
            kind="chat",
            model="mistral-small-2603",
            request_id="req_1",
            usage=USAGE,  # type: ignore[arg-type]
            cost=COST,
            customer_id="c_1",
            meter_slug="chat",
            metadata={"app": "a", "team": "t"},
            run_id="run-1",
            streamed=False,
            complete=True,
            # 400 tokens at nine tenths of $0.15 a million.
            saved=Decimal("0.000054"),
        )
    ]
    [record] = told
    assert (record.input_tokens, record.output_tokens, record.cached_tokens) == (1000, 500, 400)
    assert json.loads(json.dumps(record.as_dict()))["cost"] == "0.000396"


async def test_a_stream_is_told_at_its_end(caller: Scripted, told: Told) -> None:
    stream = await caller.do(caller.client(Pieces(*WHOLE)).stream(ASK))
    await caller.take(stream, 1)
    assert not told
    await caller.take(stream)
    await caller.close(stream)
    [record] = told
    assert (record.streamed, record.complete, record.cost, record.request_id) == (True, True, COST, "req_1")


async def test_a_stream_that_is_closed_early_is_told_as_unknown(caller: Scripted, told: Told) -> None:
    stream = await caller.do(caller.client(Pieces(*WHOLE)).stream(ASK))
    await caller.take(stream, 1)
    await caller.close(stream)
    await caller.close(stream)
    [record] = told
    assert (record.complete, record.usage, record.cost, record.request_id) == (False, None, None, "req_1")
    assert (record.input_tokens, record.output_tokens, record.cached_tokens) == (None, None, None)


async def test_a_stream_that_is_closed_after_its_usage_came_is_known(caller: Scripted, told: Told) -> None:
    stream = await caller.do(caller.client(Pieces(*WHOLE)).stream(ASK))
    await caller.take(stream, 2)
    await caller.close(stream)
    assert [record.cost for record in told] == [COST]


async def test_a_stream_that_is_dropped_is_told(caller: Scripted, told: Told) -> None:
    stream = await caller.do(caller.client(Pieces(*WHOLE)).stream(ASK))
    await caller.take(stream, 1)
    del stream
    gc.collect()
    assert [(record.complete, record.usage) for record in told] == [(False, None)]


@pytest.mark.parametrize(
    ("pieces", "usage"),
    [
        ((event("Hi"), httpx.ReadError("broken")), None),
        ((event("Hi"), b"data: nonsense\n\n"), None),
        ((event("Hi"),), None),
        ((event("Hi"), b'data: {"object": "error", "message": "no"}\n\n'), None),
        ((event("Hi"), event("", "error", usage=USAGE)), USAGE),
    ],
    ids=["broken", "garbage", "cut", "error event", "finish reason error"],
)
async def test_an_interrupted_stream_is_told_with_what_is_known(
    caller: Scripted, told: Told, pieces: Any, usage: Any
) -> None:
    stream = await caller.do(caller.client(Pieces(*pieces)).stream(ASK))
    with pytest.raises(StreamInterruptedError):
        await caller.take(stream)
    assert [(record.complete, record.usage) for record in told] == [(False, usage)]


async def test_an_embedding_request_is_told(caller: Scripted, told: Told) -> None:
    await caller.do(caller.client(VECTORS).embedding_request(["text"]))
    assert [(r.kind, r.model, r.cost, r.output_tokens) for r in told] == [
        ("embedding", "mistral-embed", Decimal("0.000001"), 0)
    ]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429, 500, 503])
async def test_a_refusal_costs_nothing_and_is_not_told(caller: Scripted, told: Told, status: int) -> None:
    client = caller.client((status, {"error": "no"}))
    for call in (client.chat, client.stream):
        with pytest.raises(LavaError):
            await caller.do(call(ASK))
    with pytest.raises(LavaError):
        await caller.do(client.embedding_request(["text"]))
    assert not told


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), httpx.ConnectTimeout("no"), httpx.PoolTimeout("no")])
async def test_a_request_that_never_left_is_not_told(caller: Scripted, told: Told, error: Exception) -> None:
    with pytest.raises(LavaError):
        await caller.do(caller.client(error).chat(ASK))
    assert not told


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("slow"), httpx.ReadError("reset"), httpx.RemoteProtocolError("gone")]
)
async def test_a_request_without_an_answer_is_told_as_unknown(caller: Scripted, told: Told, error: Exception) -> None:
    with pytest.raises(LavaError):
        await caller.do(caller.client(error).chat(ASK))
    assert [(record.request_id, record.usage, record.complete) for record in told] == [(None, None, False)]


async def test_an_answer_that_breaks_off_is_told_with_its_request_id(caller: Scripted, told: Told) -> None:
    with pytest.raises(LavaError) as caught:
        await caller.do(caller.client(Pieces(b'{"id"', httpx.ReadError("reset"))).chat(ASK))
    assert caught.value.request_id == "req_1"
    assert [(record.request_id, record.usage) for record in told] == [("req_1", None)]


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b"not json", None),
        (answer(choices=[]), USAGE),
        (answer(finish_reason="error"), USAGE),
        (answer(usage={"prompt_tokens": "many"}, choices=[]), None),
    ],
    ids=["garbage", "no choices", "finish reason error", "senseless usage"],
)
async def test_an_answer_that_is_no_answer_was_paid_all_the_same(
    caller: Scripted, told: Told, body: Any, usage: Any
) -> None:
    with pytest.raises(ServerError):
        await caller.do(caller.client(body).chat(ASK))
    assert [(record.usage, record.complete, record.request_id) for record in told] == [(usage, False, "req_1")]


async def test_each_try_that_was_paid_is_told(caller: Scripted, told: Told) -> None:
    tries = [(503, {}), answer(finish_reason="error"), (429, {}), httpx.ReadTimeout("slow"), answer()]
    await caller.do(caller.client(*tries, retry=at_once(4)).chat(ASK))
    assert [(record.request_id, record.complete) for record in told] == [
        ("req_2", False),
        (None, False),
        ("req_5", True),
    ]


async def test_a_cancelled_call_is_told_as_unknown(told: Told) -> None:
    asked = asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("it was to be cancelled")

    client = AsyncLavaMistral(api_key="aks_test_x", http_client=httpx.AsyncClient(transport=httpx.MockTransport(never)))
    task = asyncio.create_task(client.chat(ASK))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(record.usage, record.complete, record.request_id) for record in told] == [(None, False, None)]


async def test_a_call_cancelled_while_its_body_comes_has_a_request_id(told: Told) -> None:
    for method in ("chat", "stream"):
        body = Pieces(b"{", PATIENCE)
        client = Scripted(True).client(body)
        task = asyncio.create_task(getattr(client, method)(ASK))
        await aeventually(lambda body=body: body.taken == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    del task
    gc.collect()
    assert [(record.request_id, record.complete) for record in told] == [("req_1", False)] * 2


def test_listeners_are_those_of_where_the_call_began() -> None:
    caller = Scripted(False)
    client = caller.client(Pieces(*WHOLE), Pieces(*WHOLE))
    with track_usage() as usage:
        stream = client.stream(ASK)
    list(stream)
    assert (usage.requests, usage.cost) == (1, COST)
    other = client.stream(ASK)
    with track_usage() as late:
        list(other)
    assert late.requests == 0
    assert usage.requests == 1


def test_blocks_nest_and_each_listener_is_told_once() -> None:
    client = Scripted(False).client(answer())
    totals = UsageTotals()
    single = Told()
    with (
        track_usage(totals) as outer,
        track_usage(totals),
        listen([totals]),
        track_usage(listener=single) as inner,
    ):
        client.chat(ASK)
        subscribe(totals)
        client.chat(ASK)
        unsubscribe(totals)
        unsubscribe(totals)
    client.chat(ASK)
    assert outer is totals
    assert (totals.requests, inner.requests, len(single)) == (2, 2, 2)


async def test_leaving_a_block_goes_back_to_the_one_around_it(caller: Scripted) -> None:
    client = caller.client(answer())
    with track_usage() as outer:
        with track_usage() as middle:
            with track_usage() as inner:
                await caller.do(client.chat(ASK))
            await caller.do(client.chat(ASK))
        await caller.do(client.chat(ASK))
    await caller.do(client.chat(ASK))
    assert (outer.requests, middle.requests, inner.requests) == (3, 2, 1)


def test_one_block_can_be_entered_again() -> None:
    client = Scripted(False).client(answer())
    block = track_usage()
    with block, block as usage:
        client.chat(ASK)
    with block:
        client.chat(ASK)
    assert usage.requests == 2


def test_threads_count_where_their_context_was_copied() -> None:
    client = Scripted(False).client(answer())
    with track_usage() as usage, ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(contextvars.copy_context().run, client.chat, ASK) for _ in range(40)]
        for job in jobs:
            job.result()
    assert (usage.requests, usage.cost, usage.unknown) == (40, 40 * COST, 0)


async def test_tasks_count_apart() -> None:
    caller = Scripted(True)
    client = caller.client(answer())

    async def work(calls: int) -> int:
        with track_usage() as usage:
            await asyncio.gather(*(client.chat(ASK) for _ in range(calls)))
        return usage.requests

    with track_usage() as usage:
        assert await asyncio.gather(*map(work, range(5))) == [0, 1, 2, 3, 4]
    assert usage.requests == 10


def test_a_listener_that_fails_is_logged_and_fails_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def bad(record: CallRecord) -> None:
        raise ZeroDivisionError("my fault")

    with track_usage(listener=bad), track_usage() as usage:
        Scripted(False).client(answer()).chat(ASK)
    assert usage.requests == 1
    assert "my fault" in caplog.text


def test_nothing_is_metered_where_nobody_listens() -> None:
    opened: list[Any] = []

    def open_one() -> None:
        opened.append(open_call_meter("chat", "mistral-small-2603", resolve_billing(None, None), lambda: Decimal(1)))

    open_one()
    with track_usage():
        open_one()
    with billed_to(spend_limit="1"):
        opened.append(open_call_meter("chat", "m", resolve_billing(None, None), lambda: Decimal(1)))
    assert [meter is None for meter in opened] == [True, False, False]


def record(**fields: Any) -> CallRecord:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "num_cached_tokens": 3}
    return CallRecord(**({"kind": "chat", "model": "m", "usage": usage, "cost": Decimal("0.1")} | fields))


def test_what_the_prompt_cache_saved_is_summed_and_shown() -> None:
    usage = UsageTotals()
    usage.add(record())
    assert "saved" not in _printed(usage.table())
    usage.add(record(customer_id="a", saved=Decimal("0.00002")))
    usage.add(record(customer_id="a", saved=Decimal("0.00003")))
    assert usage.saved == usage.by_customer["a"].saved == Decimal("0.00005")
    assert usage.as_dict()["by_customer"]["a"]["saved"] == "0.00005"
    assert _printed(usage.table()).count("$0.00005") >= 2


def _printed(table: Any) -> str:
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_sums_by_model_customer_meter_and_metadata() -> None:
    usage = UsageTotals()
    usage.add(record(customer_id="a", meter_slug="chat", metadata={"team": "x", LANGCHAIN_RUN: "r1"}))
    usage.add(record(model="n", customer_id="b", meter_slug="chat", metadata={"team": "x"}, cost=Decimal("0.02")))
    usage.add(record(metadata={"team": "y"}, usage=None, cost=None, request_id="r"))
    usage.add(record(cost=None))
    total = usage.total
    assert (total.requests, total.unknown, total.unpriced) == (4, 1, 1)
    assert (total.input_tokens, total.output_tokens, total.cached_tokens, total.total_tokens) == (30, 15, 9, 45)
    assert (usage.cost, usage.total_tokens, usage.unknown) == (Decimal("0.12"), 45, 1)
    assert {name: tally.cost for name, tally in usage.by_model.items()} == {"m": Decimal("0.1"), "n": Decimal("0.02")}
    assert {name: tally.requests for name, tally in usage.by_customer.items()} == {"a": 1, "b": 1, None: 2}
    assert usage.by_meter["chat"].cost == Decimal("0.12")
    assert {name: tally.requests for name, tally in usage.by_metadata("team").items()} == {"x": 2, "y": 1}
    assert usage.metadata_keys == ("team",)
    assert usage.by_metadata("nothing") == {}
    data = json.loads(json.dumps(usage.as_dict()))
    assert data["cost"] == "0.12"
    assert data["by_customer"][""]["requests"] == 2
    assert data["by_metadata"]["team"]["x"]["cost"] == "0.12"
    assert repr(usage) == "<UsageTotals: 4 requests, 45 tokens, $0.12, 1 unknown>"


def test_what_is_given_out_does_not_change() -> None:
    usage = UsageTotals()
    before = usage.total
    usage.add(record())
    usage.by_model["m"].requests = 99
    assert (before.requests, usage.total.requests) == (0, 1)


def test_metadata_keys_can_be_chosen_and_values_are_bounded() -> None:
    usage = UsageTotals(metadata_keys=["user", LANGCHAIN_RUN], most_values=2)
    for number in range(5):
        usage.add(record(metadata={"user": f"u{number % 4}", "other": "x", LANGCHAIN_RUN: "r"}))
    assert {name: tally.requests for name, tally in usage.by_metadata("user").items()} == {"u0": 2, "u1": 1, OTHER: 2}
    assert usage.metadata_keys == ("user", LANGCHAIN_RUN)


def test_sums_are_exact_whatever_the_callers_decimal_context() -> None:
    usage = UsageTotals()
    with localcontext() as context:
        context.prec = 3
        for _ in range(1000):
            usage.add(record(cost=Decimal("1.0000000000000000000000000000001")))
        assert str(usage.cost) == "1000.0000000000000000000000000001000"


def test_many_threads_lose_nothing() -> None:
    usage = UsageTotals()
    threads = [threading.Thread(target=lambda: [usage.add(record()) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        total = usage.total
        assert total.cost == total.requests * Decimal("0.1")
    for thread in threads:
        thread.join()
    assert (usage.requests, usage.cost) == (4000, Decimal("400.0"))


def lava_says(request_id: str = "r", **fields: Any) -> RequestRecord:
    return RequestRecord.from_wire(
        {
            "request_id": request_id,
            "status": "completed",
            "cost": "0.03",
            "model_usage": {"input_tokens": 7, "output_tokens": 2},
        }
        | fields
    )


def test_what_was_unknown_is_settled_once() -> None:
    usage = UsageTotals()
    usage.add(record(usage=None, cost=None, request_id="r", customer_id="a", metadata={"team": "x"}))
    usage.add(record(usage=None, cost=None))
    assert usage.unreconciled() == ("r",)
    usage.reconcile(lava_says("stranger"))
    assert usage.unknown == 2
    usage.reconcile(lava_says())
    usage.reconcile(lava_says())
    assert (usage.unknown, usage.cost, usage.total_tokens, usage.unreconciled()) == (1, Decimal("0.03"), 9, ())
    assert usage.by_customer["a"].cost == usage.by_metadata("team")["x"].cost == Decimal("0.03")
    assert lava_says().usage == ModelUsage(input_tokens=7, output_tokens=2)


def test_the_oldest_unreconciled_are_forgotten_when_there_are_very_many() -> None:
    usage, most = UsageTotals(), 100_000
    lost = record(usage=None, cost=None)
    for number in range(most + 2):
        usage.add(replace(lost, request_id=f"r{number}"))
    unsettled = usage.unreconciled()
    assert (len(unsettled), unsettled[0], unsettled[-1]) == (most, "r2", f"r{most + 1}")
    assert usage.unknown == most + 2


@pytest.mark.parametrize("copied", [lambda usage: pickle.loads(pickle.dumps(usage)), copy.deepcopy])
def test_totals_can_be_copied(copied: Callable[[UsageTotals], UsageTotals]) -> None:
    usage = UsageTotals()
    usage.add(record())
    other = copied(usage)
    other.add(record())
    assert (usage.requests, other.requests) == (1, 2)


def shown(usage: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(usage)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_shows_every_group_and_the_total() -> None:
    usage = UsageTotals()
    usage.add(record(model="mistral-small-2603", customer_id="[c]", metadata={"team": "x"}))
    usage.add(record(model="mistral-embed", cost=Decimal("2.5")))
    text = shown(usage)
    assert "unknown" not in text
    for part in ("by model", "mistral-small-2603", "by customer", "[c]", "by team", "2.6", "20"):
        assert part in text
    assert text.index("mistral-embed") < text.index("mistral-small-2603")
    usage.add(record(usage=None, cost=None))
    assert "unknown" in shown(usage.table("meter"))
    assert "by meter" in shown(usage.table("meter"))
    with pytest.raises(ValueError, match="metadata:KEY"):
        usage.table("colour")


def test_a_model_without_a_price_is_counted_as_unpriced() -> None:
    with track_usage() as usage:
        Scripted(False).client(answer()).chat(ASK, model="mistral-unheard-of")
    assert (usage.total.unpriced, usage.cost, usage.total_tokens) == (1, 0, 1500)
    add_model(Model("mistral-mine", input_price=Decimal(1), output_price=Decimal(2)))
    with track_usage() as usage:
        Scripted(False).client(answer(usage={"prompt_tokens": 3, "completion_tokens": 2})).chat(
            ASK, model="mistral-mine"
        )
    assert usage.cost == Decimal("0.000007")


def test_a_call_that_is_refused_before_it_is_sent_is_not_told(told: Told) -> None:
    with pytest.raises(InvalidRequestError):
        Scripted(False).client(answer()).chat([])
    assert not told


def test_a_block_of_billing_names_the_customer(told: Told) -> None:
    with billed_to("c_9", "chat", {"k": "v"}):
        Scripted(False).client(answer()).chat(ASK)
    assert [(r.customer_id, r.meter_slug, dict(r.metadata)) for r in told] == [("c_9", "chat", {"k": "v"})]


def test_rate_limits_of_an_engine_are_no_calls(told: Told) -> None:
    client = Scripted(False).client((429, {"message": "slow down"}), VECTORS | {"data": [vector()]})
    with pytest.raises(RateLimitError):
        client.embedding_request(["a"])
    client.embedding_request(["a"])
    assert len(told) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_price_is_that_of_the_model_that_was_asked_for(caller: Scripted, told: Told, streamed: bool) -> None:
    """An alias may be answered under the name of a model with another price."""
    other = "mistral-large-latest"
    body = Pieces(event("Hi", "stop", model=other, usage=USAGE), DONE)
    client = caller.client(body if streamed else answer(model=other))
    if streamed:
        answered = await caller.do(client.stream(ASK))
        await caller.take(answered)
    else:
        answered = await caller.do(client.chat(ASK))
    assert (answered.model, answered.cost, told[0].cost) == (other, COST, COST)


def vector() -> dict[str, Any]:
    return {"object": "embedding", "index": 0, "embedding": [0.5] * 4}


def test_who_was_not_called_for_has_used_nothing() -> None:
    usage = UsageTotals()
    usage.add(record(customer_id="c"))
    assert usage.by_customer["c"].requests == 1
    assert usage.by_customer["nobody"].cost == 0
    assert usage.by_metadata("team")["red"].requests == 0
    assert "nobody" not in usage.by_customer


@pytest.mark.parametrize("kind", [LavaUsageCallbackHandler, LavaUsageHandler])
def test_handlers_show_what_their_totals_hold(kind: Any) -> None:
    handler = kind()
    handler.totals.add(record(customer_id="c", usage=None, cost=None, request_id="r"))
    handler.totals.add(record(customer_id="c"))
    totals = handler.totals
    assert (handler.cost, handler.requests, handler.total_tokens) == (totals.cost, 2, totals.total_tokens)
    assert (handler.by_model, handler.by_customer) == (totals.by_model, totals.by_customer)
    assert handler.unreconciled() == ("r",)
    assert handler.as_dict() == totals.as_dict()


def test_a_copy_of_totals_and_their_original_count_apart() -> None:
    totals = UsageTotals()
    totals.add(record(customer_id="c", metadata={"team": "red"}))
    apart = copy.copy(totals)
    totals.add(record(customer_id="c", metadata={"team": "red"}))
    for usage, count in ((totals, 2), (apart, 1)):
        assert usage.requests == usage.by_customer["c"].requests == usage.by_metadata("team")["red"].requests == count


async def test_a_run_is_named_through_the_blocks_inside_it(caller: Scripted, told: Told) -> None:
    client = caller.client(answer())
    with listen((), "run-1"), listen([Told()]), track_usage(), listen():
        await caller.do(client.chat(ASK))
    assert [record.run_id for record in told] == ["run-1"]
