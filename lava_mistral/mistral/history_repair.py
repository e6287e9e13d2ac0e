"""Prepare a conversation for a request: check it, and repair what Mistral would refuse. Pure.

The order that Mistral takes (its error 3230; the request validators of mistral-common hold the same rules):

- a system message comes first, or after a system or user message;
- each call of an assistant message has exactly one result, and the results follow that message directly;
- after them comes an assistant message, or the end;
- the last message is not an assistant's, unless it is marked as the `prefix` that the answer continues.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral import message_normalization as shape
from lava_mistral.mistral.limits import MAX_TOOLS
from lava_mistral.mistral.message_normalization import AnyMessage, clean, mistral_tool_id, says_nothing, wire_id
from lava_mistral.mistral.types import Message, ResponseFormat, Tool, ToolChoice

_NOT_RUN = "This call was not run."
_logger = logging.getLogger("lava_mistral")


def prepare(
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    tool_choice: ToolChoice | None = None,
    response_format: ResponseFormat | None = None,
    repair: bool = True,
) -> list[Message]:
    """Return the messages as Mistral takes them, the same ones where they need no change; the given list stays.

    With `repair`, what Mistral would refuse is repaired, every word in its order, and the logger `lava_mistral` says
    what was done; else, or where nothing can be repaired, it raises InvalidRequestError.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(f"{len(tools)} tools were given; Mistral takes at most {MAX_TOOLS}.")
    form = response_format.get("type") if response_format else None
    # A prefix would be the beginning of the JSON, or keep an agent from calling its tools.
    go_on = "Give your answer as JSON." if form in ("json_object", "json_schema") else None
    if go_on is None and tools and tool_choice != "none":
        go_on = "Go on."
    given = cast("Sequence[AnyMessage]", messages)
    if _is_plain(given):
        out = list(given)
    else:
        repaired = HistoryRepair(given, strict=not repair)
        repaired.end(go_on)
        if repaired.done:
            _logger.info("repair_messages: %s", "; ".join(repaired.done))
        out = repaired.out
    if not out:
        raise InvalidRequestError("A conversation needs at least one message; got none.")
    if form == "json_object" and not any(
        "json" in shape.text_of(message.get("content")).lower()
        for message in out
        if message["role"] in ("system", "user")
    ):
        raise InvalidRequestError(
            "response_format json_object needs the word JSON in a system or user message; without it the model may "
            "send white space without end.",
            advice="Ask for JSON in the prompt, or take json_schema.",
        )
    return cast("list[Message]", out)


def _is_plain(messages: Sequence[AnyMessage]) -> bool:
    """Whether the messages are texts in the order that Mistral takes, as those of most chats are."""
    before = "system"
    for message in messages:
        if type(message) is not dict or len(message) != 2 or type(message.get("content")) is not str:
            return False
        role = message.get("role")
        if role == "assistant":
            if not message["content"]:
                return False
        elif role != "user" and (role != "system" or before == "assistant"):
            return False
        before = role
    return before != "assistant"


