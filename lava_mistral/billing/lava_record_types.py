"""Hold what Lava recorded of requests: data classes read from its REST answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from lava_mistral.errors import ServerError
from lava_mistral.pricing.amounts import to_decimal

Status: TypeAlias = Literal["pending", "completed", "error"]
Moment: TypeAlias = datetime | date | str
"""A point in time: a datetime (without a zone: this machine's), a date (its beginning, UTC), or ISO text as it is."""


def _senseless(what: str) -> ServerError:
    return ServerError(f"expected a record of usage, got {what}", origin="lava", retryable=False)


def _amount(value: Mapping[str, Any], name: str) -> Decimal:
    given = value.get(name)
    amount = to_decimal(0 if given is None else given)
    if amount is None:
        raise _senseless(f"the {name} {given!r}")
    return amount


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What a model used for a request, and what that costs without the merchant's own rates."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_cost: Decimal = Decimal(0)
    output_cost: Decimal = Decimal(0)
    total_cost: Decimal = Decimal(0)

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> ModelUsage:
        zeros: dict[str, Any] = {figure.name: figure.default for figure in fields(cls)}
        return cls(**{name: type(zero)(_amount(value, name)) for name, zero in zeros.items()})


@dataclass(frozen=True, slots=True)
class Charge:
    """What the payer was charged in USD: `"fixed"` or `"percentage"`, with the meter's tiers as Lava writes them."""

    amount: Decimal = Decimal(0)
    rate_type: str = ""
    breakdown: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as Lava recorded it.

    Attributes:
        status: `"pending"` until usage and cost are final.
        provider_key_type: `"managed"` (Lava's key), `"unmanaged"` (yours, sent with the call) or `"stored"`.
        response_id: the provider's id of its answer.
        charge: what the payer was charged, by the meter's rates; `None` where Lava says nothing.
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
        """Read a record from its JSON object. What Lava leaves out is zero, empty or `None`."""
        if not isinstance(value.get("request_id"), str):
            raise _senseless("a request without a request_id")
        told, charge = value.get("charge"), None
        if isinstance(told, Mapping):
            tiers = tuple(told.get("breakdown") or ())
            charge = Charge(_amount(told, "amount"), told.get("rate_type") or "", tiers)
        names: dict[str, Any] = {name: value.get(name) for name in ("customer_id", "meter_id", "model", "response_id")}
        names |= {name: value.get(name) or "" for name in ("provider", "provider_key_type", "endpoint")}
        names["status"] = value.get("status") or "pending"
        for name, text in names.items():
            if text is not None and not isinstance(text, str):
                raise _senseless(f"the {name} {text!r}")
        return cls(
            request_id=value["request_id"],
            usage=ModelUsage.from_wire(value.get("model_usage") or {}),
            cost=_amount(value, "cost"),
            charge=charge,
            metadata={**(value.get("metadata") or {})},
            created_at=_moment(value.get("created_at") or value.get("timestamp")),
            raw=value,
            **names,
        )


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Sums over requests: their tokens, the USD that they cost, and the USD that their payers were charged."""

    requests: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)
    charge: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class UsageItem(UsageSum):
    """The sums of one span of time, by Lava a day: `date` is its name, such as `"2026-08-01"`."""

    date: str = ""
    start: datetime | None = None
    end: datetime | None = None


def _sums(value: Mapping[str, Any]) -> tuple[int, int, Decimal, Decimal]:
    requests, tokens = int(_amount(value, "total_requests")), int(_amount(value, "total_usage_tokens"))
    return requests, tokens, _amount(value, "total_cost"), _amount(value, "total_charge")


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What was used between two moments: by day, where days without requests may be left out, and in all."""

    items: tuple[UsageItem, ...]
    totals: UsageSum

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> UsageReport:
        """Read a report from its JSON object."""
        items = (
            UsageItem(*_sums(item), item.get("date") or "", _moment(item.get("start")), _moment(item.get("end")))
            for item in value.get("items") or ()
        )
        return cls(tuple(items), UsageSum(*_sums(value.get("totals") or {})))


@dataclass(frozen=True, slots=True)
class Wallet:
    """The merchant's wallet; its balance in USD."""

    wallet_id: str
    balance: Decimal

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Wallet:
        if value.get("balance") is None:
            raise _senseless("a wallet without a balance")
        return cls(value.get("wallet_id") or "", _amount(value, "balance"))


@dataclass(frozen=True, slots=True)
class Subscription:
    """A customer's plan, as Lava writes it, and the credit in USD that is left on it."""

    total_remaining: Decimal
    cycle_remaining: Decimal
    bundle_remaining: Decimal
    plan: Mapping[str, Any]
    pending_change: Any = None

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Subscription | None:
        """Read it from the JSON object around it; `None` for a customer without a plan."""
        held = value.get("subscription")
        if not isinstance(held, Mapping):
            return None
        credit: Mapping[str, Any] = held.get("credits") or {}
        total, cycle, bundle = (_amount(credit, f"{name}_remaining") for name in ("total", "cycle", "bundle"))
        return cls(total, cycle, bundle, held.get("plan") or {}, held.get("pending_change"))
