"""From the moment a request is sent to the moment its cost is known: limits are reserved, listeners are told, once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from time import monotonic
from typing import Any

from lava_mistral.billing.credentials import MERCHANT, Billing, BillingContext
from lava_mistral.billing.usage import CallRecord, Kind, notify
from lava_mistral.errors import SpendLimitError
from lava_mistral.mistral.usage import known_usage
from lava_mistral.pricing.cost import cost_parts


@dataclass(slots=True)
class CallMeter:
    """What one call's requests are put down to: a call that is tried again is several requests."""

    kind: Kind
    model: str
    billing_context: BillingContext
    streamed: bool
    max_cost: Decimal  # that one request can cost; worked out for limits only
    sent_as: BillingContext  # of the latest request: a credential that rotates may name a payer of its own

    def open(self, token: Billing = MERCHANT) -> RequestMeter:
        """Reserve what a request can cost, or raise `SpendLimitError`; `token` is who pays by its credential."""
        for place, limit in enumerate(self.billing_context.limits):
            try:
                limit.reserve(self.max_cost)
            except SpendLimitError:
                for taken in self.billing_context.limits[:place]:
                    taken.end(self.max_cost, Decimal(0))
                raise
        self.sent_as = self.billing_context if token is MERCHANT else replace(self.billing_context, billing=token)
        return RequestMeter(self)


def open_call_meter(
    kind: Kind, model: str, context: BillingContext, max_cost: Callable[[], Decimal], *, streamed: bool = False
) -> CallMeter | None:
    """Return the meter of a call that begins now; `None` where nobody listens and no limit holds."""
    if not context.listeners and not context.limits:
        return None
    return CallMeter(kind, model, context, streamed, max_cost() if context.limits else Decimal(0), context)


class RequestMeter:
    """One request, from its sending to its end. What ends it first counts; all later is without effect."""

    __slots__ = ("_began", "_open")

    def __init__(self, meter: CallMeter | None) -> None:
        self._began = monotonic()
        # Taking an item off an iterator is one step, whichever thread is first.
        self._open = iter(() if meter is None else ((meter, meter.sent_as),))

    def release(self) -> None:
        """End a request that was refused or never arrived: it costs nothing."""
        for meter, _ in self._open:
            for limit in meter.billing_context.limits:
                limit.end(meter.max_cost, Decimal(0))

    def end(self, usage: Any, request_id: str | None, *, answered_by: str | None = None, complete: bool = True) -> None:
        """End a request that was answered, or of which nobody knows; `usage` is the provider's count of tokens."""
        for meter, sent_as in self._open:
            known = known_usage(usage)
            parts = cost_parts(known, meter.model, answered_by)
            cost = None if parts is None else parts.total
            for limit in meter.billing_context.limits:
                limit.end(meter.max_cost, cost, request_id)
            if sent_as.listeners:
                record = CallRecord(
                    kind=meter.kind,
                    model=meter.model,
                    request_id=request_id,
                    usage=known,
                    cost=cost,
                    customer_id=sent_as.billing.customer_id,
                    meter_slug=sent_as.billing.meter_slug,
                    metadata=sent_as.metadata,
                    run_id=sent_as.run_id,
                    streamed=meter.streamed,
                    complete=complete,
                    duration=monotonic() - self._began,
                    saved=Decimal(0) if parts is None else parts.saved,
                )
                notify(sent_as.listeners, record)

    def __del__(self) -> None:
        # A stream that was neither read to its end nor closed.
        if not sys.is_finalizing():
            self.end(None, None, complete=False)


UNMETERED = RequestMeter(None)  # nobody asks its cost
