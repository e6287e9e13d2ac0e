"""What Lava's REST interface tells about recorded requests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from lava_mistral.gateway.lava.accounts import Refusal
from lava_mistral.gateway.records import RequestRecord
from lava_mistral.pricing.cost import cost_parts

USUAL_PAGE = 10
LARGEST_PAGE = 100


def visible(record: RequestRecord, lag: float) -> bool:
    """Whether a request is recorded already: Lava did not refuse it, and it ended at least `lag` seconds ago."""
    if not record.credential or record.status in (401, 402, 403):
        return False
    return record.completed_at is not None and time.time() - record.completed_at >= lag


def describe(record: RequestRecord) -> dict[str, Any]:
    """One request as `GET /requests/{id}` shows it."""
    # An answer that a test made up may leave counts out.
    usage: dict[str, Any] = dict(record.usage or {})
    parts = cost_parts(record.usage, record.model) if record.usage else None
    charge: dict[str, Any] = {"amount": _text(record.charge), "rate_type": "percentage", "breakdown": []}
    described = {
        "request_id": record.request_id,
        "status": record.outcome,
        "provider": "mistral",
        "provider_key_type": "unmanaged" if record.credential.get("provider_key") else "managed",
        "model": record.model,
        "endpoint": f"https://api.mistral.ai{record.path}",
        "model_usage": {
            "input_tokens": usage.get("prompt_tokens") or 0,
            "output_tokens": usage.get("completion_tokens") or 0,
            "total_tokens": usage.get("total_tokens") or 0,
            **dict.fromkeys(("input_characters", "output_characters", "total_characters"), 0),
            **dict.fromkeys(("input_seconds", "output_seconds", "total_seconds"), 0),
            "input_cost": _text(parts.input_cost if parts else Decimal(0)),
            "output_cost": _text(parts.output_cost if parts else Decimal(0)),
            "total_cost": _text(parts.total if parts else Decimal(0)),
        },
        "cost": _text(record.cost),
        "charge": charge,
        "metadata": record.metadata,
        "created_at": _moment(record.created_at),
    }
    for name, value in (
        ("customer_id", record.customer_id),
        ("meter_id", record.meter_slug),
        ("response_id", record.response_id),
    ):
        if value is not None:
            described[name] = value
    return described


def list_requests(records: Sequence[RequestRecord], asked: Mapping[str, str]) -> dict[str, Any]:
    """A page of `GET /requests`, the newest first.

    Raises:
        Refusal: a filter, the cursor or the limit makes no sense.
    """
    wanted = _filter(asked)
    limit = _limit(asked.get("limit"))
    found = [record for record in reversed(records) if wanted(record)]
    cursor = asked.get("cursor")
    if cursor:
        at = next((at for at, record in enumerate(found) if record.request_id == cursor), None)
        if at is None:
            raise Refusal(400, "Invalid cursor")
        found = found[at + 1 :]
    page = found[:limit]
    listed: dict[str, Any] = {"data": [describe(record) for record in page], "has_more": len(found) > limit}
    if listed["has_more"]:
        listed["next_cursor"] = page[-1].request_id
    return listed


def usage(records: Sequence[RequestRecord], asked: Mapping[str, str]) -> dict[str, Any]:
    """`GET /usage`: the requests from `start` to before `end`, one item for each day (UTC), and their sums.

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
    items = [
        {
            "date": day.date().isoformat(),
            "start": day.isoformat(),
            "end": (day + timedelta(days=1)).isoformat(),
            **_totals(days[day]),
        }
        for day in sorted(days)
    ]
    return {"items": items, "totals": _totals(record for of_day in days.values() for record in of_day)}


def _totals(records: Iterable[RequestRecord]) -> dict[str, Any]:
    requests, tokens, cost, charge = 0, 0, Decimal(0), Decimal(0)
    for record in records:
        requests += 1
        tokens += dict[str, Any](record.usage or {}).get("total_tokens") or 0
        cost += record.cost
        charge += record.charge
    return {
        "total_requests": requests,
        "total_usage_tokens": tokens,
        "total_cost": _text(cost),
        "total_charge": _text(charge),
    }


def _filter(asked: Mapping[str, str]) -> Callable[[RequestRecord], bool]:
    for name in ("customer_id", "meter_id"):
        # Taken for no filter, it would show everybody's requests to one who asks for a customer's.
        if asked.get(name) == "":
            raise Refusal(400, f"Invalid {name}: it is empty")
    customer, meter = asked.get("customer_id"), asked.get("meter_id")
    pairs = _pairs(asked["metadata_filters"]) if asked.get("metadata_filters") else []

    def wanted(record: RequestRecord) -> bool:
        return (
            (customer is None or record.customer_id == customer)
            and (meter is None or record.meter_slug == meter)
            and all(record.metadata.get(key) == value for key, value in pairs)
        )

    return wanted


def _pairs(text: str) -> list[list[str]]:
    try:
        pairs = orjson.loads(text)
    except orjson.JSONDecodeError:
        pairs = None
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs
    ):
        raise Refusal(400, "Invalid metadata_filters: a JSON array of [key, value] pairs is expected")
    return pairs


def _limit(text: str | None) -> int:
    if text is None:
        return USUAL_PAGE
    # Python refuses to read a number of thousands of digits.
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= LARGEST_PAGE:
        raise Refusal(400, f"Invalid limit: a number from 1 to {LARGEST_PAGE} is expected")
    return int(text)


def _parse(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise Refusal(400, f"Invalid {name}: an ISO date is expected") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _moment(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(amount: Decimal) -> str:
    return f"{amount:f}"
