"""Accumulate the chunks of one stream, or a whole answer, into turns. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from lava_mistral.mistral.response_parsing import (
    as_list,
    checked,
    content_of,
    fresh_call_id,
    known_id,
    malformed,
    plain_arguments,
    read_function,
    read_parts,
    text_in,
    thinking_in,
)
from lava_mistral.mistral.tools import NO_TOOLS, ToolNames
from lava_mistral.mistral.turn import Delta, ToolCall, ToolCallDelta, Turn
from lava_mistral.mistral.usage import Usage, known_usage


@dataclass(slots=True, eq=False, repr=False)
class TurnAccumulator:
    """Put the chunks of one stream together: a turn for each choice seen, by index.

    `id`, `model` and `created` (POSIX seconds) are those of the first chunk; `usage` is what the last one said that
    said so. Calls get the tools' own `names`.
    """

    names: ToolNames = NO_TOOLS
    turns: list[Turn] = field(default_factory=list)
    id: str = ""
    model: str = ""
    created: int = 0
    usage: Usage | None = None
    _choices: dict[int, _Message] = field(default_factory=dict)

    @property
    def has_steps(self) -> bool:
        """Whether tools run on Mistral's side, or may do so."""
        return self.names.built_in or any(choice.steps for choice in self._choices.values())

    @property
    def complete(self) -> bool:
        """Whether every choice seen has a finish reason, and there is one."""
        return bool(self.turns) and all(turn.finish_reason is not None for turn in self.turns)

    def add(self, chunk: Mapping[str, Any]) -> list[Delta]:
        """Return what a chunk adds: a delta for each choice that it says something of; raises ServerError."""
        # Shapes are looked at before `checked` is called: it would cost each chunk a tenth.
        if type(chunk) is not dict:
            checked(chunk, dict, "chunk")
        if not self.id:
            self.id = str(chunk.get("id") or "")
            self.model = str(chunk.get("model") or self.model)
            created = chunk.get("created")
            self.created = created if isinstance(created, int) else self.created
        choices = chunk.get("choices")
        if type(choices) is not list:
            choices = as_list(choices, "choices")
        deltas: list[Delta] = []
        for wire in choices:
            if type(wire) is not dict:
                checked(wire, dict, "choices' item")
            index, delta = wire.get("index") or 0, wire.get("delta")
            if delta is None:
                delta = wire.get("message") or {}
            if type(index) is not int:
                raise malformed("index", "an integer", index)
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = _Message(Turn(index), self.names)
                self.turns.append(choice.turn)
                self.turns.sort(key=attrgetter("index"))
            if type(delta) is not dict:
                checked(delta, dict, "delta")
            content = delta.get("content")
            plain = len(delta) == 1 and type(content) is str and len(wire) == 3 and not choice.steps
            if plain and wire.get("finish_reason", "") is None:
                # Nearly every chunk is a word and nothing else.
                if content:
                    choice.turn.pieces.append(content)
                    deltas.append(Delta(index, content))
            elif (made := choice.add(wire, delta)) is not None:
                deltas.append(made)
        if chunk.get("usage") and (usage := known_usage(chunk["usage"])) is not None:
            self.usage = usage
            if not deltas:
                deltas.append(Delta((choices[0].get("index") or 0) if choices else 0))
            deltas[-1].usage = usage
        return deltas

    def add_whole(self, completion: Mapping[str, Any]) -> list[Delta]:
        """Return what an answer adds that is not streamed; raises ServerError where it is none."""
        choices, places, kept = [], set(), []
        for choice in as_list(completion.get("choices"), "choices"):
            delta, steps = _answer_of(choice)
            choices.append({**choice, "delta": delta})
            kept.append(steps)
            if type(choice.get("index")) is int:
                places.add(choice["index"])
        if len(places) < len(choices):
            for place, choice in enumerate(choices):
                choice["index"] = place
        deltas = [*self.add({**completion, "choices": choices}), *self.end()]
        for choice, steps in zip(choices, kept, strict=True):
            turn = self._choices[choice["index"]].turn
            if turn.is_empty:
                raise malformed("message", "an object with content or tool calls", None)
            turn.steps = steps
        return deltas

    def end(self) -> list[Delta]:
        """Return the calls that were kept back, of choices that ended without a reason."""
        deltas = []
        for choice in self._choices.values():
            if choice.steps and choice.turn.finish_reason is None and (calls := choice.end_steps()):
                deltas.append(Delta(choice.turn.index, tool_calls=calls))
        return deltas


