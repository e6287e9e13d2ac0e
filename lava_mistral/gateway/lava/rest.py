"""Lava's REST interface: models, services, wallet, customers, requests and usage."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import parse_qsl

import orjson
from pydantic import AfterValidator, BaseModel, Field, Json, ValidationError

from lava_mistral.gateway.lava.accounts import Accounts, Refusal
from lava_mistral.gateway.records import RequestLog, RequestRecord
from lava_mistral.gateway.server import Answer, Scope
from lava_mistral.pricing.catalog import Model, models
from lava_mistral.pricing.cost import CACHED_SHARE, CostParts, cost_parts

_Moment = Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))]


class _Query(BaseModel):
    """What a list of requests is narrowed by."""

    # Empty, taken for no filter, it would show everybody's requests to one who asks for a customer's.
    customer_id: str | None = Field(None, min_length=1)
    meter_id: str | None = Field(None, min_length=1)
    metadata_filters: Json[list[tuple[str, str]]] = []
    cursor: str = ""
    limit: int = Field(10, ge=1, le=100)
    start: _Moment | None = None
    end: _Moment = Field(default_factory=lambda: datetime.now(UTC) + timedelta(seconds=1))

    def covers(self, record: RequestRecord) -> bool:
        wanted = [(record.customer_id, self.customer_id), (record.meter_slug, self.meter_id)]
        wanted += [(record.metadata.get(key), value) for key, value in self.metadata_filters]
        return all(value in (None, held) for held, value in wanted)


def answer(scope: Scope, accounts: Accounts, log: RequestLog, *, lag: float) -> Answer:
    """Answer one request; the path begins with `/v1/`. A finished request is found after `lag` seconds."""
    if scope["method"] != "GET":
        raise Refusal(405, f"Method not allowed: {scope['method']}")
    names, told = scope["path"].split("/")[2:], {"content-type": "application/json"}
    if names != ["services"]:
        told |= accounts.count(accounts.authenticate(header(scope, b"authorization"))["secret_key"])
    # What Lava refused is not recorded.
    recorded = [one for one in log.all() if one.credential and one.status not in (401, 402, 403) and one.completed_at]
    records = [record for record in recorded if time.time() - (record.completed_at or 0) >= lag]
    # Amounts are texts, which hold all of their digits.
    body = orjson.dumps(_body(names, query(scope), accounts, records), default="{:f}".format)
    return Answer(200, told, body)


def _body(
    names: Sequence[str], query: Mapping[str, str], accounts: Accounts, records: Sequence[RequestRecord]
) -> dict[str, Any]:
    match names:
        case ["models"]:
            listed = {"object": "model", "created": 1_735_689_600, "owned_by": "mistral"}
            return {"object": "list", "data": [{"id": model.id, **listed} for model in models()]}
        case ["services"]:
            served = query.get("provider") in (None, "mistral")
            return {"object": "list", "data": [_service(model) for model in models() if served]}
        case ["wallet"]:
            return {"wallet_id": "wallet_local", "balance": accounts.wallet.merchant}
        case ["customers", customer_id, "subscription"]:
            return {"subscription": accounts.subscription(customer_id)}
        case ["requests", request_id]:
            if found := [record for record in records if record.request_id == request_id]:
                return _described(found[0])
            raise Refusal(404, "Request not found")
        case ["requests" | "usage"]:
            try:
                asked = _Query.model_validate(query)
            except ValidationError as error:
                [first, *_] = error.errors()
                raise Refusal(400, f"Invalid {first['loc'][0]}: {first['msg']}") from None
            found = [record for record in records if asked.covers(record)]
            return _usage(found, asked) if names == ["usage"] else _page(found, asked)
    raise Refusal(404, f"There is no /v1/{'/'.join(names)} here")


def header(scope: Scope, name: bytes) -> str:
    """Return a request's header; empty where there is none."""
    return next((value.decode("latin-1") for held, value in scope["headers"] if held == name), "")


