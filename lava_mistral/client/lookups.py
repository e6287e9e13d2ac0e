"""What Lava recorded: requests and usage, as its REST interface tells them.

Source: Lava's Node SDK, `@lavapayments/nodejs` 11.2.0 (`RestRequest`, `RestUsage`, `RequestsListResponse`). Lava
records a request after its answer: for a moment there may be no record yet (404), or one that is `pending`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode

from lava_mistral.billing.identity import BillingContext, check_metadata, resolve_access
from lava_mistral.billing.lava_records import Moment
from lava_mistral.calls.call import JSON_HEADERS, Call
from lava_mistral.calls.responses import Answer
from lava_mistral.errors import ConfigurationError, LavaError, NotFoundError
from lava_mistral.transport.lava import Forwarder
from lava_mistral.transport.request import Request, parse_url

LARGEST_PAGE: Final = 100


def moment_text(moment: Moment) -> str:
    """A point in time as Lava takes it: ISO 8601 in UTC."""
    if isinstance(moment, str):
        return moment
    if not isinstance(moment, datetime):
        return moment.isoformat()
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
        return cls(f"{path}?{urlencode(given)}" if given else path, BillingContext(), timeout)

    def request(self, forwarder: Forwarder, extra: Mapping[str, str]) -> Request:
        """The request for one try.

        Raises:
            ConfigurationError: there is no key, or only a forward token that does not show the secret key in it.
        """
        access = resolve_access(forwarder.api_key, forwarder.base_url)
        self.address = f"{access.base_url}/{self.target}"
        try:
            self.credential = access.secret_key
        except ConfigurationError as error:
            raise ConfigurationError(
                "Lava's records are shown to the secret key alone, and this forward token does not show its own. "
                "Give the secret key (LAVA_SECRET_KEY or api_key=)."
            ) from error
        url = parse_url(self.address)
        lava = {"host": url.authority, "authorization": f"Bearer {self.credential}"}
        return Request("GET", url, self.address, {**extra, **lava, **JSON_HEADERS})

    @property
    def shown_url(self) -> str:
        """The address as the caller may see it: Lava's own."""
        return self.address

    def refused(self, answer: Answer) -> LavaError:
        """The error that an answer stands for; it is Lava's own, however it is worded."""
        error = super().refused(answer)
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


def subscription_lookup(customer_id: str, timeout: float | None) -> Lookup:
    """Ask for a customer's plan.

    Raises:
        ConfigurationError: the id is empty.
    """
    if not isinstance(customer_id, str) or not customer_id.strip():
        raise ConfigurationError(f"A customer's id is text such as 'c_1', not {customer_id!r}.")
    return Lookup.at(f"customers/{quote(customer_id, safe='')}/subscription", {}, timeout)


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
