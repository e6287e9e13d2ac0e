"""Spend limits: no call that could pass one is sent. Estimates: what a call will cost."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core.llms import ChatMessage

from lava_mistral import (
    AsyncLavaMistral,
    BillingError,
    ConfigurationError,
    CostEstimate,
    LavaMistral,
    LavaTransport,
    Model,
    SpendLimit,
    SpendLimitError,
    billed_to,
    count_tokens,
    estimate_cost,
)
from lava_mistral.billing.lava_record_types import RequestRecord
from lava_mistral.billing.reservation import max_chat_cost, max_embedding_cost
from lava_mistral.gateway import LocalGateway
from lava_mistral.pricing.catalog import add_model, get_model
from tests.fakes.waiting import eventually
from tests.fakes.wire import DONE, Wire, answer, event

ASK: list[Any] = [{"role": "user", "content": "Hello"}]
# 1,000 tokens in at $0.15 a million, 100 out at $0.60.
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
COST = Decimal("0.00021")


def good(request: httpx.Request) -> dict[str, Any]:
    """The same usage for every chat, and vectors."""
    if request.url.params["u"].endswith("embeddings"):
        vector = [1.0] + [0.0] * 1023
        data = [
            {"object": "embedding", "index": at, "embedding": vector}
            for at in range(len(json.loads(request.content)["input"]))
        ]
        return {"data": data, "usage": {"prompt_tokens": 1000}}
    return answer(usage=USAGE)


def client(wire: Wire, **settings: Any) -> LavaMistral:
    return LavaMistral(api_key="aks_test_x", http_client=wire.http(), max_retries=0, **settings)


def aclient(wire: Wire, **settings: Any) -> AsyncLavaMistral:
    return AsyncLavaMistral(api_key="aks_test_x", http_client=wire.http(asynchronous=True), max_retries=0, **settings)


NEEDED = max_chat_cost({"model": "mistral-small-2603", "messages": ASK, "max_tokens": 100})


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_that_could_pass_the_limit_is_not_sent(streamed: bool) -> None:
    wire = Wire(good)
    limit = SpendLimit(NEEDED - Decimal("0.000000001"))
    for call in (client(wire, spend_limit=limit), aclient(wire, spend_limit=limit)):
        made: Any = call.stream if streamed else call.chat
        with pytest.raises(SpendLimitError) as caught:
            await made(ASK, max_tokens=100) if isinstance(call, AsyncLavaMistral) else made(ASK, max_tokens=100)
        error = caught.value
        assert (error.limit, error.spent, error.left, error.needed) == (limit.limit, 0, limit.limit, NEEDED)
        assert isinstance(error, BillingError)
        assert not error.retryable
        assert "max_tokens=" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.needed) == (str(error), NEEDED)
    assert len(wire.requests) == 0
    assert limit.left == limit.limit


def test_the_real_cost_takes_the_place_of_what_was_reserved() -> None:
    limit = SpendLimit("1")
    wire = Wire(good)
    lava = client(wire, spend_limit=limit)
    lava.chat(ASK, max_tokens=100)
    assert (limit.spent, limit.reserved, limit.held, limit.left) == (COST, 0, 0, 1 - COST)
    lava.embedding_request(["text"])
    assert limit.spent == COST + Decimal("0.0001")
    assert repr(limit) == "<SpendLimit: limit=$1.00, spent=$0.00031, reserved=$0.00, held=$0.00>"


def test_calls_go_on_until_the_limit_is_used_up() -> None:
    limit = SpendLimit(3 * COST + NEEDED)
    lava = client(Wire(good), spend_limit=limit)
    for _ in range(4):
        lava.chat(ASK, max_tokens=100)
    with pytest.raises(SpendLimitError):
        lava.chat(ASK, max_tokens=100)
    assert limit.spent == 4 * COST


@pytest.mark.parametrize("status", [402, 429, 500])
def test_a_refused_call_gives_back_what_it_reserved(status: int) -> None:
    limit = SpendLimit("1")
    with pytest.raises(Exception, match=str(status)):
        client(Wire(status), spend_limit=limit).chat(ASK)
    assert limit.left == 1


def test_a_call_of_unknown_cost_keeps_what_it_reserved_until_it_is_settled() -> None:
    limit = SpendLimit("1")
    lava = client(Wire(b"garbage", httpx.ReadTimeout("slow")), spend_limit=limit)
    for _ in range(2):
        with pytest.raises(Exception, match=r"JSON|no answer"):
            lava.chat(ASK, max_tokens=100)
    assert (limit.spent, limit.reserved, limit.held) == (0, 0, 2 * NEEDED)
    assert limit.unreconciled() == ("req_1",)
    told = RequestRecord.from_wire({"request_id": "req_1", "status": "completed", "cost": "0.0001"})
    limit.reconcile(told)
    limit.reconcile(told)
    assert (limit.spent, limit.held, limit.left) == (Decimal("0.0001"), NEEDED, 1 - NEEDED - Decimal("0.0001"))


def test_every_limit_around_a_call_holds() -> None:
    lava = client(Wire(good), spend_limit="1")
    outer, inner = SpendLimit("10"), SpendLimit(NEEDED)
    with billed_to(spend_limit=outer):
        with billed_to(spend_limit=inner):
            lava.chat(ASK, max_tokens=100)
            with pytest.raises(SpendLimitError) as caught:
                lava.chat(ASK, max_tokens=100)
        lava.chat(ASK, max_tokens=100)
    assert caught.value.limit == NEEDED
    assert lava.spend_limit is not None
    # What the outer limits had set aside for the refused call is back.
    assert [limit.left for limit in (lava.spend_limit, outer, inner)] == [1 - 2 * COST, 10 - 2 * COST, NEEDED - COST]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_call_that_an_outer_limit_refuses_takes_nothing_from_the_inner_ones(asynchronous: bool) -> None:
    wire = Wire(good)
    outer, middle, inner = SpendLimit(0), SpendLimit("1"), SpendLimit("1")
    with (
        billed_to(spend_limit=outer),
        billed_to(spend_limit=middle),
        billed_to(spend_limit=inner),
        pytest.raises(SpendLimitError) as caught,
    ):
        await aclient(wire).chat(ASK) if asynchronous else client(wire).chat(ASK)
    assert caught.value.limit == 0
    assert [(limit.reserved, limit.held, limit.left) for limit in (outer, middle, inner)] == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 0, 1),
    ]
    assert len(wire.requests) == 0


def test_one_limit_that_holds_twice_is_drawn_on_once() -> None:
    limit = SpendLimit("1")
    with billed_to(spend_limit=limit), billed_to("c", "m", spend_limit=limit):
        client(Wire(good), spend_limit=limit).chat(ASK)
    assert limit.spent == COST


def test_a_block_says_what_was_spent_and_goes_on_with_its_limit() -> None:
    lava = client(Wire(good))
    block = billed_to("c", "m", spend_limit="0.50")
    for _ in range(2):
        with block:
            lava.chat(ASK)

    @block
    def decorated() -> None:
        lava.chat(ASK)

    decorated()
    assert block.spend_limit is not None
    assert block.spend_limit.spent == 3 * COST
    assert billed_to("c", "m").spend_limit is None


def test_calls_at_the_same_time_reserve_apart() -> None:
    entered, go = threading.Barrier(4), threading.Event()

    def handle(request: httpx.Request) -> httpx.Response:
        entered.wait(10)
        go.wait(10)
        return Wire(good)(request)

    limit = SpendLimit(3 * NEEDED)
    transport = httpx.MockTransport(handle)
    lava = LavaMistral(api_key="aks_test_x", http_client=httpx.Client(transport=transport), spend_limit=limit)
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(lava.chat, ASK, max_tokens=100) for _ in range(3)]
        entered.wait(10)
        assert (limit.reserved, limit.left) == (3 * NEEDED, 0)
        with pytest.raises(SpendLimitError, match="under way"):
            lava.chat(ASK, max_tokens=100)
        go.set()
        for job in jobs:
            job.result()
    assert limit.spent == 3 * COST


async def test_a_thousand_tasks_never_pass_the_limit() -> None:
    limit = SpendLimit(100 * COST)
    lava = aclient(Wire(good), spend_limit=limit)
    results = await asyncio.gather(*(lava.chat(ASK, max_tokens=100) for _ in range(1000)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, SpendLimitError)]
    assert limit.spent == (1000 - len(refused)) * COST <= limit.limit
    assert limit.reserved == 0
    assert 0 < len(refused) < 1000


def test_the_engine_stops_with_what_it_has_and_resumes() -> None:
    texts = [f"{number} " + "text " * 1000 for number in range(90)]
    wire = Wire(good)
    # A request of a dozen such texts reserves 0.1 cent and more, and costs 0.01 cent.
    limit = SpendLimit("0.0018")
    with pytest.raises(SpendLimitError) as caught:
        client(wire, spend_limit=limit).embed(texts, max_concurrency=1)
    sent = len(wire.requests)
    assert limit.spent == sent * Decimal("0.0001")
    assert 0 < len(caught.value.partial) < 90
    result = client(wire, spend_limit="1").embed(texts, max_concurrency=1, resume_from=caught.value.partial)
    assert len(result.vectors) == 90
    # 15 texts fit into a request.
    assert len(wire.requests) <= 6 + 2


def test_a_limit_needs_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(good)
    with pytest.raises(ConfigurationError, match=r"add_model\(Model\('mistral-unheard'"):
        client(wire, spend_limit="5").chat(ASK, model="mistral-unheard")
    assert len(wire.requests) == 0
    client(wire).chat(ASK, model="mistral-unheard")
    add_model(Model("mistral-free", input_price=Decimal(0), output_price=Decimal(0)))
    client(wire, spend_limit=0).chat(ASK, model="mistral-free")
    assert len(wire.requests) == 2


@pytest.mark.parametrize("bad", ["much", -1, float("nan"), "Infinity", True, [], {"usd": 1}])
def test_what_is_no_amount_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="zero or more USD"):
        SpendLimit(bad)
    with pytest.raises(ConfigurationError, match="zero or more USD"):
        LavaMistral(spend_limit=bad)


def test_amounts_are_taken_as_they_print() -> None:
    amounts = [SpendLimit(value).limit for value in (0.1, "0.1", Decimal("0.1"), 3)]
    assert amounts == [Decimal("0.1")] * 3 + [Decimal(3)]


def test_a_limit_is_shared_by_copies_and_begins_anew_elsewhere() -> None:
    limit = SpendLimit("1")
    limit.reserve(Decimal("0.25"))
    limit.reserve(Decimal("0.25"))
    limit.end(Decimal("0.25"), Decimal("0.1"))
    assert copy.deepcopy(limit) is limit
    other = pickle.loads(pickle.dumps(limit))
    assert (other.limit, other.spent, other.reserved) == (1, Decimal("0.1"), 0)
    other.reserve(Decimal("0.5"))
    assert limit.reserved == Decimal("0.25")


def test_a_transport_of_others_says_that_it_keeps_no_limit() -> None:
    wire = Wire(good)
    transport = LavaTransport(api_key="aks_test_x", transport=httpx.MockTransport(wire))
    with (
        httpx.Client(transport=transport) as http,
        billed_to(spend_limit="1"),
        pytest.raises(ConfigurationError, match="LavaTransport"),
    ):
        http.get("https://api.mistral.ai/v1/models")
    assert len(wire.requests) == 0


limits = st.decimals("0", "2", places=4)


@given(limits, st.lists(st.tuples(st.decimals("0", "1", places=4), st.none() | st.decimals("0", "1", places=4))))
def test_what_is_left_is_always_what_is_not_spent_reserved_or_held(limit: Decimal, calls: Any) -> None:
    account = SpendLimit(limit)
    open_calls = []
    for needed, cost in calls:
        if needed > account.left:
            with pytest.raises(SpendLimitError):
                account.reserve(needed)
        else:
            account.reserve(needed)
            open_calls.append((needed, None if cost is None else min(cost, needed)))
        if len(open_calls) > 2:
            account.end(*open_calls.pop(0))
        assert account.left == limit - account.spent - account.reserved - account.held
        assert account.left >= 0
    for call in open_calls:
        account.end(*call)
    assert account.reserved == 0


def test_an_estimate_spans_what_a_call_costs() -> None:
    estimate = estimate_cost("What is the capital of France?", max_tokens=100)
    model = get_model("mistral-small-2603")
    assert model.input_price is not None
    assert model.output_price is not None
    assert estimate.high == (model.input_price * estimate.input_tokens + model.output_price * 100) / 10**6
    assert estimate.low is not None
    assert estimate.likely is not None
    assert estimate.low < estimate.likely <= estimate.high
    assert estimate.output_tokens == 100


def test_without_max_tokens_an_answer_may_fill_the_window() -> None:
    estimate = estimate_cost(ASK, "mistral-small-2603")
    assert estimate.input_tokens + estimate.output_tokens >= get_model("mistral-small-2603").context_window
    assert estimate_cost(ASK, n=3).output_tokens == 3 * estimate.output_tokens
    expected = estimate_cost(ASK, likely_tokens=1000)
    assert expected.likely is not None
    assert estimate.likely is not None
    assert expected.likely > estimate.likely


def test_tools_schemas_and_attachments_count() -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "description": "d " * 500, "parameters": {}}}
    plain = estimate_cost(ASK)
    assert estimate_cost(ASK, tools=[tool]).input_tokens > plain.input_tokens + 400
    body: dict[str, Any] = {"model": "mistral-small-2603", "messages": ASK, "max_tokens": 10}
    least = max_chat_cost(body)
    assert max_chat_cost(body | {"tools": [tool]}) > least
    assert max_chat_cost(body | {"response_format": {"type": "json_object"}}) > least
    assert max_chat_cost(body | {"safe_prompt": True}) > least
    assert max_chat_cost(body | {"n": 2}) == least + Decimal("0.000006")
    pdf = [{"role": "user", "content": [{"type": "document_url", "document_url": "https://x.y/z.pdf"}]}]
    window = get_model("mistral-small-2603").context_window
    assert max_chat_cost(body | {"messages": pdf}) == Decimal("0.15") * window / 10**6 + Decimal("0.000006")
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x.y/z.png"}]}]
    assert estimate_cost(image, max_tokens=1).exact is False  # type: ignore[arg-type]


def test_embeddings_are_estimated_by_their_texts() -> None:
    one = estimate_cost("some text", "mistral-embed")
    two = estimate_cost(["some text", "some text"], "mistral-embed")
    assert two.input_tokens == 2 * one.input_tokens
    assert one.output_tokens == 0
    assert one.likely == Decimal("0.1") * one.input_tokens / 10**6
    # What a limit sets aside is enough for the request that was estimated.
    assert one.high == max_embedding_cost(["some text"], "mistral-embed") >= one.likely
    for wrong in ([{"role": "user", "content": "x"}], [1]):
        with pytest.raises(ConfigurationError, match="embeds texts"):
            estimate_cost(wrong, "mistral-embed")


def test_prompts_of_every_form_cost_the_same() -> None:
    wire = estimate_cost([{"role": "user", "content": "What is a river?"}], max_tokens=10)
    for prompt in (
        "What is a river?",
        {"role": "user", "content": "What is a river?"},
        ("user", "What is a river?"),
        [("human", "What is a river?")],
        HumanMessage("What is a river?"),
        [HumanMessage("What is a river?")],
        ChatPromptTemplate.from_messages([("user", "{x}")]).invoke({"x": "What is a river?"}),
        ChatMessage("What is a river?"),
        [ChatMessage(role="user", content="What is a river?")],
    ):
        assert estimate_cost(prompt, max_tokens=10) == wire
        if not isinstance(prompt, str):
            assert count_tokens(prompt).tokens == wire.input_tokens
    for wrong in (1, [1], [object()]):
        with pytest.raises(ConfigurationError, match="prompt"):
            estimate_cost(wrong)
    for options in ({"n": 0}, {"max_tokens": 0}):
        with pytest.raises(ConfigurationError, match="one or more"):
            estimate_cost("x", **options)


def test_a_tool_that_must_be_called_is_set_aside_for() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "mistral-small-2603", "messages": ASK, "max_tokens": 10, "tools": [tool]}
    must = max_chat_cost({**body, "tool_choice": "any"})
    assert max_chat_cost({**body, "tool_choice": "auto"}) == max_chat_cost(body) < must


def test_a_model_without_a_price_has_a_count_and_no_cost() -> None:
    estimate = estimate_cost(ASK, "mistral-unheard-of", 10)
    assert isinstance(estimate, CostEstimate)
    assert (estimate.low, estimate.likely, estimate.high) == (None, None, None)
    assert estimate.input_tokens > 0


PROMPTS: list[Callable[[], dict[str, Any]]] = [
    lambda: {"messages": ASK},
    lambda: {"messages": [{"role": "user", "content": "Bonjour, ça va ? 你好 🌋 " * 200}], "max_tokens": 50},
    lambda: {"messages": [{"role": "system", "content": "Answer in JSON."}, *ASK], "n": 3, "max_tokens": 20},
    lambda: {"messages": ASK, "response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    lambda: {"messages": ASK, "tools": [TOOL], "tool_choice": "any"},
]
SCHEMA = {"name": "s", "schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA["schema"]}}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_no_call_costs_more_than_what_is_reserved_for_it(gateway: LocalGateway, prompt: Any) -> None:
    limit = SpendLimit("1")
    lava = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, spend_limit=limit)
    parameters = prompt()
    most = max_chat_cost({"model": "mistral-small-2603", **parameters})
    lava.chat(**parameters)
    assert 0 < limit.spent <= most
    assert limit.spent == gateway.requests[-1].cost


def test_reconciling_a_limit_asks_lava(gateway: LocalGateway) -> None:
    limit = SpendLimit("1")
    lava = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, spend_limit=limit)
    gateway.queue([event("Hi"), 0.5, event("", "stop", usage=USAGE), DONE])
    with lava.stream(ASK) as stream:
        next(stream)
        # Its end is on the way, and charged, when the stream is left.
        eventually(lambda: gateway.requests[0].cost)
    assert limit.held > 0
    assert lava.reconcile(limit) == 0
    assert (limit.held, limit.spent) == (0, COST)


def test_a_copy_of_a_limit_and_its_original_count_apart() -> None:
    limit = SpendLimit("1")
    limit.reserve(Decimal("0.5"))
    apart = copy.copy(limit)
    limit.end(Decimal("0.5"), Decimal("0.25"))
    assert (apart.spent, apart.reserved, apart.left) == (0, 0, 1)
    assert (limit.spent, limit.reserved, limit.left) == (Decimal("0.25"), 0, Decimal("0.75"))


def test_a_request_that_a_limit_refused_is_not_counted_as_sent(gateway: LocalGateway) -> None:
    lava = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, spend_limit="0.004")
    with pytest.raises(SpendLimitError) as caught:
        lava.embed([f"{number} " + "text " * 1000 for number in range(90)], max_concurrency=1)
    assert caught.value.partial.usage.requests == len(gateway.requests) > 0
