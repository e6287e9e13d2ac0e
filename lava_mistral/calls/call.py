"""Hold one call: its requests, and what their answers mean. Does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, TypeVar

from lava_mistral.billing.credentials import BillingContext, billing_of_token, decode_forward_token, is_loopback
from lava_mistral.billing.metering import UNMETERED, CallMeter, RequestMeter
from lava_mistral.calls.error_mapping import (
    error_from_failure,
    error_from_response,
    parse_body,
    read_error_body,
    redact,
    shorten,
    shown_id,
)
from lava_mistral.calls.responses import Answer, Completion, EmbeddingAnswer
from lava_mistral.errors import AnswerText, LavaError, ServerError
from lava_mistral.mistral.json_codec import from_json, to_json
from lava_mistral.mistral.tools import NO_TOOLS, ToolNames
from lava_mistral.mistral.turn_accumulator import TurnAccumulator
from lava_mistral.transport.failures import DeadlineExceeded, NotConnected, TransportError
from lava_mistral.transport.request import Headers, Request, Response
from lava_mistral.transport.route import MISTRAL_URL, LavaRoute

_T = TypeVar("_T")

CHAT_URL = f"{MISTRAL_URL}/chat/completions"
EMBEDDINGS_URL = f"{MISTRAL_URL}/embeddings"
MODELS_URL = f"{MISTRAL_URL}/models"

_AGENT = f"lava-mistral/{version('lava-mistral')}"
JSON_HEADERS: Final = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "gzip"}
_EVENTS = {"content-type": "application/json", "accept": "text/event-stream"}
_LONGEST_ERROR = 100_000
_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")
_LOCAL_KEY: Final = "aks_test_local_gateway"  # the default of the gateway's options
_OWN = ("authorization", "host", "content-length", "content-type", "accept", "accept-encoding", "connection")


def client_headers(http_client: Any) -> dict[str, str]:
    """Return the headers of every request: those of a caller's client that neither its library nor Lava sets."""
    given = {} if http_client is None else {name.lower(): value for name, value in http_client.headers.items()}
    if given.get("user-agent", "").startswith("python-httpx"):
        del given["user-agent"]
    return {"user-agent": _AGENT} | {name: value for name, value in given.items() if name not in _OWN}


def chained(failure: LavaError, error: TransportError) -> LavaError:
    """Chain an error to what the transport says, without the frames, which hold the request and its credential."""
    cause = error.__cause__ or error
    cause.__cause__ = cause.__context__ = None
    failure.__cause__ = cause.with_traceback(None)
    return failure


