"""Answers and faults that a test asks for, instead of what the simulated model would say.

`gateway.queue(…)` takes them one by one, `LocalGateway(faults=[(probability, fault), …])` at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any, Literal, TypeAlias

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


EVENT_STREAM = "text/event-stream; charset=utf-8"
_STREAM = {"content-type": EVENT_STREAM}

Step: TypeAlias = bytes | str | float | int | Cut | Stall
"""One thing that happens in an answer's body: bytes, a pause in seconds, an end or a standstill."""


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


@dataclass(frozen=True)
class Body:
    """An answer as given.

    Args:
        body: JSON, text, bytes, or a list of steps.
        status: the HTTP status.
        headers: its headers; the content type is JSON or an event stream, as the body looks.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slow:
    """The usual answer, but its first byte comes late.

    Args:
        seconds: how late.
        then: what comes then, instead of the usual answer.
    """

    seconds: float
    then: Any = None


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
    how: Literal["clean", "closed", "reset", "stalled", "no done", "error event", "finish error"] = "closed"


@dataclass(frozen=True)
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
    """What a queued response stands for.

    Args:
        response: a fault of this module; a dict (a JSON body with status 200); an int (the status of an error); a pair
            of status and body, with headers as a third if need be; bytes or text (an event stream); a list of bytes,
            text, pauses in seconds, `Cut` and `Stall` (an event stream played so); an exception class or
            instance of `ConnectionError` (a reset).

    Raises:
        TypeError: it is none of these.
    """
    match response:
        case Status() | Body() | Slow() | Reset() | Garbage() | Interrupted() | WrongVectors():
            return response
        case Cut() | Stall():
            return Body([response], headers=_STREAM)
        case bool():
            raise TypeError("a queued response can't be a bool")
        case int():
            return Status(response) if response >= 400 else Body({}, status=response)
        case dict():
            return Body(response)
        case str() | bytes():
            return Body(response, headers=_STREAM)
        case (int(status), body):
            return _with_status(status, body, {})
        case (int(status), body, Mapping() as headers):
            return _with_status(status, body, headers)
        case list() | tuple():
            return Body([_checked(step) for step in response], headers=_STREAM)
        case ConnectionError():
            return Reset()
        case type() if issubclass(response, ConnectionError):
            return Reset()
    raise TypeError(
        f"a queued response is a dict, a status, (status, body), bytes, text, a list of steps or a fault, "
        f"not {type(response).__name__}"
    )


def _with_status(status: int, body: Any, headers: Mapping[str, str]) -> Fault:
    if isinstance(body, list) and any(not isinstance(step, dict) for step in body):
        body = [_checked(step) for step in body]
    return Body(body, status=status, headers=headers)


def _checked(step: Any) -> Step:
    if isinstance(step, bytes | str | float | int | Cut | Stall) and not isinstance(step, bool):
        return step
    raise TypeError(f"a step is bytes, text, seconds, Cut or Stall, not {type(step).__name__}")


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
        return format_datetime(value.astimezone(timezone.utc), usegmt=True)
    return value if isinstance(value, str) else f"{value:g}"


def to_bytes(body: Any) -> bytes:
    """A body's bytes: text in UTF-8, anything else as JSON."""
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else orjson.dumps(body)


def looks_like_stream(steps: Iterable[Any]) -> bool:
    """Whether the first bytes of a body are those of an event stream."""
    for step in steps:
        if isinstance(step, bytes | str):
            start = to_bytes(step).lstrip()[:6]
            return start.startswith((b"data:", b"event:", b"id:", b":", b"retry:")) or not start.startswith(
                (b"{", b"[")
            )
    return True
