from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.pricing.amounts import format_cost
from lava_mistral.pricing.catalog import Model, get_model, models
from lava_mistral.pricing.cost import cost_of, cost_parts

PRICED = st.sampled_from([model.id for model in models()])
TOKENS = st.integers(0, 10**12)


def usage(prompt: int, completion: int, **more: Any) -> Any:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def test_a_chat_costs_its_tokens_at_both_prices() -> None:
    parts = cost_parts(usage(1_000, 100), "mistral-small-2603")
    assert parts is not None
    assert parts.input_cost == Decimal("0.00015")
    assert parts.output_cost == Decimal("0.00006")
    assert parts.total == cost_of(usage(1_000, 100), "mistral-small-2603") == Decimal("0.00021")


@pytest.mark.parametrize(
    "told",
    [
        {"num_cached_tokens": 800},
        {"prompt_tokens_details": {"cached_tokens": 800}},
        {"prompt_token_details": {"cached_tokens": 800}},
        {"num_cached_tokens": 800, "prompt_tokens_details": {"cached_tokens": 800}},
    ],
)
def test_cached_tokens_cost_a_tenth_however_they_are_told(told: dict[str, Any]) -> None:
    parts = cost_parts(usage(1_000, 0, **told), "mistral-small-2603")
    assert parts is not None
    assert parts.cached_cost == Decimal("0.000012")
    assert parts.input_cost == Decimal("0.000042")


def test_more_cached_tokens_than_tokens_cost_no_less_than_a_tenth() -> None:
    assert cost_of(usage(10, 0, num_cached_tokens=1_000), "mistral-small-2603") == Decimal("0.00000015")


@pytest.mark.parametrize("counts", [{"prompt_tokens": 7}, {"prompt_tokens": 7, "completion_tokens": None}])
def test_an_embedding_costs_its_input(counts: Any) -> None:
    assert cost_of(counts, "mistral-embed") == Decimal("0.0000007")


def test_nothing_used_costs_nothing() -> None:
    assert cost_of(usage(0, 0), "mistral-small-2603") == 0
    empty: Any = {}
    assert cost_of(empty, "mistral-small-2603") == 0


def test_an_unknown_price_is_no_price() -> None:
    assert cost_of(usage(1, 1), "mistral-tiny") is None
    assert cost_parts(usage(1, 1), get_model("mistral-tiny")) is None


def test_a_free_direction_is_known_to_be_free() -> None:
    assert cost_of(usage(5, 5), Model("acme", Decimal(0), Decimal(0))) == 0


@given(PRICED, TOKENS, TOKENS, st.integers(0, 10**12))
def test_the_cost_is_exact(id: str, prompt: int, completion: int, cached: int) -> None:
    model = get_model(id)
    cached = min(cached, prompt)
    exact = Fraction(model.input_price or 0) * (prompt - cached + Fraction(cached, 10))
    exact += Fraction(model.output_price or 0) * completion
    cost = cost_of(usage(prompt, completion, num_cached_tokens=cached), id)
    assert cost is not None
    assert Fraction(cost) == exact / 10**6


@given(TOKENS)
def test_the_callers_decimal_context_does_not_round_it(prompt: int) -> None:
    outside = cost_of(usage(prompt, 1), "mistral-medium-latest")
    with localcontext() as context:
        context.prec = 2
        assert cost_of(usage(prompt, 1), "mistral-medium-latest") == outside


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (None, "unknown"),
        (Decimal(0), "$0.00"),
        (Decimal("1.5"), "$1.50"),
        (Decimal("0.00012300"), "$0.000123"),
        (Decimal("4.5E-8"), "$0.000000045"),
        (Decimal("1E+2"), "$100.00"),
        (Decimal("-0.25"), "-$0.25"),
    ],
)
def test_a_cost_is_shown_with_every_digit(cost: Decimal | None, text: str) -> None:
    assert format_cost(cost) == text
