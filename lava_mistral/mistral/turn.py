"""Assembles streamed deltas into assistant turns. Pure.

One place knows how Mistral words a turn: content as a string, a list of parts or nothing; tool calls whole
or in fragments. A turn that was streamed and the same turn in one answer come out equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from lava_mistral.errors import ServerError
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.types import AssistantMessage, ContentPart, Usage

_TEXT_KEYS = {"type", "text"}
_NO_ID = frozenset(("", "null"))
"""What stands for a missing tool-call id on the wire, beside `None`: `"null"` is the schema's default."""


@dataclass(slots=True)
class ToolCall:
    """A tool call of a turn.

    Attributes:
        id: the wire's id, or a fresh one of 9 characters where the wire gave none; unique in its turn.
        name: the name of the tool.
        arguments: JSON text as it came, complete or, while a stream runs, its beginning.
    """

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any] | None:
        """The arguments, or `None` when they are not a JSON object.

        Models write more than the JSON standard has: raw line breaks in texts (of code above all), `NaN`, integers of
        any length. All of it is taken, and integers stay exact.
        """
        try:
            value = json.loads(self.arguments, strict=False)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


@dataclass(slots=True)
class ToolCallDelta:
    """A fragment of a tool call.

    Attributes:
        index: the position of the call in its turn, from 0.
        id: on the first fragment of a call only.
        name: the next piece of the name, on the first fragment alone as a rule.
        arguments: the next piece of the arguments' JSON text.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(slots=True)
class Delta:
    """What one chunk adds to one choice.

    Attributes:
        index: which choice, from 0.
        text: the text in it, without references and thinking.
        thinking: the thinking text in it.
        parts: every piece of it in order, as wire parts; empty where the chunk holds a plain string.
        tool_calls: fragments of tool calls.
        finish_reason: on the last delta of a choice.
        usage: what the whole call has used so far. It stands on the last delta of its chunk; where several
            chunks carry it, the last one counts.
    """

    index: int
    text: str = ""
    thinking: str = ""
    parts: tuple[ContentPart, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None


class Turn:
    """One assistant turn, complete or as far as it came.

    Attributes:
        index: which choice of the answer, from 0.
        tool_calls: the calls in order.
        finish_reason: why the turn ended; `None` while it runs.
    """

    __slots__ = ("_loose", "_parts", "finish_reason", "index", "tool_calls")

    def __init__(
        self,
        index: int = 0,
        content: str | Iterable[ContentPart] | None = None,
        tool_calls: Iterable[ToolCall] = (),
        finish_reason: str | None = None,
    ) -> None:
        self.index = index
        self.tool_calls = list(tool_calls)
        self.finish_reason = finish_reason
        self._parts: list[ContentPart] = []
        # What came since the last look, not merged yet: a stream brings one word at a time.
        self._loose: list[str | ContentPart] = [*read_parts(content)]

    @classmethod
    def from_message(
        cls,
        message: Mapping[str, Any],
        finish_reason: str | None = None,
        index: int = 0,
        names: ToolNames = ToolNames(),  # noqa: B008 - it never changes
    ) -> Turn:
        """Return the turn in an answer that was not streamed.

        Args:
            message: the choice's `message`.
            finish_reason: the choice's `finish_reason`.
            index: the choice's `index`.
            names: of the request's tools, whose own the calls are given.

        Raises:
            ServerError: the message is not one.
        """
        if not isinstance(message, Mapping):
            raise malformed("message", "an object", message)
        turn = cls(index, message.get("content"), finish_reason=finish_reason)
        for call in as_list_of(message.get("tool_calls"), "tool_calls"):
            name, arguments = read_function(call)
            identity = wire_id(call)
            if identity is None or any(other.id == identity for other in turn.tool_calls):
                identity = fresh_call_id()
            turn.tool_calls.append(ToolCall(identity, names.from_wire(name), arguments))
        return turn

    def add(self, delta: Delta) -> None:
        """Take what a delta adds.

        The turns of a stream run ahead of the deltas that it hands on, as far as the bytes read so far go. Who needs
        the turn as it is at each delta keeps one of its own.
        """
        if delta.parts:
            self._loose.extend(delta.parts)
        elif delta.text:
            self._loose.append(delta.text)
        for fragment in delta.tool_calls:
            if fragment.index == len(self.tool_calls):
                identity = fragment.id or fresh_call_id()
                self.tool_calls.append(ToolCall(identity, fragment.name or "", fragment.arguments))
            else:
                call = self.tool_calls[fragment.index]
                call.name += fragment.name or ""
                call.arguments += fragment.arguments
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason

    @property
    def content(self) -> list[ContentPart]:
        """The pieces of the turn in order; text next to text, and thinking next to thinking, is one piece."""
        if self._loose:
            self._parts = _merged([*self._parts, *self._loose])
            self._loose.clear()
        return list(self._parts)

    @property
    def text(self) -> str:
        """All text, without references and thinking."""
        return "".join(text_of_parts(part) for part in self.content)

    @property
    def thinking(self) -> str:
        """All thinking text."""
        return "".join(thinking_of_parts(part) for part in self.content)

    def to_wire(self) -> AssistantMessage:
        """The message that replays this turn in a later request."""
        content = self.content
        message: AssistantMessage = {"role": "assistant", "content": ""}
        if len(content) == 1 and _is_plain_text(content[0]):
            message["content"] = text_of_parts(content[0])
        elif content:
            message["content"] = content
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Turn):
            return NotImplemented
        return (self.index, self.content, self.tool_calls, self.finish_reason) == (
            other.index,
            other.content,
            other.tool_calls,
            other.finish_reason,
        )

    def __repr__(self) -> str:
        return (
            f"Turn(index={self.index}, content={self.content!r}, tool_calls={self.tool_calls!r}, "
            f"finish_reason={self.finish_reason!r})"
        )


def wire_id(call: dict[str, Any]) -> str | None:
    identity = call.get("id")
    return identity if isinstance(identity, str) and identity not in _NO_ID else None


def fresh_call_id() -> str:
    return uuid4().hex[:9]


def read_function(call: Any) -> tuple[str, str]:
    """The name and the arguments' JSON text of a tool call or a fragment of one."""
    if not isinstance(call, dict):
        raise malformed("tool_calls", "objects", call)
    function = call.get("function") or {}
    if not isinstance(function, dict):
        raise malformed("function", "an object", function)
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        arguments = to_json(arguments).decode()
    name = function.get("name") or ""
    if not isinstance(name, str):
        raise malformed("name", "a string", name)
    return name, arguments


