"""Compute what a call cost, exact to the last digit."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any, Final, NamedTuple

from lava_mistral.mistral.usage import Usage, cached_tokens
from lava_mistral.pricing.amounts import EXACT
from lava_mistral.pricing.catalog import Model, get_model

# A cached token's share of the input price where Lava names none for it (`refresh_models` reads the list that does),
# as with Mistral (https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching).
CACHED_SHARE: Final = Decimal("0.1")
_MILLION: Final = Decimal(10) ** 6


class CostParts(NamedTuple):
    """Hold what a call cost in USD: `cached_cost` is part of `input_cost`; uncached it would be `saved` more."""

    input_cost: Decimal = Decimal(0)
    output_cost: Decimal = Decimal(0)
    cached_cost: Decimal = Decimal(0)
    total: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)


def cost_parts(usage: Usage | None, *models: str | Model | None) -> CostParts | None:
    """Compute what the tokens of a call cost by the first of the models (or their names) whose prices are known."""
    if usage is None:
        return None
    for named in models:
        model = get_model(named) if isinstance(named, str) else named
        if model is not None and model.input_price is not None and model.output_price is not None:
            break
    else:
        return None
    # The wire may leave a count out or say null: embeddings do for the answer's tokens.
    counts: dict[str, Any] = dict(usage)
    prompt = counts.get("prompt_tokens") or 0
    cached = min(cached_tokens(usage), prompt)
    with localcontext(EXACT):
        cached_price = model.input_price * CACHED_SHARE if model.cached_price is None else model.cached_price
        cached_cost = cached_price * cached / _MILLION
        input_cost = model.input_price * (prompt - cached) / _MILLION + cached_cost
        output_cost = model.output_price * (counts.get("completion_tokens") or 0) / _MILLION
        saved = model.input_price * cached / _MILLION - cached_cost
        return CostParts(input_cost, output_cost, cached_cost, input_cost + output_cost, saved)


def cost_of(usage: Usage | None, *models: str | Model | None) -> Decimal | None:
    """Compute the total of `cost_parts`; `None` where usage or prices are not known."""
    parts = cost_parts(usage, *models)
    return None if parts is None else parts.total
