"""`lava-mistral usage`: what was spent, by customer, model, day, meter or metadata, from Lava's records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.console import Console

from lava_mistral._text import nearest
from lava_mistral.billing.lava_record_types import RequestRecord, UsageReport, UsageSum
from lava_mistral.cli.output import JsonOption, print_columns, print_json
from lava_mistral.client.clients import LavaMistral
from lava_mistral.client.lava_api import LARGEST_PAGE
from lava_mistral.pricing.amounts import EXACT, format_cost

_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}
_NAMES: Final = {"customer": "customer_id", "model": "model", "meter": "meter_id"}
_BARS: Final = 20
Name: TypeAlias = Callable[[RequestRecord], str | None]


def usage(
    since: Annotated[str, typer.Option(help="From when: 7d, 12h, 2w, or a date.")] = "7d",
    until: Annotated[str | None, typer.Option(help="To when; by default now.")] = None,
    by: Annotated[str, typer.Option(help="What to sum by: customer, model, day, meter or metadata:KEY.")] = "customer",
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    meter: Annotated[str | None, typer.Option(help="Only what is on this meter.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a picture: a .png, .svg or .pdf file.", dir_okay=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what was used, what it cost, and what was charged, as Lava recorded it."""
    now = datetime.now(UTC)
    try:
        start, end = parse_moment(since, now), now if until is None else parse_moment(until, now)
        name = None if by == "day" else name_of(by)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if end < start:
        raise typer.BadParameter("--until lies before --since")
    if any(value is not None and not value.strip() for value in (customer, meter)):
        raise typer.BadParameter("--customer or --meter is empty")
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter("it ends in .png, .svg or .pdf", param_hint="--plot")
    client = LavaMistral()
    only: dict[str, Any] = {"customer_id": customer, "meter_id": meter}
    if name is None:
        spending = by_day(client.usage(start, end, **only), start, end)
    else:
        spending = by_name(client.requests(**only), by, name, start, end)
    if json:
        print_json(spending.as_dict())
    else:
        rows = [(by.removeprefix("metadata:"), "requests", "tokens", "cost", "charged")]
        for label, sums in (*spending.items, ("total", spending.total)):
            amounts = (format_cost(sums.cost), format_cost(sums.charge))
            rows.append((label or "–", f"{sums.requests:,}", f"{sums.tokens:,}", *amounts))
        print_columns(rows, Console(), right=(1, 2, 3, 4))
    if plot is not None:
        draw(spending, plot)
        typer.echo(f"Drawn to {plot}.", err=True)


@dataclass(frozen=True, slots=True)
class Spending:
    """Sums by name (`None` for requests without one), the dearest first; by day in the days' order."""

    by: str
    start: datetime
    end: datetime
    items: tuple[tuple[str | None, UsageSum], ...]
    total: UsageSum

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for `print_json`."""

        def figures(sums: UsageSum) -> dict[str, Any]:
            return {field.name: getattr(sums, field.name) for field in fields(UsageSum)}

        items = [{"name": name, **figures(sums)} for name, sums in self.items]
        return {"by": self.by, "since": self.start, "until": self.end, "items": items, "totals": figures(self.total)}


def parse_moment(text: str, now: datetime) -> datetime:
    """Parse a span before now such as `"7d"`, or an ISO date or time (UTC without a zone); raise `ValueError`."""
    if match := re.fullmatch(r"(\d{1,4})([hdw])", text):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no span such as 7d, 12h or 2w, and no date such as 2026-08-01") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def name_of(by: str) -> Name:
    """Return what finds the name of a request by what to sum by; raise `ValueError` where that is nothing known."""
    if by in _NAMES:
        return attrgetter(_NAMES[by])
    kind, _, key = by.partition(":")
    if kind == "metadata" and key:
        return lambda record: record.metadata.get(key)
    near = nearest(by, (*_NAMES, "day"))
    hint = f"; did you mean {near}?" if near else ""
    raise ValueError(f"{by!r} is not customer, model, day, meter or metadata:KEY{hint}")


def by_day(report: UsageReport, start: datetime, end: datetime) -> Spending:
    """Take Lava's own sums by day (UTC)."""
    return Spending("day", start, end, tuple((item.date, item) for item in report.items), report.totals)


def by_name(records: Iterable[RequestRecord], by: str, name: Name, start: datetime, end: datetime) -> Spending:
    """Sum up requests, the newest first, from `start` to before `end` by name; read as far as needed."""
    groups: dict[str | None, UsageSum] = {}
    total, older = UsageSum(), 0
    for record in records:
        moment = record.created_at
        # The list is by age, but nobody promises that to the second.
        older = older + 1 if moment is not None and moment < start else 0
        if older > LARGEST_PAGE:
            break
        if moment is None or start <= moment < end:
            key = name(record)
            groups[key] = _plus(groups.get(key, UsageSum()), record)
            total = _plus(total, record)
    ranked = sorted(groups.items(), key=lambda item: (-item[1].cost, -item[1].tokens, item[0] or ""))
    return Spending(by, start, end, tuple(ranked), total)


def _plus(sums: UsageSum, record: RequestRecord) -> UsageSum:
    charge = Decimal(0) if record.charge is None else record.charge.amount
    return UsageSum(
        sums.requests + 1,
        sums.tokens + record.usage.total_tokens,
        EXACT.add(sums.cost, record.cost),
        EXACT.add(sums.charge, charge),
    )


def draw(spending: Spending, path: Path) -> None:
    """Draw the costs as bars, those beyond 20 names (not days) as one; the ending of the path says the format."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A plot needs matplotlib: pip install "lava-mistral[plot]".') from error
    bars = [(name or "(none)", float(sums.cost)) for name, sums in spending.items]
    if spending.by != "day" and len(bars) > _BARS:
        rest = bars[_BARS - 1 :]
        bars = [*bars[: _BARS - 1], (f"{len(rest)} others", sum(cost for _, cost in rest))]
    figure = Figure(figsize=(9, min(1.5 + 0.32 * max(len(bars), 4), 100)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(bars)), [cost for _, cost in bars], color="#e8590c")
    # No mathematics: a name may hold a dollar sign.
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name, _ in bars]
    axes.set_yticks(range(len(bars)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("cost in USD")
    axes.spines[["top", "right"]].set_visible(False)
    what = f"{format_cost(spending.total.cost)} by {spending.by.removeprefix('metadata:')}"
    title = f"{what}, {spending.start:%Y-%m-%d} to {spending.end:%Y-%m-%d}"
    axes.set_title(title, loc="left", parse_math=False)
    figure.savefig(path, dpi=150)
