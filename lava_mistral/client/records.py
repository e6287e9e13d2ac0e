"""Asks Lava what it recorded: methods of both clients, side by side."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
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

DEFAULT_WAIT = 30.0


class Unsettled(Protocol):
    """What knows of requests whose cost is not known yet: `UsageTotals`, `SpendLimit`."""

    def unsettled(self) -> tuple[str, ...]: ...

    def settle(self, told: RequestRecord) -> None: ...


class History:
    """What a client asks of Lava's records."""

    _timeout: float | None

    @abstractmethod
    def _ask(self, call: Call) -> dict[str, Any]: ...

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
        patience = Patience(wait)
        while True:
            try:
                record = RequestRecord.from_wire(self._ask(request_lookup(request_id, self._timeout)))
            except NotFoundError as error:
                pause = patience.pause()
                if pause is None:
                    raise patience.given_up(request_id, error) from error
            else:
                pause = patience.pause() if record.status == "pending" else None
                if pause is None:
                    return record
            time.sleep(pause)

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
        cursor, left = None, limit
        while left is None or left > 0:
            size = LARGEST_PAGE if left is None else min(left, LARGEST_PAGE)
            lookup = page_lookup(self._timeout, cursor, size, customer_id, meter_id, metadata)
            page = Page.from_wire(self._ask(lookup))
            yield from page.records[:left]
            left = None if left is None else left - len(page.records)
            if page.cursor is None or page.cursor == cursor:
                return
            cursor = page.cursor

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
            self._ask(usage_lookup(self._timeout, start, end, customer_id, meter_id, metadata))
        )

    def wallet(self) -> Wallet:
        """Get the balance of the merchant's wallet.

        Raises:
            ConfigurationError: the credential is an opaque forward token.
        """
        return Wallet.from_wire(self._ask(Lookup.at("wallet", {}, self._timeout)))

    def subscription(self, customer_id: str) -> Subscription | None:
        """Get a customer's plan and what is left on it, to ask before a call that the customer pays for.

        Args:
            customer_id: Lava's id of the customer.

        Returns:
            The plan; `None` if the customer has none.

        Raises:
            NotFoundError: there is no such customer.
        """
        return Subscription.from_wire(self._ask(subscription_lookup(customer_id, self._timeout)))

    def reconcile(self, account: Unsettled, *, wait: float | None = DEFAULT_WAIT) -> int:
        """Ask Lava for the cost of the requests that `account` does not know it of, and tell it.

        Args:
            account: a `UsageTotals` or a `SpendLimit`.
            wait: seconds to wait for each record, as in `request`.

        Returns:
            How many are still unknown, among those that have a request id.
        """
        for request_id in account.unsettled():
            try:
                record = self.request(request_id, wait=wait)
            except NotFoundError:
                continue
            if record.status != "pending":
                account.settle(record)
        return len(account.unsettled())


class AsyncHistory:
    """What a client asks of Lava's records in async code; see `History`."""

    _timeout: float | None

    @abstractmethod
    async def _ask(self, call: Call) -> dict[str, Any]: ...

    async def request(self, request_id: str, *, wait: float | None = DEFAULT_WAIT) -> RequestRecord:
        """What Lava recorded of one request; see `LavaMistral.request`."""
        patience = Patience(wait)
        while True:
            try:
                record = RequestRecord.from_wire(await self._ask(request_lookup(request_id, self._timeout)))
            except NotFoundError as error:
                pause = patience.pause()
                if pause is None:
                    raise patience.given_up(request_id, error) from error
            else:
                pause = patience.pause() if record.status == "pending" else None
                if pause is None:
                    return record
            await asyncio.sleep(pause)

    async def requests(
        self,
        *,
        customer_id: str | None = None,
        meter_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RequestRecord]:
        """The requests that Lava recorded, the newest first; see `LavaMistral.requests`."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = LARGEST_PAGE if left is None else min(left, LARGEST_PAGE)
            lookup = page_lookup(self._timeout, cursor, size, customer_id, meter_id, metadata)
            page = Page.from_wire(await self._ask(lookup))
            for record in page.records[:left]:
                yield record
            left = None if left is None else left - len(page.records)
            if page.cursor is None or page.cursor == cursor:
                return
            cursor = page.cursor

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
        return UsageReport.from_wire(await self._ask(lookup))

    async def wallet(self) -> Wallet:
        """Get the balance of the merchant's wallet; see `LavaMistral.wallet`."""
        return Wallet.from_wire(await self._ask(Lookup.at("wallet", {}, self._timeout)))

    async def subscription(self, customer_id: str) -> Subscription | None:
        """Get a customer's plan and what is left on it; see `LavaMistral.subscription`."""
        return Subscription.from_wire(await self._ask(subscription_lookup(customer_id, self._timeout)))

    async def reconcile(self, account: Unsettled, *, wait: float | None = DEFAULT_WAIT) -> int:
        """Ask Lava for what `account` does not know; see `LavaMistral.reconcile`."""
        for request_id in account.unsettled():
            try:
                record = await self.request(request_id, wait=wait)
            except NotFoundError:
                continue
            if record.status != "pending":
                account.settle(record)
        return len(account.unsettled())
