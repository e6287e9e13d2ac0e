"""Lava's side of the forward proxy: addresses, credentials, metadata, who may and who pays."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest

from lava_mistral.billing.credentials import Billing
from lava_mistral.gateway import Customer, LocalGateway, RequestRecord
from lava_mistral.gateway.request_log import RequestLog

CHAT = "https://api.mistral.ai/v1/chat/completions"
BODY = {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hello"}]}


def token(gateway: LocalGateway, **fields: Any) -> str:
    text = json.dumps({"secret_key": gateway.secret_key, **fields}, separators=(",", ":"))
    return base64.b64encode(text.encode()).decode()


def message(response: httpx.Response) -> str:
    """Lava's own error message; every answer of the gateway has a request id."""
    assert response.headers["x-lava-request-id"].startswith("req_")
    return str(response.json()["error"]["message"])


def test_an_answer_carries_lavas_and_mistrals_headers(forward, gateway):
    response = forward.chat()
    assert response.status_code == 200
    assert response.headers["x-lava-request-id"] == gateway.requests[0].request_id
    assert response.headers["content-type"] == "application/json"
    assert response.headers["mistral-correlation-id"]
    assert response.headers["x-ratelimit-tokens-query-cost"] == str(response.json()["usage"]["total_tokens"])
    assert int(response.headers["x-ratelimit-remaining-req-10-second"]) > 0


@pytest.mark.parametrize("encoded", [True, False])
def test_the_provider_url_may_be_encoded_or_not(forward, gateway, encoded):
    target = "https%3A%2F%2Fapi.mistral.ai%2Fv1%2Fchat%2Fcompletions" if encoded else CHAT
    response = httpx.post(
        f"{gateway.base_url}/forward?u={target}", json=BODY, headers={"authorization": f"Bearer {gateway.secret_key}"}
    )
    assert response.status_code == 200
    assert gateway.requests[0].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "target",
    [
        "https://api.openai.com/v1/chat/completions",
        "http://api.mistral.ai/v1/models",
        "https://api.mistral.ai.evil.example/v1/models",
        "https://evil.example/?https://api.mistral.ai/v1/models",
        "api.mistral.ai/v1/models",
        "https://api.mistral.ai:8443/v1/models",
        "https://api.mistral.ai:99999/v1/models",
        "https://evil@api.mistral.ai/v1/models",
        "https://[bad/v1/models",
        "https://[]/",
    ],
)
def test_another_host_is_refused(forward, gateway, target):
    response = forward.client.get(
        f"{gateway.base_url}/forward", params={"u": target}, headers={"authorization": f"Bearer {gateway.secret_key}"}
    )
    assert response.status_code == 400
    assert "api.mistral.ai" in message(response)
    assert gateway.requests[0].status == 400


@pytest.mark.parametrize("authority", ["api.mistral.ai:443", "API.mistral.ai"])
def test_one_host_has_several_spellings(forward, gateway, authority):
    response = forward.client.get(
        f"{gateway.base_url}/forward",
        params={"u": f"https://{authority}/v1/models"},
        headers={"authorization": f"Bearer {gateway.secret_key}"},
    )
    assert response.status_code == 200


def test_headers_are_found_in_whatever_case(forward, gateway):
    forward("/v1/models", X_Team="red")
    headers = gateway.requests[0].headers
    assert headers["X-Team"] == headers["x-team"] == "red"
    assert headers["Authorization"] == f"Bearer {gateway.secret_key}"


@pytest.mark.parametrize("where", ["header", "query"])
def test_metadata_is_utf_8(forward, gateway, where):
    text = '{"team":"Überschall 音"}'
    request = forward.client.build_request(
        "GET",
        f"{gateway.base_url}/forward",
        params={"u": "https://api.mistral.ai/v1/models"} | ({"metadata": text} if where == "query" else {}),
        headers=[(b"authorization", f"Bearer {gateway.secret_key}".encode())]
        + ([(b"X-Lava-Metadata", text.encode())] if where == "header" else []),
    )
    assert forward.client.send(request).status_code == 200
    assert gateway.requests[0].metadata == {"team": "Überschall 音"}


