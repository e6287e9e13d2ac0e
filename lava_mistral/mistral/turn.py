"""Hold an assistant's turn, whole or as a stream brings it. Pure.

A turn that was streamed and the same turn in one answer come out equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from lava_mistral.mistral.answer_shape import (
    as_list_of,
    fresh_call_id,
    malformed,
    plain_arguments,
    read_finish_reason,
    read_function,
    read_logprobs,
    read_message,
    read_parts,
    text_of_part,
    thinking_of_part,
    wire_id,
)
from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.types import AssistantMessage, ContentPart, Usage

CUT_OFF: Final = ("length", "model_length")
"""Finish reasons of an answer that was longer than allowed."""
_CITATIONS = frozenset(("reference", "tool_reference"))
_FILES = frozenset(("file", "tool_file", "image_url", "document_url", "input_audio", "resource", "resource_link"))


@dataclass(slots=True)
class ToolCall:
    """Hold a tool call of a turn.

    Attributes:
        id: the wire's id, or a fresh one of 9 characters where the wire gave none; unique in its turn.
        name: the name of the tool.
        arguments: JSON text as it came, complete or, while a stream runs, its beginning.
    """

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any] | None:
        """Return the arguments, or `None` when they are not a JSON object; JSON's null stands for none.

        Models write more than the JSON standard has: raw line breaks in texts (of code above all), `NaN`, integers of
        any length, JSON that is encoded twice. All of it is taken, and integers stay exact.
        """
        try:
            text = plain_arguments(self.arguments)
            value = json.loads(text or ("{}" if self.arguments else ""), strict=False)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


@dataclass(slots=True)
class ToolCallDelta:
    """Hold a fragment of a tool call.

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
    """Hold what one chunk adds to one choice.

    Attributes:
        index: which choice, from 0.
        text: the text in it, without references and thinking.
        thinking: the thinking text in it.
        parts: every piece of it in order, as wire parts; empty where the chunk holds a plain string.
        tool_calls: fragments of tool calls.
        finish_reason: on the last delta of a choice.
        usage: what the whole call has used so far. It stands on the last delta of its chunk; where several
            chunks carry it, the last one counts.
        logprobs: the log probabilities of its tokens, one object a token.
    """

    index: int
    text: str = ""
    thinking: str = ""
    parts: tuple[ContentPart, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    logprobs: tuple[Any, ...] = ()


class Turn:
    """Hold one assistant turn, complete or as far as it came.

    Attributes:
        index: which choice of the answer, from 0.
        tool_calls: the calls to run, in order; none that Mistral ran itself.
        finish_reason: why the turn ended; `None` while it runs.
        steps: the messages before the answer where tools ran on Mistral's side, as they came; complete at the end.
        logprobs: the log probabilities of the tokens, one object a token.
    """

    __slots__ = ("_loose", "_parts", "finish_reason", "index", "logprobs", "steps", "tool_calls")

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
        self.steps: list[Any] = []
        self.logprobs: list[Any] = []
        self._parts: list[ContentPart] = []
        # What came since the last look, not merged yet: a stream brings one word at a time.
        self._loose: list[str | ContentPart] = [] if content is None else read_parts(content)

    @classmethod
    def from_choice(cls, choice: Mapping[str, Any], place: int = 0, names: ToolNames = ToolNames()) -> Turn:  # noqa: B008
        """Return the turn in a choice of an answer that was not streamed.

        Args:
            choice: the choice.
            place: its place in the answer, where it does not say its index.
            names: of the request's tools, whose own the calls are given.

        Raises:
            ServerError: it has not the shape of a choice, or nothing is in it.
        """
        message, steps, ran = read_message(choice)
        index = choice.get("index")
        reason = read_finish_reason(choice)
        turn = cls.from_message(message, reason, index if type(index) is int else place, names)
        turn.tool_calls = [call for call in turn.tool_calls if call.id not in ran and names.runs_here(call.name)]
        turn.steps = steps
        turn.logprobs = read_logprobs(choice)
        if turn.is_empty:
            raise malformed("message", "an object with content or tool calls", None)
        turn.complete_calls()
        return turn

    @classmethod
    def from_message(
        cls,
        message: Mapping[str, Any],
        finish_reason: str | None = None,
        index: int = 0,
        names: ToolNames = ToolNames(),  # noqa: B008 - it never changes
    ) -> Turn:
        """Return the turn that a message holds.

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
            if not name:
                raise malformed("tool_calls", "calls with a name", call)
            identity = wire_id(call)
            if identity is None or any(other.id == identity for other in turn.tool_calls):
                identity = fresh_call_id()
            turn.tool_calls.append(ToolCall(identity, names.from_wire(name), plain_arguments(arguments)))
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
        self.logprobs += delta.logprobs
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.complete_calls()

    def complete_calls(self) -> None:
        """Give calls of an answer that was not cut off, and without arguments, an empty object."""
        if self.finish_reason not in (None, *CUT_OFF):
            for call in self.tool_calls:
                call.arguments = call.arguments or "{}"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it, and no reason why it ended."""
        return self.finish_reason is None and not (self._parts or self._loose or self.tool_calls)

    @property
    def content(self) -> list[ContentPart]:
        """The pieces of the turn in order; text next to text, and thinking next to thinking, is one piece."""
        if self._loose:
            _merge(self._parts, self._loose)
            self._loose.clear()
        return list(self._parts)

    @property
    def text(self) -> str:
        """All text, without references and thinking."""
        return "".join(text_of_part(part) for part in self.content)

    @property
    def thinking(self) -> str:
        """All thinking text."""
        return "".join(thinking_of_part(part) for part in self.content)

    @property
    def citations(self) -> list[ContentPart]:
        """The references to sources, of documents that were given and of tools that ran on Mistral's side."""
        return [part for part in self.content if part["type"] in _CITATIONS]

    @property
    def files(self) -> list[ContentPart]:
        """The files and images in the turn, and in its steps."""
        steps = (part for step in self.steps if step.get("role") == "tool" for part in read_parts(step.get("content")))
        return [part for part in (*steps, *self.content) if part["type"] in _FILES]

    def to_wire(self) -> AssistantMessage:
        """Return the message that replays this turn in a later request."""
        content = self.content
        message: AssistantMessage = {"role": "assistant", "content": ""}
        if len(content) == 1 and _kind(content[0]) == "text":
            message["content"] = text_of_part(content[0])
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


def _kind(piece: Any) -> str:
    """Return what a piece can be joined with: plain text and thinking with their like, the rest with nothing."""
    if isinstance(piece, str):
        return "text"
    return "marked text" if piece["type"] == "text" and len(piece) > 2 else str(piece["type"])


def _merge(parts: list[Any], pieces: Iterable[Any]) -> list[Any]:
    """Append pieces to parts, in place; no part that was there is changed, so that it can have been handed on."""
    for kind, run in groupby(pieces, _kind):
        if kind not in ("text", "thinking"):
            parts.extend(run)
            continue
        same = [parts.pop()] if parts and _kind(parts[-1]) == kind else []
        same.extend(run)
        if kind == "text":
            text = "".join(piece if isinstance(piece, str) else piece["text"] for piece in same)
            parts.append({"type": "text", "text": text})
        else:
            whole: dict[str, Any] = {}
            for piece in same:
                whole |= piece
            whole["thinking"] = _merge([], [thought for piece in same for thought in piece["thinking"]])
            parts.append(whole)
    return parts
