"""Lava's own REST interface: models, requests and usage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lava_mistral.billing.credentials import Billing
from lava_mistral.gateway import LocalGateway
from lava_mistral.pricing.catalog import models
from tests.fakes.waiting import eventually

DAY = timedelta(days=1)


def test_models_are_listed_in_openais_way(forward):
    listed = forward.rest("/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [model.id for model in models()]
    assert {model["object"] for model in listed["data"]} == {"model"}


@pytest.mark.parametrize("path", ["/models", "/requests", "/requests/req_1", "/usage"])
def test_all_of_it_needs_a_key(gateway, forward, path):
    response = forward.client.get(gateway.base_url + path, headers={"authorization": "Bearer aks_live_x"})
    assert response.status_code == 401
    assert response.json()["error"]["message"]
    assert response.headers["x-lava-request-id"]


def test_a_request_is_described_as_the_node_sdk_types_it(gateway, forward):
    billing = Billing(customer_id="c", meter_slug="m", provider_key="own")
    sent = forward.chat(bearer=billing.forward_token(gateway.secret_key)).json()
    record = gateway.requests[0]
    described = forward.rest(f"/requests/{record.request_id}").json()
    usage = described.pop("model_usage")
    assert described.pop("created_at").endswith("Z")
    assert described == {
        "request_id": record.request_id,
        "status": "completed",
        "customer_id": "c",
        "meter_id": "m",
        "provider": "mistral",
        "provider_key_type": "unmanaged",
        "model": "mistral-small-2603",
        "endpoint": "https://api.mistral.ai/v1/chat/completions",
        "response_id": sent["id"],
        "cost": f"{record.cost:f}",
        "charge": {"amount": f"{record.charge:f}", "rate_type": "percentage", "breakdown": []},
        "metadata": {},
    }
    assert usage["input_tokens"] == sent["usage"]["prompt_tokens"]
    assert usage["output_tokens"] == sent["usage"]["completion_tokens"]
    assert usage["total_tokens"] == sent["usage"]["total_tokens"]
    assert Decimal(usage["input_cost"]) + Decimal(usage["output_cost"]) == Decimal(usage["total_cost"]) == record.cost


def test_a_failed_request_is_recorded_without_cost(gateway, forward):
    gateway.queue(503)
    request_id = forward.chat().headers["x-lava-request-id"]
    described = forward.rest(f"/requests/{request_id}").json()
    assert (described["status"], described["cost"], described["model_usage"]["total_tokens"]) == ("error", "0", 0)


def test_what_lava_refused_is_not_among_the_requests(gateway, forward):
    refused = forward.chat(bearer="aks_live_unknown")
    assert forward.rest(f"/requests/{refused.headers['x-lava-request-id']}").status_code == 404
    assert forward.rest("/requests").json() == {"data": [], "has_more": False}
    assert [record.status for record in gateway.requests] == [401]


def test_recording_may_lag(connect):
    with LocalGateway(record_lag=0.3) as gateway:
        forward = connect(gateway)
        request_id = forward.chat().headers["x-lava-request-id"]
        assert forward.rest(f"/requests/{request_id}").status_code == 404
        assert forward.rest("/usage", start="2020-01-01").json()["totals"]["total_requests"] == 0
        eventually(lambda: forward.rest(f"/requests/{request_id}").status_code != 404)
        assert forward.rest(f"/requests/{request_id}").json()["status"] == "completed"


def test_requests_come_in_pages_newest_first(forward):
    ids = [forward.chat().headers["x-lava-request-id"] for _ in range(13)]
    first = forward.rest("/requests").json()
    assert [one["request_id"] for one in first["data"]] == ids[:2:-1]
    assert first["has_more"]
    second = forward.rest("/requests", cursor=first["next_cursor"], limit=2).json()
    third = forward.rest("/requests", cursor=second["next_cursor"], limit=100).json()
    assert [one["request_id"] for one in second["data"] + third["data"]] == ids[2::-1]
    assert not third["has_more"]
    assert "next_cursor" not in third


def test_requests_and_usage_are_filtered(gateway, forward):
    body = {"model": "mistral-embed", "input": "a"}
    for customer, team in (("c1", "x"), ("c1", "y"), ("c2", "x")):
        bearer = Billing(customer_id=customer, meter_slug="m").forward_token(gateway.secret_key)
        forward("/v1/embeddings", body, bearer=bearer, x_lava_metadata=f'{{"team":"{team}","app":"1"}}')
    forward("/v1/embeddings", body)

    def counted(**query: str) -> int:
        listed = len(forward.rest("/requests", **query).json()["data"])
        used = forward.rest("/usage", start="2020-01-01", **query).json()["totals"]["total_requests"]
        assert listed == used
        return listed

    assert counted() == 4
    assert counted(customer_id="c1") == 2
    assert counted(meter_id="m") == 3
    assert counted(metadata_filters='[["team","x"]]') == 2
    assert counted(metadata_filters='[["team","x"],["app","1"]]', customer_id="c2") == 1
    assert counted(metadata_filters='[["team","z"]]') == 0


def test_usage_is_summed_by_day(gateway, forward):
    for text in ("one", "one two", "one two three"):
        forward.embed(text)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    gateway.requests[0].created_at -= 2 * DAY.total_seconds()
    report = forward.rest("/usage", start=(today - 3 * DAY).date().isoformat()).json()
    assert [item["date"] for item in report["items"]] == [
        (today - 2 * DAY).date().isoformat(),
        today.date().isoformat(),
    ]
    assert [item["total_usage_tokens"] for item in report["items"]] == [1, 5]
    assert report["items"][1]["start"] == today.isoformat()
    assert report["items"][1]["end"] == (today + DAY).isoformat()
    # mistral-embed costs 0.10 USD per million tokens.
    assert Decimal(report["totals"].pop("total_cost")) == Decimal("0.0000006")
    assert Decimal(report["totals"].pop("total_charge")) == Decimal("0.0000006")
    assert report["totals"] == {"total_requests": 3, "total_usage_tokens": 6}
    only_old = forward.rest("/usage", start="2020-01-01T00:00:00Z", end=today.isoformat()).json()
    assert only_old["totals"]["total_requests"] == 1


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/requests", {"limit": "0"}),
        ("/requests", {"limit": "many"}),
        ("/requests", {"limit": "101"}),
        ("/requests", {"cursor": "req_unknown"}),
        ("/requests", {"metadata_filters": '{"a":"b"}'}),
        ("/requests", {"metadata_filters": "a"}),
        ("/requests", {"metadata_filters": '{"ab":1}'}),
        ("/requests", {"metadata_filters": '["ab"]'}),
        ("/requests", {"metadata_filters": '[["a"]]'}),
        ("/requests", {"metadata_filters": '[[["feature"],"f1"]]'}),
        ("/requests", {"metadata_filters": '[[{},"x"]]'}),
        ("/requests", {"metadata_filters": '[["a",1]]'}),
        ("/requests", {"limit": "1" * 5_000}),
        ("/requests", {"customer_id": ""}),
        ("/usage", {"start": "2026-02-02", "meter_id": ""}),
        ("/usage", {}),
        ("/usage", {"start": "yesterday"}),
        ("/usage", {"start": "2026-02-02", "end": "2026-02-01"}),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(forward, path, query):
    response = forward.rest(path, **query)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
