"""Answers and faults that a test asks for, instead of what the simulated model would say.

`gateway.queue(…)` takes them one by one, `LocalGateway(faults=[(probability, fault), …])` at random.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import field
from http.client import responses
from typing import Annotated, Any, Final, Literal, TypeAlias

import orjson
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT: Final = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
JSON: Final = "application/json"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What a body begins with, and the content type that it looks like.
_LOOKS = {rb"\s*(?:data|event|id|retry)?:": EVENT_STREAM, rb"\s*[{\[]": JSON, rb"\s*<": "text/html; charset=utf-8"}
# Type, code and message of the statuses that Mistral words in a way of its own.
_MISSING = {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}
_ERRORS: dict[int, tuple[str | None, str | None, Any]] = {
    400: ("invalid_request_invalid_args", "3051", "Bad request"),
    422: ("invalid_request_error", None, {"detail": [_MISSING]}),
    429: ("rate_limited", "1300", "Rate limit exceeded"),
    500: ("internal_server_error", "3700", "Internal server error"),
    503: ("unreachable_backend", "1100", "Internal server error"),
    504: (None, None, "The upstream server is timing out"),
}


@dataclass(frozen=True, config=STRICT)
class Cut:
    """Ends the answer where it stands: the connection is closed in the middle of the body, or `reset` (TCP).

    A `clean` one ends the body as if complete, so that only the missing end of the stream tells.
    """

    reset: bool = False
    clean: bool = False


@dataclass(frozen=True)
class Stall:
    """Sends nothing more and keeps the connection open until the client gives up or the gateway stops."""


Step: TypeAlias = bytes | str | float | int | Cut | Stall
"""One thing that happens in an answer's body: bytes, a pause in seconds, an end or a standstill."""


def to_bytes(body: Any) -> bytes:
    """Return a body's bytes: text in UTF-8, anything else as JSON."""
    return body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else orjson.dumps(body)


def steps_of(body: Any) -> Sequence[Step] | None:
    """Return a body's steps: a tuple, or a list that is no JSON (of objects, or empty); `None` for any other body."""
    steps = isinstance(body, tuple) or (isinstance(body, list) and not all(isinstance(step, dict) for step in body))
    return body if steps else None


def _checked_body(body: Any) -> Any:
    for part in steps_of(body) or (body,):
        if part is not body and (isinstance(part, bool) or not isinstance(part, Step)):
            raise ValueError(f"a step is bytes, text, seconds, Cut or Stall, not {type(part).__name__}")
        try:
            if not isinstance(part, Cut | Stall):
                to_bytes(part)
        except (TypeError, UnicodeError) as error:
            raise ValueError(f"a queued response's body can't be written: {error}") from None
    return body


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise ValueError(f"{name!r}: {value!r} is no header of HTTP")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise ValueError(f"{name} follows from the body: give the body alone, and Cut or Interrupted to break it")
    return headers


# One below 200 is no answer yet: the client would go on waiting.
StatusCode: TypeAlias = Annotated[int, Field(ge=200, le=599)]
Headers: TypeAlias = Annotated[Mapping[str, str], AfterValidator(_checked_headers)]
_Text: TypeAlias = Annotated[str, AfterValidator(lambda text: _checked_headers({"retry-after": text}) and text)]
_Body: TypeAlias = Annotated[Any, AfterValidator(_checked_body)]
_Events: TypeAlias = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Status:
    """An error of the provider, with the body that Mistral gives for that status, or another.

    `retry_after` is in seconds, for the `Retry-After` header; text, such as a date, goes out as it is.
    """

    status: StatusCode
    retry_after: float | _Text | None = None
    body: _Body = None
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Body:
    """An answer as given: JSON, text, bytes, or a list of steps.

    Without a content type among its headers it is an event stream, JSON, HTML or plain text, as the body looks.
    """

    body: _Body
    status: StatusCode = 200
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Slow:
    """The usual answer, or what comes `then`, but its first byte comes so many seconds late."""

    seconds: Annotated[float, Field(ge=0)]
    then: Annotated[Any, AfterValidator(lambda then: None if then is None else to_fault(then))] = None


@dataclass(frozen=True)
class Reset:
    """The connection is reset before a byte of the answer."""


@dataclass(frozen=True, config=STRICT)
class Garbage:
    """Status 200 with a body that is no JSON; in a stream, an event that is none, `after` so many good ones."""

    after: _Events = 2


@dataclass(frozen=True, config=STRICT)
class Interrupted:
    """The usual stream, broken off `after` so many events, the first of which holds the role alone.

    Args:
        how: `"clean"`: the body ends as if complete; `"closed"`: the connection is closed in the middle of the body;
            `"reset"`: it is reset; `"stalled"`: nothing more comes; `"no done"`: all comes but `[DONE]`;
            `"error event"`: an event with an error comes; `"finish error"`: finish_reason is "error".
    """

    after: _Events = 3
    how: Literal["clean", "closed", "reset", "stalled", "no done", "error event", "finish error"] = "closed"


@dataclass(frozen=True, config=STRICT)
class WrongVectors:
    """The usual embeddings, with data that is wrong.

    Args:
        how: `"short"`: the last one is missing; `"shuffled"`: in another order, each with its right index;
            `"duplicated"`: one index comes twice and one never; `"nan"`: a number is no number (null in JSON, NaN in
            base64); `"dimension"`: one vector is too short; `"empty"`: no data at all.
    """

    how: Literal["short", "shuffled", "duplicated", "nan", "dimension", "empty"] = "short"


Fault: TypeAlias = Status | Body | Slow | Reset | Garbage | Interrupted | WrongVectors


def to_fault(response: Any) -> Fault:
    """Return what a queued response stands for; `LocalGateway.queue` lists what it may be, others are `ValueError`s."""
    match response:
        case bool():
            pass
        case Status() | Body() | Slow() | Reset() | Garbage() | Interrupted() | WrongVectors():
            return response
        case Cut() | Stall():
            return Body((response,))
        case int():
            return Status(response) if response >= 400 else Body({}, status=response)
        case dict() | str() | bytes():
            return Body(response)
        # A pattern of two would match a list as well, and that is a pause and what comes after it.
        case tuple() if len(response) in (2, 3) and isinstance(response[0], int):
            return Body(response[1], response[0], *response[2:])
        case list():
            return Body(tuple(response))
    said = "a queued response is a dict, a status, (status, body), bytes, text, a list of steps or a fault "
    raise ValueError(f"{said}such as Status(429), Slow(2.0), or Reset() for a lost connection, not {response!r:.80}")


def error_body(status: int, message: Any = None, kind: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return an error's body as Mistral writes it; what is not given is what it says for that status."""
    if message is None:
        if status == 401:
            return {"detail": "Unauthorized"}
        if status == 404:
            return {"message": "no Route matched with those values", "request_id": uuid.uuid4().hex}
        usual = responses.get(status, f"Error {status}").capitalize()
        kind, code, message = _ERRORS.get(status, (None, None, usual))
    error = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
    return {**error, "raw_status_code": status}


def content_type(body: bytes, *, streamed: bool) -> str:
    """Return what a body looks like, as its `Content-Type`; anything unknown is a stream if one was asked for."""
    found = (kind for start, kind in _LOOKS.items() if re.match(start, body))
    return next(found, EVENT_STREAM if streamed else "text/plain; charset=utf-8")
