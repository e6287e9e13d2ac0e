"""Answers and faults that a test asks for, instead of what the simulated model would say.

`gateway.queue(…)` takes them one by one, `LocalGateway(faults=[(probability, fault), …])` at random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final, Literal, TypeAlias, get_args

import orjson


@dataclass(frozen=True)
class Cut:
    """Ends the answer where it stands.

    Args:
        reset: with a TCP reset, instead of a connection that is closed in the middle of the body.
        clean: as a complete HTTP body, so that only the missing end of the stream tells.
    """

    reset: bool = False
    clean: bool = False


@dataclass(frozen=True)
class Stall:
    """Sends nothing more and keeps the connection open until the client gives up or the gateway stops."""


Step: TypeAlias = bytes | str | float | int | Cut | Stall
"""One thing that happens in an answer's body: bytes, a pause in seconds, an end or a standstill."""

Interruption: TypeAlias = Literal["clean", "closed", "reset", "stalled", "no done", "error event", "finish error"]
Wrongness: TypeAlias = Literal["short", "shuffled", "duplicated", "nan", "dimension", "empty"]


def _check_status(status: Any) -> None:
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"a queued response's status is an int, not {type(status).__name__}")
    # One below 200 is no answer yet: the client would go on waiting.
    if not 200 <= status <= 599:
        raise ValueError(f"the status of an answer is from 200 to 599, not {status}; a stream with pauses is a list")


def _check_body(body: Any) -> None:
    for step in body if _is_steps(body) else ():
        _check_step(step)
    if not _is_steps(body):
        try:
            to_bytes(body)
        except TypeError as error:
            raise TypeError(f"a queued response's body can't be written as JSON: {error}") from None


_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _check_headers(headers: Any) -> None:
    try:
        for name, value in headers.items():
            value.encode("latin-1")
            if not _HEADER_NAME.fullmatch(name) or not value.isprintable():
                raise ValueError(f"{name!r}: {value!r} is no header of HTTP")
            if name.lower() in ("content-length", "transfer-encoding"):
                raise ValueError(
                    f"{name} follows from the body: give the body alone, and Cut or Interrupted to break it"
                )
    except (AttributeError, TypeError, UnicodeEncodeError):
        raise TypeError("a queued response's headers map names to values, text in Latin-1") from None


def _check_after(after: Any) -> None:
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise ValueError(f"after is a number of events, not {after!r}")


def _check_how(fault: object, how: str, known: tuple[str, ...]) -> None:
    if how not in known:
        raise ValueError(f"{type(fault).__name__} knows {', '.join(map(repr, known))}, not {how!r}")


def _check_step(step: Any) -> None:
    if isinstance(step, bool) or not isinstance(step, bytes | str | float | int | Cut | Stall):
        raise TypeError(f"a step is bytes, text, seconds, Cut or Stall, not {type(step).__name__}")
    if isinstance(step, str):
        to_bytes(step)


@dataclass(frozen=True)
class Status:
    """An error of the provider, with the body that Mistral gives for that status.

    Args:
        status: the HTTP status, such as 429 or 503.
        retry_after: seconds or a moment, for the `Retry-After` header; text goes out as it is.
        body: another body: JSON, text or bytes.
        headers: more headers.
    """

    status: int
    retry_after: float | datetime | str | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_status(self.status)
        _check_body(self.body)
        _check_headers(self.headers)
        if isinstance(self.retry_after, bool) or not isinstance(self.retry_after, float | int | datetime | str | None):
            kind = type(self.retry_after).__name__
            raise TypeError(f"retry_after is seconds, a datetime or text, not {kind}")
        if isinstance(self.retry_after, str):
            _check_headers({"retry-after": self.retry_after})


