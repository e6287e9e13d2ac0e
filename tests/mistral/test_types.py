"""What is read from the wire's shapes."""

from __future__ import annotations

from typing import Any

import pytest

from lava_mistral.mistral.types import cached_tokens


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
