"""What a call is and what its answer means: the part of the client that does no I/O, once for sync and async."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import version
from typing import Any, Final

import httpx

from lava_mistral.billing import billing_of_token, payer_of
from lava_mistral.charges import UNCHARGED, Account, Charge
from lava_mistral.conversation import prepare
from lava_mistral.cost import priced
from lava_mistral.credentials import decode_forward_token
from lava_mistral.errors import (
    ConfigurationError,
    LavaError,
    ServerError,
    StreamInterruptedError,
    StreamStalledError,
    error_from_event,
    error_from_exception,
    error_from_response,
    parse_body,
    read_error_body,
    redact,
    shorten,
)
from lava_mistral.json_text import from_json, to_json
from lava_mistral.scopes import Identity
from lava_mistral.sse import SSEDecoder
from lava_mistral.transport import MISTRAL_URL, Forwarder
from lava_mistral.turn import Delta, Turn, TurnAssembler
from lava_mistral.wire import EmbeddingResponse, Message, Usage, known_usage

CHAT_URL = f"{MISTRAL_URL}/chat/completions"
EMBEDDINGS_URL = f"{MISTRAL_URL}/embeddings"
MODELS_URL = f"{MISTRAL_URL}/models"

_AGENT = (b"User-Agent", f"lava-mistral/{version('lava-mistral')}".encode("ascii"))
JSON_HEADERS: Final = [
    _AGENT,
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"gzip, deflate"),
]
_EVENTS = [_AGENT, (b"Content-Type", b"application/json"), (b"Accept", b"text/event-stream")]
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
# What other clients call a key. None is a field of Mistral's, and the body is the wrong place for a secret.
_ADDRESSES = frozenset(("endpoint", "server_url", "mistral_api_url"))
_KEY_NAMES = frozenset(
    (
        "api_key",
        "authorization",
        "forward_token",
        "lava_api_key",
        "lava_secret_key",
        "mistral_api_key",
        "provider_key",
        "secret_key",
    )
)
# Where a setting of ours goes, which Mistral's body must not hold.
_ELSEWHERE = {
    **dict.fromkeys(
        ("headers", "extra_headers", "default_headers"),
        "Headers go on a client of your own, http_client=httpx.Client(headers=…); what Lava shall store with a call "
        "goes into lava_metadata=.",
    ),
    **dict.fromkeys(
        ("http_client", "async_http_client", "http_async_client", "base_url"),
        "It goes on the client or model: make a second one, of a framework's model by model_copy(update={…}).",
    ),
    "metadata": "What Lava shall store with a call goes into lava_metadata=.",
    "spend_limit": "It goes on the client or model, or on a block around the call: billed_to(spend_limit=…).",
    "stream": "A stream is asked for by its own method: stream() or, in LlamaIndex, stream_chat().",
}
NO_FIELDS = frozenset({*_ADDRESSES, *_KEY_NAMES, *_ELSEWHERE})
"""Names of arguments that are no fields of a request, and may hold something secret."""
_LONGEST_PRELUDE = 2_000
_OF_THE_BODY = (b"content-length", b"content-encoding", b"transfer-encoding")
_OWN = frozenset({b"authorization", b"host", b"content-length", b"content-type", b"accept", b"accept-encoding"})


def own_headers(headers: httpx.Headers) -> list[tuple[bytes, bytes]]:
    """Those of a caller's HTTP client headers that go with every request: not the ones that httpx or Lava set."""
    return [
        (name, value)
        for name, value in headers.raw
        if name.lower() not in _OWN
        and name.lower() != b"connection"
        and not (name.lower() == b"user-agent" and value.startswith(b"python-httpx/"))
    ]


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
            headers=[*headers, *extra] if extra else headers,
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
            turns = tuple(
                Turn.from_message(choice.get("message") or {}, choice.get("finish_reason"), choice.get("index", place))
                for place, choice in enumerate(choices)
            )
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
            identity=self.identity,
        )


