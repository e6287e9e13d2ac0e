"""Render usage sums as a rich table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lava_mistral.pricing.cost import format_cost

if TYPE_CHECKING:
    from rich.table import Table


from lava_mistral.billing.usage import Tally


def usage_table(sections: Mapping[str, Mapping[Any, Tally]], total: Tally) -> Table:
    """Sums as a rich table: each section's rows with the dearest first, then the total."""
    from rich.table import Table

    table = Table(title=None, show_footer=True)
    doubtful = total.unknown or total.unpriced
    columns = [("requests", total.requests), ("input", total.input_tokens), ("cached", total.cached_tokens)]
    columns.append(("output", total.output_tokens))
    table.add_column("", footer="total", overflow="fold", min_width=18)
    for name, value in columns:
        table.add_column(name, footer=f"{value:,}", justify="right")
    table.add_column("cost", footer=format_cost(total.cost), justify="right")
    if doubtful:
        table.add_column("cost\nunknown", footer=f"{total.unknown + total.unpriced:,}", justify="right")
    for name, value in (("retries", total.retries), ("duplicates", total.duplicates)):
        if value:
            table.add_column(name, footer=f"{value:,}", justify="right")
    for section, groups in sections.items():
        table.add_section()
        table.add_row(f"[bold]by {section.removeprefix('metadata:')}[/bold]")
        for label, tally in sorted(groups.items(), key=lambda item: (-item[1].cost, item[0] or "")):
            cells = [tally.requests, tally.input_tokens, tally.cached_tokens, tally.output_tokens]
            row = [_escaped(label or "–"), *(f"{cell:,}" for cell in cells), format_cost(tally.cost)]
            rest = [tally.unknown + tally.unpriced] if doubtful else []
            rest += [tally.retries] if total.retries else []
            rest += [tally.duplicates] if total.duplicates else []
            table.add_row(*row, *(f"{cell:,}" for cell in rest))
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
