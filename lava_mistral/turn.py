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
from lava_mistral.json_text import to_json
from lava_mistral.wire import AssistantMessage, ChatChunk, ContentPart, Usage

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
        name: on the first fragment that names the tool only.
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
        self._loose: list[str | ContentPart] = [*_parts(content)]

    @classmethod
    def from_message(cls, message: Mapping[str, Any], finish_reason: str | None = None, index: int = 0) -> Turn:
        """The turn in an answer that was not streamed.

        Args:
            message: the choice's `message`.
            finish_reason: the choice's `finish_reason`.
            index: the choice's `index`.

        Raises:
            ServerError: the message is not one.
        """
        if not isinstance(message, Mapping):
            raise _malformed("message", "an object", message)
        turn = cls(index, message.get("content"), finish_reason=finish_reason)
        for call in _list(message.get("tool_calls"), "tool_calls"):
            name, arguments = _function(call)
            identity = _wire_id(call)
            if identity is None or any(other.id == identity for other in turn.tool_calls):
                identity = _fresh_id()
            turn.tool_calls.append(ToolCall(identity, name, arguments))
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
                identity = fragment.id or _fresh_id()
                self.tool_calls.append(ToolCall(identity, fragment.name or "", fragment.arguments))
            else:
                call = self.tool_calls[fragment.index]
                call.name = fragment.name or call.name
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
        return "".join(_text_of(part) for part in self.content)

    @property
    def thinking(self) -> str:
        """All thinking text."""
        return "".join(_thinking_of(part) for part in self.content)

    def to_wire(self) -> AssistantMessage:
        """The message that replays this turn in a later request."""
        content = self.content
        message: AssistantMessage = {"role": "assistant", "content": ""}
        if len(content) == 1 and _is_plain_text(content[0]):
            message["content"] = _text_of(content[0])
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


class TurnAssembler:
    """Puts the chunks of one stream together.

    Attributes:
        turns: one for each choice seen, by index.
        id: the answer's id; empty until the first chunk.
        model: the model that answers; empty until the first chunk.
        created: POSIX seconds; 0 until the first chunk.
        usage: what the call has used, once a chunk said so.
    """

    __slots__ = ("_growing", "created", "id", "model", "turns", "usage")

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.id = ""
        self.model = ""
        self.created = 0
        self.usage: Usage | None = None
        self._growing: dict[int, _GrowingTurn] = {}

    @property
    def complete(self) -> bool:
        """Whether every choice seen has a finish reason, and there is one."""
        return bool(self.turns) and all(turn.finish_reason is not None for turn in self.turns)

    def add(self, chunk: ChatChunk) -> list[Delta]:
        """What a chunk adds: nothing, one delta, or one for each of several choices.

        Usage on a chunk without choices comes as a delta of choice 0.

        Raises:
            ServerError: the chunk has not the shape of one.
        """
        if not isinstance(chunk, dict):
            raise _malformed("chunk", "an object", chunk)
        if not self.id:
            self._read_head(chunk)
        usage = chunk.get("usage")
        choices = _list(chunk.get("choices"), "choices")
        deltas: list[Delta] = []
        for choice in choices:
            delta = self._add_choice(choice)
            if delta is not None:
                deltas.append(delta)
        if usage:
            if not isinstance(usage, dict):
                raise _malformed("usage", "an object", usage)
            self.usage = usage
            if deltas:
                deltas[-1].usage = usage
            else:
                deltas.append(Delta((choices[0].get("index") or 0) if choices else 0, usage=usage))
        return deltas

    def _read_head(self, chunk: ChatChunk) -> None:
        self.id = chunk.get("id") or ""
        self.model = chunk.get("model") or self.model
        self.created = chunk.get("created") or self.created

    def _add_choice(self, choice: Any) -> Delta | None:
        if not isinstance(choice, dict):
            raise _malformed("choices", "objects", choice)
        index = choice.get("index") or 0
        if type(index) is not int:
            raise _malformed("index", "an integer", index)
        growing = self._growing.get(index)
        if growing is None:
            growing = self._begin(index)
        turn = growing.turn
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise _malformed("delta", "an object", delta)
        content = delta.get("content")
        finish_reason = choice.get("finish_reason")
        calls = delta.get("tool_calls")
        if type(content) is str and not calls:
            if content:
                turn._loose.append(content)
            elif finish_reason is None:
                return None
            if finish_reason is not None:
                turn.finish_reason = finish_reason
            return Delta(index, content, "", (), (), finish_reason)
        text = thinking = ""
        parts: tuple[ContentPart, ...] = ()
        if isinstance(content, str):
            text = content
            turn._loose.append(text)
        else:
            parts = tuple(_parts(content))
            turn._loose.extend(parts)
            text = "".join(map(_text_of, parts))
            thinking = "".join(map(_thinking_of, parts))
        fragments = tuple(growing.add_call(call) for call in _list(calls, "tool_calls"))
        if finish_reason is not None:
            turn.finish_reason = finish_reason
        elif not (text or parts or fragments):
            return None
        return Delta(index, text, thinking, parts, fragments, finish_reason)

    def _begin(self, index: int) -> _GrowingTurn:
        turn = Turn(index)
        self.turns.append(turn)
        self.turns.sort(key=lambda each: each.index)
        growing = self._growing[index] = _GrowingTurn(turn)
        return growing


