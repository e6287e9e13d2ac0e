"""Lava as an ASGI application: the forward proxy, and the REST interface beside it."""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, Field, Json, TypeAdapter, ValidationError

from lava_mistral.billing.credentials import is_loopback
from lava_mistral.gateway.lava.accounts import Accounts, Refusal
from lava_mistral.gateway.mistral.provider import Provider
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.request_log import RequestLog, RequestRecord
from lava_mistral.gateway.server import HttpAnswer, HttpConnection, Receive, Scope, Send, Traffic, played
from lava_mistral.mistral.usage import known_usage
from lava_mistral.pricing.catalog import Model, models
from lava_mistral.pricing.cost import CACHED_SHARE, CostParts, cost_parts

HOST = "api.mistral.ai"
_Key = Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,255}$")]
_Value = Annotated[str, Field(min_length=1, max_length=255)]
_METADATA: TypeAdapter[dict[str, str]] = TypeAdapter(Annotated[dict[_Key, _Value], Field(max_length=100)])
_FAILED = "The embedded gateway failed at this request; its log has the traceback"
_LOG = logging.getLogger("lava_mistral.gateway")


class Lava:
    def __init__(self, options: Options) -> None:
        self._options = options
        self.accounts, self.provider = Accounts(options), Provider(options)
        self.log, self.traffic = RequestLog(options.keep_requests), Traffic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what goes wrong in the gateway itself is told as Lava's errors are, and logged."""
        record = RequestRecord(f"req_{secrets.token_hex(12)}", scope["method"], tuple(scope["headers"]), time.time())
        connection: HttpConnection = scope["lava.connection"]
        forwarded = scope["path"] == "/v1/forward"
        in_flight = ExitStack()
        try:
            if forwarded:
                in_flight.enter_context(self.traffic)
            try:
                self._check_host(scope)
                if forwarded:
                    answer = await self._forwarded(record, scope, receive)
                else:
                    answer = _rest(scope, self.accounts, self.log, lag=self._options.record_lag)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
                refusal = error if isinstance(error, Refusal) else Refusal(500, _FAILED)
                if refusal is not error:
                    _LOG.error("the gateway failed at %s %s", scope["method"], scope["path"], exc_info=error)
                answer = HttpAnswer(refusal.status, {"content-type": "application/json"}, refusal.body)
                if refusal.status == 408:
                    # What may still come of the body is no request.
                    answer.headers["connection"] = "close"
            record.status = answer.status or None
            if answer.status >= 400:
                record.finish("error")
            async for message in played(answer, record.request_id, connection):
                if message["type"] == "usage":
                    # A test may make up usage that nobody can count; it is passed on and not charged.
                    record.usage = known_usage(message["usage"])
                    self.accounts.settle(record)
                    record.finish("completed")
                    continue
                # Whoever has read the last byte finds the request ended.
                if message.get("more_body") is False:
                    record.finish("completed")
                    in_flight.close()
                await send(message)
            if connection.transport.is_closing():
                # uvicorn expects an answer of every application, until it has learnt that the client is gone.
                await connection.lost.wait()
        finally:
            record.finish("error")
            in_flight.close()

    def _check_host(self, scope: Scope) -> None:
        # A page in a browser reaches this machine by a name of its own (DNS rebinding); it is not served.
        name = _split(f"//{_header(scope, b'host')}").hostname or ""
        allowed = (*self._options.hosts, (scope.get("server") or ("",))[0])
        if not is_loopback(name) and name not in allowed and "*" not in allowed:
            raise Refusal(403, f"Host {name!r} is not served here; the gateway's option hosts= names further ones")

    async def _forwarded(self, record: RequestRecord, scope: Scope, receive: Receive) -> HttpAnswer:
        """Read what Lava reads of a request, record it, and have the provider answer it."""
        if record.method not in ("GET", "POST"):
            raise Refusal(405, "Method not allowed: the forward proxy takes GET and POST")
        try:
            async with asyncio.timeout(self._options.read_timeout):
                content = await _read(receive)
        except TimeoutError:
            raise Refusal(408, "The request's body took too long to arrive") from None
        asked = _query(scope)
        target = _split(asked.get("u", ""))
        record.path = target.path
        body = None
        if record.method == "POST":
            try:
                body = orjson.loads(content)
            except orjson.JSONDecodeError as error:
                body = error
            if isinstance(body, dict):
                record.model = body["model"] if isinstance(body.get("model"), str) else ""
                record.streamed = body.get("stream") is True
            record.raw_body = content
        self.log.add(record)
        record.credential = self.accounts.authenticate(_header(scope, b"authorization"))
        if not asked.get("u"):
            raise Refusal(400, "Missing query parameter u: the percent-encoded URL of the provider")
        # The whole authority: another port is another server, and a user's name is no business of the proxy's.
        if target.scheme != "https" or target.netloc.lower() not in (HOST, f"{HOST}:443"):
            raise Refusal(400, f"Unsupported provider URL: only https://{HOST} is served here")
        try:
            told = dict(scope["headers"]).get(b"x-lava-metadata", asked.get("metadata"))
            record.metadata = _METADATA.validate_json(told or "{}")
        except ValidationError as error:
            [first, *_] = error.errors()
            where = f" at {first['loc'][0]!r}" if first["loc"] else ""
            raise Refusal(400, f"Invalid metadata{where}: {first['msg']}") from None
        self.accounts.admit(record.credential)
        return await self.provider.handle(record, body)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for held, value in scope["headers"] if held == name), "")


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The client went away")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


_Moment = Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))]


class _Query(BaseModel):
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


def _rest(scope: Scope, accounts: Accounts, log: RequestLog, *, lag: float) -> HttpAnswer:
    """Answer one request to Lava's REST interface; a finished request is found after `lag` seconds."""
    if scope["method"] != "GET":
        raise Refusal(405, f"Method not allowed: {scope['method']}")
    names = scope["path"].split("/")[2:]
    if names != ["services"]:
        accounts.authenticate(_header(scope, b"authorization"))
    # What Lava refused is not recorded.
    recorded = [one for one in log.all() if one.credential and one.status not in (401, 402, 403) and one.completed_at]
    records = [record for record in recorded if time.time() - (record.completed_at or 0) >= lag]
    # Amounts are texts, which hold all of their digits.
    body = orjson.dumps(_body(names, _query(scope), accounts, records), default="{:f}".format)
    return HttpAnswer(200, {"content-type": "application/json"}, body)


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
    ids = [record.request_id for record in found]
    if asked.cursor and asked.cursor not in ids:
        raise Refusal(400, "Invalid cursor")
    found = found[ids.index(asked.cursor) + 1 :] if asked.cursor else found
    page, more = found[: asked.limit], len(found) > asked.limit
    following = {"next_cursor": page[-1].request_id} if more else {}
    return {"data": list(map(_described, page)), "has_more": more, **following}


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