@dataclass(frozen=True)
class Completion:
    """One answered chat request.

    Attributes:
        turns: the assistant's turns, one a choice.
        usage: tokens, as Mistral counted them.
        request_id: Lava's id of the request.
        raw: the body as it came.
    """

    id: str
    model: str
    created: int
    turns: tuple[Turn, ...]
    usage: Usage | None
    request_id: str | None
    raw: dict[str, Any] = field(repr=False)
    requested_model: str = field(default="", repr=False)
    identity: Identity = field(default_factory=Identity, repr=False)

    @property
    def turn(self) -> Turn:
        """The first choice's turn."""
        return self.turns[0]

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.turns[0].text

    @property
    def cost(self) -> Decimal | None:
        """What the call cost in USD by the catalogue's prices; `None` where they are not known."""
        return priced(self.usage, self.requested_model, self.model)


@dataclass(frozen=True)
class EmbeddingAnswer:
    """One answered embeddings request, unchecked.

    Attributes:
        response: the parsed body.
        headers: the answer's headers, the rate limits among them; names in any case.
        request_id: Lava's id of the request.
    """

    response: EmbeddingResponse
    headers: Mapping[str, str]
    request_id: str | None
    identity: Identity = field(default_factory=Identity, repr=False)


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


class StreamReader:
    """Turns the bytes of a streamed answer into deltas, and knows whether the answer came to its end. Does no I/O."""

    def __init__(self, call: Call, headers: Mapping[str, str]) -> None:
        self.call = call
        self.request_id = headers.get("x-lava-request-id")
        self.ready: deque[Delta] = deque()
        self.done = False
        self._charge = call.charge
        self._failure: LavaError | None = None
        self._decoder = SSEDecoder()
        self._assembler = TurnAssembler()
        # Seconds of reads that brought no event; what the caller takes between two reads is not the server's.
        self._silence = 0.0
        self._heard = False
        # What came instead of events, for the error.
        self._prelude = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; the deltas in them join `ready`.

        Raises:
            StreamInterruptedError: an error event, garbage, a finish reason `"error"`, or nothing but comments for
                longer than the gap.
        """
        events = self._decoder.feed(data)
        if not events:
            if not self._heard:
                self._prelude = (self._prelude + data)[:_LONGEST_PRELUDE]
            if self.call.gap is not None and self._silence > self.call.gap:
                raise self.stalled()
            return
        self._silence = 0.0
        self._heard = True
        for event in events:
            text = event.data
            if self.done or not text:
                continue
            if text == "[DONE]":
                self.done = True
                continue
            try:
                chunk = from_json(text)
            except ValueError as error:
                raise self.interrupted("an event that is not JSON came") from error
            if not isinstance(chunk, dict):
                raise self.interrupted(f"an event came that is a JSON {type(chunk).__name__}")
            if event.event == "error" or "choices" not in chunk:
                if "choices" not in chunk and "usage" in chunk and "error" not in chunk:
                    chunk["choices"] = []
                else:
                    said = parse_body(self.call.without_secrets(text).encode())
                    raise error_from_event(said, request_id=self.request_id, partial=self._partial())
            try:
                deltas = self._assembler.add(chunk)  # type: ignore[arg-type]  # as far as it is relied on
            except LavaError as error:
                raise self.interrupted(f"a chunk makes no sense: {error.message}") from error
            for delta in deltas:
                if delta.finish_reason == "error":
                    raise self.interrupted("the model stopped with finish reason 'error'", origin_mistral=True)
            self.ready.extend(deltas)

    def raise_failure(self) -> None:
        """Raise what ended the stream, where something did, once.

        Raises:
            LavaError: the failure.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                # An exception that its own frames hold would keep all the frames below alive, and with them whatever
                # stream their caller is about to leave, until the garbage collector finds them.
                del failure

    def end(self) -> None:
        """The connection has ended.

        Raises:
            StreamInterruptedError: before the answer did.
        """
        if not self.finished:
            why = "it ended without a finish reason and without [DONE]"
            if self._prelude and not self._heard:
                said = parse_body(self.call.without_secrets(self._prelude.decode("utf-8", "replace")).encode())
                detail = read_error_body(said)
                why = f"what came was no event stream: {shorten(detail.message or str(said))}"
            raise self.interrupted(why)
        if not self.turns:
            raise self.interrupted("it held no answer")

    def settle(self) -> None:
        """Nothing more is read: what the call cost is what is known of it now."""
        complete = self.finished and self._failure is None
        self._charge.end(self.usage, self.request_id, answered_by=self._assembler.model, complete=complete)

    def broken(self, error: Exception) -> LavaError:
        """The error for an exception of the HTTP layer in the middle of the stream."""
        self.call.disarm(error)
        if isinstance(error, httpx.TimeoutException):
            return self.stalled()
        return self.interrupted(f"the connection broke ({type(error).__name__})")

    def stalled(self) -> StreamInterruptedError:
        """The error for a stream that has gone silent."""
        return StreamStalledError(
            f"the stream went silent: no chunk came within {self.call.gap:g} s"
            if self.call.gap is not None
            else "the stream went silent",
            request_id=self.request_id,
            origin="mistral",
            partial=self._partial(),
            advice="stream_chunk_timeout= sets how long to wait for a chunk.",
        )

    def interrupted(self, why: str, *, origin_mistral: bool = False) -> StreamInterruptedError:
        """The error for a stream that can't go on."""
        return StreamInterruptedError(
            f"the stream was interrupted: {why}; what had come is in .partial",
            request_id=self.request_id,
            origin="mistral" if origin_mistral else "lava",
            partial=self._partial(),
        )

    def _partial(self) -> Turn:
        return self.turns[0] if self.turns else Turn()

    @property
    def finished(self) -> bool:
        """Whether the answer has come to its end, by a finish reason or by `[DONE]`."""
        wanted = (self.call.body or {}).get("n") or 1
        return self.done or (self._assembler.complete and len(self.turns) >= wanted)

    @property
    def started(self) -> bool:
        """Whether there is a delta that tells the caller something."""
        return any(d.text or d.parts or d.tool_calls or d.finish_reason or d.usage for d in self.ready)

    @property
    def turns(self) -> list[Turn]:
        """The turns assembled so far, one a choice."""
        return self._assembler.turns

    @property
    def turn(self) -> Turn:
        """The first choice's turn as far as it has come."""
        return self._partial()

    @property
    def id(self) -> str:
        """Mistral's id of the answer; empty until the first chunk."""
        return self._assembler.id

    @property
    def model(self) -> str:
        """The model that answers."""
        return self._assembler.model or self.call.model

    @property
    def created(self) -> int:
        """When the answer began, as a POSIX timestamp."""
        return self._assembler.created

    @property
    def usage(self) -> Usage | None:
        """Tokens, once the last chunk has come."""
        return self._assembler.usage

    @property
    def cost(self) -> Decimal | None:
        """What the call cost in USD by the catalogue's prices, once the usage is known."""
        return priced(self.usage, self.call.model, self.model)


