"""Calculate with amounts of USD exactly, and print them."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact
from typing import Any, Final

# The caller's own decimal context may be of low precision; this one is wide, and raises rather than rounds.
EXACT: Final = Context(prec=200, traps=[Inexact])


def format_cost(cost: Decimal | None) -> str:
    """Return USD as text with every digit that counts and at least two decimals: `"$0.000123"`, `"$1.50"`."""
    if cost is None:
        return "unknown"
    sign, digits = ("-" if cost < 0 else ""), f"{cost.copy_abs():f}"
    whole, _, decimals = digits.partition(".")
    return f"{sign}${whole}.{decimals.rstrip('0').ljust(2, '0')}"


def to_decimal(value: Any) -> Decimal | None:
    """Read a number or its text, a float as it prints: 0.1 is ten cents. `None` where it is no finite number."""
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        return None
    return amount if amount.is_finite() else None
