"""Lava's REST interface: models, services, wallet, customers, requests and usage."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import orjson

from lava_mistral.gateway.lava.accounts import Accounts, Refusal
from lava_mistral.gateway.mistral.provider import CREATED
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.records import RequestLog, RequestRecord
from lava_mistral.gateway.server.delivery import Answer
from lava_mistral.pricing.catalog import Model, models
from lava_mistral.pricing.cost import CACHED_SHARE, CostParts, cost_parts

USUAL_PAGE: Final = 10
LARGEST_PAGE: Final = 100


class Rest:
    """Answers GET requests."""

    def __init__(self, options: Options, accounts: Accounts, log: RequestLog) -> None:
        self._options, self._accounts, self._log = options, accounts, log

    def answer(self, method: str, path: str, authorization: str | None, query: Mapping[str, str]) -> Answer:
        """Answer one request; the path begins with `/v1/`.

        Raises:
            Refusal: the credential is not accepted, there is no such thing, or a parameter makes no sense.
        """
        names = path.split("/")[2:]
        handler = self._handler(names, query)
        if handler is None:
            raise Refusal(404, f"There is no {path} here")
        if method != "GET":
            raise Refusal(405, f"Method not allowed: {method}")
        told = {"content-type": "application/json"}
        if names != ["services"]:
            credential = self._accounts.authenticate(authorization)
            told |= self._accounts.count(credential["secret_key"])
        return Answer(200, told, orjson.dumps(handler()))

    def _handler(self, names: Sequence[str], query: Mapping[str, str]) -> Callable[[], Any] | None:
        match names:
            case ["models"]:
                return lambda: {"object": "list", "data": [_openai(model) for model in models()]}
            case ["services"]:
                return lambda: {"object": "list", "data": _services(query.get("provider"))}
            case ["wallet"]:
                return lambda: {"wallet_id": "wallet_local", "balance": _text(self._accounts.wallet.merchant)}
            case ["customers", customer_id, "subscription"] if customer_id:
                return lambda: {"subscription": self._accounts.subscription(customer_id)}
            case ["requests"]:
                return lambda: list_requests(self._visible(), query)
            case ["requests", request_id]:
                return lambda: self._request(request_id)
            case ["usage"]:
                return lambda: usage(self._visible(), query)
        return None

    def _visible(self) -> list[RequestRecord]:
        return [record for record in self._log.all() if _visible(record, self._options.record_lag)]

    def _request(self, request_id: str) -> dict[str, Any]:
        record = self._log.get(request_id)
        if record is None or not _visible(record, self._options.record_lag):
            raise Refusal(404, "Request not found")
        return describe(record)


def new_id() -> str:
    """Return an id for a request."""
    return f"req_{secrets.token_hex(12)}"


def _openai(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": CREATED, "owned_by": "mistral"}


def _services(provider: str | None) -> list[dict[str, Any]]:
    """Lava's public price list; the names of its fields beside `pricing` are assumed."""
    if provider not in (None, "mistral"):
        return []
    return [
        {
            "id": model.id,
            "provider": "mistral",
            "managed": True,
            "capabilities": sorted(model.capabilities),
            "context_window": model.context_window,
            "pricing": {
                "type": "tokens_1m",
                "input": _text(model.input_price or Decimal(0)),
                "output": _text(model.output_price or Decimal(0)),
                "cache_input_read": _text((model.input_price or Decimal(0)) * CACHED_SHARE),
            },
        }
        for model in models()
    ]


def _visible(record: RequestRecord, lag: float) -> bool:
    """Whether a request is recorded already: Lava did not refuse it, and it ended at least `lag` seconds ago."""
    if not record.credential or record.status in (401, 402, 403):
        return False
    return record.completed_at is not None and time.time() - record.completed_at >= lag