def test_the_wallet_can_be_read_and_set(connect):
    with LocalGateway(customers={"cus_1": "5", "merchant": "7"}) as gateway:
        wallet = gateway.wallet
        assert (wallet.merchant, wallet["cus_1"]) == (1000, 5)
        wallet.merchant, wallet["cus_1"] = "3", 0
        assert (wallet.merchant, wallet["cus_1"]) == (3, 0)
        assert wallet.customers.keys() == {"cus_1", "merchant"}
        # A customer of that name pays from a plan of their own.
        bearer = Billing(customer_id="merchant", meter_slug="m").forward_token(gateway.secret_key)
        assert connect(gateway).chat(bearer=bearer).status_code == 200
        assert wallet.merchant == 3
        assert wallet.customers["merchant"] < 7


def test_what_fails_in_the_gateway_is_told_in_lavas_form(connect, caplog):
    with LocalGateway(faults=[(lambda record: record.no_such_field, 503)]) as gateway:  # type: ignore[attr-defined]
        forward = connect(gateway)
        response = forward.chat()
        assert response.status_code == 500
        assert "embedded gateway failed" in message(response)
        assert gateway.requests[0].outcome == "error"
        assert gateway.in_flight == 0
        # So is a failure in Lava's own interface, and the connection serves on.
        gateway.requests[0].created_at = None  # type: ignore[assignment]
        response = forward.rest("/requests")
        assert response.status_code == 500
        assert "embedded gateway failed" in message(response)
        assert forward.rest("/models").status_code == 200
        assert gateway.connections == 1
    failures = [record for record in caplog.records if record.name == "lava_mistral.gateway"]
    assert [record.exc_info[0] for record in failures if record.exc_info] == [AttributeError, TypeError]


def test_a_missing_url_is_refused(forward, gateway):
    response = forward.client.get(
        f"{gateway.base_url}/forward", headers={"authorization": f"Bearer {gateway.secret_key}"}
    )
    assert response.status_code == 400
    assert "u" in message(response)


def test_only_get_and_post(forward):
    response = forward("/v1/models", method="DELETE")
    assert response.status_code == 405
    assert "GET and POST" in message(response)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer aks_test_unknown",
        "Bearer opaque-token",
        "Basic YTpi",
        "Bearer " + base64.b64encode(b'{"secret_key":"aks_live_unknown"}').decode(),
        "Bearer " + base64.b64encode(b'["aks_test_local_gateway"]').decode(),
        "Bearer " + base64.b64encode(b'{"secret_key":["aks_test_local_gateway"]}').decode(),
        "Bearer " + base64.b64encode(b'{"connection_id":"c","connection_secret":"s"}').decode(),
        "Bearer " + base64.b64encode(b'{"secret_key":"aks_test_local_gateway" }').decode().rstrip("="),
    ],
)
def test_an_unknown_credential_is_refused(forward, gateway, authorization):
    headers = {} if authorization is None else {"authorization": authorization}
    response = forward.client.post(f"{gateway.base_url}/forward", params={"u": CHAT}, json=BODY, headers=headers)
    assert response.status_code == 401
    assert "redential" in message(response)
    assert gateway.requests[0].status == 401
    assert gateway.requests[0].credential == {}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_of_a_credential_may_be_in_any_case(forward, gateway, scheme):
    headers = {"authorization": f"{scheme} {gateway.secret_key}"}
    response = forward.client.post(f"{gateway.base_url}/forward", params={"u": CHAT}, json=BODY, headers=headers)
    assert response.status_code == 200


def test_further_keys_and_opaque_tokens_can_be_accepted(connect):
    with LocalGateway(secret_keys=["aks_live_2"], forward_tokens={"opaque": {"secret_key": "aks_live_2"}}) as gateway:
        forward = connect(gateway)
        assert forward.chat(bearer="aks_live_2").status_code == 200
        assert forward.chat(bearer="opaque").status_code == 200
        assert gateway.requests[1].credential == {"secret_key": "aks_live_2"}


