"""Ask Lava what it recorded: requests, usage, wallet and plans, as its REST interface tells them.

Source: Lava's Node SDK, `@lavapayments/nodejs` 11.2.0 (`RestRequest`, `RestUsage`, `RequestsListResponse`).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Final, Protocol, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode

from lava_mistral.billing.credentials import BillingContext, check_metadata, resolve_access
from lava_mistral.billing.lava_record_types import Moment, RequestRecord, Subscription, UsageReport, Wallet
from lava_mistral.calls.call import JSON_HEADERS, Call
from lava_mistral.calls.responses import Answer
from lava_mistral.errors import ConfigurationError, LavaError, NotFoundError
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.request import Request, parse_url
from lava_mistral.transport.route import LavaRoute

_T = TypeVar("_T")

DEFAULT_RECORD_WAIT: Final = 30.0
"""Seconds to wait for Lava's record of a request."""
LARGEST_PAGE: Final = 100


class Reconcilable(Protocol):
    """What knows of requests whose cost is not known yet: `UsageTotals`, `SpendLimit`."""

    def unreconciled(self) -> tuple[str, ...]: ...

    def reconcile(self, told: RequestRecord) -> None: ...


class RecordFilters(TypedDict, total=False):
    """Only the requests made for this customer, on this meter, with all of these pairs."""

    customer_id: str | None
    meter_id: str | None
    metadata: Mapping[str, str] | None


@dataclass
class LavaApiCall(Call):
    """A question to Lava's REST interface. It is not forwarded, and the secret key itself is the credential.

    Attributes:
        path: below the base URL, with the query.
        public: whether it needs no credential, and gets none.
    """

    path: str = ""
    public: bool = False

    def request(self, route: LavaRoute, extra: Mapping[str, str]) -> Request:
        """Build the request for one try; raise `ConfigurationError` without a key that is shown Lava's records."""
        base, credential = route.base_url, {}
        if not self.public:
            access = resolve_access(route.api_key, base)
            try:
                self.credential = access.secret_key
            except ConfigurationError as error:
                raise ConfigurationError(
                    "Lava's records are shown to the secret key alone, and this forward token does not show its own. "
                    "Give the secret key (LAVA_SECRET_KEY or api_key=)."
                ) from error
            base, credential = access.base_url, {"authorization": f"Bearer {self.credential}"}
        self.target = f"{base}/{self.path}"
        url = parse_url(self.target)
        self.host = url.host
        return Request("GET", url, self.target, {"host": url.authority, **credential, **extra, **JSON_HEADERS})

    def refused(self, answer: Answer) -> LavaError:
        """The error that an answer stands for; it is Lava's own, however it is worded."""
        error = super().refused(answer)
        error.origin = "lava"
        return error


