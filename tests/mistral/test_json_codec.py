"""The JSON of a request: every number that a user may hold, and nothing that JSON has not."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from lava_mistral import AsyncLavaMistral, ConfigurationError, LavaMistral
from lava_mistral.billing.reservation import max_chat_cost
from lava_mistral.gateway import LocalGateway
from lava_mistral.mistral.json_codec import from_json, to_json, to_text, unfenced

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


@pytest.mark.parametrize("value", [object(), {"a": object(), "b": 2**64}, {"a": float("nan"), "b": 2**64}])
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
    assert max_chat_cost(body | {"max_tokens": 200}) < max_chat_cost(wide) < max_chat_cost(body | {"max_tokens": 2000})


def test_half_a_surrogate_pair_is_replaced() -> None:
    # As `os.listdir` gives the names of files that are no UTF-8.
    assert (
        to_json({"a": ["caf\udce9", "\ud83d\ude00", 2**64]})
        == '{"a":["caf\ufffd","\U0001f600",18446744073709551616]}'.encode()
    )


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


class Colour(Enum):
    RED = "red"


class Place(BaseModel):
    opened: date


DATA: list[Any] = [
    datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
    datetime(2026, 3, 1, 12, 30, 1, 500),
    date(2026, 3, 1),
    time(12, 30),
    Decimal("1.50"),
    UUID(int=7),
    {"a"},
    frozenset((1,)),
    (1, 2),
    b"raw",
    Colour.RED,
    Place(opened=date(2026, 3, 1)),
    {"nested": [Decimal(1), {date(2026, 3, 1)}]},
    {"é": 123456789012345678901234567890, "f": 0.1, "n": None},
]


@pytest.mark.parametrize("value", DATA, ids=repr)
def test_data_is_written_as_pydantic_writes_it(value: Any) -> None:
    expected = to_jsonable_python(value)
    assert json.loads(to_text({"value": value})) == {"value": expected}
    assert json.loads(to_json({"value": value})) == {"value": expected}


def test_keys_that_are_no_text_are_written_as_text() -> None:
    assert json.loads(to_text({date(2026, 3, 1): Decimal(1), 2: "b"})) == {"2026-03-01": "1", "2": "b"}


@pytest.mark.parametrize("key", [("a", 1), b"a", frozenset("a")])
def test_data_with_keys_that_json_has_in_no_form_is_its_text(key: Any) -> None:
    assert to_text([{key: 1}]) == str([{key: 1}])


def test_what_has_no_form_in_json_is_its_text_in_data_for_a_model() -> None:
    assert json.loads(to_text({"a": range(3)})) == {"a": "range(0, 3)"}


def test_half_a_surrogate_pair_in_data_is_escaped() -> None:
    assert to_text({"a": "é\ud83d"}) == '{"a": "\\u00e9\\ud83d"}'
    assert to_text({"a": "é😀"}) == '{"a": "é😀"}'


def test_data_that_holds_itself_is_refused() -> None:
    data: list[Any] = []
    data.append(data)
    with pytest.raises(ConfigurationError, match="it holds itself"):
        to_text(data)


@pytest.mark.parametrize(
    ("text", "json_text"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```', '{"a": 1}'),
        ('\n```JSON\n{"a":\n1}```\n', '{"a":\n1}'),
        ('```json\n{"a": "```x```"}\n```', '{"a": "```x```"}'),
        ('{"a": 1}', '{"a": 1}'),
        ('```json\n{"a": ', '{"a":'),
        ("```js", ""),
        ('Here:\n```json\n{"a": 1}\n```', 'Here:\n```json\n{"a": 1}\n```'),
        ("", ""),
    ],
)
def test_a_fence_around_json_is_taken_off(text: str, json_text: str) -> None:
    assert unfenced(text) == json_text