def describe(record: RequestRecord) -> dict[str, Any]:
    """Return one request as `GET /requests/{id}` shows it."""
    # An answer that a test made up may leave counts out.
    counts: dict[str, Any] = dict(record.usage or {})
    parts = cost_parts(record.usage, record.model) if record.usage else None
    costs = parts or CostParts(*[Decimal(0)] * 4)
    units = [f"{side}_{unit}" for unit in ("characters", "seconds") for side in ("input", "output", "total")]
    named = {"customer_id": record.customer_id, "meter_id": record.meter_slug, "response_id": record.response_id}
    return {
        "request_id": record.request_id,
        "status": record.outcome,
        "provider": "mistral",
        "provider_key_type": "unmanaged" if record.credential.get("provider_key") else "managed",
        "model": record.model,
        "endpoint": f"https://api.mistral.ai{record.path}",
        "model_usage": {
            "input_tokens": counts.get("prompt_tokens") or 0,
            "output_tokens": counts.get("completion_tokens") or 0,
            "total_tokens": counts.get("total_tokens") or 0,
            **dict.fromkeys(units, 0),
            "input_cost": _text(costs.input_cost),
            "output_cost": _text(costs.output_cost),
            "total_cost": _text(costs.total),
        },
        "cost": _text(record.cost),
        "charge": {"amount": _text(record.charge), "rate_type": "percentage", "breakdown": []},
        "metadata": record.metadata,
        "created_at": datetime.fromtimestamp(record.created_at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        **{name: value for name, value in named.items() if value is not None},
    }


def list_requests(records: Sequence[RequestRecord], asked: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of `GET /requests`, the newest first.

    Raises:
        Refusal: a filter, the cursor or the limit makes no sense.
    """
    wanted, limit = _filter(asked), asked.get("limit", str(USUAL_PAGE))
    # Python refuses to read a number of thousands of digits.
    if not re.fullmatch("[0-9]{1,9}", limit) or not 1 <= int(limit) <= LARGEST_PAGE:
        raise Refusal(400, f"Invalid limit: a number from 1 to {LARGEST_PAGE} is expected")
    found = [record for record in reversed(records) if wanted(record)]
    if asked.get("cursor"):
        ids = [record.request_id for record in found]
        if asked["cursor"] not in ids:
            raise Refusal(400, "Invalid cursor")
        found = found[ids.index(asked["cursor"]) + 1 :]
    page, more = found[: int(limit)], len(found) > int(limit)
    following = {"next_cursor": page[-1].request_id} if more else {}
    return {"data": [describe(record) for record in page], "has_more": more, **following}


def usage(records: Sequence[RequestRecord], asked: Mapping[str, str]) -> dict[str, Any]:
    """Return `GET /usage`: the requests from `start` to before `end`, one item for each day (UTC), and their sums.

    Raises:
        Refusal: `start` is missing, or a value makes no sense.
    """
    if not asked.get("start"):
        raise Refusal(400, "Missing query parameter start: an ISO date")
    start = _parse("start", asked["start"])
    end = _parse("end", asked["end"]) if asked.get("end") else datetime.now(UTC) + timedelta(seconds=1)
    if end < start:
        raise Refusal(400, "end must not be before start")
    wanted = _filter(asked)
    days: dict[datetime, list[RequestRecord]] = {}
    for record in records:
        at = datetime.fromtimestamp(record.created_at, UTC)
        if start <= at < end and wanted(record):
            days.setdefault(at.replace(hour=0, minute=0, second=0, microsecond=0), []).append(record)
    items = []
    for day in sorted(days):
        span = {"start": day.isoformat(), "end": (day + timedelta(days=1)).isoformat()}
        items.append({"date": day.date().isoformat(), **span, **_totals(days[day])})
    return {"items": items, "totals": _totals(record for of_day in days.values() for record in of_day)}


def _totals(records: Iterable[RequestRecord]) -> dict[str, Any]:
    counted = list(records)
    tokens = (dict[str, Any](record.usage or {}).get("total_tokens") or 0 for record in counted)
    return {
        "total_requests": len(counted),
        "total_usage_tokens": sum(tokens),
        "total_cost": _text(sum((record.cost for record in counted), Decimal(0))),
        "total_charge": _text(sum((record.charge for record in counted), Decimal(0))),
    }


def _filter(asked: Mapping[str, str]) -> Callable[[RequestRecord], bool]:
    for name in ("customer_id", "meter_id"):
        # Taken for no filter, it would show everybody's requests to one who asks for a customer's.
        if asked.get(name) == "":
            raise Refusal(400, f"Invalid {name}: it is empty")
    customer, meter = asked.get("customer_id"), asked.get("meter_id")
    try:
        pairs = orjson.loads(asked.get("metadata_filters") or "[]")
    except orjson.JSONDecodeError:
        pairs = None
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs
    ):
        raise Refusal(400, "Invalid metadata_filters: a JSON array of [key, value] pairs is expected")

    def wanted(record: RequestRecord) -> bool:
        return (
            (customer is None or record.customer_id == customer)
            and (meter is None or record.meter_slug == meter)
            and all(record.metadata.get(key) == value for key, value in pairs)
        )

    return wanted


def _parse(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise Refusal(400, f"Invalid {name}: an ISO date is expected") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _text(amount: Decimal) -> str:
    return f"{amount:f}"
