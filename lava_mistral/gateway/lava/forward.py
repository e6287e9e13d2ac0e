"""Lava's side: the forward proxy and the REST interface, as an ASGI application."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import httpx
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lava_mistral.gateway.lava import reports
from lava_mistral.gateway.lava.accounts import Accounts, Refusal, countable
from lava_mistral.gateway.mistral.provider import CREATED, Provider
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.records import RequestLog, RequestRecord
from lava_mistral.gateway.server.delivery import Answer, play
from lava_mistral.gateway.server.http import Connection, Message, Receive, Scope, Send, Traffic
from lava_mistral.mistral.types import Usage
from lava_mistral.pricing.catalog import models

HOST = "api.mistral.ai"
MOST_METADATA = 100
_METADATA_KEY = re.compile(r"[A-Za-z0-9_]{1,255}")
_LOG = logging.getLogger("lava_mistral.gateway")


class Lava:
    """The ASGI application.

    Args:
        options: how the gateway behaves.
        accounts: who may call and who pays.
        provider: the simulated Mistral.
        log: where requests are recorded.
        traffic: where requests in flight are counted.
    """

    def __init__(
        self, options: Options, accounts: Accounts, provider: Provider, log: RequestLog, traffic: Traffic
    ) -> None:
        self._options = options
        self._accounts = accounts
        self._provider = provider
        self._log = log
        self._traffic = traffic
        self._rest = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/requests", self._requests),
                Route("/v1/requests/{request_id}", self._request),
                Route("/v1/usage", self._usage),
            ],
            exception_handlers={404: _not_found, 405: _not_allowed, Exception: _broken},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what goes wrong in the gateway itself is told as Lava's errors are, and logged."""
        last: Message = {}

        def watched(message: Message) -> Awaitable[None]:
            nonlocal last
            last = message
            return send(message)

        try:
            await self._answer(scope, receive, watched)
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer
            _LOG.exception("the gateway failed at %s %s", scope["method"], scope["path"])
            if not last:
                await _broken_answer()(scope, receive, send)
            elif last["type"] == "http.response.start" or last.get("more_body"):
                scope["lava.connection"].close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/v1/forward":
            await self._rest(scope, receive, send)
        elif scope["method"] in ("GET", "POST"):
            # Not through Starlette, whose middleware would cost as much for each chunk of a stream as sending it does.
            await self._forward(scope, receive, send)
        else:
            refused = _error(405, "Method not allowed: the forward proxy takes GET and POST")
            await refused(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(
            request_id=f"req_{secrets.token_hex(12)}",
            method=scope["method"],
            headers=httpx.Headers(scope["headers"]),
            created_at=time.time(),
        )
        self._traffic.begin()
        flight = ExitStack()
        flight.callback(self._traffic.end)
        try:
            content = await _read(receive)
            if content is None:
                return
            try:
                body = self._admit(record, scope["query_string"].decode("latin-1"), content)
            except Refusal as refusal:
                answer = _refused(refusal)
            else:
                answer = await self._provider.handle(record, body, lambda usage: self._settle(record, usage))
            record.status = answer.status or None
            # Whoever has read an answer may look at its record at once: it is finished before the last byte goes out.
            if answer.status >= 400:
                record.finish("error")
            elif isinstance(answer.body, bytes) and answer.before is None:
                answer.before = lambda: record.finish("completed")
            connection: Connection = scope["lava.connection"]
            complete = await play(answer, record.request_id, connection, send, ending=flight.close)
            record.finish("completed" if complete else "error")
            if not complete:
                # uvicorn expects an answer of every application, until it has learnt that the client is gone.
                await connection.lost.wait()
        finally:
            record.finish("error")
            flight.close()

    def _admit(self, record: RequestRecord, query: str, content: bytes) -> Any:
        """Read what Lava reads of a request, and record it.

        Returns:
            The parsed body, or the error of one that can't be parsed; `None` for a GET.

        Raises:
            Refusal: Lava does not pass it on.
        """
        asked = dict(parse_qsl(query, keep_blank_values=True))
        target = _target(asked.get("u", ""))
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
            if self._options.keep_bodies and not isinstance(body, Exception):
                record.body = body
        self._log.add(record, len(content))
        record.credential = self._accounts.authenticate(record.headers.get("authorization"))
        if not asked.get("u"):
            raise Refusal(400, "Missing query parameter u: the percent-encoded URL of the provider")
        # The whole authority: another port is another server, and a user's name is no business of the proxy's.
        if target.scheme != "https" or target.netloc.lower() not in (HOST, f"{HOST}:443"):
            raise Refusal(400, f"Unsupported provider URL: only https://{HOST} is served here")
        header = next((value for name, value in record.headers.raw if name == b"x-lava-metadata"), None)
        record.metadata = _metadata(asked.get("metadata") if header is None else header)
        self._accounts.admit(record.credential)
        return body

    def _settle(self, record: RequestRecord, usage: Usage) -> None:
        # A test may make up usage that nobody can count; it is passed on and not charged.
        if countable(usage):
            record.usage = usage
            self._accounts.settle(record)
        record.finish("completed")

    async def _models(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        listed = [{"id": model.id, "object": "model", "created": CREATED, "owned_by": "mistral"} for model in models()]
        return _response(200, {"object": "list", "data": listed})

    async def _requests(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        return self._report(reports.list_requests, request)

    async def _request(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        record = self._log.get(request.path_params["request_id"])
        if record is None or not reports.visible(record, self._options.record_lag):
            return _error(404, "Request not found")
        return _response(200, reports.describe(record))

    async def _usage(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        return self._report(reports.usage, request)

    def _report(self, make: Any, request: Request) -> Response:
        visible = [record for record in self._log.all() if reports.visible(record, self._options.record_lag)]
        try:
            return _response(200, make(visible, request.query_params))
        except Refusal as refusal:
            return _error(refusal.status, refusal.message)

    def _refused(self, request: Request) -> Response | None:
        try:
            self._accounts.authenticate(request.headers.get("authorization"))
        except Refusal as refusal:
            return _error(refusal.status, refusal.message)
        return None


async def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, f"There is no {request.url.path} here")


async def _not_allowed(request: Request, error: Exception) -> Response:
    return _error(405, f"Method not allowed: {request.method}")


async def _broken(request: Request, error: Exception) -> Response:
    return _broken_answer()


def _broken_answer() -> Response:
    return _error(500, "The embedded gateway failed at this request; its log has the traceback")


async def _read(receive: Receive) -> bytes | None:
    """A request's body; `None` when the client went away."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _target(address: str) -> SplitResult:
    """The parts of a provider's address; all of them empty where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _metadata(text: str | bytes | None) -> dict[str, str]:
    if not text:
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Refusal(400, "Invalid metadata: not a JSON object") from None
    if not isinstance(value, dict):
        raise Refusal(400, "Invalid metadata: not a JSON object")
    if len(value) > MOST_METADATA:
        raise Refusal(400, f"Invalid metadata: {len(value)} pairs, at most {MOST_METADATA} are allowed")
    for key, member in value.items():
        if not _METADATA_KEY.fullmatch(key):
            raise Refusal(
                400, f"Invalid metadata key {key!r}: 1 to 255 ASCII letters, digits and underscores are allowed"
            )
        if not isinstance(member, str) or not 1 <= len(member) <= 255:
            raise Refusal(400, f"Invalid metadata value of {key!r}: a string of 1 to 255 characters is expected")
    metadata: dict[str, str] = value
    return metadata


def _refused(refusal: Refusal) -> Answer:
    body = orjson.dumps({"error": {"message": refusal.message}})
    return Answer(refusal.status, {"content-type": "application/json"}, body)


def _error(status: int, message: str) -> Response:
    return _response(status, {"error": {"message": message}})


def _response(status: int, body: Mapping[str, Any]) -> Response:
    headers = {"x-lava-request-id": f"req_{secrets.token_hex(12)}"}
    return Response(orjson.dumps(body), status, headers, "application/json")