def refuse_keys(names: Iterable[str]) -> None:
    """Keep keys and addresses out of a request's body, where they would be sent to Mistral and stand in traces.

    Raises:
        ConfigurationError: one of the names is that of a key or an address.
    """
    names = set(names)
    if found := sorted(_ELSEWHERE.keys() & names):
        raise ConfigurationError(f"{found[0]} can't be sent as a field of the request. {_ELSEWHERE[found[0]]}")
    if found := sorted(_ADDRESSES & names):
        raise ConfigurationError(
            f"{', '.join(found)} can't be set: calls go to Mistral through Lava, whose own address is base_url= of the "
            "client or model. Leave it out."
        )
    if found := sorted(_KEY_NAMES.intersection(names)):
        raise ConfigurationError(
            f"{', '.join(found)} can't be sent as a field of the request: Lava's key is given once, as api_key= of "
            "the client or model; a Mistral key of your own goes into billing=Billing(provider_key=…)."
        )


def chat_body(
    messages: Sequence[Message],
    model: str,
    parameters: Mapping[str, Any],
    *,
    stream: bool,
    repair: bool,
) -> dict[str, Any]:
    """The body of a chat request; parameters that are `None` are left out, since Mistral's defaults differ by model.

    Raises:
        InvalidRequestError: Mistral would refuse the conversation.
        ConfigurationError: a parameter is a key.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    refuse_keys(given)
    body: dict[str, Any] = {
        "model": model,
        "messages": prepare(
            messages,
            tools=given.get("tools") or (),
            response_format=given.get("response_format"),
            repair=repair,
        ),
    }
    body.update(given)
    if not given.get("tools", True):
        # Mistral refuses an empty list, and a choice among no tools.
        body.pop("tools", None)
        body.pop("tool_choice", None)
    if stream:
        body["stream"] = True
    return body
