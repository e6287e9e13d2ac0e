"""Makes answers: Mistral's own headers around a body, and bodies that were asked for instead of the usual one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from lava_mistral.gateway.faults import (
    EVENT_STREAM,
    JSON,
    Body,
    Cut,
    Fault,
    Garbage,
    Interrupted,
    Reset,
    Stall,
    Status,
    Step,
    content_type,
    error_body,
    retry_after_header,
    steps_of,
    to_bytes,
)
from lava_mistral.gateway.mistral.stream import DONE
from lava_mistral.gateway.server.delivery import Answer
from lava_mistral.mistral.types import Usage

_TOGETHER: Final = 16
"""Events of a stream in one write where nobody can tell them apart: it is cheaper."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What surrounds an answer.

    Attributes:
        delay: seconds until the first byte.
        limits: makes the headers on rate limits for so many tokens.
        settle: charges for the usage; called when the answer is about to tell it, and not if the client has gone.
    """

    delay: float
    limits: Callable[[int], dict[str, str]]
    settle: Callable[[Usage], None]


def headers(content_type: str) -> dict[str, str]:
    """Return what every answer of Mistral carries."""
    named = {"content-type": content_type, "mistral-correlation-id": str(uuid.uuid4())}
    return {**named, "x-kong-upstream-latency": "61", "x-kong-proxy-latency": "7"}


def json_answer(
    status: int,
    body: Any,
    more: Mapping[str, str] | None = None,
    *,
    delay: float = 0.0,
    before: Callable[[], None] | None = None,
) -> Answer:
    """Return an answer in JSON, with further headers; numpy arrays are written as lists. See `Answer` for the rest."""
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Answer(status, headers(JSON) | dict(more or {}), content, delay, before)


def canned(fault: Fault | None, terms: Terms, *, streamed: bool) -> Answer | None:
    """Return the answer that a fault is in itself; `None` for one that changes the usual answer, or for none."""
    match fault:
        case Reset():
            return Answer(0, delay=terms.delay, reset=True)
        case Status():
            named = dict(fault.headers)
            if fault.retry_after is not None:
                named["retry-after"] = retry_after_header(fault.retry_after)
            body = error_body(fault.status) if fault.body is None else fault.body
            return _given(Body(body, fault.status, named), terms, streamed=streamed)
        case Body():
            return _given(fault, terms, streamed=streamed)
        case Garbage() if not streamed:
            return Answer(200, headers(JSON), b'{"id": "garbage", "choices": [{"ind', terms.delay)
    return None


def broken_off(answer: Answer, fault: Fault | None) -> Answer:
    """Return a whole answer, or its first half where the fault is an interruption of the connection."""
    if not isinstance(fault, Interrupted) or not isinstance(answer.body, bytes):
        return answer
    end = _end(fault)
    if end is None:
        return answer
    half, length = answer.body[: len(answer.body) // 2], str(len(answer.body))
    return Answer(answer.status, answer.headers | {"content-length": length}, iter([half, end]), answer.delay)


def _end(fault: Interrupted) -> Step | None:
    if fault.how in ("closed", "reset"):
        return Cut(reset=fault.how == "reset")
    return Stall() if fault.how == "stalled" else None


def played_stream(
    events: Iterator[bytes], fault: Fault | None, *, pace: float, settle: Callable[[], None]
) -> Iterator[Step]:
    """Play a stream, with what is to go wrong.

    Args:
        events: all but `[DONE]`; the last one holds the usage.
        fault: what goes wrong, if it is something that does in a stream.
        pace: seconds before each event but the first.
        settle: called before the usage goes out.
    """
    how = fault.how if isinstance(fault, Interrupted) else ""
    broken = isinstance(fault, Garbage) or how not in ("", "no done", "finish error")
    after = fault.after if isinstance(fault, Garbage | Interrupted) else 0
    waiting: list[bytes] = []
    for at, (event, is_last) in enumerate(_marked(events)):
        if broken and (at == after or (is_last and at < after)):
            if isinstance(fault, Garbage):
                yield b"data: {garbage\n\n"
            elif how == "clean":
                return
            elif how == "error event":
                yield b"data: " + orjson.dumps(error_body(503)) + b"\n\n" + DONE
                return
            elif isinstance(fault, Interrupted):
                yield _end(fault) or Stall()
        if is_last:
            if how == "finish error":
                head, _, tail = event.rpartition(b'"finish_reason":')
                event = head + b'"finish_reason":"error"' + tail[tail.index(b"}") :]
            settle()
        if fault is not None or pace:
            if pace and at:
                yield pace
            yield event
            continue
        waiting.append(event)
        if at == 0 or is_last or len(waiting) == _TOGETHER:
            yield b"".join(waiting) + (DONE if is_last else b"")
            waiting = []
    if (fault is not None or pace) and how != "no done":
        yield DONE


def _marked(events: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each event, and whether it is the last one."""
    event = next(events)
    for following in events:
        yield event, False
        event = following
    yield event, True


def _given(fault: Body, terms: Terms, *, streamed: bool) -> Answer:
    """The answer with a body as it was given: JSON, text, bytes, or steps."""
    steps = steps_of(fault.body)
    parts = [fault.body] if steps is None else [step for step in steps if isinstance(step, bytes | str)]
    whole = b"".join(map(to_bytes, parts))
    # An error's usage is nobody's to pay.
    end, usage = _usage(whole) if fault.status < 400 else (0, None)
    # What is no text has been written as JSON just now, be it a bare number.
    looks = steps is not None or isinstance(fault.body, bytes | str)
    kind = content_type(whole, streamed=streamed) if looks else JSON
    told = headers(kind) | {name.lower(): value for name, value in fault.headers.items()}
    if steps is not None or kind == EVENT_STREAM:
        played = _played(steps or (whole,), end, (lambda: terms.settle(usage)) if usage else None)
        return Answer(fault.status, told, played, terms.delay)
    return Answer(fault.status, told, whole, terms.delay, (lambda: terms.settle(usage)) if usage else None)


def _played(steps: Sequence[Step], end: int, settle: Callable[[], None] | None) -> Iterator[Step]:
    """Play given steps; the usage among them is settled before its last byte is out."""
    sent = 0
    for step in steps:
        sent += len(to_bytes(step)) if isinstance(step, bytes | str) else 0
        if settle is not None and sent >= end:
            settle()
            settle = None
        yield step


def _usage(body: bytes) -> tuple[int, Usage | None]:
    """The first usage that a body tells, and the place where that ends: of a stream by lines, of JSON as a whole."""
    lines, end = body.splitlines(keepends=True), 0
    told = [line[5:] if line.startswith(b"data:") and line.endswith((b"\n", b"\r")) else b"" for line in lines]
    for line, text in [*zip(lines, told, strict=True), (b"", body)]:
        end += len(line)
        if b'"usage"' in text:
            try:
                usage = orjson.loads(text)["usage"]
            except (orjson.JSONDecodeError, LookupError, TypeError):
                continue
            if isinstance(usage, dict):
                return end, usage  # type: ignore[return-value]
    return 0, None