@pytest.mark.parametrize(
    ("fields", "payer"),
    [
        ({}, "merchant"),
        ({"customer_id": None, "meter_slug": "m"}, "merchant"),
        ({"customer_id": "c", "meter_slug": "m"}, "customer"),
        ({"customer_id": "c", "meter_slug": "m", "disable_billing": True}, "merchant"),
        ({"customer_id": "c", "meter_slug": "m", "disable_billing": False}, "customer"),
        ({"provider_key": "own"}, "nobody"),
        ({"meter_slug": "m", "provider_key": "own"}, "nobody"),
        ({"customer_id": "c", "meter_slug": "m", "provider_key": "own"}, "customer"),
        ({"customer_id": "c", "meter_slug": "m", "provider_key": "own", "disable_billing": True}, "nobody"),
    ],
)
def test_whoever_the_token_names_pays_exactly_what_it_cost(forward, gateway, fields, payer):
    response = forward.chat(bearer=token(gateway, **fields))
    usage = response.json()["usage"]
    # mistral-small-2603: 0.15 and 0.60 USD per million tokens.
    cost = (Decimal("0.15") * usage["prompt_tokens"] + Decimal("0.60") * usage["completion_tokens"]) / 10**6
    record = gateway.requests[0]
    assert (record.payer, record.cost, record.usage) == (payer, cost, usage)
    assert record.credential == {"secret_key": gateway.secret_key, **fields}
    merchant = cost if payer == "merchant" else 0
    assert gateway.wallet.merchant == 1000 - merchant
    if fields.get("customer_id"):
        assert gateway.wallet["c"] == 100 - (cost if payer == "customer" else 0)
    assert record.charge == (0 if payer == "nobody" else cost)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"customer_id": "c"}, "customer_id requires meter_slug"),
        ({"customer_id": 7, "meter_slug": "m"}, "customer_id must be a non-empty string"),
        ({"customer_id": "c", "meter_slug": ""}, "meter_slug must be a non-empty string"),
        ({"customer_id": "c", "meter_slug": "m", "disable_billing": "yes"}, "disable_billing"),
    ],
)
def test_a_token_whose_fields_make_no_sense_is_refused(forward, gateway, fields, said):
    response = forward.chat(bearer=token(gateway, **fields))
    assert response.status_code == 400
    assert said in message(response)


def test_the_tokens_that_the_library_builds_are_understood(forward, gateway):
    billing = Billing(customer_id='c_é"1', meter_slug="m", provider_key="k", disable_billing=True)
    assert forward.chat(bearer=billing.forward_token(gateway.secret_key)).status_code == 200
    assert gateway.requests[0].credential == {
        "secret_key": gateway.secret_key,
        "customer_id": 'c_é"1',
        "meter_slug": "m",
        "provider_key": "k",
        "disable_billing": True,
    }


def test_an_empty_wallet_refuses_the_next_request(connect):
    with LocalGateway(balance="0.000001") as gateway:
        forward = connect(gateway)
        assert forward.chat().status_code == 200
        assert gateway.wallet.merchant < 0
        response = forward.chat()
        assert response.status_code == 402
        assert "merchant's wallet" in message(response)
        assert gateway.requests[1].cost == 0
        # Not for those whose tokens somebody else pays.
        assert forward.chat(bearer=token(gateway, provider_key="own")).status_code == 200
        assert forward.chat(bearer=token(gateway, customer_id="c", meter_slug="m")).status_code == 200
        gateway.wallet.merchant = 1
        assert forward.chat().status_code == 200


def test_a_customers_plan_is_enforced(connect):
    customers = {"rich": "5.00", "poor": 0, "planned": Customer(balance=1, meters={"chat"})}
    with LocalGateway(customers=customers, meters={"chat", "search"}) as gateway:
        forward = connect(gateway)

        def ask(customer: str, meter: str, **fields: Any) -> httpx.Response:
            return forward.chat(bearer=token(gateway, customer_id=customer, meter_slug=meter, **fields))

        assert ask("rich", "search").status_code == 200
        assert ask("planned", "chat").status_code == 200
        refused = ask("planned", "search")
        assert (refused.status_code, message(refused)) == (
            403,
            "Meter 'search' is not on the plan of customer 'planned'",
        )
        assert ask("planned", "search", disable_billing=True).status_code == 403
        assert ask("stranger", "chat").status_code == 403
        assert ask("rich", "unheard").status_code == 403
        empty = ask("poor", "chat")
        assert empty.status_code == 402
        assert "'poor'" in message(empty)
        assert ask("poor", "chat", disable_billing=True).status_code == 200
        gateway.wallet["poor"] = "0.50"
        assert ask("poor", "chat").status_code == 200
        assert gateway.wallet.customers.keys() == {"rich", "poor", "planned"}


def test_an_own_provider_key_is_checked_by_mistral(connect):
    with LocalGateway(provider_keys=["good"]) as gateway:
        forward = connect(gateway)
        assert forward.chat(bearer=token(gateway, provider_key="good")).status_code == 200
        response = forward.chat(bearer=token(gateway, provider_key="bad"))
        assert (response.status_code, response.json()) == (401, {"detail": "Unauthorized"})


