"""What Lava recorded: requests and usage, as its REST interface tells them.

Source: Lava's Node SDK, `@lavapayments/nodejs` 11.2.0 (`RestRequest`, `RestUsage`, `RequestsListResponse`). Lava
records a request after its answer: for a moment there may be no record yet (404), or one that is `pending`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

import httpx

from lava_mistral.billing import check_metadata, resolve_access
from lava_mistral.calls import JSON_HEADERS, Call
from lava_mistral.errors import ConfigurationError, LavaError, NotFoundError, ServerError
from lava_mistral.scopes import Identity
from lava_mistral.transport import Forwarder

Status: TypeAlias = Literal["pending", "completed", "error"]
Moment: TypeAlias = datetime | date | str
"""A point in time: a datetime (without a zone: this machine's), a date (its beginning, UTC), or ISO text as it is."""

LARGEST_PAGE: Final = 100


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
        # Python 3.10 reads no "Z".
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def moment_text(moment: Moment) -> str:
    """A point in time as Lava takes it: ISO 8601 in UTC."""
    if isinstance(moment, str):
        return moment
    if not isinstance(moment, datetime):
        return moment.isoformat()
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Lookup(Call):
    """A question to Lava's REST interface. It is not forwarded, and the secret key itself is the credential."""

    address: str = ""

    @classmethod
    def at(cls, path: str, query: Mapping[str, str | None], timeout: float | None) -> Lookup:
        """A GET of a path under the base URL.

        Args:
            path: below the base URL, without a slash at the start.
            query: parameters; those that are `None` are left out.
            timeout: seconds.
        """
        given = {name: value for name, value in query.items() if value is not None}
        return cls(f"{path}?{urlencode(given)}" if given else path, Identity(), timeout)

    def request(self, forwarder: Forwarder, extra: Any = ()) -> httpx.Request:
        """The request for one try.

        Raises:
            ConfigurationError: there is no key, or only a forward token that does not show the secret key in it.
        """
        access = resolve_access(forwarder.api_key, forwarder.base_url)
        self.address = f"{access.base_url}/{self.target}"
        connect = None if self.timeout is None else min(self.timeout, 15.0)
        self.timeouts = {"connect": connect, "read": self.timeout, "write": self.timeout, "pool": connect}
        try:
            bearer = access.secret_key
        except ConfigurationError as error:
            raise ConfigurationError(
                "Lava's records are shown to the secret key alone, and this forward token does not show its own. "
                "Give the secret key (LAVA_SECRET_KEY or api_key=)."
            ) from error
        return httpx.Request(
            "GET",
            self.address,
            headers=[(b"Authorization", b"Bearer " + bearer.encode("ascii")), *JSON_HEADERS, *extra],
            extensions={"timeout": self.timeouts},
        )

    def provider_request(self) -> httpx.Request:
        """The request as the caller may see it, without the credential."""
        return httpx.Request("GET", self.address)

    def refused(self, response: httpx.Response) -> LavaError:
        """The error that an answer stands for; it is Lava's own, however it is worded."""
        error = super().refused(response)
        error.origin = "lava"
        return error


def request_lookup(request_id: str, timeout: float | None) -> Lookup:
    """Asks for one request.

    Raises:
        ConfigurationError: the id is empty, as of a call that got none.
    """
    if not isinstance(request_id, str) or not request_id:
        raise ConfigurationError(f"A request's id is text such as 'req_…', not {request_id!r}.")
    return Lookup.at(f"requests/{quote(request_id, safe='')}", {}, timeout)


def page_lookup(
    timeout: float | None,
    cursor: str | None,
    size: int,
    customer_id: str | None,
    meter_id: str | None,
    metadata: Mapping[str, str] | None,
) -> Lookup:
    """Asks for a page of requests."""
    filters = _filters(customer_id, meter_id, metadata)
    return Lookup.at("requests", {**filters, "cursor": cursor, "limit": str(size)}, timeout)


def usage_lookup(
    timeout: float | None,
    start: Moment,
    end: Moment | None,
    customer_id: str | None,
    meter_id: str | None,
    metadata: Mapping[str, str] | None,
) -> Lookup:
    """Asks for the sums between two moments."""
    span = {"start": moment_text(start), "end": None if end is None else moment_text(end)}
    return Lookup.at("usage", {**span, **_filters(customer_id, meter_id, metadata)}, timeout)


def _filters(
    customer_id: str | None, meter_id: str | None, metadata: Mapping[str, str] | None
) -> dict[str, str | None]:
    for name, value in (("customer_id", customer_id), ("meter_id", meter_id)):
        # Lava may take an empty one for none, and answer with everybody's requests.
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ConfigurationError(
                f"{name} is text such as 'c_1' that is not empty, not {value!r}. Leave it out to ask for all."
            )
    pairs = [list(pair) for pair in check_metadata(metadata).items()]
    return {
        "customer_id": customer_id,
        "meter_id": meter_id,
        "metadata_filters": json.dumps(pairs, separators=(",", ":")) if pairs else None,
    }


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


class Patience:
    """How long to wait for a record that is not there yet: from 0.1 s on, each time half as long again, at most 5 s.

    Args:
        total: seconds in all; 0 or `None` waits for nothing.
    """

    def __init__(self, total: float | None) -> None:
        self._total = self._left = total or 0.0
        self._next = 0.1

    def pause(self) -> float | None:
        """Seconds to wait before asking again; `None` when it has been long enough."""
        if self._left <= 0:
            return None
        pause = min(self._next, self._left)
        self._left -= pause
        self._next = min(self._next * 1.5, 5.0)
        return pause

    def given_up(self, request_id: str, error: NotFoundError) -> NotFoundError:
        """The error for a record that was not there in time.

        Args:
            request_id: the request that was asked for.
            error: what Lava said last.
        """
        fields = error.fields()
        # It is the id of the lookup, and would be read as the one that was looked up.
        fields |= {"request_id": None, "advice": "Is it an id that Lava gave, and the key of the same account?"}
        return NotFoundError(
            f"there is no record of the request {request_id!r}"
            + (f", nor has one come in {self._total:g} s (wait=)" if self._total else ""),
            **fields,
        )
