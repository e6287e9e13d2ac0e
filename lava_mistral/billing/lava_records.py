"""Hold what Lava recorded of requests: data classes read from its REST answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias

from lava_mistral.errors import ServerError

Status: TypeAlias = Literal["pending", "completed", "error"]
Moment: TypeAlias = datetime | date | str
"""A point in time: a datetime (without a zone: this machine's), a date (its beginning, UTC), or ISO text as it is."""


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What a model used for a request, and what that costs without the merchant's own rates."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_characters: int = 0
    output_characters: int = 0
    total_characters: int = 0
    input_seconds: Decimal = Decimal(0)
    output_seconds: Decimal = Decimal(0)
    total_seconds: Decimal = Decimal(0)
    input_cost: Decimal = Decimal(0)
    output_cost: Decimal = Decimal(0)
    total_cost: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Charge:
    """What the payer was charged.

    Attributes:
        amount: USD.
        rate_type: `"fixed"` or `"percentage"`, the meter's way to charge.
        breakdown: the meter's tiers that were used, as Lava writes them.
    """

    amount: Decimal = Decimal(0)
    rate_type: str = ""
    breakdown: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as Lava recorded it.

    Attributes:
        request_id: Lava's id, as in `x-lava-request-id`.
        status: `"pending"` until usage and cost are final.
        customer_id: who it was made for; `None` for the merchant.
        meter_id: the meter that it counts on.
        provider: `"mistral"`.
        provider_key_type: `"managed"` (Lava's key), `"unmanaged"` (yours, sent with the call) or `"stored"`.
        model: the model.
        endpoint: the provider's address.
        response_id: the provider's id of its answer.
        usage: tokens and what they cost.
        cost: USD that the request cost.
        charge: what the payer was charged, by the meter's rates; `None` where Lava says nothing.
        metadata: what was sent with it.
        created_at: when, with a time zone; `None` where Lava's text is no moment.
        raw: the record as it came.
    """

    request_id: str
    status: Status
    customer_id: str | None
    meter_id: str | None
    provider: str
    provider_key_type: str
    model: str | None
    endpoint: str
    response_id: str | None
    usage: ModelUsage
    cost: Decimal
    charge: Charge | None
    metadata: Mapping[str, str]
    created_at: datetime | None
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> RequestRecord:
        """A record of its JSON object. What Lava leaves out is zero, empty or `None`.

        Raises:
            ServerError: it has no id, or an amount that is no number.
        """
        if not isinstance(value.get("request_id"), str):
            raise _senseless("a request without a request_id")
        charge = value.get("charge")
        return cls(
            request_id=value["request_id"],
            status=value.get("status", "pending"),
            customer_id=value.get("customer_id"),
            meter_id=value.get("meter_id"),
            provider=value.get("provider") or "",
            provider_key_type=value.get("provider_key_type") or "",
            model=value.get("model"),
            endpoint=value.get("endpoint") or "",
            response_id=value.get("response_id"),
            usage=_model_usage(value.get("model_usage") or {}),
            cost=_amount(value, "cost"),
            charge=None
            if not isinstance(charge, Mapping)
            else Charge(_amount(charge, "amount"), charge.get("rate_type") or "", tuple(charge.get("breakdown") or ())),
            metadata=value.get("metadata") or {},
            created_at=_moment(value.get("created_at") or value.get("timestamp")),
            raw=value,
        )


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Sums over requests.

    Attributes:
        requests: how many.
        tokens: of prompts and answers.
        cost: USD that they cost.
        charge: USD that their payers were charged.
    """

    requests: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)
    charge: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class UsageItem(UsageSum):
    """The sums of one span of time, by Lava a day.

    Attributes:
        date: its name, such as `"2026-08-01"`.
        start: its beginning.
        end: its end.
    """

    date: str = ""
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What was used between two moments.

    Attributes:
        items: the sums by day, in order; days without requests may be left out.
        totals: the sums of all.
    """

    items: tuple[UsageItem, ...]
    totals: UsageSum

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> UsageReport:
        """A report of its JSON object.

        Raises:
            ServerError: a number in it is none.
        """
        return cls(
            tuple(
                UsageItem(
                    *_sums(item),
                    date=item.get("date") or "",
                    start=_moment(item.get("start")),
                    end=_moment(item.get("end")),
                )
                for item in value.get("items") or ()
            ),
            UsageSum(*_sums(value.get("totals") or {})),
        )


def _sums(value: Mapping[str, Any]) -> tuple[int, int, Decimal, Decimal]:
    requests, tokens = int(_amount(value, "total_requests")), int(_amount(value, "total_usage_tokens"))
    return requests, tokens, _amount(value, "total_cost"), _amount(value, "total_charge")


def _model_usage(value: Mapping[str, Any]) -> ModelUsage:
    figures: dict[str, Any] = {
        f"{which}_{what}": int(_amount(value, f"{which}_{what}"))
        for what in ("tokens", "characters")
        for which in ("input", "output", "total")
    }
    figures |= {
        f"{which}_{what}": _amount(value, f"{which}_{what}")
        for what in ("seconds", "cost")
        for which in ("input", "output", "total")
    }
    return ModelUsage(**figures)


def _amount(value: Mapping[str, Any], name: str) -> Decimal:
    given = value.get(name)
    try:
        # A number in JSON was read as a float: as it prints, it is what Lava wrote.
        amount = Decimal(0 if given is None else str(given))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise _senseless(f"the {name} {given!r}")
    return amount


def _senseless(what: str) -> ServerError:
    return ServerError(f"expected a record of usage, got {what}", origin="lava", retryable=False)


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wallet:
    """The merchant's wallet.

    Attributes:
        wallet_id: Lava's id of it.
        balance: USD.
    """

    wallet_id: str
    balance: Decimal

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Wallet:
        """Read it from its JSON object.

        Raises:
            ServerError: it names no balance.
        """
        if value.get("balance") is None:
            raise _senseless("a wallet without a balance")
        return cls(value.get("wallet_id") or "", _amount(value, "balance"))


@dataclass(frozen=True, slots=True)
class Subscription:
    """A customer's plan and the credit that is left on it.

    Attributes:
        total_remaining: USD in all.
        cycle_remaining: USD of this cycle.
        bundle_remaining: USD of bundles that were bought beside the plan.
        plan: the plan, as Lava writes it.
        pending_change: what the next cycle changes, as Lava writes it.
    """

    total_remaining: Decimal
    cycle_remaining: Decimal
    bundle_remaining: Decimal
    plan: Mapping[str, Any]
    pending_change: Any = None

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Subscription | None:
        """Read it from the JSON object around it; `None` for a customer without a plan.

        Raises:
            ServerError: an amount in it is no number.
        """
        held = value.get("subscription")
        if not isinstance(held, Mapping):
            return None
        total, cycle, bundle = (
            _amount(held.get("credits") or {}, f"{name}_remaining") for name in ("total", "cycle", "bundle")
        )
        return cls(total, cycle, bundle, held.get("plan") or {}, held.get("pending_change"))


@dataclass(frozen=True, slots=True)
class Page:
    """A page of requests, and where the next one begins; `cursor` is `None` for the last."""

    records: tuple[RequestRecord, ...]
    cursor: str | None

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Page:
        """A page of its JSON object."""
        records = tuple(RequestRecord.from_wire(item) for item in value.get("data") or ())
        # A page that is empty or names no next one would be asked for without end.
        more = value.get("has_more") and records
        return cls(records, value.get("next_cursor") or None if more else None)
