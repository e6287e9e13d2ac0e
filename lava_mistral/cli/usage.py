"""`lava-mistral usage`: what was spent, as Lava recorded it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lava_mistral.cli.json_output import print_json
from lava_mistral.cli.output import print_columns


def usage(
    since: Annotated[str, typer.Option("--since", help="From when: 7d, 12h, 2w, or a date.")] = "7d",
    until: Annotated[str | None, typer.Option("--until", help="To when; by default now.")] = None,
    by: Annotated[
        str, typer.Option("--by", help="What to sum by: customer, model, day, meter or metadata:KEY.")
    ] = "customer",
    customer: Annotated[str | None, typer.Option("--customer", help="Only this customer's.")] = None,
    meter: Annotated[str | None, typer.Option("--meter", help="Only what is on this meter.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw a picture: a .png, .svg or .pdf file.", dir_okay=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
) -> None:
    """Show what was used, what it cost, and what was charged, as Lava recorded it."""
    from lava_mistral.cli.usage_report import draw, look_up, name_of, parse_moment
    from lava_mistral.client.sync_client import LavaMistral
    from lava_mistral.pricing.cost import format_cost

    now = datetime.now(UTC)
    try:
        start, end = parse_moment(since, now), now if until is None else parse_moment(until, now)
        if by != "day":
            name_of(by)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if end < start:
        raise typer.BadParameter("--until lies before --since")
    for name, value in (("--customer", customer), ("--meter", meter)):
        if value is not None and not value.strip():
            raise typer.BadParameter("it is empty", param_hint=name)
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter("it ends in .png, .svg or .pdf", param_hint="--plot")
    spending = look_up(LavaMistral(), by, start, end, customer_id=customer, meter_id=meter)
    if json:
        print_json(spending.as_dict())
    else:
        rows = [(by.removeprefix("metadata:"), "requests", "tokens", "cost", "charged")]
        for name, sums in (*((name or "–", sums) for name, sums in spending.items), ("total", spending.total)):
            amounts = (format_cost(sums.cost), format_cost(sums.charge))
            rows.append((name, f"{sums.requests:,}", f"{sums.tokens:,}", *amounts))
        print_columns(rows, Console(), right=(1, 2, 3, 4))
    if plot is not None:
        draw(spending, plot)
        typer.echo(f"Drawn to {plot}.", err=True)
