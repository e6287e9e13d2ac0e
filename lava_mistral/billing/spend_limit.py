"""Limit what calls may spend.

Before a request goes out, the most that it can cost is reserved. When the answer says what it used, the reservation
gives way to the real cost, and to nothing where the request was refused. Where nobody knows, the reservation stays: a
limit is never passed on a guess. `LavaMistral.reconcile(limit)` asks Lava what such calls cost.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from lava_mistral._locks import Inbox
from lava_mistral.errors import ConfigurationError, SpendLimitError
from lava_mistral.pricing.amounts import EXACT, format_cost, to_decimal

if TYPE_CHECKING:
    from lava_mistral.billing.lava_record_types import RequestRecord

Amount: TypeAlias = Decimal | str | int | float  # USD; a float is taken as it prints: 0.1 is ten cents
_ZERO = Decimal(0)


class SpendLimit:
    """An amount that calls draw on as they happen, and never pass. Safe in threads; shared by all who are given it.

    A copy in another process, by pickling, begins with what was spent so far and counts on its own from there.

    Attributes:
        limit: USD, as the others.
        spent: what calls are known to have cost.
        reserved: what the calls under way can cost at most.
        held: what calls can have cost at most of which the real cost is not known here.
    """

    def __init__(self, limit: Amount) -> None:
        self.limit = to_amount(limit)
        self.spent = self.reserved = self.held = _ZERO
        self._unreconciled: dict[str, Decimal] = {}
        self._inbox = Inbox(self._apply)

    def __repr__(self) -> str:
        amounts = (f"{name}={format_cost(getattr(self, name))}" for name in ("limit", "spent", "reserved", "held"))
        return f"<SpendLimit: {', '.join(amounts)}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> SpendLimit:
        # Copies of a model draw on the same amount.
        return self

    def __getstate__(self) -> dict[str, Any]:
        with self._inbox:
            return vars(self) | {"_unreconciled": dict(self._unreconciled), "reserved": _ZERO, "_inbox": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _inbox=Inbox(self._apply))

    @property
    def left(self) -> Decimal:
        """USD that further calls can cost."""
        with self._inbox:
            return self._left()

    def _left(self) -> Decimal:
        return EXACT.subtract(self.limit, EXACT.add(self.spent, EXACT.add(self.reserved, self.held)))

    def reserve(self, amount: Decimal) -> None:
        """Reserve an amount for a request that is about to be sent; raise `SpendLimitError` where less is left."""
        with self._inbox:
            left = self._left()
            if amount > left:
                raise SpendLimitError(
                    f"the call may cost up to {format_cost(amount)}, and of the spend limit of "
                    f"{format_cost(self.limit)} there is {format_cost(max(left, _ZERO))} left "
                    f"({format_cost(self.spent)} spent, {format_cost(self.reserved + self.held)} set aside for "
                    "calls that are under way or whose cost is not known); it was not sent",
                    advice="Raise the limit. A chat needs less of it with max_tokens=: without, its answer counts with "
                    "all that the model's window leaves.",
                    limit=self.limit,
                    spent=self.spent,
                    needed=amount,
                    left=left,
                )
            self.reserved = EXACT.add(self.reserved, amount)

    def end(self, amount: Decimal, cost: Decimal | None, request_id: str | None = None) -> None:
        """Release what was reserved for a request that is over, or keep it where nobody knows its cost (`None`)."""
        # Never waits for the lock: a request may end inside the garbage collector.
        self._inbox.put((amount, cost, request_id))

    def _apply(self, ended: tuple[Decimal, Decimal | None, str | None]) -> None:
        amount, cost, request_id = ended
        self.reserved = EXACT.subtract(self.reserved, amount)
        if cost is not None:
            self.spent = EXACT.add(self.spent, cost)
            return
        self.held = EXACT.add(self.held, amount)
        if request_id is not None:
            self._unreconciled[request_id] = amount

    def unreconciled(self) -> tuple[str, ...]:
        """List the ids of requests whose cost is not known here but can be asked for; see `LavaMistral.reconcile`."""
        with self._inbox:
            return tuple(self._unreconciled)

    def reconcile(self, told: RequestRecord) -> None:
        """Put what Lava recorded in the place of what is held for a request; without effect for any other."""
        with self._inbox:
            if (amount := self._unreconciled.pop(told.request_id, None)) is not None:
                self.held = EXACT.subtract(self.held, amount)
                self.spent = EXACT.add(self.spent, told.cost)


def to_amount(value: Amount) -> Decimal:
    """Return USD as `Decimal`; a `ConfigurationError` where it is no amount, or below zero."""
    amount = to_decimal(value)
    if amount is None or amount < 0:
        raise ConfigurationError(f'A spend limit is zero or more USD, such as "2.50"; this one is {value!r}.')
    return amount


def to_limit(value: Amount | SpendLimit | None) -> SpendLimit | None:
    """Return the limit that a setting names; a `SpendLimit` itself is shared."""
    return value if value is None or isinstance(value, SpendLimit) else SpendLimit(value)
