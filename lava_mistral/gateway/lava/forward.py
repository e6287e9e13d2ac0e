"""Lava as an ASGI application: the forward proxy, and the REST interface beside it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import orjson

from lava_mistral.billing.credentials import is_loopback
from lava_mistral.gateway.lava.accounts import Accounts, Refusal
from lava_mistral.gateway.lava.rest import Rest, new_id
from lava_mistral.gateway.mistral.provider import Provider
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.records import RequestLog, RequestRecord
from lava_mistral.gateway.server.delivery import Answer, play
from lava_mistral.gateway.server.http import Connection, Message, Receive, Scope, Send, Traffic
from lava_mistral.mistral.types import Usage
from lava_mistral.mistral.usage import known_usage

HOST = "api.mistral.ai"
MOST_METADATA = 100
_MOST_IDEMPOTENT = 1_000
_METADATA_KEY = re.compile(r"[A-Za-z0-9_]{1,255}")
_LOG = logging.getLogger("lava_mistral.gateway")


class Lava:
    """The ASGI application."""

    def __init__(
        self, options: Options, accounts: Accounts, provider: Provider, log: RequestLog, traffic: Traffic
    ) -> None:
        self._options, self._accounts, self._provider = options, accounts, provider
        self._log, self._traffic = log, traffic
        self._rest = Rest(options, accounts, log)
        # Answers by credential and Idempotency-Key, with the digest of the request and the answer's request id.
        self._answered: OrderedDict[tuple[str, str], tuple[bytes, str, Answer]] = OrderedDict()

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
                refusal = Refusal(500, "The embedded gateway failed at this request; its log has the traceback")
                await _reply(_refused(refusal), scope, send)
            elif last["type"] == "http.response.start" or last.get("more_body"):
                scope["lava.connection"].close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        try:
            self._check_host(headers.get(b"host", b"").decode("latin-1"), scope)
            if scope["path"] == "/v1/forward":
                if scope["method"] not in ("GET", "POST"):
                    raise Refusal(405, "Method not allowed: the forward proxy takes GET and POST")
                await self._forward(scope, receive, send)
                return
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            answer = self._rest.answer(scope["method"], scope["path"], authorization, query)
        except Refusal as refusal:
            answer = _refused(refusal)
        await _reply(answer, scope, send)

    def _check_host(self, host: str, scope: Scope) -> None:
        """A page in a browser reaches this machine by a name of its own (DNS rebinding); it is not served."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        allowed = (*self._options.hosts, (scope.get("server") or ("",))[0])
        if not is_loopback(name) and name not in allowed and "*" not in allowed:
            raise Refusal(403, f"Host {name!r} is not served here; the gateway's option hosts= names further ones")

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(new_id(), scope["method"], tuple(scope["headers"]), time.time())
        self._traffic.begin()
        flight = ExitStack()
        flight.callback(self._traffic.end)
        connection: Connection = scope["lava.connection"]
        try:
            answer, request_id = await self._forwarded(record, scope["query_string"].decode("latin-1"), receive)
            record.status = answer.status or None
            # Whoever has read an answer may look at its record at once: it is finished before the last byte goes out.
            if answer.status >= 400:
                record.finish("error")
            elif isinstance(answer.body, bytes) and answer.before is None:
                answer.before = lambda: record.finish("completed")
            complete = await play(answer, request_id, connection, send, ending=flight.close)
            record.finish("completed" if complete else "error")
            if answer.status == 408:
                connection.close()
            if not complete:
                # uvicorn expects an answer of every application, until it has learnt that the client is gone.
                await connection.lost.wait()
        except _Gone:
            pass
        finally:
            record.finish("error")
            flight.close()

    async def _forwarded(self, record: RequestRecord, query: str, receive: Receive) -> tuple[Answer, str]:
        """The answer to one request, and Lava's id of it."""
        try:
            async with asyncio.timeout(self._options.read_timeout):
                content = await _read(receive)
        except TimeoutError:
            return _refused(Refusal(408, "The request's body took too long to arrive")), record.request_id
        try:
            body = self._admit(record, query, content)
            repeated = (record.credential["secret_key"], record.headers.get("idempotency-key", ""))
            digest = hashlib.sha256(f"{record.method} {query}\n".encode() + content).digest()
            known = self._answered.get(repeated) if repeated[1] else None
            if known is not None and known[0] != digest:
                raise Refusal(409, "Idempotency-Key was used for another request")
        except Refusal as refusal:
            return _refused(refusal), record.request_id
        if known is not None:
            return known[2], known[1]
        answer = await self._provider.handle(record, body, lambda usage: self._settle(record, usage))
        if repeated[1] and answer.status == 200 and isinstance(answer.body, bytes) and not answer.reset:
            # Whether Lava's forward proxy keeps answers by this key is not documented; its REST interface does.
            replay = Answer(200, {**answer.headers, "idempotent-replayed": "true"}, answer.body)
            self._answered[repeated] = (digest, record.request_id, replay)
            if len(self._answered) > _MOST_IDEMPOTENT:
                self._answered.popitem(last=False)
        return answer, record.request_id

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
            if self._options.keep_bodies:
                record.raw_body = content
        self._log.add(record)
        record.credential = self._accounts.authenticate(record.headers.get("authorization"))
        if not asked.get("u"):
            raise Refusal(400, "Missing query parameter u: the percent-encoded URL of the provider")
        # The whole authority: another port is another server, and a user's name is no business of the proxy's.
        if target.scheme != "https" or target.netloc.lower() not in (HOST, f"{HOST}:443"):
            raise Refusal(400, f"Unsupported provider URL: only https://{HOST} is served here")
        header = next((value for name, value in record.raw_headers if name == b"x-lava-metadata"), None)
        record.metadata = _metadata(asked.get("metadata") if header is None else header)
        self._accounts.admit(record.credential)
        return body

    def _settle(self, record: RequestRecord, usage: Usage) -> None:
        # A test may make up usage that nobody can count; it is passed on and not charged.
        record.usage = _countable(usage)
        self._accounts.settle(record)
        record.finish("completed")


class _Gone(Exception):
    """The client went away before its request was complete."""


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _reply(answer: Answer, scope: Scope, send: Send) -> None:
    await play(answer, new_id(), scope["lava.connection"], send, ending=lambda: None)


def _refused(refusal: Refusal) -> Answer:
    return Answer(refusal.status, {"content-type": "application/json"}, refusal.body)


def _countable(usage: Usage) -> Usage | None:
    counts = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    whole = all(type(count) is int and count >= 0 for count in counts)
    return known_usage(usage) if whole else None


def _target(address: str) -> SplitResult:
    """The parts of a provider's address; all of them empty where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _metadata(text: str | bytes | None) -> dict[str, str]:
    try:
        value = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise Refusal(400, "Invalid metadata: not a JSON object")
    if len(value) > MOST_METADATA:
        raise Refusal(400, f"Invalid metadata: {len(value)} pairs, at most {MOST_METADATA} are allowed")
    for key, member in value.items():
        if not _METADATA_KEY.fullmatch(key):
            raise Refusal(400, f"Invalid metadata key {key!r}: 1 to 255 ASCII letters, digits, underscores are allowed")
        if not isinstance(member, str) or not 1 <= len(member) <= 255:
            raise Refusal(400, f"Invalid metadata value of {key!r}: a string of 1 to 255 characters is expected")
    return value
