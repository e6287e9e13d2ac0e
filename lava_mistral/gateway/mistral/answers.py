"""Makes answers: Mistral's own headers around a body, and bodies that were asked for instead of the usual one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

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
from lava_mistral.gateway.mistral import stream
from lava_mistral.gateway.server.delivery import Answer
from lava_mistral.mistral.types import Usage

Settle: TypeAlias = Callable[[Usage], None]
"""Charges for the usage; called when the answer is about to tell it, and not if the client has gone by then."""


def headers(content_type: str) -> dict[str, str]:
    """What every answer of Mistral carries."""
    return {
        "content-type": content_type,
        "mistral-correlation-id": str(uuid.uuid4()),
        "x-kong-upstream-latency": "61",
        "x-kong-proxy-latency": "7",
    }


def json_answer(
    status: int,
    body: Any,
    more: Mapping[str, str] | None = None,
    *,
    delay: float = 0.0,
    before: Callable[[], None] | None = None,
) -> Answer:
    """An answer in JSON; numpy arrays are written as lists.

    Args:
        status: the HTTP status.
        body: what to write.
        more: further headers.
        delay: seconds until the first byte.
        before: called after the delay, if the client is still there.
    """
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Answer(status, headers(JSON) | dict(more or {}), content, delay, before)


def canned(fault: Fault | None, settle: Settle, *, delay: float, streamed: bool) -> Answer | None:
    """The answer that a fault is in itself; `None` for one that changes the usual answer, or for none."""
    match fault:
        case Reset():
            return Answer(0, delay=delay, reset=True)
        case Status():
            named = dict(fault.headers)
            if fault.retry_after is not None:
                named["retry-after"] = retry_after_header(fault.retry_after)
            body = error_body(fault.status) if fault.body is None else fault.body
            return _given(body, fault.status, named, settle, delay, streamed=streamed)
        case Body():
            return _given(fault.body, fault.status, fault.headers, settle, delay, streamed=streamed)
        case Garbage() if not streamed:
            return Answer(200, headers(JSON), b'{"id": "garbage", "choices": [{"ind', delay)
    return None


def broken_off(answer: Answer, fault: Fault | None) -> Answer:
    """A whole answer, or only its first half where the fault is an interruption of the connection."""
    if not isinstance(fault, Interrupted) or not isinstance(answer.body, bytes):
        return answer
    match fault.how:
        case "closed" | "reset":
            end: Step = Cut(reset=fault.how == "reset")
        case "stalled":
            end = Stall()
        case _:
            return answer
    half, length = answer.body[: len(answer.body) // 2], str(len(answer.body))
    return Answer(answer.status, answer.headers | {"content-length": length}, iter([half, end]), answer.delay)


def played_stream(
    events: Iterator[bytes], fault: Fault | None, *, pace: float, settle: Callable[[], None]
) -> Iterator[Step]:
    """Plays a stream, with what is to go wrong.

    Args:
        events: all but `[DONE]`; the last one holds the usage.
        fault: what goes wrong, if it is something that does in a stream.
        pace: seconds before each event but the first.
        settle: called before the usage goes out.
    """
    if fault is None and pace == 0:
        yield from _at_once(events, settle)
        return
    for at, (event, is_last) in enumerate(_marked(events)):
        match fault:
            case Garbage(after=after) if at == after or (is_last and at < after):
                yield b"data: {garbage\n\n"
            case Interrupted(after=after, how=how) if at == after or (is_last and at < after):
                match how:
                    case "clean":
                        return
                    case "closed" | "reset":
                        yield Cut(reset=how == "reset")
                    case "stalled":
                        yield Stall()
                    case "error event":
                        yield b"data: " + orjson.dumps(error_body(503)) + b"\n\n"
                        yield stream.DONE
                        return
        if is_last:
            if isinstance(fault, Interrupted) and fault.how == "finish error":
                head, _, tail = event.rpartition(b'"finish_reason":')
                event = head + b'"finish_reason":"error"' + tail[tail.index(b"}") :]
            settle()
        if pace and at:
            yield pace
        yield event
    if not (isinstance(fault, Interrupted) and fault.how == "no done"):
        yield stream.DONE


def _at_once(events: Iterator[bytes], settle: Callable[[], None]) -> Iterator[bytes]:
    """A stream as fast as it is taken, several events in a write: nobody can tell them apart, and it is cheaper."""
    yield next(events)
    waiting: list[bytes] = []
    for event, is_last in _marked(events):
        waiting.append(event)
        if is_last:
            settle()
            waiting.append(stream.DONE)
        if is_last or len(waiting) == _TOGETHER:
            yield b"".join(waiting)
            waiting = []


_TOGETHER = 16


def _marked(events: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each event, and whether it is the last one."""
    event = next(events)
    for following in events:
        yield event, False
        event = following
    yield event, True


def _given(body: Any, status: int, named: Mapping[str, str], settle: Settle, delay: float, *, streamed: bool) -> Answer:
    """The answer with a body as it was given: JSON, text, bytes, or steps."""
    steps = steps_of(body)
    whole = b"".join(to_bytes(step) for step in steps or (body,) if steps is None or isinstance(step, bytes | str))
    # An error's usage is nobody's to pay.
    found = _usages(whole) if status < 400 else []
    # What is no text has been written as JSON just now, be it a bare number.
    kind = content_type(whole, streamed=streamed) if steps is not None or isinstance(body, bytes | str) else JSON
    told = headers(kind) | {name.lower(): value for name, value in named.items()}
    if steps is not None or kind == EVENT_STREAM:
        return Answer(status, told, _played(steps or (whole,), found, settle), delay)
    before = (lambda: settle(found[0][1])) if found else None
    return Answer(status, told, whole, delay, before)


def _played(steps: Sequence[Step], found: Sequence[tuple[int, Usage]], settle: Settle) -> Iterator[Step]:
    """Plays given steps; the first usage among them is settled before the last byte of it is out."""
    sent = 0
    waiting = list(found[:1])
    for step in steps:
        if isinstance(step, bytes | str):
            sent += len(to_bytes(step))
            if waiting and sent >= waiting[0][0]:
                settle(waiting.pop()[1])
        yield step


def _usages(body: bytes) -> list[tuple[int, Usage]]:
    """What a body tells of usage, each with the place where that ends: of a stream by lines, of JSON as a whole."""
    if b'"usage"' not in body:
        return []
    found, end = [], 0
    for line in body.splitlines(keepends=True):
        end += len(line)
        if line.startswith(b"data:") and line.endswith((b"\n", b"\r")):
            found.append((end, _usage_in(line[5:])))
    found.append((end, _usage_in(body)))
    return [(end, usage) for end, usage in found if usage is not None]


def _usage_in(text: bytes) -> Usage | None:
    if b'"usage"' not in text:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    usage = value.get("usage") if isinstance(value, dict) else None
    return usage if isinstance(usage, dict) else None  # type: ignore[return-value]
