"""Accumulate the chunks of one stream into turns. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, cast

from lava_mistral.mistral.answer_shape import (
    as_list_of,
    fresh_call_id,
    malformed,
    plain_arguments,
    read_finish_reason,
    read_function,
    read_logprobs,
    read_parts,
    text_of_part,
    thinking_of_part,
    wire_id,
)
from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.turn import Delta, ToolCall, ToolCallDelta, Turn
from lava_mistral.mistral.types import ChatChunk, ContentPart, Usage
from lava_mistral.mistral.usage import known_usage


class TurnAccumulator:
    """Put the chunks of one stream together.

    Args:
        names: of the request's tools, whose own the calls are given.

    Attributes:
        turns: one for each choice seen, by index.
        id: the answer's id; empty until the first chunk.
        model: the model that answers; empty until the first chunk.
        created: POSIX seconds; 0 until the first chunk.
        usage: what the call has used, once a chunk said so.
    """

    __slots__ = ("_choices", "_names", "created", "id", "model", "turns", "usage")

    def __init__(self, names: ToolNames = ToolNames()) -> None:  # noqa: B008 - it never changes
        self._names = names
        self.turns: list[Turn] = []
        self.id = ""
        self.model = ""
        self.created = 0
        self.usage: Usage | None = None
        self._choices: dict[int, _Choice] = {}

    @property
    def complete(self) -> bool:
        """Whether every choice seen has a finish reason, and there is one."""
        return bool(self.turns) and all(turn.finish_reason is not None for turn in self.turns)

    @property
    def is_empty(self) -> bool:
        """Whether no choice has anything in it, nor a reason why it ended."""
        return all(turn.is_empty for turn in self.turns)

    def add(self, chunk: ChatChunk) -> list[Delta]:
        """Return what a chunk adds: nothing, one delta, or one for each of several choices.

        Usage on a chunk without choices comes as a delta of choice 0.

        Raises:
            ServerError: the chunk has not the shape of one.
        """
        if not isinstance(chunk, dict):
            raise malformed("chunk", "an object", chunk)
        if not self.id:
            self.id = str(chunk.get("id") or "")
            self.model = str(chunk.get("model") or self.model)
            created = chunk.get("created")
            self.created = created if isinstance(created, int) else self.created
        choices = as_list_of(chunk.get("choices"), "choices")
        deltas: list[Delta] = []
        for choice in choices:
            delta = self._add_choice(choice)
            if delta is not None:
                deltas.append(delta)
        if chunk.get("usage") and (usage := known_usage(chunk["usage"])) is not None:
            self.usage = usage
            if not deltas:
                deltas.append(Delta((choices[0].get("index") or 0) if choices else 0))
            deltas[-1].usage = usage
        return deltas

    def end(self) -> list[Delta]:
        """Return the calls that were kept back, of choices that ended without a reason."""
        deltas = []
        for choice in self._choices.values():
            if choice.turn.finish_reason is None and (calls := choice.end_steps()):
                deltas.append(Delta(choice.turn.index, tool_calls=calls))
        return deltas

    def _add_choice(self, wire: Any) -> Delta | None:
        if not isinstance(wire, dict):
            raise malformed("choices", "objects", wire)
        index = wire.get("index") or 0
        if type(index) is not int:
            raise malformed("index", "an integer", index)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(Turn(index), self._names)
            self.turns.append(choice.turn)
            self.turns.sort(key=attrgetter("index"))
        delta = wire.get("delta") or {}
        if not isinstance(delta, dict):
            raise malformed("delta", "an object", delta)
        content = delta.get("content")
        if len(delta) == 1 and type(content) is str and len(wire) == 3 and wire.get("finish_reason", ...) is None:
            # Nearly every chunk is a word and nothing else.
            return choice.say(content) if content else None
        finish_reason = read_finish_reason(wire)
        logprobs = tuple(read_logprobs(wire)) if wire.get("logprobs") else ()
        out = choice.add(delta, finish_reason, logprobs)
        if finish_reason is None and not (out.text or out.parts or out.tool_calls or logprobs):
            return None
        return out


def as_chunk(completion: Mapping[str, Any]) -> ChatChunk:
    """Return a whole answer as the chunk of a stream that brings all of it at once."""
    choices: list[Any] = []
    for choice in as_list_of(completion.get("choices"), "choices"):
        if not isinstance(choice, dict):
            raise malformed("choices", "objects", choice)
        *steps, last = as_list_of(choice.get("messages"), "messages") or [choice.get("message")]
        if steps and not all(isinstance(message, dict) for message in (*steps, last)):
            raise malformed("messages", "objects", choice["messages"])
        place = {"index": choice.get("index")}
        choices += [{**place, "delta": {**step, "index": at}} for at, step in enumerate(steps)]
        choices.append({**choice, "delta": {**last, "index": len(steps)} if steps else last})
    return cast("ChatChunk", {**completion, "choices": choices})


class _Choice:
    """Grow the turn of one choice, and its steps where tools run on Mistral's side.

    A delta of a step says the step's index and role (inferred from the SDK's models). The calls of an assistant's step
    are kept back until the end, when it is known which of them Mistral ran.
    """

    __slots__ = ("_calls", "_names", "_steps", "turn")

    def __init__(self, turn: Turn, names: ToolNames) -> None:
        self.turn = turn
        self._names = names
        self._calls: _Calls | None = None
        self._steps: dict[int, _Step] = {}

    def say(self, text: str) -> Delta:
        """Add a text of the answer that comes alone."""
        if self._steps:
            return self.add({"content": text}, None, ())
        self.turn._loose.append(text)
        return Delta(self.turn.index, text)

    def add(self, wire: dict[str, Any], finish_reason: str | None, logprobs: tuple[Any, ...]) -> Delta:
        content, calls = wire.get("content"), wire.get("tool_calls")
        text = thinking = ""
        parts: tuple[ContentPart, ...] = ()
        if type(content) is str:
            text = content
        elif content:
            parts = tuple(read_parts(content))
            text = "".join(map(text_of_part, parts))
            thinking = "".join(map(thinking_of_part, parts))
        fragments: tuple[ToolCallDelta, ...] = ()
        position = wire.get("index")
        if position is not None or wire.get("role") == "tool" or self._steps or (calls and self._names.built_in):
            role = self._add_step(wire, position, parts or ((text,) if text else ()))
            if role == "tool":
                text, thinking, parts = "", "", ()
        elif calls:
            self._calls = self._calls or _Calls(self.turn, self._names)
            fragments = tuple(map(self._calls.add, as_list_of(calls, "tool_calls")))
        if parts:
            self.turn._loose.extend(parts)
        elif text:
            self.turn._loose.append(text)
        self.turn.logprobs += logprobs
        if finish_reason is not None:
            if not all(map(attrgetter("name"), self.turn.tool_calls)):
                raise malformed("tool_calls", "calls with a name", self.turn.tool_calls)
            if self._steps:
                fragments = self.end_steps()
            self.turn.finish_reason = finish_reason
            self.turn.complete_calls()
        return Delta(self.turn.index, text, thinking, parts, fragments, finish_reason, None, logprobs)

    def _add_step(self, wire: dict[str, Any], position: Any, pieces: tuple[Any, ...]) -> str:
        """Add a delta to the step that it belongs to; return the step's role."""
        if type(position) is not int:
            # Another role begins another step.
            position = max(self._steps, default=0)
            last = self._steps.get(position)
            if last is not None and wire.get("role") not in (None, last.role):
                position += 1
        step = self._steps.get(position)
        if step is None:
            step = self._steps[position] = _Step(str(wire.get("role") or "assistant"), self._names)
        step.turn._loose.extend(pieces)
        step.call_id = wire_id({"id": wire.get("tool_call_id")}) or step.call_id
        for call in as_list_of(wire.get("tool_calls"), "tool_calls"):
            step.calls.add(call)
        return step.role

    def end_steps(self) -> tuple[ToolCallDelta, ...]:
        """Note the steps in the turn, and return the calls of the last message that Mistral did not run."""
        steps = [self._steps[position] for position in sorted(self._steps)]
        self._steps.clear()
        ran = {step.call_id for step in steps if step.role == "tool"}
        last = next((step for step in reversed(steps) if step.role == "assistant"), None)
        calls = last.turn.tool_calls if last is not None else []
        to_run = [call for call in calls if call.id not in ran and self._names.runs_here(call.name)]
        self.turn.steps = [step.to_wire() for step in steps if step is not last or len(to_run) < len(calls)]
        first = len(self.turn.tool_calls)
        self.turn.tool_calls += to_run
        return tuple(ToolCallDelta(first + at, c.id, c.name, c.arguments) for at, c in enumerate(to_run))