def _answer_of(choice: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return the message that answers as a delta, and the steps before it, where tools ran on Mistral's side."""
    several = as_list(checked(choice, dict, "choices' item").get("messages"), "messages")
    messages = several or [choice.get("message")]
    for message in messages:
        read_parts(checked(message, dict, "message").get("content"))
    last = next((m for m in reversed(messages) if not several or m.get("role") in ("assistant", None)), None)
    if last is None:
        raise malformed("messages", "a list with an assistant's message", messages)
    ran = {known_id(m.get("tool_call_id")) for m in messages if m.get("role") == "tool"} - {None}
    calls = as_list(last.get("tool_calls"), "tool_calls")
    if not all(isinstance(call, dict) and read_function(call)[0] for call in calls):
        raise malformed("tool_calls", "calls with a name", calls)
    to_run = [{**call, "index": at} for at, call in enumerate(calls) if known_id(call.get("id")) not in ran]
    steps = [m for m in messages if m is not last or len(to_run) < len(calls)]
    return {"content": content_of(last), "tool_calls": to_run}, steps


@dataclass(slots=True)
class _Message:
    """Grow the turn of one choice, or one of its steps where tools run on Mistral's side.

    Servers differ: Mistral sends a whole call in a delta; others send fragments, of which only the first has an id and
    a name (which may come in pieces too); the index may be missing, or 0 on every call.

    A delta of a step says the step's index and role (inferred from the SDK's models). The calls of an assistant's step
    are kept back until the end, when it is known which of them Mistral ran.
    """

    turn: Turn
    names: ToolNames
    role: str = "assistant"
    result_of: str | None = None
    steps: dict[int, _Message] = field(default_factory=dict)
    # The name of each call as far as it came.
    _wire_names: list[str] = field(default_factory=list)
    _by_id: dict[str, int] = field(default_factory=dict)
    _by_index: dict[int, int] = field(default_factory=dict)
    _last: int | None = None

    def add_call(self, wire: Any) -> ToolCallDelta:
        """Add a tool call or a fragment of one."""
        name, arguments = read_function(wire)
        call_id = known_id(wire.get("id"))
        index = wire["index"] if type(wire.get("index")) is int else None
        position = self._continued(call_id, index, name, arguments)
        if position is None:
            position = len(self.turn.tool_calls)
            if call_id is None or call_id in self._by_id:
                call_id = fresh_call_id()
            self._by_id[call_id] = position
            own, arguments = self.names.from_wire(name), plain_arguments(arguments)
            self._wire_names.append(name)
            self.turn.tool_calls.append(ToolCall(call_id, own, arguments))
            fragment = ToolCallDelta(position, call_id, own or None, arguments)
        else:
            call = self.turn.tool_calls[position]
            more = "" if name == self._wire_names[position] else name
            if more:
                shown, self._wire_names[position] = call.name, self._wire_names[position] + more
                call.name = self.names.from_wire(self._wire_names[position])
                # What was handed on can't be taken back.
                more = call.name.removeprefix(shown) if call.name.startswith(shown) else more
            call.arguments += arguments
            fragment = ToolCallDelta(position, None, more or None, arguments)
        if index is not None:
            self._by_index[index] = position
        self._last = position
        return fragment

    def _continued(self, call_id: str | None, index: int | None, name: str, arguments: str) -> int | None:
        """Return the position of the call that the fragment continues, or `None` when it begins one."""
        here = self._by_index.get(index) if index is not None else self._last
        if call_id is not None:
            known = self._by_id.get(call_id)
            if known is not None:
                return known if self._fits(known, name, arguments, has_id=True) else None
            # An id that was never seen begins a call, unless a server invents one for every fragment.
            return None if name else here
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

    def add(self, choice: dict[str, Any], wire: dict[str, Any]) -> Delta | None:
        """Return what the delta of a choice adds; `None` where that is nothing."""
        turn, finish_reason = self.turn, choice.get("finish_reason") or None
        content = content_of(wire) if "reasoning_content" in wire or "reasoning" in wire else wire.get("content")
        if finish_reason is not None and type(finish_reason) is not str:
            checked(finish_reason, str, "finish_reason")
        if (calls := wire.get("tool_calls")) is not None:
            checked(calls, list, "tool_calls")
        tokens = said.get("content") if isinstance(said := choice.get("logprobs"), dict) else None
        logprobs = tuple(tokens) if isinstance(tokens, list) else ()
        text = content if type(content) is str else ""
        parts = tuple(read_parts(content)) if content and not text else ()
        fragments: tuple[ToolCallDelta, ...] = ()
        in_a_step = wire.get("index") is not None or wire.get("role") == "tool" or self.steps
        if in_a_step or (calls and self.names.built_in):
            step = self._step(wire)
            step.turn.say(text, parts)
            step.result_of = known_id(wire.get("tool_call_id")) or step.result_of
            for call in calls or ():
                step.add_call(call)
            if step.role == "tool":
                text, parts = "", ()
        elif calls:
            fragments = tuple(map(self.add_call, calls))
        if text or parts:
            turn.say(text, parts)
        turn.logprobs += logprobs
        if finish_reason is not None:
            if not all(map(attrgetter("name"), turn.tool_calls)):
                raise malformed("tool_calls", "calls with a name", turn.tool_calls)
            if self.steps:
                fragments += self.end_steps()
            turn.finish(finish_reason)
        elif not (text or parts or fragments or logprobs):
            return None
        thinking = ""
        if parts:
            text, thinking = text_in(parts), thinking_in(parts)
        return Delta(turn.index, text, thinking, parts, fragments, finish_reason, None, logprobs)

    def _step(self, wire: dict[str, Any]) -> _Message:
        """Return the step that a delta belongs to."""
        position, role = wire.get("index"), wire.get("role")
        if type(position) is not int:
            # Another role begins another step.
            position = max(self.steps, default=0)
            if position in self.steps and role not in (None, self.steps[position].role):
                position += 1
        if position not in self.steps:
            self.steps[position] = _Message(Turn(), self.names, str(role or "assistant"))
        return self.steps[position]

    def end_steps(self) -> tuple[ToolCallDelta, ...]:
        """Note the steps in the turn, and return the calls of the last message that Mistral did not run."""
        steps = [self.steps[position] for position in sorted(self.steps)]
        self.steps.clear()
        ran = {step.result_of for step in steps if step.role == "tool"}
        last = next((step for step in reversed(steps) if step.role == "assistant"), None)
        calls = last.turn.tool_calls if last is not None else []
        to_run = [call for call in calls if call.id not in ran and self.names.runs_here(call.name)]
        self.turn.steps = []
        for step in steps:
            if step is not last or len(to_run) < len(calls):
                result = {} if step.result_of is None else {"tool_call_id": step.result_of}
                self.turn.steps.append({**step.turn.to_wire(), "role": step.role, **result})
        first = len(self.turn.tool_calls)
        self.turn.tool_calls += to_run
        return tuple(ToolCallDelta(first + at, c.id, c.name, c.arguments) for at, c in enumerate(to_run))
