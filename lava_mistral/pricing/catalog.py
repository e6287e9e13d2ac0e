"""Know the models that Lava offers: what they cost, how much they read, what they can do (`catalog.json`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson

from lava_mistral._locks import ForkSafeLock
from lava_mistral._text import nearest
from lava_mistral.errors import ServerError
from lava_mistral.pricing.amounts import to_decimal

# `vision`, `audio` and `documents` (PDF) are kinds of input.
Capability = Literal["chat", "embeddings", "vision", "tools", "reasoning", "audio", "structured_output", "documents"]
CAPABILITIES: Final[frozenset[str]] = frozenset(get_args(Capability))

_DATES: Final = ("retired_on", "release_date", "last_updated")
Status = Literal["active", "deprecated", "retired"]
SERVICES_PATH = "/services?provider=mistral"  # of Lava's price list, which needs no credential
_SOURCE = "Lava, GET /v1/services (https://www.lava.so/docs/api-reference/services/list-services)"


@dataclass(frozen=True)
class Model:
    """Describe one model; the defaults are assumed of a chat model that is not in the catalogue.

    Attributes:
        input_price: USD for a million tokens read, exact; `None` where it is not known.
        output_price: USD for a million tokens written, exact; 0 where it is free, `None` where unknown.
        context_window: how many tokens prompt and answer may have together (for embeddings: one input).
        capabilities: what it can do, of `CAPABILITIES`.
        cached_price: USD for a million tokens read from Mistral's prompt cache; `None` for its 10 % of `input_price`.
        status: `"active"`, `"deprecated"` (it will be retired) or `"retired"` (Mistral no longer serves it).
        sources: where the figures come from; keys `prices`, `context_window`, `capabilities`, `status`, `release`.
        known: whether it is in the catalogue, by Lava's list or by `add_model`; else these are defaults.
    """

    id: str
    input_price: Decimal | None = None
    output_price: Decimal | None = None
    context_window: int = 32_768
    capabilities: frozenset[str] = frozenset(("chat", "tools", "structured_output"))
    cached_price: Decimal | None = None
    status: Status = "active"
    retired_on: date | None = None
    replacement: str | None = None
    sources: dict[str, str] = field(default_factory=dict, hash=False, compare=False, repr=False)
    known: bool = True
    release_date: date | None = None
    last_updated: date | None = None
    open_weights: bool | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a model needs an id")
        for name in ("input_price", "output_price", "cached_price"):
            price = getattr(self, name)
            if price is not None and not isinstance(price, Decimal):
                raise TypeError(f'{name} must be a Decimal such as Decimal("0.15"), not {type(price).__name__}')
            if price is not None and not (price.is_finite() and price >= 0):
                raise ValueError(f"{name} must be zero or more USD per million tokens, not {price}")
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("give both prices or neither; a free direction is Decimal(0)")
        if self.context_window < 1:
            raise ValueError(f"context_window must be at least 1 token, not {self.context_window}")
        object.__setattr__(self, "capabilities", frozenset(self.capabilities))
        if unknown := self.capabilities - CAPABILITIES:
            raise ValueError(f"unknown capabilities {sorted(unknown)}; a capability is one of {sorted(CAPABILITIES)}")

    def can(self, capability: Capability) -> bool:
        return capability in self.capabilities

    @property
    def notice(self) -> str:
        """Say in a sentence what a user of a model that is not active should know; empty for an active one."""
        if self.status == "active":
            return ""
        since = f" since {self.retired_on}" if self.retired_on is not None else ""
        return f"{self.id} is {self.status}{since}" + (f": use {self.replacement}." if self.replacement else ".")


def models() -> tuple[Model, ...]:
    """Return every model of the catalogue: Lava's list in its order, then those that were added."""
    return tuple(_catalog.values())


