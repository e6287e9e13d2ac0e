"""Good answers of a simulated upstream, each told apart from all others: they repeat what was asked."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

DIMENSIONS = 8
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def asked(body: dict[str, Any]) -> str:
    """Return the last text of the user in a chat request."""
    content = [message for message in body["messages"] if message["role"] == "user"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def text_for(prompt: str) -> str:
    """Return the answer to a prompt."""
    return f"You asked: {prompt}. Größe, 漢字, 🎉."


def arguments_for(prompt: str, tool: str) -> dict[str, Any]:
    """Return the arguments of the tool call that answers a prompt."""
    return {"city": prompt} if tool == "weather" else person_for(prompt)


def person_for(prompt: str) -> dict[str, Any]:
    """Return the object that answers a prompt where a schema is asked for."""
    return {"name": prompt, "age": 36}


def vector_for(text: str) -> list[float]:
    """Return a vector of numbers that 32-bit floats hold exactly."""
    digest = hashlib.sha256(text.encode()).digest()
    return [digest[place] / 256 - 0.5 for place in range(DIMENSIONS)]


def _tool_call(body: dict[str, Any]) -> dict[str, Any]:
    name = body["tools"][0]["function"]["name"]
    arguments = json.dumps(arguments_for(asked(body), name))
    return {"id": "abcDEF123", "type": "function", "function": {"name": name, "arguments": arguments}, "index": 0}


def _content(body: dict[str, Any]) -> str:
    wants_json = (body.get("response_format") or {}).get("type", "text") != "text"
    return json.dumps(person_for(asked(body))) if wants_json else text_for(asked(body))


def chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return a whole completion."""
    message: dict[str, Any] = {"role": "assistant", "content": "" if body.get("tools") else _content(body)}
    if body.get("tools"):
        message["tool_calls"] = [_tool_call(body)]
    finish = "tool_calls" if body.get("tools") else "stop"
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": dict(USAGE),
    }


def chunk(body: dict[str, Any], delta: Any, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return one chunk of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": body["model"]}
    return head | {"choices": [choice]} | fields


def chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the chunks of a streamed completion."""
    found = [chunk(body, {"role": "assistant", "content": ""})]
    if body.get("tools"):
        found.append(chunk(body, {"tool_calls": [_tool_call(body)]}))
    else:
        text = _content(body)
        found += [chunk(body, {"content": text[at : at + 6]}) for at in range(0, len(text), 6)]
    found.append(chunk(body, {"content": ""}, "tool_calls" if body.get("tools") else "stop", usage=dict(USAGE)))
    return found


def event(value: Any) -> bytes:
    """Word one server-sent event."""
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()) + b"\n\n"


DONE = event(b"[DONE]")


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Return the vectors of a request, in the encoding that it asks for."""
    size = body.get("output_dimension") or (1024 if body["model"] == "mistral-embed" else DIMENSIONS)

    def encoded(text: str) -> Any:
        vector = vector_for(text) + [0.0] * (size - DIMENSIONS)
        if body.get("encoding_format") == "base64":
            return base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        return vector

    data = [{"object": "embedding", "index": at, "embedding": encoded(text)} for at, text in enumerate(body["input"])]
    tokens = 4 * len(data)
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return {"id": "e1", "object": "list", "model": body["model"], "data": data, "usage": usage}


def kind_of(body: dict[str, Any]) -> str:
    """Tell what a request asks for: `"chat"`, `"stream"` or `"embed"`."""
    return "embed" if "input" in body else "stream" if body.get("stream") else "chat"


@dataclass
class Reply:
    """One HTTP answer before it is put into bytes.

    Attributes:
        framing: `"length"`, `"chunked"` or `"close"`: how the end of the body is told.
    """

    body: bytes
    status: str = "200 OK"
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "application/json"
    framing: str = "length"

    def head(self) -> bytes:
        """Return the status line and the headers."""
        lines = [f"HTTP/1.1 {self.status}", f"content-type: {self.content_type}", "x-lava-request-id: req_1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        match self.framing:
            case "length":
                lines.append(f"content-length: {len(self.body)}")
            case "chunked":
                lines.append("transfer-encoding: chunked")
            case "close":
                lines.append("connection: close")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def framed(self) -> bytes:
        """Return the body as it goes over the wire."""
        if self.framing != "chunked":
            return self.body
        pieces = [self.body[at : at + 97] for at in range(0, len(self.body), 97)]
        return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def good(body: dict[str, Any], framing: str | None = None) -> Reply:
    """Return the right answer to a request."""
    match kind_of(body):
        case "embed":
            return Reply(json.dumps(embeddings(body)).encode(), framing=framing or "length")
        case "chat":
            return Reply(json.dumps(chat(body), ensure_ascii=False).encode(), framing=framing or "length")
        case _:
            return sse([*map(event, chunks(body)), DONE], framing or "chunked")


def sse(events: list[bytes], framing: str = "chunked") -> Reply:
    """Return a stream of events."""
    return Reply(b"".join(events), content_type="text/event-stream; charset=utf-8", framing=framing)
