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


SEARCH = {"type": "web_search"}
BUILT_IN = [
    (SEARCH, "Do a web search for the capital", "tool_reference"),
    ({"type": "code_interpreter"}, "Run this code", "tool_file"),
    ({"type": "image_generation"}, "Make an image", "tool_file"),
    ({"type": "document_library", "library_ids": ["a"]}, "Look into the library", "tool_reference"),
    ({"type": "connector", "connector_id": "drive"}, "Use the connector", "tool_reference"),
]


@pytest.mark.parametrize(("tool", "request_", "found"), BUILT_IN, ids=[tool["type"] for tool, _, _ in BUILT_IN])
def test_a_built_in_tool_answers_with_messages(forward, tool, request_, found):
    only = choice(forward.chat([ASKED[0], {"role": "user", "content": request_}], tools=[tool]))
    assert "message" not in only
    call, result, said = only["messages"]
    assert only["finish_reason"] == "stop"
    assert [one["role"] for one in (call, result, said)] == ["assistant", "tool", "assistant"]
    assert call["tool_calls"][0]["function"]["name"] == tool["type"]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    assert result["content"][0]["type"] == found
    assert said["content"]
    assert not said["tool_calls"]


def test_a_built_in_tool_is_left_alone_where_nothing_asks_for_it(forward):
    assert choice(forward.chat(ASKED, tools=[SEARCH]))["message"]["content"] == "Paris is the capital of France."
    asked = "Do a web search"
    assert "message" in choice(forward.chat(asked, tools=[SEARCH], tool_choice="none"))


def test_a_stream_says_which_message_a_delta_belongs_to(forward):
    asked = [ASKED[0], {"role": "user", "content": "Do a web search for the capital of France"}]
    chunks = events(forward.chat(asked, tools=[SEARCH], stream=True).text)[1:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [(delta["index"], delta["role"]) for delta in deltas[:3]] == [
        (0, "assistant"),
        (1, "tool"),
        (2, "assistant"),
    ]
    assert {delta["index"] for delta in deltas[2:]} == {2}
    assert "".join(delta["content"] for delta in deltas[2:]) == "Paris is the capital of France."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_function_is_called_beside_a_built_in_tool(forward):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    only = choice(forward.chat("The weather in Oslo?", tools=[SEARCH, weather]))
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
    assert "a spend key is for /v1/chat/completions" in response.json()["error"]["message"]
    assert "lava_sk_abc" not in response.text
