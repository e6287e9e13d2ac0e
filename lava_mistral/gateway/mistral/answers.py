"""Makes answers: Mistral's own headers around a body, and bodies that were asked for instead of the usual one."""

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from lava_mistral.gateway import faults
from lava_mistral.gateway.faults import EVENT_STREAM, JSON, Body, Cut, Garbage, Interrupted, Stall, Step, to_bytes
from lava_mistral.gateway.request_log import RequestRecord
from lava_mistral.gateway.server import HttpAnswer
from lava_mistral.mistral.types import Usage

_DONE: Final = b"data: [DONE]\n\n"
_TOGETHER: Final = 16  # Events of a stream in one write where nobody can tell them apart: it is cheaper.
_ENDS: dict[str, Step] = {"closed": Cut(), "reset": Cut(reset=True), "stalled": Stall()}
_LATENCIES = {"x-kong-upstream-latency": "61", "x-kong-proxy-latency": "7"}


def headers(content_type: str) -> dict[str, str]:
    """Return what every answer of Mistral carries."""
    return {"content-type": content_type, "mistral-correlation-id": str(uuid.uuid4()), **_LATENCIES}


def json_answer(status: int, body: Any, more: Mapping[str, str] = {}, usage: Usage | None = None) -> HttpAnswer:
    """Return an answer in JSON, with further headers; numpy arrays are written as lists."""
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return HttpAnswer(status, {**headers(JSON), **more}, content, usage=usage)


def canned(record: RequestRecord, fault: faults.Fault | None) -> HttpAnswer | None:
    """Return the answer that a fault is in itself; `None` for one that changes the usual answer, or for none."""
    match fault:
        case faults.Reset():
            return HttpAnswer(0)
        case faults.Status(retry_after=wait):
            told = dict(fault.headers)
            if wait is not None:
                told["retry-after"] = wait if isinstance(wait, str) else f"{wait:g}"
            body = faults.error_body(fault.status) if fault.body is None else fault.body
            return _given(Body(body, fault.status, told), record)
        case Body():
            return _given(fault, record)
        case Garbage() if not record.streamed:
            return HttpAnswer(200, headers(JSON), b'{"id": "garbage", "choices": [{"ind')
    return None


def broken_off(answer: HttpAnswer, fault: faults.Fault | None) -> HttpAnswer:
    """Return a whole answer, or its first half where the fault is an interruption of the connection."""
    if isinstance(fault, Interrupted) and fault.how in _ENDS and isinstance(answer.body, bytes):
        half, length = answer.body[: len(answer.body) // 2], str(len(answer.body))
        told = answer.headers | {"content-length": length}
        return HttpAnswer(answer.status, told, iter([half, _ENDS[fault.how]]), answer.delay)
    return answer


def played_stream(events: list[bytes], usage: Usage, fault: faults.Fault | None, pace: float) -> Iterator[Step | Usage]:
    """Play a stream's events, of which the last one holds the usage, with what is to go wrong, and `[DONE]`."""
    how = fault.how if isinstance(fault, Interrupted) else ""
    whole = how in ("", "no done", "finish error")
    at = min(fault.after, len(events) - 1) if isinstance(fault, Garbage | Interrupted) else 0
    if isinstance(fault, Garbage):
        events.insert(at, b"data: {garbage\n\n")
    elif how == "finish error":
        events[-1] = re.sub(rb'(.*"finish_reason":)"\w+"', rb'\1"error"', events[-1])
    elif not whole:
        events = events[:at]
    if whole and how != "no done":
        events[-1] += _DONE
    size = _TOGETHER if fault is None and not pace else 1
    # The first event goes out at once: a client measures the time until it.
    for start in (0, *range(1, len(events), size)) if events else ():
        end = start + size if start else 1
        if pace and start:
            yield pace
        if whole and end >= len(events):
            yield usage
        yield b"".join(events[start:end])
    if how == "error event":
        yield b"data: " + orjson.dumps(faults.error_body(503)) + b"\n\n" + _DONE
    elif how in _ENDS:
        yield _ENDS[how]


def _given(fault: Body, record: RequestRecord) -> HttpAnswer:
    steps = faults.steps_of(fault.body)
    parts = [part for part in steps if isinstance(part, bytes | str)] if steps is not None else [fault.body]
    whole = b"".join(map(to_bytes, parts))
    # What is no text has been written as JSON just now, be it a bare number.
    text = steps is not None or isinstance(fault.body, bytes | str)
    kind = faults.content_type(whole, streamed=record.streamed) if text else JSON
    told = headers(kind) | {name.lower(): value for name, value in fault.headers.items()}
    # An error's usage is nobody's to pay.
    usage = _usage(whole) if fault.status < 400 else None
    if steps is not None or kind == EVENT_STREAM:
        played: list[Step | Usage] = []
        sent = b""
        for step in steps or (whole,):
            if usage is not None and isinstance(step, bytes | str):
                sent += to_bytes(step)
                if _usage(sent):
                    # It is paid from here on, also where the client leaves before the end.
                    played.append(usage)
                    usage = None
            played.append(step)
        return HttpAnswer(fault.status, told, iter(played))
    return HttpAnswer(fault.status, told, whole, usage=usage)


def _usage(body: bytes) -> Usage | None:
    """The first usage that a body tells: of a stream by lines, of JSON as a whole."""
    if b'"usage"' in body:
        for text in (*(line[5:] for line in body.splitlines() if line.startswith(b"data:")), body):
            with suppress(orjson.JSONDecodeError, LookupError, TypeError):
                usage: Any = orjson.loads(text)["usage"]
                if isinstance(usage, dict):
                    return usage  # type: ignore[return-value]
    return None
