"""Hold an assistant's turn, whole or as a stream brings it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from lava_mistral.mistral.response_parsing import fresh_call_id, plain_arguments, read_parts, text_in, thinking_in
from lava_mistral.mistral.types import AssistantMessage, ContentPart, Usage

CUT_OFF: Final = ("length", "model_length")
"""Finish reasons of an answer that was longer than allowed."""
_CITATIONS = frozenset(("reference", "tool_reference"))
_FILES = frozenset(("file", "tool_file", "image_url", "document_url", "input_audio", "resource", "resource_link"))


@dataclass(slots=True)
class ToolCall:
    """Hold a tool call of a turn; `arguments` is JSON text as it came, while a stream runs its beginning.

    The id is the wire's, or a fresh one of 9 characters where the wire gave none; unique in its turn.
    """

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any] | None:
        """Return the arguments, also encoded twice or with raw line breaks; `None` when they are no JSON object."""
        try:
            text = plain_arguments(self.arguments)
            value = json.loads(text or ("{}" if self.arguments else ""), strict=False)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


@dataclass(slots=True)
class ToolCallDelta:
    """Hold a fragment of a tool call: a next piece of its arguments' JSON text and, as a rule at first alone, its name.

    `index` is the position of the call in its turn, from 0; the id is on the first fragment only.
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
        finish_reason: on the last delta of a choice.
        usage: what the whole call has used so far, on the last delta of a chunk that says so; the last one counts.
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


@dataclass(slots=True, eq=False, repr=False)
class Turn:
    """Hold one assistant turn, complete or as far as it came.

    Attributes:
        index: which choice of the answer, from 0.
        tool_calls: the calls to run, in order; none that Mistral ran itself.
        finish_reason: why the turn ended; `None` while it runs.
        steps: the messages before the answer where tools ran on Mistral's side, as they came; complete at the end.
        logprobs: the log probabilities of the tokens, one object a token.
        pieces: the content as it came, until somebody looks: a stream brings one word at a time. A run of thoughts is
            a list of texts: thousands of parts would keep the garbage collector busy.
    """

    index: int = 0
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    steps: list[Any] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    pieces: list[Any] = field(default_factory=list)

    def say(self, text: str, parts: Sequence[Any] = ()) -> None:
        """Add parts as `read_parts` gives them, or a text where there are none."""
        pieces = self.pieces
        for part in parts:
            only: Any = part["thinking"][0] if part["type"] == "thinking" and len(part["thinking"]) == 1 else None
            if only is None or len(part) > 2 or only["type"] != "text" or len(only) > 2:
                pieces.append(part)
            elif pieces and type(pieces[-1]) is list:
                pieces[-1].append(only["text"])
            else:
                pieces.append([only["text"]])
        if text and not parts:
            pieces.append(text)

    def add(self, delta: Delta) -> None:
        """Take what a delta adds; the turns of a stream run ahead of the deltas that it hands on."""
        self.say(delta.text, delta.parts)
        for fragment in delta.tool_calls:
            if fragment.index == len(self.tool_calls):
                call_id = fragment.id or fresh_call_id()
                self.tool_calls.append(ToolCall(call_id, fragment.name or "", fragment.arguments))
            else:
                call = self.tool_calls[fragment.index]
                call.name += fragment.name or ""
                call.arguments += fragment.arguments
        self.logprobs += delta.logprobs
        if delta.finish_reason is not None:
            self.finish(delta.finish_reason)

    def finish(self, reason: str) -> None:
        """Note why it ended; calls without arguments, of an answer that was not cut off, get an empty object."""
        self.finish_reason = reason
        if reason not in CUT_OFF:
            for call in self.tool_calls:
                call.arguments = call.arguments or "{}"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it, and no reason why it ended."""
        return self.finish_reason is None and not (self.pieces or self.tool_calls)

    @property
    def content(self) -> list[ContentPart]:
        """The pieces of the turn in order; text next to text, and thinking next to thinking, is one piece."""
        self.pieces = _merged(self.pieces)
        return self.pieces.copy()

    @property
    def text(self) -> str:
        """All text, without references and thinking."""
        return text_in(self.content)

    @property
    def thinking(self) -> str:
        """All thinking text."""
        return thinking_in(self.content)

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
        only_text = len(content) == 1 and _kind(content[0]) == "text"
        message: AssistantMessage = {"role": "assistant", "content": text_in(content) if only_text else content or ""}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return message

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Turn):
            return NotImplemented
        mine, its = ((turn.index, turn.content, turn.tool_calls, turn.finish_reason) for turn in (self, other))
        return mine == its

    def __repr__(self) -> str:
        return (
            f"Turn(index={self.index}, content={self.content!r}, tool_calls={self.tool_calls!r}, "
            f"finish_reason={self.finish_reason!r})"
        )


def _kind(piece: Any) -> str:
    """Return what a piece can be joined with: plain text and thinking with their like, the rest with nothing."""
    if type(piece) is str:
        return "text"
    if type(piece) is list:
        return "thinking"
    return "marked text" if piece["type"] == "text" and len(piece) > 2 else str(piece["type"])


def _merged(pieces: Iterable[Any]) -> list[Any]:
    """Return pieces as parts; no part in them is changed, so that it can have been handed on."""
    parts: list[Any] = []
    for kind, run in groupby(pieces, _kind):
        if kind == "text":
            text = "".join(piece if isinstance(piece, str) else piece["text"] for piece in run)
            parts.append({"type": "text", "text": text})
        elif kind == "thinking":
            whole: dict[str, Any] = {"type": "thinking"}
            thoughts: list[Any] = []
            for piece in run:
                whole |= {} if isinstance(piece, list) else piece
                thoughts += piece if isinstance(piece, list) else piece["thinking"]
            parts.append(whole | {"thinking": _merged(thoughts)})
        else:
            parts.extend(run)
    return parts
