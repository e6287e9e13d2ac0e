"""Accumulate the chunks of one stream into turns."""

from __future__ import annotations

from typing import Any

from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.turn import (
    Delta,
    ToolCall,
    ToolCallDelta,
    Turn,
    as_list_of,
    fresh_call_id,
    malformed,
    read_function,
    read_parts,
    text_of_parts,
    thinking_of_parts,
    wire_id,
)
from lava_mistral.mistral.types import ChatChunk, ContentPart, Usage


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

    __slots__ = ("_growing", "_names", "created", "id", "model", "turns", "usage")

    def __init__(self, names: ToolNames = ToolNames()) -> None:  # noqa: B008 - it never changes
        self._names = names
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
            raise malformed("chunk", "an object", chunk)
        if not self.id:
            self._read_head(chunk)
        usage = chunk.get("usage")
        choices = as_list_of(chunk.get("choices"), "choices")
        deltas: list[Delta] = []
        for choice in choices:
            delta = self._add_choice(choice)
            if delta is not None:
                deltas.append(delta)
        if usage:
            if not isinstance(usage, dict):
                raise malformed("usage", "an object", usage)
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
            raise malformed("choices", "objects", choice)
        index = choice.get("index") or 0
        if type(index) is not int:
            raise malformed("index", "an integer", index)
        growing = self._growing.get(index)
        if growing is None:
            growing = self._begin(index)
        turn = growing.turn
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise malformed("delta", "an object", delta)
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
            parts = tuple(read_parts(content))
            turn._loose.extend(parts)
            text = "".join(map(text_of_parts, parts))
            thinking = "".join(map(thinking_of_parts, parts))
        fragments = tuple(growing.add_call(call) for call in as_list_of(calls, "tool_calls"))
        if finish_reason is not None:
            turn.finish_reason = finish_reason
        elif not (text or parts or fragments):
            return None
        return Delta(index, text, thinking, parts, fragments, finish_reason)

    def _begin(self, index: int) -> _GrowingTurn:
        turn = Turn(index)
        self.turns.append(turn)
        self.turns.sort(key=lambda each: each.index)
        growing = self._growing[index] = _GrowingTurn(turn, self._names)
        return growing


class _GrowingTurn:
    """Find out which tool call a fragment belongs to.

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

    def add_call(self, wire: Any) -> ToolCallDelta:
        name, arguments = read_function(wire)
        identity = wire_id(wire)
        index = wire["index"] if type(wire.get("index")) is int else None
        position = self._continued(identity, index, name, arguments)
        if position is None:
            position = len(self.turn.tool_calls)
            if identity is None or identity in self._by_id:
                identity = fresh_call_id()
            self._by_id[identity] = position
            own = self._names.from_wire(name)
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
        call, known = self.turn.tool_calls[position], self._wire_names[position]
        if name and known and name != known:
            # More of the name comes before any arguments.
            return not (arguments or call.arguments)
        return not (name and arguments and call.parsed() is not None)