def query(scope: Scope) -> dict[str, str]:
    """Return the parameters in a request's address."""
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _service(model: Model) -> dict[str, Any]:
    """An item of Lava's public price list; the names of its fields beside `pricing` are assumed."""
    read, written = model.input_price or Decimal(0), model.output_price or Decimal(0)
    prices = {"type": "tokens_1m", "input": read, "output": written, "cache_input_read": read * CACHED_SHARE}
    able = {"capabilities": sorted(model.capabilities), "context_window": model.context_window}
    return {"id": model.id, "provider": "mistral", "managed": True, **able, "pricing": prices}


def _described(record: RequestRecord) -> dict[str, Any]:
    counts: dict[str, Any] = dict(record.usage or {})
    costs = (record.usage and cost_parts(record.usage, record.model)) or CostParts()
    sides = {"input": "prompt_tokens", "output": "completion_tokens", "total": "total_tokens"}
    usage: dict[str, Any] = {f"{side}_{unit}": 0 for unit in ("characters", "seconds") for side in sides}
    usage |= {f"{side}_tokens": counts.get(name) or 0 for side, name in sides.items()}
    usage |= {"input_cost": costs.input_cost, "output_cost": costs.output_cost, "total_cost": costs.total}
    named = {"customer_id": record.customer_id, "meter_id": record.meter_slug, "response_id": record.response_id}
    return {
        "request_id": record.request_id,
        "status": record.outcome,
        "provider": "mistral",
        "provider_key_type": "unmanaged" if record.credential.get("provider_key") else "managed",
        "model": record.model,
        "endpoint": f"https://api.mistral.ai{record.path}",
        "model_usage": usage,
        "cost": record.cost,
        "charge": {"amount": record.charge, "rate_type": "percentage", "breakdown": []},
        "metadata": record.metadata,
        "created_at": datetime.fromtimestamp(record.created_at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        **{name: value for name, value in named.items() if value is not None},
    }


def _page(records: Sequence[RequestRecord], asked: _Query) -> dict[str, Any]:
    found = records[::-1]
    if asked.cursor:
        ids = [record.request_id for record in found]
        if asked.cursor not in ids:
            raise Refusal(400, "Invalid cursor")
        found = found[ids.index(asked.cursor) + 1 :]
    page, more = found[: asked.limit], len(found) > asked.limit
    return {"data": list(map(_described, page)), "has_more": more} | (
        {"next_cursor": page[-1].request_id} if more else {}
    )


def _usage(records: Sequence[RequestRecord], asked: _Query) -> dict[str, Any]:
    """`GET /usage`: the requests from `start` to before `end`, one item for each day (UTC), and their sums."""
    if asked.start is None:
        raise Refusal(400, "Missing query parameter start: an ISO date")
    if asked.end < asked.start:
        raise Refusal(400, "end must not be before start")
    days: dict[datetime, list[RequestRecord]] = {}
    for record in records:
        at = datetime.fromtimestamp(record.created_at, UTC)
        if asked.start <= at < asked.end:
            days.setdefault(at.replace(hour=0, minute=0, second=0, microsecond=0), []).append(record)
    spans = {day: {"start": day.isoformat(), "end": (day + timedelta(days=1)).isoformat()} for day in sorted(days)}
    items = [{"date": day.date().isoformat(), **span, **_totals(days[day])} for day, span in spans.items()]
    return {"items": items, "totals": _totals([record for of_day in days.values() for record in of_day])}


def _totals(records: Sequence[RequestRecord]) -> dict[str, Any]:
    return {
        "total_requests": len(records),
        "total_usage_tokens": sum(record.usage.get("total_tokens") or 0 for record in records if record.usage),
        "total_cost": sum((record.cost for record in records), Decimal(0)),
        "total_charge": sum((record.charge for record in records), Decimal(0)),
    }
