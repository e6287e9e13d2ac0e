"""Repair a conversation that Mistral refuses: every word stays, in its order. Pure."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lava_mistral.mistral.message_shape import AnyMessage, clean, roles_of, says_nothing
from lava_mistral.mistral.tool_ids import calls_of, known_id, paired, with_call_ids, with_result_id

BRIDGE = "OK"
"""The assistant message between tool results and what follows them; Mistral accepts it (seen in real traffic)."""
NOT_RUN = "This call was not run."
"""The result of a call that has none in the conversation."""

_logger = logging.getLogger("lava_mistral")


def repaired(messages: Sequence[AnyMessage], *, go_on: str | None = None) -> list[AnyMessage]:
    """Put the messages into an order that Mistral takes; log what was done, in one line at INFO.

    Args:
        messages: the conversation. It is left as it is.
        go_on: what the user says where an assistant message is last; `None`: the answer continues that message.

    Raises:
        InvalidRequestError: something in the list has not the shape of a message.
    """
    repair = _Repair(messages)
    repair.run()
    repair.end(go_on)
    if repair.done:
        _logger.info("repair_messages: %s", "; ".join(repair.done))
    return repair.out


class _Repair:
    def __init__(self, messages: Sequence[AnyMessage]) -> None:
        self.out: list[AnyMessage] = []
        self.done: list[str] = []
        self._messages = messages
        self._roles = roles_of(messages)
        # The results that stand behind their calls, by the index of the message that makes the calls.
        self._results: dict[int, list[int]] = {}

    def run(self) -> None:
        orphans = self._find_calls()
        for index, (role, message) in enumerate(zip(self._roles, self._messages, strict=True)):
            if role == "tool":
                if index in orphans:
                    self._note(index, message)
            elif role == "assistant":
                self._assistant(index, message)
            elif role == "system" and self._last_role in ("assistant", "tool"):
                self._say(index, message | {"role": "user"}, "was sent with the role of the user")
            else:
                self._say(index, message)

    def end(self, go_on: str | None) -> None:
        """Make an assistant message at the end the prefix of the answer, or add what the user says after it."""
        if self._last_role != "assistant" or (self.out[-1].get("prefix") and len(self.out) > 1):
            return
        if go_on is None and len(self.out) > 1:
            self.done.append("the last message (assistant) became the prefix of the answer")
            self.out[-1] = self.out[-1] | {"prefix": True}
        else:
            self.done.append("a user message was added after the last message (assistant)")
            self.out.append({"role": "user", "content": go_on or "Go on."})

    @property
    def _last_role(self) -> str:
        return self.out[-1]["role"] if self.out else ""

    def _did(self, index: int, what: str) -> None:
        self.done.append(f"messages[{index}] ({self._roles[index]}) {what}")

    def _find_calls(self) -> set[int]:
        """Give each result to the nearest message before it that makes its call; return the results without one."""
        orphans: set[int] = set()
        by_id: dict[str, int] = {}
        latest: int | None = None
        for index, (role, message) in enumerate(zip(self._roles, self._messages, strict=True)):
            if role == "assistant" and message.get("tool_calls"):
                latest = index
                self._results[index] = []
                by_id.update((known_id(call.get("id")), index) for call in calls_of(message, index))
            elif role == "tool":
                identity = known_id(message.get("tool_call_id"))
                owner = by_id.get(identity) if identity else latest
                if owner is None:
                    orphans.add(index)
                else:
                    self._results[owner].append(index)
        for owner, results in self._results.items():
            calls = calls_of(self._messages[owner], owner)
            _, positions = paired(calls, [self._messages[index] for index in results], owner)
            spare = {index for index, position in zip(results, positions, strict=True) if position is None}
            orphans |= spare
            self._results[owner] = [index for index in results if index not in spare]
        return orphans

    def _assistant(self, index: int, message: AnyMessage) -> None:
        if message.get("tool_calls"):
            self._exchange(index, message)
        elif says_nothing(clean(message)):
            self._did(index, "was left out: it has neither content nor tool calls")
        else:
            self.out.append(message)

    def _exchange(self, index: int, message: AnyMessage) -> None:
        """Put out a message with calls and a result for each of them."""
        calls = calls_of(message, index)
        indices = self._results[index]
        results = [self._messages[place] for place in indices]
        ids, positions = paired(calls, results, index)
        self.out.append(with_call_ids(message, calls, ids))
        for place, result, position in zip(indices, results, positions, strict=True):
            if set(self._roles[index + 1 : place]) - {"tool"}:
                self._did(place, f"was moved to its call in messages[{index}]")
            self.out.append(with_result_id(result, ids[position]))  # type: ignore[index]  # none is spare here
        for position, call in enumerate(calls):
            if position not in positions:
                self._did(index, f"got a result for its call of {call['function'].get('name')!r}, which was not run")
                self.out.append({"role": "tool", "tool_call_id": ids[position], "content": NOT_RUN})

    def _note(self, index: int, result: AnyMessage) -> None:
        """Put out the result of a call that is not there as the user's message."""
        content = clean(result).get("content")
        if says_nothing({"content": content}):
            self._did(index, "was left out: it is empty, and no message before it makes its call")
            return
        head = f"Result of the tool {result['name']}:" if result.get("name") else "Result of a tool:"
        text = f"{head}\n{content}" if isinstance(content, str) else [{"type": "text", "text": head}, *(content or ())]
        self._say(index, {"role": "user", "content": text}, "was sent with the role of the user: its call is missing")

    def _say(self, index: int, message: AnyMessage, what: str = "") -> None:
        """Put out a user or system message, behind tool results with a message in between."""
        if self._last_role == "tool":
            what = f"{what} and " * bool(what) + f"got the assistant message {BRIDGE!r} before it"
            self.out.append({"role": "assistant", "content": BRIDGE})
        if what:
            self._did(index, what)
        self.out.append(message)