def test_balances_are_exact_or_refused():
    with pytest.raises(ValueError, match="a balance is a Decimal"):
        LocalGateway(balance=0.1)


def test_metadata_comes_in_the_header_or_the_query(forward, gateway):
    forward("/v1/chat/completions", BODY, x_lava_metadata='{"team":"a","n_1":"\\u00e9"}')
    forward("/v1/chat/completions", BODY, x_lava_metadata='{"team":"b"}')
    forward.client.post(
        f"{gateway.base_url}/forward",
        params={"u": CHAT, "metadata": '{"team":"c"}'},
        json=BODY,
        headers={"authorization": f"Bearer {gateway.secret_key}"},
    )
    assert [record.metadata["team"] for record in gateway.requests] == ["a", "b", "c"]
    assert gateway.requests[0].metadata["n_1"] == "é"


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("nonsense", "Invalid JSON"),
        ('["a"]', "should be an object"),
        ('{"a-b":"1"}', "'a-b'"),
        ('{"":"1"}', "''"),
        (json.dumps({"k" * 256: "1"}), "kkk"),
        ('{"a":""}', "at 'a'"),
        ('{"a":1}', "at 'a'"),
        (json.dumps({"a": "x" * 256}), "at 'a'"),
        (json.dumps({f"k{n}": "v" for n in range(101)}), "at most 100 items"),
    ],
)
def test_metadata_that_breaks_the_rules_is_refused(forward, metadata, said):
    response = forward("/v1/chat/completions", BODY, x_lava_metadata=metadata)
    assert response.status_code == 400
    assert said in message(response)


def test_the_largest_metadata_is_accepted(forward, gateway):
    metadata = {f"{'k' * 250}_{n:03}": "v" * 255 for n in range(100)}
    forward.client.post(
        f"{gateway.base_url}/forward",
        params={"u": CHAT, "metadata": json.dumps({"a": "v" * 255})},
        json=BODY,
        headers={"authorization": f"Bearer {gateway.secret_key}"},
    ).raise_for_status()
    assert forward("/v1/chat/completions", BODY, x_lava_metadata=json.dumps(metadata)).status_code == 200
    assert gateway.requests[1].metadata == metadata


def test_records_tell_what_arrived(forward, gateway):
    forward("/v1/chat/completions", BODY, x_custom="yes")
    forward("/v1/models")
    chat, listed = gateway.requests
    assert (chat.method, chat.path, chat.body, chat.status) == ("POST", "/v1/chat/completions", BODY, 200)
    assert (chat.kind, chat.model, chat.streamed, chat.outcome) == ("chat", "mistral-small-2603", False, "completed")
    assert chat.headers["x-custom"] == "yes"
    assert chat.created_at <= (chat.completed_at or 0)
    assert (listed.method, listed.path, listed.body, listed.cost) == ("GET", "/v1/models", None, 0)


def test_bodies_are_kept_while_there_is_room():
    log = RequestLog(10, body_bytes=100)

    def add(name: str, size: int) -> RequestRecord:
        body = f'{{"input":"{name}"}}'.ljust(size).encode()
        record = RequestRecord(request_id=name, method="POST", raw_headers=(), created_at=0.0, raw_body=body)
        log.add(record)
        return record

    first, second = add("a", 60), add("b", 60)
    assert (first.body, second.body) == (None, {"input": "b"})
    third = add("c", 40)
    assert (second.body, third.body) == ({"input": "b"}, {"input": "c"})
    # One that is too large alone is kept until the next one comes.
    large = add("d", 500)
    assert (second.body, third.body, large.body) == (None, None, {"input": "d"})
    log.clear()
    again = [add("e", 50), add("f", 50)]
    assert [record.body for record in again] == [{"input": "e"}, {"input": "f"}]


def test_records_are_bounded(connect):
    with LocalGateway(keep_requests=3) as gateway:
        forward = connect(gateway)
        ids = [forward.chat(f"Hello {n}").headers["x-lava-request-id"] for n in range(5)]
        assert [record.request_id for record in gateway.requests] == ids[2:]
        assert forward.rest(f"/requests/{ids[0]}").status_code == 404
        assert forward.rest(f"/requests/{ids[4]}").status_code == 200
        gateway.reset()
        assert gateway.requests == []
        assert gateway.max_in_flight == 0
