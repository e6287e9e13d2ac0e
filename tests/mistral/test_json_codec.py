"""The JSON of a request: every number that a user may hold, and nothing that JSON has not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from lava_mistral import AsyncLavaMistral, ConfigurationError, LavaMistral
from lava_mistral.gateway import LocalGateway
from lava_mistral.mistral.json_codec import from_json, to_json
from lava_mistral.pricing.estimate import most_of_chat

ASK: list[Any] = [{"role": "user", "content": "Hello"}]
WIDE = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**64}}}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "add", "parameters": WIDE}}]


def test_numbers_that_python_keeps_otherwise_are_sent(gateway: LocalGateway) -> None:
    client = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    client.chat(ASK, tools=TOOLS)
    asyncio.run(AsyncLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).chat(ASK, tools=TOOLS))
    client.chat(ASK, temperature=np.float64(0.2), max_tokens=np.int64(5), top_p=np.float32(0.5))
    *wide, own = [request.body for request in gateway.requests]
    assert [body["tools"] for body in wide] == [TOOLS, TOOLS]
    assert {name: own[name] for name in ("temperature", "max_tokens", "top_p")} == {
        "temperature": 0.2,
        "max_tokens": 5,
        "top_p": 0.5,
    }


@pytest.mark.parametrize("value", [object(), "\ud83d", {"a": object(), "b": 2**64}, {"a": float("nan"), "b": 2**64}])
def test_what_json_has_not_is_refused_before_it_is_sent(value: Any) -> None:
    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError("it was sent")

    client = LavaMistral(api_key="aks_test_x", http_client=httpx.Client(transport=httpx.MockTransport(never)))
    with pytest.raises(ConfigurationError, match="can't be written as JSON"):
        client.chat(ASK, guardrails=value)


def test_such_numbers_count_for_a_spend_limit_too() -> None:
    body: dict[str, Any] = {"model": "mistral-small-2603", "messages": ASK}
    wide = body | {
        "max_tokens": np.int64(100),
        "n": np.int64(2),
        "tools": TOOLS,
        "response_format": {"type": "json_schema", "json_schema": {"name": "sum", "schema": WIDE}},
    }
    assert most_of_chat(body | {"max_tokens": 200}) < most_of_chat(wide) < most_of_chat(body | {"max_tokens": 2000})


def test_half_a_surrogate_pair_is_found() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a\ud800"}]}]}
    with pytest.raises(ConfigurationError, match=r"messages\[0\]\.content\[0\]\.text holds half of a surrogate pair"):
        to_json(body)
    with pytest.raises(ConfigurationError, match="the text holds half"):
        to_json("\udfff")


def test_numbers_of_both_kinds_stand_beside_each_other() -> None:
    assert to_json({"a": np.float32(1.5), "b": 10**30}) == b'{"a":1.5,"b":1000000000000000000000000000000}'
    body: dict[str, Any] = {}
    body["self"] = body
    with pytest.raises(ConfigurationError, match="holds itself"):
        to_json(body)


def test_half_a_surrogate_pair_in_an_answer_is_read() -> None:
    assert from_json(b'{"text":"a\\ud83d"}') == {"text": "a\ufffd"}
    assert from_json('{"text":"\\ud83d\\ude00"}') == {"text": "\U0001f600"}
    for broken in (b"{", b"[NaN]", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            from_json(broken)
