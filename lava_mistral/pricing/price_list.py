"""Read Lava's public price list (https://www.lava.so/docs/api-reference/services/list-services). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

from lava_mistral.errors import ServerError
from lava_mistral.pricing.catalog import CAPABILITIES, Model, get_model

SERVICES_PATH = "/services?provider=mistral"
"""Where Lava serves it, below the base URL; needs no credential."""
_SOURCE = "Lava, GET /v1/services (https://www.lava.so/docs/api-reference/services/list-services)"


def read_price_list(body: Any) -> list[Model]:
    """Merge the price list into what is known of the models.

    Args:
        body: the parsed answer: `{"data": [{"id", "provider", "pricing": {"type", "input", "output",
            "cache_input_read"}, "capabilities"}]}`, prices in USD for a million tokens where the type is `tokens_1m`.

    Returns:
        The models with the listed prices; window, status and what the list leaves out are those of the catalogue.

    Raises:
        ServerError: the body is no price list, or it holds no model of Mistral's.
    """
    models = list(_entries(body))
    if not models:
        raise ServerError("expected a list of Mistral's models with prices, got none", origin="lava", retryable=False)
    return models


def _entries(body: Any) -> Iterator[Model]:
    data = body.get("data") if isinstance(body, dict) else None
    for entry in data if isinstance(data, list) else ():
        if not isinstance(entry, dict) or entry.get("provider") != "mistral" or not isinstance(entry.get("id"), str):
            continue
        pricing = entry.get("pricing")
        if not isinstance(pricing, dict) or pricing.get("type") != "tokens_1m":
            continue
        prices = [_price(pricing.get(name)) for name in ("input", "output", "cache_input_read")]
        if prices[0] is None:
            continue
        known = get_model(entry["id"].removeprefix("mistral/"))
        named = entry.get("capabilities")
        capabilities = CAPABILITIES.intersection(map(str, named)) if isinstance(named, list) else frozenset()
        yield replace(
            known,
            input_price=prices[0],
            output_price=prices[1] or Decimal(0),
            cached_price=prices[2],
            # The list's words for abilities are not ours: they add to what is known and take nothing away.
            capabilities=known.capabilities | capabilities,
            sources={**known.sources, "prices": _SOURCE},
            known=True,
        )


def _price(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        # A float as it prints: 0.15 is fifteen cents.
        price = Decimal(str(value))
    except ArithmeticError:
        return None
    return price if price.is_finite() and price >= 0 else None