def read_parts(content: Any) -> list[Any]:
    """Content in any of its forms as a list of parts, without empty text."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, Iterable) or isinstance(content, Mapping):
        raise malformed("content", "a string or a list", content)
    parts: list[Any] = []
    for item in content:
        if isinstance(item, str):
            parts += read_parts(item)
        elif not isinstance(item, dict):
            raise malformed("content", "strings and objects", item)
        elif item.get("type") == "thinking":
            parts.append(item | {"thinking": read_parts(item.get("thinking"))})
        elif item.get("type") == "reference" and isinstance(item.get("text"), str):
            # The schema has no text there, but it is seen: no cited word may be lost (langchain-ai/langchain#35259).
            parts += read_parts(item["text"])
            parts.append({key: value for key, value in item.items() if key != "text"})
        elif item.get("type") != "text" or item.get("text"):
            if item.get("type") == "text" and not isinstance(item["text"], str):
                raise malformed("text", "a string", item["text"])
            parts.append(item)
    return parts


def _is_plain_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and part.keys() == _TEXT_KEYS


def text_of_parts(part: Mapping[str, Any]) -> str:
    return str(part["text"]) if part.get("type") == "text" else ""


def thinking_of_parts(part: Mapping[str, Any]) -> str:
    return "".join(map(text_of_parts, part["thinking"])) if part.get("type") == "thinking" else ""


def _merged(pieces: Iterable[Any]) -> list[Any]:
    """The pieces as parts, with plain text next to plain text and thinking next to thinking made one."""
    parts: list[Any] = []
    texts: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            texts.append(piece)
            continue
        if _is_plain_text(piece):
            texts.append(piece["text"])
            continue
        _put_text(parts, texts)
        before = parts[-1] if parts else None
        if before is not None and piece.get("type") == before.get("type") == "thinking":
            parts[-1] = before | piece | {"thinking": [*before["thinking"], *piece["thinking"]]}
        else:
            parts.append(piece)
    _put_text(parts, texts)
    return [
        part | {"thinking": _merged(part["thinking"])} if part.get("type") == "thinking" else part for part in parts
    ]


def _put_text(parts: list[Any], texts: list[str]) -> None:
    text = "".join(texts)
    texts.clear()
    if text:
        parts.append({"type": "text", "text": text})


def as_list_of(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise malformed(name, "a list", value)
    return value


def malformed(name: str, expected: str, value: Any) -> ServerError:
    return ServerError(
        f"an answer came whose {name} should be {expected}; got {type(value).__name__}", origin="mistral"
    )