def get_model(id: str) -> Model:
    """Return the model of that name, or else cautious defaults without prices (of `ft:BASE:…`, its base's)."""
    if (model := _catalog.get(id)) is not None:
        return model
    if id.startswith("ft:"):
        base = get_model(id.split(":")[1])
        return replace(base, id=id, input_price=None, output_price=None, sources={}, known=False)
    if "embed" in id:
        return Model(id, context_window=8_192, capabilities=frozenset(("embeddings",)), known=False)
    return Model(id or "unknown", known=False)


def nearest_model(id: str) -> str | None:
    """Return the name of the active model that is most like an unknown one: of a release, the newest of its kind."""
    # Who asks for a chat is not helped by a model that embeds.
    embeds = "emb" in id
    active = [model.id for model in models() if model.status == "active" and model.can("embeddings") == embeds]
    newest = re.sub(r"-\d{4}$", "-latest", id)
    return newest if newest in active else nearest(id, active)


def add_model(model: Model) -> None:
    """Put a model into the catalogue of this process, or replace the one of the same id. Safe in threads."""
    global _catalog
    with _lock:
        # Readers take no lock: they see the old mapping or the new one, never one in between.
        _catalog = {**_catalog, model.id: replace(model, known=True)}


def reset_models() -> None:
    """Go back to the models and prices of this package, without what was added or read since."""
    global _catalog
    with _lock:
        _catalog = dict(_SHIPPED)
        warn_if_deprecated.cache_clear()


@lru_cache(maxsize=1024)
def warn_if_deprecated(id: str) -> None:
    """Log a warning the first time that a retired or deprecated model is used in this process."""
    model = _catalog.get(id)
    if model is not None and model.status != "active":
        _log.warning("%s", model.notice)


def read_price_list(body: Any) -> list[Model]:
    """Merge Lava's price list into what is known of the models: window, status and what it leaves out stay."""
    # {"data": [{"id", "provider", "pricing": {"type": "tokens_1m", "input", "output", "cache_input_read"}, …}]}
    data = body.get("data") if isinstance(body, dict) else None
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    if not (models := [model for entry in entries if (model := _priced(entry)) is not None]):
        raise ServerError("expected a list of Mistral's models with prices, got none", origin="lava", retryable=False)
    return models


def _priced(entry: dict[str, Any]) -> Model | None:
    id, pricing, named = map(entry.get, ("id", "pricing", "capabilities"))
    if entry.get("provider") != "mistral" or not isinstance(id, str) or not isinstance(pricing, dict):
        return None
    prices = [to_decimal(pricing.get(key)) for key in ("input", "output", "cache_input_read")]
    price, output_price, cached_price = (None if price is None or price < 0 else price for price in prices)
    if price is None or pricing.get("type") != "tokens_1m":
        return None
    known = get_model(id.removeprefix("mistral/"))
    # The list's words for abilities are not ours: they add to what is known and take nothing away.
    abilities = CAPABILITIES.intersection(map(str, named if isinstance(named, list) else ()))
    return replace(
        known,
        input_price=price,
        output_price=output_price or Decimal(0),
        cached_price=cached_price,
        capabilities=known.capabilities | abilities,
        sources={**known.sources, "prices": _SOURCE},
        known=True,
    )


def _read(content: bytes) -> Iterator[Model]:
    catalog: dict[str, Any] = orjson.loads(content)
    names = {key: f"{source['name']} ({source['url']})" for key, source in catalog["sources"].items()}
    for entry in catalog["models"]:
        prices = {name: Decimal(entry[name]) for name in ("input_price", "output_price")}
        dates = {name: date.fromisoformat(entry[name]) for name in _DATES if name in entry}
        sources = {figure: "; ".join(names[key] for key in keys.split()) for figure, keys in entry["sources"].items()}
        yield Model(**{**entry, **prices, **dates, "sources": sources})


_log = logging.getLogger("lava_mistral")
_lock = ForkSafeLock()
_SHIPPED: Final = {model.id: model for model in _read(Path(__file__).with_name("catalog.json").read_bytes())}
_catalog: dict[str, Model] = dict(_SHIPPED)