class _GrowingTurn:
    """Finds out which tool call a fragment belongs to.

    Servers differ: Mistral sends a whole call in a delta; others send fragments, of which only the first has an
    id and a name, the rest an id of `null`, `"null"` or `""`; the index may be missing, or 0 on every call.
    """

    __slots__ = ("_by_id", "_by_index", "_last", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._by_id: dict[str, int] = {}
        self._by_index: dict[int, int] = {}
        self._last: int | None = None

    def add_call(self, wire: Any) -> ToolCallDelta:
        name, arguments = _function(wire)
        identity = _wire_id(wire)
        index = wire["index"] if type(wire.get("index")) is int else None
        position = self._continued(identity, index, name, arguments)
        if position is None:
            position = len(self.turn.tool_calls)
            if identity is None or identity in self._by_id:
                identity = _fresh_id()
            self._by_id[identity] = position
            self.turn.tool_calls.append(ToolCall(identity, name, arguments))
            fragment = ToolCallDelta(position, identity, name or None, arguments)
        else:
            call = self.turn.tool_calls[position]
            late_name = name if not call.name and name else None
            if late_name is not None:
                call.name = late_name
            call.arguments += arguments
            fragment = ToolCallDelta(position, None, late_name, arguments)
        if index is not None:
            self._by_index[index] = position
        self._last = position
        return fragment

    def _continued(self, identity: str | None, index: int | None, name: str, arguments: str) -> int | None:
        """The position of the call that the fragment continues, or `None` when it begins one."""
        here = self._by_index.get(index) if index is not None else self._last
        if identity is not None:
            known = self._by_id.get(identity)
            if known is not None:
                return known if self._fits(known, name, arguments) else None
            # An id that was never seen begins a call, unless a server invents one for every fragment.
            return here if not name and here is not None else None
        if not name:
            return here if here is not None else self._last
        return here if here is not None and self._fits(here, name, arguments) else None

    def _fits(self, position: int, name: str, arguments: str) -> bool:
        """Whether a fragment that repeats an id or an index can be more of that call, not a parallel one."""
        call = self.turn.tool_calls[position]
        if name and call.name and name != call.name:
            return False
        return not (name and arguments and call.parsed() is not None)


def _wire_id(call: dict[str, Any]) -> str | None:
    identity = call.get("id")
    return identity if isinstance(identity, str) and identity not in _NO_ID else None


def _fresh_id() -> str:
    return uuid4().hex[:9]


def _function(call: Any) -> tuple[str, str]:
    """The name and the arguments' JSON text of a tool call or a fragment of one."""
    if not isinstance(call, dict):
        raise _malformed("tool_calls", "objects", call)
    function = call.get("function") or {}
    if not isinstance(function, dict):
        raise _malformed("function", "an object", function)
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        arguments = to_json(arguments).decode()
    name = function.get("name") or ""
    if not isinstance(name, str):
        raise _malformed("name", "a string", name)
    return name, arguments


def _parts(content: Any) -> list[Any]:
    """Content in any of its forms as a list of parts, without empty text."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, Iterable) or isinstance(content, Mapping):
        raise _malformed("content", "a string or a list", content)
    parts: list[Any] = []
    for item in content:
        if isinstance(item, str):
            parts += _parts(item)
        elif not isinstance(item, dict):
            raise _malformed("content", "strings and objects", item)
        elif item.get("type") == "thinking":
            parts.append(item | {"thinking": _parts(item.get("thinking"))})
        elif item.get("type") == "reference" and isinstance(item.get("text"), str):
            # The schema has no text there, but it is seen: no cited word may be lost (langchain-ai/langchain#35259).
            parts += _parts(item["text"])
            parts.append({key: value for key, value in item.items() if key != "text"})
        elif item.get("type") != "text" or item.get("text"):
            if item.get("type") == "text" and not isinstance(item["text"], str):
                raise _malformed("text", "a string", item["text"])
            parts.append(item)
    return parts


def _is_plain_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and part.keys() == _TEXT_KEYS


def _text_of(part: Mapping[str, Any]) -> str:
    return str(part["text"]) if part.get("type") == "text" else ""


def _thinking_of(part: Mapping[str, Any]) -> str:
    return "".join(map(_text_of, part["thinking"])) if part.get("type") == "thinking" else ""


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


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _malformed(name, "a list", value)
    return value


def _malformed(name: str, expected: str, value: Any) -> ServerError:
    return ServerError(
        f"an answer came whose {name} should be {expected}; got {type(value).__name__}", origin="mistral"
    )