@dataclass
class Call:
    """One request, ready to be sent as often as the retry policy allows.

    `timeout` is for the whole answer, or until a stream's first delta; `chunk_timeout` for each wait for the next bytes
    of a stream. Prices go by `model`; `call_meter` counts its requests, `request_meter` the one under way, which was
    sent to `host`.
    """

    target: str
    billing_context: BillingContext
    timeout: float | None
    model: str = ""
    body: Mapping[str, Any] | None = None
    chunk_timeout: float | None = None
    stream: bool = False
    call_meter: CallMeter | None = None
    names: ToolNames = NO_TOOLS
    idempotency_key: str | None = None
    request_meter: RequestMeter = field(init=False, default=UNMETERED)
    credential: str = field(init=False, default="", repr=False)
    host: str = field(init=False, default="")
    content: bytes | None = field(init=False, default=None)

    def request(self, route: LavaRoute, extra: Mapping[str, str]) -> Request:
        """Return the request to Lava for one try; raises SpendLimitError where it could pass a limit."""
        if self.content is None and self.body is not None:
            self.content = to_json(self.body)
        url, self.credential, lava = route.address(self.target, self.billing_context)
        self.host = url.host
        if self.call_meter is not None:
            self.request_meter = self.call_meter.open(billing_of_token(self.credential))
        headers = {**extra, **lava, **(_EVENTS if self.stream else JSON_HEADERS)}
        if self.idempotency_key is not None:
            headers["idempotency-key"] = self.idempotency_key
        method = "GET" if self.content is None else "POST"
        return Request(method, url, self.target, headers, self.content, self.chunk_timeout if self.stream else None)

    def refused(self, answer: Answer) -> LavaError:
        """Return the error that an answer with a status other than 2xx stands for."""
        self.request_meter.release()
        shown = self._shown(answer)
        error = error_from_response(shown, self.credential)
        return self._advised(error) if shown.status == 401 else error

    def _shown(self, answer: Answer) -> AnswerText:
        """Return an answer without a key that it repeats."""
        headers = Headers(
            (name, self.without_secrets(value)) for name, value in answer.headers.items() if name not in _OF_THE_BODY
        )
        text = self.without_secrets(answer.content[:_LONGEST_ERROR].decode("utf-8", "replace"))
        return AnswerText(answer.status, headers, text, "GET" if self.content is None else "POST", self.target)

    @property
    def _secrets(self) -> list[str]:
        token = decode_forward_token(self.credential) or {}
        return [self.credential, *(str(token[name]) for name in ("secret_key", "provider_key") if token.get(name))]

    def without_secrets(self, text: str) -> str:
        """Return what a server said without the credential and the keys in it, which it may repeat."""
        return redact(text, self._secrets)

    def failed(self, error: TransportError, response: Response | None = None) -> LavaError:
        """End the request whose answer did not come through, or broke off, and return the error for it."""
        if isinstance(error, NotConnected):
            self.request_meter.release()
        self.abandoned(response)
        if response is not None and isinstance(error, DeadlineExceeded):
            error = DeadlineExceeded("the answer had begun, but not come to its end")
        return self.unanswered(error, None if response is None else shown_id(response.headers, self.without_secrets))

    def unanswered(self, error: TransportError, request_id: str | None = None) -> LavaError:
        """Return the error for a request whose answer did not come through."""
        said = self.without_secrets(str(error))
        failure = error_from_failure(error, said, timeout=self.timeout, host=self.host)
        failure.request_id = request_id
        return chained(self._advised(failure), error)

    def _advised(self, error: LavaError) -> LavaError:
        """Say where the local gateway is, if its key was sent elsewhere."""
        if _LOCAL_KEY in self._secrets and not is_loopback(self.host):
            error.advice = (
                "This is the key of `lava-mistral gateway` on this machine: start it, and lead there too: "
                "export LAVA_BASE_URL=http://127.0.0.1:8788/v1 (or base_url=)"
            )
        return error

    def abandoned(self, response: Response | None = None) -> None:
        """End a request before its answer did: nobody knows what it cost, unless the answer had begun as an error."""
        if response is not None and not 200 <= response.status < 300:
            self.request_meter.release()
        else:
            request_id = None if response is None else shown_id(response.headers, self.without_secrets)
            self.request_meter.end(None, request_id, complete=False)

    def _object(self, answer: Answer) -> dict[str, Any]:
        """Return the JSON object of a good answer."""
        body: Any = None
        with suppress(ValueError):
            body = from_json(answer.content)
        if not isinstance(body, dict):
            raise self._senseless("that is no JSON object", answer)
        return body

    def read(self, answer: Answer, parse: Callable[[dict[str, Any]], _T]) -> _T:
        """Return what is read from the JSON object of a good answer; raises ServerError where it has another shape."""
        body = self._object(answer)
        with suppress(AttributeError, LookupError, TypeError, ValueError):
            return parse(body)
        raise self._senseless(f"of another shape: {shorten(self._shown(answer).text)}", answer)

    def _senseless(self, what: str, answer: Answer, usage: Any = None) -> ServerError:
        self.request_meter.end(usage, shown_id(answer.headers, self.without_secrets), complete=False)
        shown = self._shown(answer)
        body = parse_body(shown.text)
        said = read_error_body(body)
        return ServerError(
            f"expected an answer from {self.target}, got one {what}{f': {said.message}' if said.message else ''}",
            status_code=answer.status,
            request_id=shown_id(shown.headers),
            retryable=said.retryable,
            origin="lava",
            body=body,
            answer=shown,
        )

    def completion(self, answer: Answer) -> Completion:
        """Return the completion in a good answer; raises ServerError where it has none, or the model gave up."""
        body = self._object(answer)
        read = TurnAccumulator(self.names)
        if body.get("error") or not body.get("choices"):
            what = "beside an error" if body.get("choices") else "without choices"
            raise self._senseless(what, answer, body.get("usage"))
        why = ""
        try:
            read.add_whole(body)
        except ServerError as error:
            why = error.message
        if why:
            raise self._senseless(f"that makes no sense ({why})", answer, body.get("usage"))
        request_id = shown_id(answer.headers, self.without_secrets)
        failed = next((turn for turn in read.turns if turn.finish_reason == "error"), None)
        self.request_meter.end(body.get("usage"), request_id, answered_by=read.model, complete=failed is None)
        if failed is not None:
            raise ServerError(
                "the model stopped with finish reason 'error'; what it had written is in .partial",
                request_id=request_id,
                origin="mistral",
                partial=failed,
            )
        return Completion(
            id=read.id,
            model=read.model or self.model,
            created=read.created,
            turns=tuple(read.turns),
            usage=read.usage,
            request_id=request_id,
            raw=body,
            headers=answer.headers,
            requested_model=self.model,
        )

    def embedding(self, answer: Answer) -> EmbeddingAnswer:
        """Return the vectors in a good answer, as Mistral sent them: not yet checked against the inputs."""
        body: Any = self._object(answer)
        if not isinstance(body.get("data"), list):
            raise self._senseless("without data", answer, body.get("usage"))
        request_id = shown_id(answer.headers, self.without_secrets)
        self.request_meter.end(body.get("usage"), request_id)
        return EmbeddingAnswer(body, answer.headers, request_id)
