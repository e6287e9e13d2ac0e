"""What is read from the wire's shapes."""

from __future__ import annotations

from typing import Any

import pytest

from lava_mistral.mistral.usage import cached_tokens, known_usage, reasoning_tokens


@pytest.mark.parametrize(
    ("fields", "cached"),
    [
        ({}, 0),
        ({"num_cached_tokens": 5}, 5),
        ({"num_cached_tokens": None}, 0),
        ({"prompt_tokens_details": {"cached_tokens": 5}}, 5),
        ({"prompt_token_details": {"cached_tokens": 5}}, 5),
        ({"prompt_tokens_details": None, "prompt_token_details": {}}, 0),
        ({"num_cached_tokens": 5, "prompt_tokens_details": {"cached_tokens": 5}}, 5),
        ({"num_cached_tokens": 0, "prompt_tokens_details": {"cached_tokens": 5}}, 5),
    ],
)
def test_defect_11_cached_tokens_are_found_under_each_of_their_names(fields: dict[str, Any], cached: int) -> None:
    usage: Any = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11, **fields}
    assert cached_tokens(usage) == cached


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}, (10, 2, 12)),
        ({"prompt_tokens": 10, "completion_tokens": 2}, (10, 2, 12)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": None}, (10, 2, 12)),
        ({"prompt_tokens": 10, "completion_tokens": None, "total_tokens": 12}, (10, 2, 12)),
        ({"prompt_tokens": 10, "total_tokens": 10}, (10, 0, 10)),
        ({"prompt_tokens": 10}, (10, 0, 10)),
    ],
)
def test_usage_adds_up(usage: Any, counts: Any) -> None:
    before = dict(usage)
    known: Any = known_usage(usage | {"service_tier": "standard"})
    assert (known["prompt_tokens"], known["completion_tokens"], known["total_tokens"]) == counts
    assert known["service_tier"] == "standard"
    assert usage == before


@pytest.mark.parametrize("odd", [1.5, "7", [], {}, True, -1])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens", "num_cached_tokens", "details"])
def test_usage_of_odd_types_is_none(odd: Any, name: str) -> None:
    usage: Any = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, "num_cached_tokens": 0}
    odd_field = {"prompt_tokens_details": {"cached_tokens": odd}} if name == "details" else {name: odd}
    assert known_usage(usage | odd_field) is None


@pytest.mark.parametrize("nothing", [None, {}, [], 5, "x", {"prompt_tokens": None, "total_tokens": 5}])
def test_usage_that_says_nothing_is_none(nothing: Any) -> None:
    assert known_usage(nothing) is None


@pytest.mark.parametrize(
    ("details", "count"),
    [({"reasoning_tokens": 7}, 7), ({"reasoning_tokens": None}, None), ({}, None), (None, None), (5, None)],
)
def test_reasoning_tokens(details: Any, count: int | None) -> None:
    usage: Any = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10, "completion_tokens_details": details}
    assert reasoning_tokens(usage) == count