class HistoryRepair:
    """Put a conversation into order: every word stays, in its order. `strict` refuses what has to be repaired.

    `out` has the messages, those that need no change themselves; `done` says what was done, a phrase each.
    """

    def __init__(self, messages: Sequence[AnyMessage], *, strict: bool) -> None:
        self.out: list[AnyMessage] = []
        self.done: list[str] = []
        self._strict = strict
        self._messages = messages
        self._roles: list[str] = []
        for index, message in enumerate(messages):
            if not isinstance(message, dict):
                came = type(message).__name__
                raise InvalidRequestError(f"messages[{index}] should be a dictionary with a role; got {came}.")
            role = message.get("role")
            if role not in ("system", "user", "assistant", "tool"):
                expected = "expected system, user, assistant or tool"
                raise InvalidRequestError(f"messages[{index}] has role {role!r}; {expected}.")
            self._roles.append(role)
        # By the index of each message that makes calls: the ids of the calls, and each result's index and call.
        self._ids: dict[int, list[str]] = {}
        self._results: dict[int, list[tuple[int, int]]] = {}
        self._orphans = set() if {"system", "user"}.issuperset(self._roles) else self._find_results()
        self._last = 0
        for index, (role, message) in enumerate(zip(self._roles, messages, strict=True)):
            if role == "assistant":
                self._assistant(index, clean(message))
            elif role != "tool":
                self._say(index, role, clean(message))
            elif index in self._orphans:
                self._orphan(index, message)

    def end(self, go_on: str | None) -> None:
        """Make an assistant message at the end the prefix of the answer, or add what the user says after it."""
        last, alone = self.out[-1] if self.out else {}, len(self.out) == 1
        if last.get("role") != "assistant" or (last.get("prefix") and not alone):
            return
        problem = (
            "is last; expected a user message or a tool result there or, after another message, an assistant message "
            "with prefix: true, which the answer continues"
        )
        if go_on is None and not alone:
            self._fix(self._last, problem, "was last: the answer continues it")
            self.out[-1] = last | {"prefix": True}
        else:
            self._fix(self._last, problem, "was last: a user message was added")
            self.out[-1] = _without_prefix(last)
            self.out.append({"role": "user", "content": go_on or "Go on."})

    def _fix(self, index: int, problem: str, done: str) -> None:
        """Note what is done about a problem, or refuse it."""
        where = f"messages[{index}] ({self._roles[index]})"
        if self._strict:
            raise InvalidRequestError(f"{where} {problem}.", advice="repair_messages=True repairs it.")
        self.done.append(f"{where} {done}")

    def _find_results(self) -> set[int]:
        """Give each result to the nearest call before it with its id; one without an id to a call that has none.

        The latest message's calls are asked then, first those without an id. Returns the results without a call.
        """
        waiting: dict[str, list[tuple[int, int]]] = {}
        orphans: set[int] = set()
        nameless: list[tuple[int, int]] = []
        latest: int | None = None
        for index, (role, message) in enumerate(zip(self._roles, self._messages, strict=True)):
            if role == "assistant" and message.get("tool_calls"):
                given = [wire_id(call.get("id")) for call in shape.calls_of(message, index)]
                latest, self._results[index], ids = index, [], self._ids.setdefault(index, [])
                waiting |= {call_id: [] for call_id in given}
                for position, call_id in enumerate(given):
                    waiting[call_id].append((index, position))
                    if not call_id or call_id in ids:
                        # Missing or repeated: one of the call's place.
                        call_id = mistral_tool_id(f"call {position} of message {index}: {call_id}")
                    ids.append(call_id)
            elif role == "tool":
                call_id = wire_id(message.get("tool_call_id"))
                if not call_id and latest is not None:
                    nameless.append((index, latest))
                elif call_id and waiting.get(call_id):
                    owner, position = waiting[call_id].pop(0)
                    self._results[owner].append((index, position))
                else:
                    orphans.add(index)
        for index, owner in nameless:
            taken = {position for _, position in self._results[owner]}
            calls = enumerate(self._messages[owner]["tool_calls"])
            free = [(wire_id(call.get("id")) != "", at) for at, call in calls if at not in taken]
            if free:
                self._results[owner].append((index, min(free)[1]))
            else:
                orphans.add(index)
        for results in self._results.values():
            results.sort()
        return orphans

    def _assistant(self, index: int, message: AnyMessage) -> None:
        if index < len(self._messages) - 1 or message.get("tool_calls"):
            # A prefix steered an answer that came since; in a history Mistral refuses it.
            message = _without_prefix(message)
        if message.get("tool_calls"):
            self._exchange(index, message)
        elif says_nothing(message):
            nothing = "has neither content nor tool calls"
            self._fix(index, nothing, f"was left out: it {nothing}")
        else:
            self._last = index
            self.out.append(message)

    def _exchange(self, index: int, message: AnyMessage) -> None:
        """Put out a message with calls and a result for each of them."""
        calls, ids, results = message["tool_calls"], self._ids[index], self._results[index]
        self.out.append(shape.with_call_ids(message, ids))
        for at, (place, position) in enumerate(results, start=1):
            if place > index + at and set(self._roles[index + 1 : place]) - {"tool"}:
                self._fix(index, _unanswered(calls[position]), f"got the result messages[{place}], which came later")
            result = clean(self._messages[place])
            same = result.get("tool_call_id") == ids[position]
            self.out.append(result if same else result | {"tool_call_id": ids[position]})
        answered = {position for _, position in results}
        for position, call in enumerate(calls):
            if position not in answered:
                name = call["function"].get("name")
                self._fix(index, _unanswered(call), f"got a result for its call of {name!r}, which was not run")
                self.out.append({"role": "tool", "tool_call_id": ids[position], "content": _NOT_RUN})

    def _orphan(self, index: int, result: AnyMessage) -> None:
        """Put out the result of a call that is not there as the user's message."""
        problem = (
            f"is the result of the call {result.get('tool_call_id')!r}; expected one that the assistant message right "
            "before the results makes and that has no result yet"
        )
        content = clean(result).get("content")
        if says_nothing(result):
            self._fix(index, problem, "was left out: it is empty, and its call is missing")
            return
        self._fix(index, problem, "was sent as the user's: its call is missing")
        head = f"Result of the tool {result['name']}:" if result.get("name") else "Result of a tool:"
        text = [{"type": "text", "text": head}, *content] if isinstance(content, list) else f"{head}\n{content}"
        self._say(index, "user", {"role": "user", "content": text})

    def _say(self, index: int, role: str, message: AnyMessage) -> None:
        """Put out a user or system message: behind tool results with a message in between."""
        before = self.out[-1]["role"] if self.out else ""
        expected = "a user or assistant message (a system message only at the start, or after system or user)"
        if before == "tool":
            expected = "an assistant message or another tool result"
        problem = f"comes right after the {before} message messages[{index - 1}]; expected {expected} there"
        if role == "system" and before in ("assistant", "tool"):
            self._fix(index, problem, "was sent as the user's")
            message = message | {"role": "user"}
        if before == "tool":
            self._fix(index, problem, "got the assistant message 'OK' before it")
            # Mistral accepts it (seen in real traffic).
            self.out.append({"role": "assistant", "content": "OK"})
        self.out.append(message)


def _unanswered(call: AnyMessage) -> str:
    return (
        f"calls {call['function'].get('name')!r} (id {call.get('id')!r}), but no tool message right after it has the "
        "result; Mistral wants one for each call"
    )


def _without_prefix(message: AnyMessage) -> AnyMessage:
    return {key: value for key, value in message.items() if key != "prefix"} if message.get("prefix") else message
