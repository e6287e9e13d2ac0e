"""What Lava recorded: requests, pages, sums; against the local gateway and on the wire."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from lava_mistral import (
    AuthenticationError,
    Billing,
    ConfigurationError,
    LavaMistral,
    NotFoundError,
    RequestRecord,
    ServerError,
    UsageReport,
    track_usage,
)
from lava_mistral.billing.lava_record_types import Charge, UsageItem, UsageSum
from lava_mistral.client.lava_api import moment_text
from lava_mistral.gateway import LocalGateway
from tests.fakes.clients import KEY, Caller
from tests.fakes.waiting import aeventually
from tests.fakes.wire import DONE, Wire, event

ASK: list[Any] = [{"role": "user", "content": "Hello there"}]
# As Lava's Node SDK types it (RestRequest).
RECORD: dict[str, Any] = {
    "request_id": "req_1",
    "status": "completed",
    "customer_id": "c_1",
    "meter_id": "met_1",
    "provider": "mistral",
    "provider_key_type": "managed",
    "model": "mistral-small-2603",
    "endpoint": "https://api.mistral.ai/v1/chat/completions",
    "response_id": "cmpl-1",
    "model_usage": {
        "input_tokens": 12,
        "output_tokens": 3,
        "total_tokens": 15,
        "input_characters": 0,
        "output_characters": 0,
        "total_characters": 0,
        "input_seconds": 0,
        "output_seconds": 1.5,
        "total_seconds": 1.5,
        "input_cost": "0.0000018",
        "output_cost": "0.0000018",
        "total_cost": "0.0000036",
    },
    "cost": "0.0000036",
    "charge": {
        "amount": "0.00001",
        "rate_type": "fixed",
        "breakdown": [{"tier": {"start": 0, "rate": "1", "type": "tokens_1m"}, "tokens": 15, "cost": "0.00001"}],
    },
    "metadata": {"team": "x"},
    "created_at": "2026-08-01T10:00:00.000Z",
}


COUNTED = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}


@pytest.fixture(params=["sync", "async"])
def side(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param == "async")


def test_a_record_is_read_with_its_types() -> None:
    record = RequestRecord.from_wire(RECORD)
    assert (record.request_id, record.status, record.customer_id, record.meter_id) == (
        "req_1",
        "completed",
        "c_1",
        "met_1",
    )
    assert (record.usage.input_tokens, record.usage.output_tokens, record.usage.total_tokens) == (12, 3, 15)
    assert record.usage.total_cost == Decimal("0.0000036")
    assert record.cost == Decimal("0.0000036")
    assert record.charge == Charge(Decimal("0.00001"), "fixed", tuple(RECORD["charge"]["breakdown"]))
    assert record.created_at == datetime(2026, 8, 1, 10, tzinfo=UTC)
    assert record.metadata == {"team": "x"}
    assert record.raw is RECORD


def test_what_lava_leaves_out_is_empty() -> None:
    record = RequestRecord.from_wire({"request_id": "r", "created_at": "soon", "cost": 0.1, "charge": None})
    assert (record.status, record.customer_id, record.model, record.charge) == ("pending", None, None, None)
    assert (record.usage.total_tokens, record.cost, record.created_at) == (0, Decimal("0.1"), None)
    assert UsageReport.from_wire({}) == UsageReport((), UsageSum())


@pytest.mark.parametrize(
    "wrong", [{}, {"request_id": 7}, {"request_id": "r", "cost": "much"}, {"request_id": "r", "cost": "NaN"}]
)
def test_a_record_that_makes_no_sense_says_so(wrong: Any) -> None:
    with pytest.raises(ServerError, match="expected a record of usage"):
        RequestRecord.from_wire(wrong)


def test_moments_are_written_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    assert moment_text(datetime(2026, 8, 1, 12, 30, tzinfo=zone)) == "2026-08-01T10:30:00.000Z"
    assert moment_text(date(2026, 8, 1)) == "2026-08-01"
    assert moment_text("2026-08-01T00:00:00Z") == "2026-08-01T00:00:00Z"
    assert moment_text(datetime(2026, 8, 1)).endswith("Z")


async def test_a_question_goes_to_lava_itself_with_the_secret_key(side: Caller) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=RECORD)

    for credential in (KEY, Billing(customer_id="c", meter_slug="m").forward_token(KEY), lambda: KEY):
        record = await side.do(side.client(handle, api_key=credential).request("req/1 ä"))
        assert record.request_id == "req_1"
    for request in seen:
        assert request.method == "GET"
        assert request.url.raw_path == b"/v1/requests/req%2F1%20%C3%A4"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert "x-lava-metadata" not in request.headers


async def test_a_record_may_call_its_moment_a_timestamp(side: Caller) -> None:
    moment = "2026-08-01T10:00:00.000Z"
    record = {"request_id": "r", "status": "completed", "timestamp": moment}
    client = side.client(lambda _: httpx.Response(200, json=record))
    assert (await side.do(client.request("r"))).created_at == datetime(2026, 8, 1, 10, tzinfo=UTC)


async def test_an_opaque_token_can_ask_nothing(side: Caller) -> None:
    with pytest.raises(ConfigurationError, match="secret key") as caught:
        await side.do(side.client(lambda _: httpx.Response(200), api_key="opaque-token").request("r"))
    assert "opaque-token" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="not None"):
        await side.do(side.client().request(None))


async def test_a_refusal_is_lavas_own_and_shows_no_key(side: Caller) -> None:
    client = side.client(lambda _: httpx.Response(401, json={"message": "Unauthorized"}))
    with pytest.raises(AuthenticationError) as caught:
        await side.do(client.request("r"))
    error = caught.value
    assert (error.origin, error.response.request.url.path) == ("lava", "/v1/requests/r")
    assert "authorization" not in error.response.request.headers


async def test_a_record_that_is_not_there_yet_is_waited_for(side: Caller) -> None:
    wire = Wire((404, {"error": "no"}), (404, {"error": "no"}), RECORD | {"status": "pending"}, RECORD)
    began = time.monotonic()
    record = await side.do(side.client(wire).request("req_1"))
    assert record.status == "completed"
    assert len(wire.requests) == 4
    # 0.1 s, half as much again, and so on.
    assert time.monotonic() - began >= 0.475


async def test_patience_ends(side: Caller) -> None:
    wire = Wire((404, {"error": "Request not found"}))
    for wait in (0, None):
        with pytest.raises(NotFoundError):
            await side.do(side.client(wire).request("r", wait=wait))
    assert len(wire.requests) == 2
    began = time.monotonic()
    with pytest.raises(NotFoundError):
        await side.do(side.client(wire).request("r", wait=0.3))
    assert time.monotonic() - began >= 0.3
    assert len(wire.requests) == 6
    pending = side.client(Wire(RECORD | {"status": "pending"}))
    record = await side.do(pending.request("r", wait=0.1))
    assert record.status == "pending"


@pytest.mark.parametrize("wrong", ["", " ", 7])
@pytest.mark.parametrize("name", ["customer_id", "meter_id"])
async def test_an_empty_filter_is_not_taken_for_none(side: Caller, name: str, wrong: Any) -> None:
    asked: list[httpx.Request] = []
    client = side.client(lambda request: asked.append(request) or httpx.Response(200, json={}))
    with pytest.raises(ConfigurationError, match=f"{name} is text"):
        await side.take(client.requests(**{name: wrong}))
    with pytest.raises(ConfigurationError, match=f"{name} is text"):
        await side.do(client.usage("2026-08-01", **{name: wrong}))
    assert not asked


async def test_pages_are_followed_by_their_cursor(side: Caller) -> None:
    seen: list[dict[str, str]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked = dict(request.url.params)
        seen.append(asked)
        start = int(asked.get("cursor", "0"))
        data = [RECORD | {"request_id": f"r{n}"} for n in range(start, min(start + int(asked["limit"]), 250))]
        more = start + len(data) < 250
        body: dict[str, Any] = {"data": data, "has_more": more}
        return httpx.Response(200, json=body | ({"next_cursor": str(start + len(data))} if more else {}))

    client = side.client(handle)
    records = await side.take(client.requests(customer_id="c", meter_id="m", metadata={"a": "1", "b": "ü"}))
    assert [record.request_id for record in records] == [f"r{n}" for n in range(250)]
    filters = {"customer_id": "c", "meter_id": "m", "metadata_filters": '[["a","1"],["b","\\u00fc"]]', "limit": "100"}
    assert seen == [filters, filters | {"cursor": "100"}, filters | {"cursor": "200"}]
    seen.clear()
    assert len(await side.take(client.requests(limit=120))) == 120
    assert [asked["limit"] for asked in seen] == ["100", "20"]
    assert await side.take(client.requests(limit=0)) == []


async def test_a_page_that_leads_nowhere_ends_the_listing(side: Caller) -> None:
    stuck = {"data": [RECORD], "has_more": True, "next_cursor": "here"}
    client = side.client(lambda _: httpx.Response(200, json=stuck))
    assert len(await side.take(client.requests())) == 2
    empty = {"data": [], "has_more": True, "next_cursor": "x"}
    assert await side.take(side.client(lambda request: httpx.Response(200, json=empty)).requests()) == []
    with pytest.raises(ConfigurationError, match="metadata key"):
        await side.take(client.requests(metadata={"a b": "c"}))


async def test_usage_is_asked_for_a_span(side: Caller) -> None:
    sums = {"total_requests": 2, "total_usage_tokens": 30, "total_cost": "0.1", "total_charge": "0.2"}
    day = {"date": "2026-08-01", "start": "2026-08-01T00:00:00Z", "end": "2026-08-02T00:00:00Z"}
    seen: list[dict[str, str]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(dict(request.url.params))
        return httpx.Response(200, json={"items": [day | sums], "totals": sums})

    start = datetime(2026, 8, 1, tzinfo=UTC)
    report = await side.do(side.client(handle).usage(start, "2026-08-02", customer_id="c", metadata={"k": "v"}))
    assert seen == [
        {
            "start": "2026-08-01T00:00:00.000Z",
            "end": "2026-08-02",
            "customer_id": "c",
            "metadata_filters": '[["k","v"]]',
        }
    ]
    total = UsageSum(2, 30, Decimal("0.1"), Decimal("0.2"))
    assert report.totals == total
    end = start + timedelta(days=1)
    assert report.items == (UsageItem(2, 30, Decimal("0.1"), Decimal("0.2"), "2026-08-01", start, end),)


async def test_the_gateway_tells_what_was_sent(side: Caller, gateway: LocalGateway) -> None:
    client = side.client(gateway=gateway)
    billing = Billing(customer_id="c_1", meter_slug="chat")
    first = await side.do(client.chat(ASK, billing=billing, lava_metadata={"team": "x"}))
    await side.do(client.chat(ASK, lava_metadata={"team": "y"}))
    record = await side.do(client.request(first.request_id))
    assert (record.cost, record.customer_id, record.metadata) == (first.cost, "c_1", {"team": "x"})
    assert record.usage.total_tokens == first.usage["total_tokens"]
    listed = await side.take(client.requests(metadata={"team": "x"}))
    assert [each.request_id for each in listed] == [first.request_id]
    assert len(await side.take(client.requests())) == 2
    report = await side.do(client.usage(date.today() - timedelta(days=2)))
    assert report.totals.requests == 2
    assert report.totals.cost == sum(request.cost for request in gateway.requests)
    filtered = await side.do(client.usage(date.today() - timedelta(days=2), customer_id="c_1"))
    assert filtered.totals.cost == first.cost


async def test_a_record_that_lags_is_waited_for(side: Caller) -> None:
    with LocalGateway(record_lag=0.3) as gateway:
        client = side.client(gateway=gateway)
        answer = await side.do(client.chat(ASK))
        with pytest.raises(NotFoundError):
            await side.do(client.request(answer.request_id, wait=0))
        assert (await side.do(client.request(answer.request_id, wait=5))).cost == answer.cost


async def test_what_a_left_stream_cost_is_learned_afterwards(side: Caller, gateway: LocalGateway) -> None:
    client = side.client(gateway=gateway)
    gateway.queue([event("Hi"), 0.5, event("", "stop", usage=COUNTED), DONE])
    with track_usage() as usage:
        stream = await side.do(client.stream(ASK, billing=Billing(customer_id="c", meter_slug="m")))
        # Its end is on the way, and charged, when the stream is left.
        await aeventually(lambda: gateway.requests[0].cost)
        await side.close(stream)
    assert usage.unknown == 1
    assert await side.do(client.reconcile(usage, wait=5)) == 0
    assert gateway.requests[0].cost == Decimal("0.00045")
    assert (usage.unknown, usage.cost, usage.by_customer["c"].cost) == (0, Decimal("0.00045"), Decimal("0.00045"))
    assert usage.total_tokens == 1500


async def test_what_lava_does_not_know_stays_unknown(side: Caller) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("req_pending"):
            return httpx.Response(200, json=RECORD | {"request_id": "req_pending", "status": "pending"})
        return httpx.Response(404, json={"error": "no"})

    class Account:
        settled: list[RequestRecord] = []  # noqa: RUF012

        def unreconciled(self) -> tuple[str, ...]:
            return ("req_pending", "req_gone")

        def reconcile(self, told: RequestRecord) -> None:
            self.settled.append(told)

    assert await side.do(side.client(handle).reconcile(Account(), wait=0)) == 2
    assert not Account.settled


def test_lavas_node_sdk_asks_in_the_same_words(node_sdk: Path, gateway: LocalGateway) -> None:
    client = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    client.chat(ASK, billing=Billing(customer_id="c", meter_slug="m"), lava_metadata={"team": "x"})
    client.chat(ASK, lava_metadata={"team": "y"})
    program = (
        "const {Lava} = require('@lavapayments/nodejs');"
        "const {key, url, start} = JSON.parse(require('fs').readFileSync(0));"
        "const lava = new Lava(key, {baseUrl: url});"
        "(async () => { const filter = {metadata_filters: {team: 'x'}};"
        "const list = await lava.requests.list({...filter, customer_id: 'c', limit: 5});"
        "const one = await lava.requests.retrieve(list.data[0].request_id);"
        "const usage = await lava.usage.retrieve({start, ...filter});"
        "console.log(JSON.stringify({list, one, usage})); })();"
    )
    start = (date.today() - timedelta(days=2)).isoformat()
    told = subprocess.run(
        ["node", "-e", program],
        input=json.dumps({"key": gateway.secret_key, "url": f"{gateway.base_url}/", "start": start}),
        capture_output=True,
        text=True,
        cwd=node_sdk,
        check=True,
    )
    theirs = json.loads(told.stdout)
    ours = list(client.requests(customer_id="c", metadata={"team": "x"}))
    assert [dict(record.raw) for record in ours] == theirs["list"]["data"] == [theirs["one"]]
    assert client.usage(start, metadata={"team": "x"}) == UsageReport.from_wire(theirs["usage"])
    assert theirs["usage"]["totals"]["total_requests"] == 1


async def test_the_wallet_and_what_is_left_on_a_customers_plan(side: Caller) -> None:
    with LocalGateway(balance="12.50", customers={"a 1": "3"}) as gateway:
        client = side.client(gateway=gateway)
        assert (await side.do(client.wallet())).balance == Decimal("12.50")
        plan = await side.do(client.subscription("a 1"))
        assert (plan.total_remaining, plan.cycle_remaining, plan.bundle_remaining) == (3, 3, 0)
        assert plan.plan["name"] == "Local plan"
        answer = await side.do(client.chat(ASK, billing=Billing(customer_id="a 1", meter_slug="chat")))
        assert (await side.do(client.subscription("a 1"))).total_remaining == 3 - answer.cost
        assert await side.do(client.subscription("b")) is None


@pytest.mark.parametrize("body", [{}, {"balance": None}, {"balance": "much"}])
async def test_a_wallet_that_makes_no_sense_says_so(side: Caller, body: Any) -> None:
    with pytest.raises(ServerError, match="expected"):
        await side.do(side.client(lambda _: httpx.Response(200, json=body)).wallet())


@pytest.mark.parametrize(
    ("asked", "body", "named"),
    [
        ("request", {"request_id": "r", "model_usage": ["tokens"]}, "tokens"),
        ("request", {"request_id": "r", "charge": {"breakdown": 7, "rate_type": KEY}}, "breakdown"),
        ("request", {"request_id": "r", "model": ["small"]}, "small"),
        ("request", {"request_id": "r", "metadata": "team"}, "team"),
        ("request", [RECORD], "no JSON object"),
        ("requests", {"data": {"request_id": "r"}}, "request_id"),
        ("requests", {"data": [None]}, "null"),
        ("usage", {"items": 7}, "items"),
        ("usage", {"totals": ["sum"]}, "sum"),
        ("subscription", {"subscription": {"credits": "much"}}, "much"),
        ("models", {"data": None}, "null"),
        ("models", {}, "{}"),
        ("models", {"data": [{"name": "small"}]}, "small"),
    ],
)
async def test_an_answer_of_another_shape_is_an_error_that_shows_it(
    side: Caller, asked: str, body: Any, named: str
) -> None:
    headers = {"x-lava-request-id": "req_9"}
    client = side.client(lambda _: httpx.Response(200, json=body, headers=headers))
    with pytest.raises(ServerError, match="expected") as caught:
        question = getattr(client, asked)(*([] if asked in ("models", "requests") else ["2026-08-01"]))
        await (side.take(question) if asked == "requests" else side.do(question))
    assert named in str(caught.value)
    assert caught.value.origin == "lava"
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("wrong", ["", " ", None])
async def test_a_customer_without_an_id_is_refused(side: Caller, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="customer_id is text"):
        await side.do(side.client().subscription(wrong))


def test_the_creation_goes_before_another_moment() -> None:
    told = {"request_id": "r", "created_at": "2026-08-01T10:00:00Z", "timestamp": "2026-08-01T11:00:00Z"}
    assert RequestRecord.from_wire(told).created_at == datetime(2026, 8, 1, 10, tzinfo=UTC)
