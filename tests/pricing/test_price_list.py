"""Lava's public price list, merged into what is known of the models."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from lava_mistral import ServerError
from lava_mistral.pricing.catalog import read_price_list
from lava_mistral.pricing.cost import cost_of


def entry(id: str, **pricing: Any) -> dict[str, Any]:
    return {
        "id": id,
        "object": "model",
        "provider": "mistral",
        "service_type": "model",
        "managed": True,
        "pricing": {"type": "tokens_1m", **pricing},
        "capabilities": ["chat", "function_calling", "audio"],
    }


def test_prices_are_the_lists_and_the_rest_is_what_was_known() -> None:
    [small, new] = read_price_list(
        {
            "object": "list",
            "data": [
                entry("mistral-small-2603", input=0.2, output=0.8, cache_input_read=0.05),
                entry("mistral-next", input="1.25", output=3),
                {**entry("gpt-9", input=1, output=1), "provider": "openai"},
                entry("by-the-request", cost_per_request=1) | {"pricing": {"type": "requests", "input": 1}},
                entry("broken", input=float("nan")),
                None,
            ],
        }
    )
    assert (small.input_price, small.output_price, small.cached_price) == tuple(map(Decimal, ("0.2", "0.8", "0.05")))
    assert small.context_window > 100_000
    assert small.can("audio")
    assert small.can("vision")
    assert "services" in small.sources["prices"]
    assert (new.id, new.input_price, new.cached_price, new.known) == ("mistral-next", Decimal("1.25"), None, True)
    usage: Any = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "num_cached_tokens": 1_000_000}
    assert cost_of(usage, small) == Decimal("0.05")
    assert cost_of(usage, new) == Decimal("0.125")


@pytest.mark.parametrize("body", [None, [], {}, {"data": None}, {"data": [1]}, {"data": []}])
def test_what_is_no_price_list_is_an_error(body: Any) -> None:
    with pytest.raises(ServerError, match="prices"):
        read_price_list(body)