@dataclass(frozen=True)
class Body:
    """An answer as given.

    Args:
        body: JSON, text, bytes, or a list of steps.
        status: the HTTP status.
        headers: its headers; the content type is an event stream, JSON, HTML or plain text, as the body looks.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_status(self.status)
        _check_body(self.body)
        _check_headers(self.headers)


@dataclass(frozen=True)
class Slow:
    """The usual answer, but its first byte comes late.

    Args:
        seconds: how late.
        then: what comes then, instead of the usual answer.
    """

    seconds: float
    then: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, float | int):
            raise TypeError(f"how late an answer comes is a number of seconds, not {type(self.seconds).__name__}")
        if not self.seconds >= 0:
            raise ValueError(f"an answer can't come {self.seconds} seconds late")
        if self.then is not None:
            to_fault(self.then)


@dataclass(frozen=True)
class Reset:
    """The connection is reset before a byte of the answer."""


@dataclass(frozen=True)
class Garbage:
    """Status 200 with a body that is no JSON; in a stream, an event that is none, after some good ones.

    Args:
        after: good events before it.
    """

    after: int = 2

    def __post_init__(self) -> None:
        _check_after(self.after)


@dataclass(frozen=True)
class Interrupted:
    """The usual stream, broken off.

    Args:
        after: events before that, the first of which holds the role alone.
        how: `"clean"`: the body ends as if complete; `"closed"`: the connection is closed in the middle of the body;
            `"reset"`: it is reset; `"stalled"`: nothing more comes; `"no done"`: all comes but `[DONE]`;
            `"error event"`: an event with an error comes; `"finish error"`: finish_reason is "error".
    """

    after: int = 3
    how: Interruption = "closed"

    def __post_init__(self) -> None:
        _check_after(self.after)
        _check_how(self, self.how, get_args(Interruption))


@dataclass(frozen=True)
class WrongVectors:
    """The usual embeddings, with data that is wrong.

    Args:
        how: `"short"`: the last one is missing; `"shuffled"`: in another order, each with its right index;
            `"duplicated"`: one index comes twice and one never; `"nan"`: a number is no number (null in JSON, NaN in
            base64); `"dimension"`: one vector is too short; `"empty"`: no data at all.
    """

    how: Wrongness = "short"

    def __post_init__(self) -> None:
        _check_how(self, self.how, get_args(Wrongness))


Fault: TypeAlias = Status | Body | Slow | Reset | Garbage | Interrupted | WrongVectors


def to_fault(response: Any) -> Fault:
    """What a queued response stands for.

    Args:
        response: a fault of this module; a dict (a JSON body with status 200); an int (the status of an error); a tuple
            of status and body, with headers as a third if need be; bytes or text (a body, by its looks an event stream,
            JSON, HTML or plain text); a list of bytes, text, pauses in seconds, `Cut` and `Stall` (a body played so);
            an exception class or instance of `ConnectionError` (a reset).

    Raises:
        TypeError: it is none of these.
        ValueError: its status is none that an answer has.
    """
    match response:
        case Status() | Body() | Slow() | Reset() | Garbage() | Interrupted() | WrongVectors():
            return response
        case Cut() | Stall():
            return Body((response,))
        case bool():
            raise TypeError("a queued response can't be a bool")
        case int():
            return Status(response) if response >= 400 else Body({}, status=response)
        case dict() | str() | bytes():
            return Body(response)
        # A pattern of two would match a list as well, and that is a pause and what comes after it.
        case tuple() if len(response) in (2, 3) and isinstance(response[0], int):
            return Body(response[1], response[0], *response[2:])
        case list():
            return Body(tuple(response))
        case ConnectionError():
            return Reset()
        case type() if issubclass(response, ConnectionError):
            return Reset()
    raise TypeError(
        f"a queued response is a dict, a status, (status, body), bytes, text, a list of steps or a fault, "
        f"not {type(response).__name__}"
    )


# Type, code and message for each status, as Mistral words them.
_ERRORS: dict[int, tuple[str | None, str | None, str]] = {
    400: ("invalid_request_invalid_args", "3051", "Bad request"),
    402: (None, None, "Payment required"),
    403: (None, None, "Forbidden"),
    404: (None, None, "no Route matched with those values"),
    408: (None, None, "Request timeout"),
    429: ("rate_limited", "1300", "Rate limit exceeded"),
    500: ("internal_server_error", "3700", "Internal server error"),
    502: (None, None, "Bad gateway"),
    503: ("unreachable_backend", "1100", "Internal server error"),
    504: (None, None, "The upstream server is timing out"),
}


def error_body(status: int, message: Any = None, kind: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error's body as Mistral writes it; what is not given is what it says for that status."""
    usual = _ERRORS.get(status, (None, None, f"Error {status}"))
    if status == 401 and message is None:
        return {"detail": "Unauthorized"}
    if status == 422 and message is None:
        message = {"detail": [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}]}
    if message is None:
        kind, code, message = usual
    return {
        "object": "error",
        "message": message,
        "type": kind,
        "param": None,
        "code": code,
        "raw_status_code": status,
    }


def retry_after_header(value: float | datetime | str) -> str:
    """A `Retry-After` header in seconds, or as an HTTP date."""
    if isinstance(value, datetime):
        return format_datetime(value.astimezone(UTC), usegmt=True)
    return value if isinstance(value, str) else f"{value:g}"


def to_bytes(body: Any) -> bytes:
    """A body's bytes: text in UTF-8, anything else as JSON."""
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else orjson.dumps(body)


def steps_of(body: Any) -> Sequence[Step] | None:
    """The steps that a body is played in; `None` for one that is sent as it is."""
    return body if _is_steps(body) else None


def _is_steps(body: Any) -> bool:
    """Whether a body is steps: a tuple always is, a list unless it is JSON, which is objects or nothing."""
    return isinstance(body, tuple) or (isinstance(body, list) and not all(isinstance(step, dict) for step in body))


EVENT_STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"


def content_type(body: bytes, *, streamed: bool) -> str:
    """What a body looks like, as its `Content-Type`.

    Args:
        body: all of it.
        streamed: whether a stream was asked for: then that is what anything unknown is.
    """
    start = body.lstrip()
    if start.startswith((b"data:", b"event:", b"id:", b":", b"retry:")):
        return EVENT_STREAM
    if start.startswith((b"{", b"[")):
        return JSON
    if start.startswith(b"<"):
        return "text/html; charset=utf-8"
    return EVENT_STREAM if streamed else "text/plain; charset=utf-8"
