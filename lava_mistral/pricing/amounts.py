"""Calculate with amounts of USD exactly, and print them."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact
from typing import Final

# The caller's own decimal context may be of low precision; this one is wide, and raises rather than rounds.
EXACT: Final = Context(prec=200, traps=[Inexact])


def format_cost(cost: Decimal | None) -> str:
    """Return USD as text with every digit that counts and at least two decimals: `"$0.000123"`, `"$1.50"`."""
    if cost is None:
        return "unknown"
    sign, digits = ("-" if cost < 0 else ""), f"{cost.copy_abs():f}"
    whole, _, decimals = digits.partition(".")
    return f"{sign}${whole}.{decimals.rstrip('0').ljust(2, '0')}"
