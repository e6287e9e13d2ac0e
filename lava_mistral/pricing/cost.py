"""Compute what a call cost, to the last digit.

Lava lists one price for a million input tokens of each model and one for a million output tokens. Where it names none
for cached tokens (`refresh_models` reads the list that does), it is assumed to pass on Mistral's own: 10 % of the input
price (https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching).

Amounts are exact `Decimal` values in USD and are never rounded.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any, Final, NamedTuple

from lava_mistral.mistral.usage import Usage, cached_tokens
from lava_mistral.pricing.amounts import EXACT
from lava_mistral.pricing.catalog import Model, get_model

CACHED_SHARE: Final = Decimal("0.1")
"""The share of the input price that a token from Mistral's prompt cache costs."""

_TOKENS_PER_PRICE: Final = Decimal(10) ** 6


class CostParts(NamedTuple):
    """Hold what a call cost in USD, and for what."""

    input_cost: Decimal
    """The prompt, its cached tokens included."""
    output_cost: Decimal
    """The answer."""
    cached_cost: Decimal
    """The share of `input_cost` that is for cached tokens."""
    total: Decimal
    """Prompt and answer together."""


def cost_parts(usage: Usage, model: str | Model) -> CostParts | None:
    """Compute what the tokens of one call cost, apart for prompt and answer; `None` where the prices are not known.

    Args:
        usage: what the response says, of a chat or an embedding; counts that it leaves out are 0.
        model: the model that answered, or its name.
    """
    if isinstance(model, str):
        model = get_model(model)
    if model.input_price is None or model.output_price is None:
        return None
    # The wire may leave a count out or say null: embeddings do for the answer's tokens.
    counts: dict[str, Any] = dict(usage)
    prompt = counts.get("prompt_tokens") or 0
    completion = counts.get("completion_tokens") or 0
    cached = min(cached_tokens(usage), prompt)
    with localcontext(EXACT):
        cached_price = model.input_price * CACHED_SHARE if model.cached_price is None else model.cached_price
        cached_cost = cached_price * cached / _TOKENS_PER_PRICE
        input_cost = model.input_price * (prompt - cached) / _TOKENS_PER_PRICE + cached_cost
        output_cost = model.output_price * completion / _TOKENS_PER_PRICE
        return CostParts(input_cost, output_cost, cached_cost, input_cost + output_cost)


def cost_of(usage: Usage, model: str | Model) -> Decimal | None:
    """Compute what the tokens of one call cost in USD, exact; `None` where the model's prices are not known.

    Args:
        usage: what the response says, of a chat or an embedding.
        model: the model that answered, or its name.
    """
    parts = cost_parts(usage, model)
    return None if parts is None else parts.total


def priced(usage: Usage | None, asked: str, answered: str | None) -> Decimal | None:
    """Compute a cost by the price of the model that was asked for or, where that is not known, that answered.

    Args:
        usage: what the response says; `None` where it says nothing.
        asked: the model's name in the request.
        answered: its name in the response, by which an alias is known too.
    """
    if usage is None:
        return None
    cost = cost_of(usage, asked) if asked else None
    return cost_of(usage, answered) if cost is None and answered else cost


def saved_by_cache(usage: Usage | None, asked: str, answered: str | None) -> Decimal:
    """Compute what the prompt's cached tokens would have cost more in USD, had they not been cached.

    Args:
        usage: what the response says; `None` where it says nothing.
        asked: the model's name in the request.
        answered: its name in the response.
    """
    if usage is None or not cached_tokens(usage):
        return Decimal(0)
    uncached = Usage(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        total_tokens=usage["total_tokens"],
    )
    paid, full = priced(usage, asked, answered), priced(uncached, asked, answered)
    return Decimal(0) if paid is None or full is None else EXACT.subtract(full, paid)
