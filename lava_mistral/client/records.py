"""Asks Lava what it recorded: methods of both clients, side by side."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from lava_mistral.billing.lava_records import Moment, Page, RequestRecord, Subscription, UsageReport, Wallet
from lava_mistral.calls.call import Call
from lava_mistral.client.lookups import (
    LARGEST_PAGE,
    Lookup,
    Patience,
    page_lookup,
    request_lookup,
    subscription_lookup,
    usage_lookup,
)
from lava_mistral.errors import NotFoundError
from lava_mistral.transport.flow import Flow, adrive, drive

DEFAULT_WAIT = 30.0


class Unsettled(Protocol):
    """What knows of requests whose cost is not known yet: `UsageTotals`, `SpendLimit`."""

    def unsettled(self) -> tuple[str, ...]: ...

    def settle(self, told: RequestRecord) -> None: ...


class _Records:
    """What both clients ask of Lava's records, as flows."""

    _timeout: float | None

    @abstractmethod
    def _asked(self, call: Call) -> Flow[dict[str, Any]]: ...

    @abstractmethod
    def _sleep(self, seconds: float) -> Any: ...

    def _record(self, request_id: str, wait: float | None) -> Flow[RequestRecord]:
        patience = Patience(wait)
        while True:
            try:
                record = RequestRecord.from_wire((yield from self._asked(request_lookup(request_id, self._timeout))))
            except NotFoundError as error:
                pause = patience.pause()
                if pause is None:
                    raise patience.given_up(request_id, error) from error
            else:
                pause = patience.pause() if record.status == "pending" else None
                if pause is None:
                    return record
            yield self._sleep(pause)

    def _reconciled(self, account: Unsettled, wait: float | None) -> Flow[int]:
        for request_id in account.unsettled():
            with suppress(NotFoundError):
                record = yield from self._record(request_id, wait)
                if record.status != "pending":
                    account.settle(record)
        return len(account.unsettled())


class _Pages:
    """The pages of requests, one after another: what to ask for next, and what an answer gives."""

    def __init__(self, timeout: float | None, limit: int | None, *filters: Any) -> None:
        self._timeout, self._left, self._filters = timeout, limit, filters
        self._cursor: str | None = None
        self._over = False

    def lookup(self) -> Lookup | None:
        if self._over or (self._left is not None and self._left <= 0):
            return None
        size = LARGEST_PAGE if self._left is None else min(self._left, LARGEST_PAGE)
        return page_lookup(self._timeout, self._cursor, size, *self._filters)

    def take(self, body: dict[str, Any]) -> Sequence[RequestRecord]:
        page = Page.from_wire(body)
        records = page.records[: self._left]
        if self._left is not None:
            self._left -= len(page.records)
        self._over = page.cursor is None or page.cursor == self._cursor
        self._cursor = page.cursor
        return records


class History(_Records):
    """What a client asks of Lava's records."""

    def request(self, request_id: str, *, wait: float | None = DEFAULT_WAIT) -> RequestRecord:
        """What Lava recorded of one request.

        Lava records a request after it was answered, so there may be no record yet, or one that is pending.

        Args:
            request_id: Lava's id, as in `Completion.request_id`.
            wait: seconds to wait for the record to be there and final, asking again and again, less and less often;
                0 or `None` takes what is there.

        Returns:
            The record; its `status` is still `"pending"` where it did not become final in time.

        Raises:
            NotFoundError: there is no such request, or its record was not there in time.
            ConfigurationError: the credential is an opaque forward token.
        """
        return drive(self._record(request_id, wait))

    def requests(
        self,
        *,
        customer_id: str | None = None,
        meter_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[RequestRecord]:
        """The requests that Lava recorded, the newest first; pages are fetched as the iteration needs them.

        Args:
            customer_id: only those made for this customer.
            meter_id: only those on this meter.
            metadata: only those with all of these pairs.
            limit: at most so many.
        """
        pages = _Pages(self._timeout, limit, customer_id, meter_id, metadata)
        while (lookup := pages.lookup()) is not None:
            yield from pages.take(drive(self._asked(lookup)))

    def usage(
        self,
        start: Moment,
        end: Moment | None = None,
        *,
        customer_id: str | None = None,
        meter_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> UsageReport:
        """What was used and charged between two moments, by day and in all.

        Args:
            start: a datetime, a date or ISO text.
            end: by default now.
            customer_id: only for this customer.
            meter_id: only on this meter.
            metadata: only requests with all of these pairs.
        """
        return UsageReport.from_wire(
            drive(self._asked(usage_lookup(self._timeout, start, end, customer_id, meter_id, metadata)))
        )

    def wallet(self) -> Wallet:
        """Get the balance of the merchant's wallet.

        Raises:
            ConfigurationError: the credential is an opaque forward token.
        """
        return Wallet.from_wire(drive(self._asked(Lookup.at("wallet", {}, self._timeout))))

    def subscription(self, customer_id: str) -> Subscription | None:
        """Get a customer's plan and what is left on it, to ask before a call that the customer pays for.

        Args:
            customer_id: Lava's id of the customer.

        Returns:
            The plan; `None` if the customer has none.

        Raises:
            NotFoundError: there is no such customer.
        """
        return Subscription.from_wire(drive(self._asked(subscription_lookup(customer_id, self._timeout))))

    def reconcile(self, account: Unsettled, *, wait: float | None = DEFAULT_WAIT) -> int:
        """Ask Lava for the cost of the requests that `account` does not know it of, and tell it.

        Args:
            account: a `UsageTotals` or a `SpendLimit`.
            wait: seconds to wait for each record, as in `request`.

        Returns:
            How many are still unknown, among those that have a request id.
        """
        return drive(self._reconciled(account, wait))


class AsyncHistory(_Records):
    """What a client asks of Lava's records in async code; see `History`."""

    async def request(self, request_id: str, *, wait: float | None = DEFAULT_WAIT) -> RequestRecord:
        """What Lava recorded of one request; see `LavaMistral.request`."""
        return await adrive(self._record(request_id, wait))

    async def requests(
        self,
        *,
        customer_id: str | None = None,
        meter_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RequestRecord]:
        """The requests that Lava recorded, the newest first; see `LavaMistral.requests`."""
        pages = _Pages(self._timeout, limit, customer_id, meter_id, metadata)
        while (lookup := pages.lookup()) is not None:
            for record in pages.take(await adrive(self._asked(lookup))):
                yield record

    async def usage(
        self,
        start: Moment,
        end: Moment | None = None,
        *,
        customer_id: str | None = None,
        meter_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> UsageReport:
        """What was used and charged between two moments; see `LavaMistral.usage`."""
        lookup = usage_lookup(self._timeout, start, end, customer_id, meter_id, metadata)
        return UsageReport.from_wire(await adrive(self._asked(lookup)))

    async def wallet(self) -> Wallet:
        """Get the balance of the merchant's wallet; see `LavaMistral.wallet`."""
        return Wallet.from_wire(await adrive(self._asked(Lookup.at("wallet", {}, self._timeout))))

    async def subscription(self, customer_id: str) -> Subscription | None:
        """Get a customer's plan and what is left on it; see `LavaMistral.subscription`."""
        return Subscription.from_wire(await adrive(self._asked(subscription_lookup(customer_id, self._timeout))))

    async def reconcile(self, account: Unsettled, *, wait: float | None = DEFAULT_WAIT) -> int:
        """Ask Lava for what `account` does not know; see `LavaMistral.reconcile`."""
        return await adrive(self._reconciled(account, wait))
