"""What a call is and what its answer means: the part of the client that does no I/O, once for sync and async."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import httpx

from lava_mistral.billing.credentials import decode_forward_token
from lava_mistral.billing.identity import billing_of_token, payer_of
from lava_mistral.billing.metering import UNCHARGED, Account, Charge
from lava_mistral.billing.scope import Identity
from lava_mistral.calls.error_mapping import (
    error_from_exception,
    error_from_response,
    parse_body,
    read_error_body,
    redact,
    shorten,
)
from lava_mistral.calls.responses import Completion, EmbeddingAnswer
from lava_mistral.errors import LavaError, ServerError
from lava_mistral.mistral.json_codec import from_json, to_json
from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.turn import Turn
from lava_mistral.mistral.types import known_usage
from lava_mistral.transport.lava import MISTRAL_URL, Forwarder

CHAT_URL = f"{MISTRAL_URL}/chat/completions"
EMBEDDINGS_URL = f"{MISTRAL_URL}/embeddings"
MODELS_URL = f"{MISTRAL_URL}/models"

_AGENT = (b"User-Agent", f"lava-mistral/{version('lava-mistral')}".encode("ascii"))
JSON_HEADERS: Final = [
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"gzip, deflate"),
]
_EVENTS = [(b"Content-Type", b"application/json"), (b"Accept", b"text/event-stream")]
# The request did not go out, or not to Lava: nobody can have charged it.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
)
_OF_THE_BODY = (b"content-length", b"content-encoding", b"transfer-encoding")
_OWN = frozenset({b"authorization", b"host", b"content-length", b"content-type", b"accept", b"accept-encoding"})


def client_headers(headers: httpx.Headers) -> list[tuple[bytes, bytes]]:
    """The headers of an HTTP client that go with every request: not the ones that httpx or Lava set.

    There is one User-Agent: the client's own, or this package's where the client has httpx's.
    """
    kept = [
        (name, value)
        for name, value in headers.raw
        if name.lower() not in _OWN
        and name.lower() != b"connection"
        and not (name.lower() == b"user-agent" and value.startswith(b"python-httpx/"))
    ]
    return kept if any(name.lower() == b"user-agent" for name, _ in kept) else [_AGENT, *kept]


@dataclass
class Call:
    """One request, ready to be sent as often as the retry policy allows.

    Attributes:
        target: the provider's address.
        identity: who pays, fixed when the call began.
        timeout: seconds for the whole answer, or for a stream's headers.
        gap: seconds between two chunks of a stream; `None` for a call that does not stream.
        model: the model that was asked for; prices go by it.
        account: what its requests are put down to; `None` where nobody asks what they cost.
        names: of the request's tools, which the calls in an answer are given.
        charge: the request that is under way.
    """

    target: str
    identity: Identity
    timeout: float | None
    model: str = ""
    body: Mapping[str, Any] | None = None
    gap: float | None = None
    stream: bool = False
    account: Account | None = None
    names: ToolNames = field(default_factory=ToolNames)
    charge: Charge = field(init=False, default=UNCHARGED)
    credential: str = field(init=False, default="", repr=False)
    content: bytes | None = field(init=False, default=None)
    timeouts: dict[str, float | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.body is not None:
            self.content = to_json(self.body)

    def request(self, forwarder: Forwarder, extra: Sequence[tuple[bytes, bytes]] = ()) -> httpx.Request:
        """The request to Lava for one try.

        Raises:
            SpendLimitError: it could pass a limit.
        """
        connect = None if self.timeout is None else min(self.timeout, 15.0)
        self.timeouts = {"connect": connect, "read": self.timeout, "write": self.timeout, "pool": connect}
        headers = _EVENTS if self.stream else JSON_HEADERS
        request = forwarder.request(
            "GET" if self.content is None else "POST",
            self.target,
            identity=self.identity,
            headers=[*headers, *extra],
            content=self.content,
            extensions={"timeout": self.timeouts},
        )
        self.credential = request.headers["authorization"].removeprefix("Bearer ")
        if self.account is not None:
            self.charge = self.account.open(billing_of_token(self.credential))
        return request

    def limit(self, response: httpx.Response, began: float) -> None:
        """Bound the time that an answer may take in all: a transport's limit is one between two reads.

        Args:
            response: the answer, whose body has not been read.
            began: when the request was sent, by the monotonic clock.
        """
        if self.timeout is not None:
            deadline = began + self.timeout
            response.stream = (
                _InTime(response.stream, deadline)
                if isinstance(response.stream, httpx.SyncByteStream)
                else _AsyncInTime(response.stream, deadline)
            )

    def provider_request(self) -> httpx.Request:
        """The request as the caller may see it: for Mistral, without the credential."""
        return httpx.Request("GET" if self.content is None else "POST", self.target)

    def began(self) -> None:
        """The headers are here: from now on the limit is the gap between two chunks."""
        # The transport reads the limit when the body's first byte is asked for.
        self.timeouts["read"] = self.gap

    def refused(self, response: httpx.Response) -> LavaError:
        """The error that an answer with a status other than 2xx stands for; its body has been read."""
        self.charge.free()
        shown = self._shown(response)
        return error_from_response(
            shown.status_code, shown.headers, shown.content, payer=payer_of(self.credential), response=shown
        )

    def _shown(self, response: httpx.Response) -> httpx.Response:
        """An answer as the caller may see it: to the request for Mistral, and without a key that it repeats."""
        try:
            text = response.text
        except httpx.ResponseNotRead:
            # A hook of the caller's client raised before anybody read it, and that closed it.
            text = ""
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
        return httpx.Response(
            response.status_code,
            headers=headers,
            content=self.without_secrets(text).encode(),
            request=self.provider_request(),
        )

    def without_secrets(self, text: str) -> str:
        """A text that came from the server without the credential and the keys in it, which it may repeat."""
        secrets = {self.credential}
        token = decode_forward_token(self.credential) or {}
        secrets.update(str(token[name]) for name in ("secret_key", "provider_key") if token.get(name))
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "[redacted]")
        return redact(text)

    def failed(self, error: Exception, response: httpx.Response | None = None) -> LavaError:
        """The error for an exception of the HTTP layer.

        Args:
            error: the exception.
            response: the answer whose body was being read, where one had begun.
        """
        request_id = None if response is None else response.headers.get("x-lava-request-id")
        if isinstance(error, _NEVER_SENT):
            self.charge.free()
        self.abandoned(response)
        self.disarm(error)
        failure = error_from_exception(error, timeout=self.timeout)
        failure.request_id = request_id
        return failure

    def disarm(self, error: Exception) -> None:
        """Take the credential off an exception that the caller's error is chained to."""
        if isinstance(error, httpx.RequestError):
            error.request = self.provider_request()

    def abandoned(self, response: httpx.Response | None = None) -> None:
        """The request ended before its answer did, for whatever reason: nobody here knows what it cost.

        Args:
            response: the answer whose body was being read, where one had begun.
        """
        if response is None:
            self.charge.end(None, None, complete=False)
        elif response.is_success:
            self.charge.end(None, response.headers.get("x-lava-request-id"), complete=False)
        else:
            self.charge.free()

    def parsed(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON object of a good answer."""
        try:
            body = from_json(response.content)
        except ValueError as error:
            raise self._senseless("that is not JSON", response) from error
        if not isinstance(body, dict):
            raise self._senseless(f"that is a JSON {type(body).__name__}, not an object", response)
        return body

    def _senseless(self, what: str, response: httpx.Response, usage: Any = None) -> ServerError:
        self.charge.end(usage, response.headers.get("x-lava-request-id"), complete=False)
        body = parse_body(self.without_secrets(response.text).encode())
        said = read_error_body(body).message
        return ServerError(
            f"expected an answer from {self.target}, got one {what}{f': {shorten(said)}' if said else ''}",
            status_code=response.status_code,
            request_id=response.headers.get("x-lava-request-id"),
            origin="lava",
            body=body,
            response=self._shown(response),
        )

    def completion(self, response: httpx.Response) -> Completion:
        """The completion in a good answer.

        Raises:
            ServerError: the answer holds no choice, or one that Mistral gave up on.
        """
        body = self.parsed(response)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
            raise self._senseless("without choices", response, body.get("usage"))
        try:
            turns = tuple(Turn.from_choice(choice, place, self.names) for place, choice in enumerate(choices))
        except ServerError as error:
            raise self._senseless(f"that makes no sense ({error.message})", response, body.get("usage")) from error
        request_id = response.headers.get("x-lava-request-id")
        failed = any(turn.finish_reason == "error" for turn in turns)
        self.charge.end(body.get("usage"), request_id, answered_by=body.get("model"), complete=not failed)
        for turn in turns:
            if turn.finish_reason == "error":
                raise ServerError(
                    "the model stopped with finish reason 'error'; what it had written is in .partial",
                    request_id=request_id,
                    origin="mistral",
                    partial=turn,
                )
        return Completion(
            id=str(body.get("id", "")),
            model=str(body.get("model") or self.model),
            created=created if isinstance(created := body.get("created"), int) else 0,
            turns=turns,
            usage=known_usage(body.get("usage")),
            request_id=request_id,
            raw=body,
            requested_model=self.model,
            identity=self.identity,
        )

    def embedding(self, response: httpx.Response) -> EmbeddingAnswer:
        """The vectors in a good answer, as Mistral sent them: not yet checked against the inputs."""
        body = self.parsed(response)
        if not isinstance(body.get("data"), list):
            raise self._senseless("without data", response, body.get("usage"))
        self.charge.end(body.get("usage"), response.headers.get("x-lava-request-id"))
        return EmbeddingAnswer(
            response=body,  # type: ignore[arg-type]  # checked above as far as it is relied on
            headers=response.headers,
            request_id=response.headers.get("x-lava-request-id"),
            identity=self.identity if self.account is None else self.account.sent_as,
        )


class _InTime(httpx.SyncByteStream):
    """A body that must have come by a moment of the monotonic clock."""

    def __init__(self, stream: httpx.SyncByteStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def __iter__(self) -> Iterator[bytes]:
        late = False
        for data in self._stream:
            if late:
                raise httpx.ReadTimeout("the answer had begun, but not come to its end")
            yield data
            # An answer that is whole by now is taken all the same.
            late = time.monotonic() > self._deadline

    def close(self) -> None:
        self._stream.close()


class _AsyncInTime(httpx.AsyncByteStream):
    """A body in async code that must have come by a moment of the monotonic clock."""

    def __init__(self, stream: httpx.AsyncByteStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        late = False
        async for data in self._stream:
            if late:
                raise httpx.ReadTimeout("the answer had begun, but not come to its end")
            yield data
            # An answer that is whole by now is taken all the same.
            late = time.monotonic() > self._deadline

    async def aclose(self) -> None:
        await self._stream.aclose()
