"""Bring the catalogue's prices up to date from Lava's public price list."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lava_mistral.billing.credentials import PRODUCTION_URL, BillingContext, check_base_url
from lava_mistral.client.clients import LavaMistral
from lava_mistral.client.lava_api import LavaApiCall
from lava_mistral.errors import LavaError
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.pricing.catalog import SERVICES_PATH, Model, add_model, models, read_price_list
from lava_mistral.transport.flow import drive


@dataclass(frozen=True)
class PriceList:
    """The models with their prices: from Lava, from an earlier answer of Lava's (read at), or from this package.

    `error` says why Lava was not the source.
    """

    models: tuple[Model, ...]
    source: Literal["lava", "cache", "package"]
    read_at: datetime | None = None
    error: LavaError | None = None


def refresh_models(*, base_url: str | None = None, cache: Path | None = None, timeout: float = 15.0) -> PriceList:
    """Read Lava's price list and put its prices into the catalogue of this process. It never raises for the network.

    Where Lava can't be asked, the last list that was read from the same address counts, then the one in this package.

    Args:
        base_url: of Lava; by default `LAVA_BASE_URL`, else production. No key is needed or sent.
        cache: the file that keeps the last list; by default `lava-mistral/prices.json` in the user's cache folder.
        timeout: seconds for Lava's answer.
    """
    base_url = check_base_url(base_url or os.environ.get("LAVA_BASE_URL") or PRODUCTION_URL)
    if cache is None:
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        except RuntimeError:
            folder = Path(os.devnull)  # a container's user may have no home: nothing is kept
        cache = folder / "lava-mistral" / "prices.json"
    try:
        body = fetch_price_list(base_url, timeout)
        prices = PriceList(tuple(read_price_list(body)), "lava", datetime.now(UTC))
        kept = to_json({"base_url": base_url, "read_at": datetime.now(UTC).isoformat(), "body": body})
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: others may read it at the same time.
            with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as file:
                file.write(kept)
            os.replace(file.name, cache)
    except LavaError as error:
        prices = _read(cache, base_url, error) or PriceList(models(), "package", error=error)
    for model in prices.models:
        add_model(model)
    return prices


def fetch_price_list(base_url: str, timeout: float) -> Any:
    """Get the body of the price list, over the connections that calls take."""
    client = LavaMistral(base_url=base_url, timeout=timeout, max_retries=0)
    call = LavaApiCall("", BillingContext(), timeout, path=SERVICES_PATH.lstrip("/"), public=True)
    return drive(client._retried(call, partial(call.read, parse=dict)))


def _read(cache: Path, base_url: str, error: LavaError) -> PriceList | None:
    try:
        kept = json.loads(cache.read_bytes())
        if kept["base_url"] != base_url:
            return None
        read_at = datetime.fromisoformat(kept["read_at"])
        return PriceList(tuple(read_price_list(kept["body"])), "cache", read_at, error)
    except (OSError, ValueError, KeyError, TypeError, LavaError):
        return None