class _Step:
    """Grow one message of several in a choice."""

    __slots__ = ("call_id", "calls", "role", "turn")

    def __init__(self, role: str, names: ToolNames) -> None:
        self.role = role
        self.turn = Turn()
        self.calls = _Calls(self.turn, names)
        self.call_id: str | None = None

    def to_wire(self) -> dict[str, Any]:
        message: dict[str, Any] = {**self.turn.to_wire(), "role": self.role}
        return message if self.call_id is None else message | {"tool_call_id": self.call_id}


class _Calls:
    """Grow the tool calls of a turn: find out which of them a fragment belongs to.

    Servers differ: Mistral sends a whole call in a delta; others send fragments, of which only the first has an
    id and a name, the rest an id of `null`, `"null"` or `""`; the index may be missing, or 0 on every call; a name may
    come in pieces.
    """

    __slots__ = ("_by_id", "_by_index", "_last", "_names", "_wire_names", "turn")

    def __init__(self, turn: Turn, names: ToolNames) -> None:
        self.turn = turn
        self._names = names
        # The name of each call as far as it came.
        self._wire_names: list[str] = []
        self._by_id: dict[str, int] = {}
        self._by_index: dict[int, int] = {}
        self._last: int | None = None

    def add(self, wire: Any) -> ToolCallDelta:
        name, arguments = read_function(wire)
        identity = wire_id(wire)
        index = wire["index"] if type(wire.get("index")) is int else None
        position = self._continued(identity, index, name, arguments)
        if position is None:
            position = len(self.turn.tool_calls)
            if identity is None or identity in self._by_id:
                identity = fresh_call_id()
            self._by_id[identity] = position
            own, arguments = self._names.from_wire(name), plain_arguments(arguments)
            self._wire_names.append(name)
            self.turn.tool_calls.append(ToolCall(identity, own, arguments))
            fragment = ToolCallDelta(position, identity, own or None, arguments)
        else:
            call = self.turn.tool_calls[position]
            more = "" if name == self._wire_names[position] else name
            if more:
                shown, self._wire_names[position] = call.name, self._wire_names[position] + more
                call.name = self._names.from_wire(self._wire_names[position])
                # What was handed on can't be taken back.
                more = call.name.removeprefix(shown) if call.name.startswith(shown) else more
            call.arguments += arguments
            fragment = ToolCallDelta(position, None, more or None, arguments)
        if index is not None:
            self._by_index[index] = position
        self._last = position
        return fragment

    def _continued(self, identity: str | None, index: int | None, name: str, arguments: str) -> int | None:
        """Return the position of the call that the fragment continues, or `None` when it begins one."""
        here = self._by_index.get(index) if index is not None else self._last
        if identity is not None:
            known = self._by_id.get(identity)
            if known is not None:
                return known if self._fits(known, name, arguments, has_id=True) else None
            # An id that was never seen begins a call, unless a server invents one for every fragment.
            return here if not name and here is not None else None
        if not name:
            return here if here is not None else self._last
        return here if here is not None and self._fits(here, name, arguments, has_id=False) else None

    def _fits(self, position: int, name: str, arguments: str, *, has_id: bool) -> bool:
        """Return whether a fragment that repeats an id or an index can be more of that call, not a parallel one."""
        call, known = self.turn.tool_calls[position], self._wire_names[position]
        if name and known and name != known:
            # More of the name comes before any arguments; beside an id it is another call that has some.
            return not call.arguments and not (arguments and has_id)
        return not (name and arguments and call.parsed() is not None)
