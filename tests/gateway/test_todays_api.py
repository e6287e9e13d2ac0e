"""What Mistral's and Lava's interfaces gained in 2026: the gateway takes and answers it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from lava_mistral.billing.credentials import Billing
from lava_mistral.gateway import Customer, LocalGateway
from lava_mistral.pricing.catalog import models

from .conftest import events

FACTS = "Paris is the capital of France. Rome is the capital of Italy."
ASKED = [{"role": "system", "content": FACTS}, {"role": "user", "content": "What is the capital of France?"}]


def choice(response: Any) -> Any:
    assert response.status_code == 200, response.text
    [only] = response.json()["choices"]
    return only


def test_log_probabilities_of_each_token(forward):
    only = choice(forward.chat(ASKED, logprobs=True, top_logprobs=2))
    told = only["logprobs"]["content"]
    assert "".join(entry["token"] for entry in told) == only["message"]["content"]
    assert {frozenset(entry) for entry in told} == {
        frozenset(("token", "logprob", "bytes", "token_id", "top_logprobs"))
    }
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in told)
    assert bytes(told[0]["bytes"]).decode() == told[0]["token"] == "Paris"
    assert "logprobs" not in choice(forward.chat(ASKED))


def test_log_probabilities_are_streamed_with_their_tokens(forward):
    chunks = events(forward.chat(ASKED, logprobs=True, stream=True).text)[1:-1]
    told = [
        (one["delta"]["content"], [entry["token"] for entry in one["logprobs"]["content"]])
        for chunk in chunks
        for one in chunk["choices"]
        if "logprobs" in one
    ]
    assert told
    assert all([text] == tokens for text, tokens in told)
    assert "".join(text for text, _ in told) == "Paris is the capital of France."


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_but_none_thinks_and_is_counted(forward, effort):
    body = forward.chat(ASKED, reasoning_effort=effort).json()
    assert body["choices"][0]["message"]["content"][0]["type"] == "thinking"
    assert 0 < body["usage"]["completion_tokens_details"]["reasoning_tokens"] < body["usage"]["completion_tokens"]
    assert isinstance(choice(forward.chat(ASKED, reasoning_effort="none"))["message"]["content"], str)


def test_the_service_tier_is_told_whole_and_streamed(forward):
    assert forward.chat(ASKED, service_tier="auto").json()["usage"]["service_tier"] == "standard"
    assert events(forward.chat(ASKED, service_tier="auto", stream=True).text)[-2]["usage"]["service_tier"] == "standard"
    assert "service_tier" not in forward.chat(ASKED).json()["usage"]


BUILT_IN = [
    {"type": "web_search"},
    {"type": "code_interpreter"},
    {"type": "image_generation"},
    {"type": "document_library", "library_ids": ["a"]},
    {"type": "connector", "connector_id": "drive"},
]


@pytest.mark.parametrize("tool", BUILT_IN, ids=[tool["type"] for tool in BUILT_IN])
def test_a_built_in_tool_is_taken_and_a_function_called_beside_it(forward, tool):
    assert choice(forward.chat(ASKED, tools=[tool]))["message"]["content"] == "Paris is the capital of France."
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    only = choice(forward.chat("The weather in Oslo?", tools=[tool, weather]))
    assert [call["function"]["name"] for call in only["message"]["tool_calls"]] == ["get_weather"]


# Lava


def test_the_wallet_is_told(forward, gateway):
    told = forward.rest("/wallet").json()
    assert told.keys() == {"wallet_id", "balance"}
    forward.chat()
    assert Decimal(forward.rest("/wallet").json()["balance"]) == gateway.wallet.merchant < 1000


def test_a_customers_credits_are_told(connect):
    with LocalGateway(customers={"a": "5", "b": Customer(balance="7.50")}) as gateway:
        forward = connect(gateway)
        forward.chat(bearer=Billing(customer_id="a", meter_slug="m").forward_token(gateway.secret_key))
        told = forward.rest("/customers/a/subscription").json()["subscription"]
        assert Decimal(told["credits"]["total_remaining"]) == gateway.wallet["a"] < 5
        assert told["credits"].keys() == {"total_remaining", "cycle_remaining", "bundle_remaining"}
        assert told["plan"]["included_credit"] == "5"
        assert told["pending_change"] is None
        assert forward.rest("/customers/b/subscription").json()["subscription"]["credits"]["cycle_remaining"] == "7.50"
        assert forward.rest("/customers/c/subscription").json() == {"subscription": None}


def test_services_are_a_public_price_list(forward, gateway):
    listed = forward.client.get(f"{gateway.base_url}/services", params={"provider": "mistral"}).json()["data"]
    assert [service["id"] for service in listed] == [model.id for model in models()]
    small = next(service for service in listed if service["id"] == "mistral-small-2603")
    assert small["pricing"]["type"] == "tokens_1m"
    prices = {name: Decimal(price) for name, price in small["pricing"].items() if name != "type"}
    assert prices == {"input": Decimal("0.15"), "output": Decimal("0.60"), "cache_input_read": Decimal("0.015")}
    assert small["managed"]
    assert "tools" in small["capabilities"]
    assert forward.client.get(f"{gateway.base_url}/services?provider=other").json()["data"] == []


def test_errors_have_a_code_and_their_status(forward, gateway):
    for response, code in (
        (forward.chat(bearer="aks_live_unknown"), "unauthorized"),
        (forward.rest("/nothing"), "not_found"),
        (forward.rest("/usage"), "invalid_request"),
        (forward.client.post(f"{gateway.base_url}/wallet"), "method_not_allowed"),
    ):
        error = response.json()["error"]
        assert error.keys() == {"message", "code", "status"}
        assert (error["code"], error["status"]) == (code, response.status_code)


def test_a_spend_key_is_not_for_forward(forward):
    response = forward.chat(bearer="lava_sk_abc")
    assert response.status_code == 401
    assert "Invalid credential" in response.json()["error"]["message"]
    assert "lava_sk_abc" not in response.text
