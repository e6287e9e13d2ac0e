"""`lava-mistral models`: the catalogue."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import Annotated

import typer
from rich.console import Console

from lava_mistral.cli.output import JsonOption, print_columns, print_json
from lava_mistral.client.price_list import refresh_models
from lava_mistral.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.pricing.catalog import models as catalogue

# What no chat model lacks is not worth a column's width; PDFs are read by those that see.
_USUAL = frozenset(("chat", "tools", "structured_output", "documents"))


def models(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask Lava for today's prices first; this needs no key.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the models that Lava offers, with prices, context windows, status and capabilities."""
    if refresh:
        prices = refresh_models()
        told = {
            "lava": "Prices are Lava's, read now.",
            "cache": f"Prices are Lava's of {prices.read_at:%Y-%m-%d %H:%M} UTC." if prices.read_at else "",
            "package": "Prices are those shipped with this package.",
        }
        why = "" if prices.error is None else f"Lava's price list can't be read: {prices.error.message} "
        typer.echo(why + told[prices.source], err=True)
    if json:
        print_json([asdict(model) for model in catalogue()])
        return
    typer.echo(
        "USD for a million tokens in and out, as Lava bills them; context in tokens. Chat\n"
        "models call tools and write structured output; those with vision read PDFs too.\n"
        f"A chat that names no model goes to {DEFAULT_CHAT_MODEL}.\n"
    )
    rows = [("model", "in", "out", "context", "more", "status")]
    for model in catalogue():
        more = ", ".join(sorted(model.capabilities - _USUAL))
        amounts = (_price(model.input_price), _price(model.output_price), f"{model.context_window:,}")
        rows.append((model.id, *amounts, more, model.status))
    print_columns(rows, Console(), right=(1, 2, 3))
    if notices := [model.notice for model in catalogue() if model.notice]:
        typer.echo("\n" + "\n".join(notices))


def _price(price: Decimal | None) -> str:
    return "?" if price is None else f"{price:f}" if price else "free"
