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
    """Merge the price list into what is known of the models: window, status and what it leaves out stay.

    Args:
        body: the parsed answer: `{"data": [{"id", "provider", "pricing": {"type", "input", "output",
            "cache_input_read"}, "capabilities"}]}`, prices in USD for a million tokens where the type is `tokens_1m`.

    Raises:
        ServerError: the body is no price list, or it holds no model of Mistral's.
    """
    data = body.get("data") if isinstance(body, dict) else None
    models = list(_models(data if isinstance(data, list) else []))
    if not models:
        raise ServerError("expected a list of Mistral's models with prices, got none", origin="lava", retryable=False)
    return models


def _models(entries: list[Any]) -> Iterator[Model]:
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("provider") != "mistral" or not isinstance(entry.get("id"), str):
            continue
        pricing, named = entry.get("pricing"), entry.get("capabilities")
        if not isinstance(pricing, dict) or pricing.get("type") != "tokens_1m":
            continue
        price, output_price, cached_price = (
            _price(pricing.get(key)) for key in ("input", "output", "cache_input_read")
        )
        if price is None:
            continue
        known = get_model(entry["id"].removeprefix("mistral/"))
        yield replace(
            known,
            input_price=price,
            output_price=output_price or Decimal(0),
            cached_price=cached_price,
            # The list's words for abilities are not ours: they add to what is known and take nothing away.
            capabilities=known.capabilities
            | CAPABILITIES.intersection(map(str, named if isinstance(named, list) else ())),
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