class LavaApi:
    """What both clients ask of Lava's records, as flows."""

    _timeout: float | None
    _sleep: ClassVar[staticmethod[[float], Any]]

    @abstractmethod
    def _retried(self, call: Call, result: Callable[..., _T]) -> Flow[_T]: ...

    def _look_up(
        self, path: str, parse: Callable[[dict[str, Any]], _T], query: Mapping[str, str | None] | None = None
    ) -> Flow[_T]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        call = LavaApiCall("", BillingContext(), self._timeout, path=f"{path}?{urlencode(given)}" if given else path)
        return self._retried(call, partial(call.read, parse=parse))

    def _request(self, request_id: str, *, wait: float | None = DEFAULT_RECORD_WAIT) -> Flow[RequestRecord]:
        """What Lava recorded of one request; its `status` is `"pending"` where it did not become final in time.

        Args:
            request_id: Lava's id, as in `Completion.request_id`.
            wait: seconds to wait for the record to be there and final; 0 or `None` takes what is there.

        Raises:
            NotFoundError: there is no such request, or its record was not there in time.
            ConfigurationError: the credential is an opaque forward token.
        """
        path = f"requests/{quote(_id('request_id', request_id), safe='')}"
        left, pause = wait or 0.0, 0.1
        while True:
            try:
                record = yield from self._look_up(path, RequestRecord.from_wire)
                if record.status != "pending" or left <= 0:
                    return record
            except NotFoundError as error:
                if left <= 0:
                    waited = f", nor has one come in {wait:g} s (wait=)" if wait else ""
                    said = f"there is no record of the request {request_id!r}{waited}"
                    # The request id of the error is that of the lookup, and would be read as the one looked up.
                    advice = "Is it an id that Lava gave, and the key of the same account?"
                    raise NotFoundError(said, **error.fields() | {"request_id": None, "advice": advice}) from error
            yield self._sleep(min(pause, left))
            left, pause = left - pause, min(pause * 1.5, 5.0)

    def _usage(self, start: Moment, end: Moment | None = None, **filters: Unpack[RecordFilters]) -> Flow[UsageReport]:
        """What was used and charged between two moments, by day and in all.

        Args:
            start: a datetime, a date or ISO text.
            end: by default now.
            **filters: `customer_id`, `meter_id` and `metadata`: only what was made for, on and with these.
        """
        span = {"start": moment_text(start), "end": None if end is None else moment_text(end)}
        return self._look_up("usage", UsageReport.from_wire, span | _query(**filters))

    def _wallet(self) -> Flow[Wallet]:
        """Get the balance of the merchant's wallet."""
        return self._look_up("wallet", Wallet.from_wire)

    def _subscription(self, customer_id: str) -> Flow[Subscription | None]:
        """Get a customer's plan and what is left on it; `None` if the customer has none.

        Raises:
            NotFoundError: there is no such customer.
        """
        path = f"customers/{quote(_id('customer_id', customer_id), safe='')}/subscription"
        return self._look_up(path, Subscription.from_wire)

    def _reconcile(self, account: Reconcilable, *, wait: float | None = DEFAULT_RECORD_WAIT) -> Flow[int]:
        """Ask Lava for the cost of requests that a `UsageTotals` or `SpendLimit` does not know it of, and tell it.

        Returns how many with a request id are still unknown; `wait` is for each record, as in `request`.
        """
        for request_id in account.unreconciled():
            with suppress(NotFoundError):
                record = yield from self._request(request_id, wait=wait)
                if record.status != "pending":
                    account.reconcile(record)
        return len(account.unreconciled())

    def _pages(self, limit: int | None, filters: RecordFilters) -> Iterator[Flow[list[RequestRecord]]]:
        """Ask for one page of requests after another; each is driven before the next is asked for."""
        query, left, over = _query(**filters), limit, False

        def page() -> Flow[list[RequestRecord]]:
            nonlocal left, over
            size = LARGEST_PAGE if left is None else min(left, LARGEST_PAGE)
            records, cursor = yield from self._look_up("requests", _page, query | {"limit": str(size)})
            records = records[:left]
            # One that is empty or names no next one would be asked for without end.
            over = not records or not cursor or cursor == query.get("cursor")
            query["cursor"] = cursor
            left = None if left is None else left - len(records)
            return records

        while not over and (left is None or left > 0):
            yield page()


def _page(body: dict[str, Any]) -> tuple[list[RequestRecord], str | None]:
    records = [RequestRecord.from_wire(item) for item in body.get("data") or ()]
    return records, body.get("next_cursor") if body.get("has_more") else None


def moment_text(moment: Moment) -> str:
    """A point in time as Lava takes it: ISO 8601 in UTC."""
    if isinstance(moment, str):
        return moment
    if not isinstance(moment, datetime):
        return moment.isoformat()
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _id(name: str, given: str) -> str:
    # Lava may take an empty one for none, and answer with everybody's requests.
    if not isinstance(given, str) or not given.strip():
        example = "req_…" if name == "request_id" else "c_1"
        raise ConfigurationError(f"{name} is text such as {example!r} that is not empty, not {given!r}.")
    return given


def _query(
    customer_id: str | None = None, meter_id: str | None = None, metadata: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    for name, value in (("customer_id", customer_id), ("meter_id", meter_id)):
        if value is not None:
            _id(name, value)
    pairs = [list(pair) for pair in check_metadata(metadata).items()]
    filters = json.dumps(pairs, separators=(",", ":")) if pairs else None
    return {"customer_id": customer_id, "meter_id": meter_id, "metadata_filters": filters}
