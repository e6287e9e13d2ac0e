"""Lava as an ASGI application: the forward proxy, and the REST interface beside it."""

import asyncio
import logging
import secrets
import time
from contextlib import ExitStack
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from lava_mistral.billing.identity import is_loopback
from lava_mistral.gateway.lava import rest
from lava_mistral.gateway.lava.accounts import Accounts, Refusal
from lava_mistral.gateway.lava.rest import header, query
from lava_mistral.gateway.mistral.provider import Provider
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.records import RequestLog, RequestRecord
from lava_mistral.gateway.server import Answer, Connection, Receive, Scope, Send, Traffic, played
from lava_mistral.mistral.usage import known_usage

HOST = "api.mistral.ai"
_Key = Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,255}$")]
_Value = Annotated[str, Field(min_length=1, max_length=255)]
_METADATA: TypeAdapter[dict[str, str]] = TypeAdapter(Annotated[dict[_Key, _Value], Field(max_length=100)])
_FAILED = "The embedded gateway failed at this request; its log has the traceback"
_LOG = logging.getLogger("lava_mistral.gateway")


class Lava:
    """The ASGI application."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.accounts, self.provider = Accounts(options), Provider(options)
        self.log, self.traffic = RequestLog(options.keep_requests), Traffic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what goes wrong in the gateway itself is told as Lava's errors are, and logged."""
        record = RequestRecord(f"req_{secrets.token_hex(12)}", scope["method"], tuple(scope["headers"]), time.time())
        connection: Connection = scope["lava.connection"]
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
                    answer = rest.answer(scope, self.accounts, self.log, lag=self._options.record_lag)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
                refusal = error if isinstance(error, Refusal) else Refusal(500, _FAILED)
                if refusal is not error:
                    _LOG.error("the gateway failed at %s %s", scope["method"], scope["path"], exc_info=error)
                answer = Answer(refusal.status, {"content-type": "application/json"}, refusal.body)
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
            if answer.status == 408:
                connection.close()
            if connection.gone:
                # uvicorn expects an answer of every application, until it has learnt that the client is gone.
                await connection.lost.wait()
        finally:
            record.finish("error")
            in_flight.close()

    def _check_host(self, scope: Scope) -> None:
        # A page in a browser reaches this machine by a name of its own (DNS rebinding); it is not served.
        name = _split(f"//{header(scope, b'host')}").hostname or ""
        allowed = (*self._options.hosts, (scope.get("server") or ("",))[0])
        if not is_loopback(name) and name not in allowed and "*" not in allowed:
            raise Refusal(403, f"Host {name!r} is not served here; the gateway's option hosts= names further ones")

    async def _forwarded(self, record: RequestRecord, scope: Scope, receive: Receive) -> Answer:
        """Read what Lava reads of a request, record it, and have the provider answer it."""
        if record.method not in ("GET", "POST"):
            raise Refusal(405, "Method not allowed: the forward proxy takes GET and POST")
        try:
            async with asyncio.timeout(self._options.read_timeout):
                content = await _read(receive)
        except TimeoutError:
            raise Refusal(408, "The request's body took too long to arrive") from None
        asked = query(scope)
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
            if self._options.keep_bodies:
                record.raw_body = content
        self.log.add(record)
        record.credential = self.accounts.authenticate(header(scope, b"authorization"))
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
