"""Check a conversation before it is sent, and have it repaired where Mistral would refuse it. Pure.

The order that Mistral takes (its error 3230; the request validators of mistral-common 1.9 hold the same rules):

- a system message comes first, or after a system or user message;
- each call of an assistant message has exactly one result, and the results follow that message directly;
- after them comes an assistant message, or the end;
- the last message is not an assistant's, unless it is marked as the `prefix` that the answer continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.message_shape import AnyMessage, clean, roles_of, says_nothing, text_of
from lava_mistral.mistral.repair import repaired
from lava_mistral.mistral.tool_ids import calls_of, mistral_tool_id, paired, with_call_ids, with_result_id
from lava_mistral.mistral.types import Message, ResponseFormat, Tool, ToolChoice

__all__ = ["MAX_TOOLS", "mistral_tool_id", "prepare"]

MAX_TOOLS = 128
"""How many tools Mistral takes in one request."""


def prepare(
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    tool_choice: ToolChoice | None = None,
    response_format: ResponseFormat | None = None,
    repair: bool = True,
) -> list[Message]:
    """Return the messages as Mistral takes them: tool-call ids of its form, no key that its schema refuses, its order.

    Args:
        messages: the conversation. It is left as it is; messages that need no change are shared with the result.
        tools: the tools of the request.
        tool_choice: the tool choice of the request.
        response_format: the response format of the request.
        repair: repair what Mistral would refuse instead of refusing it. Every word stays, in its order: an assistant
            message "OK" goes between tool results and a user message; a call without a result gets one that says so;
            a result without a call and a system message after an answer become the user's; an assistant message at the
            end becomes the prefix of the answer, or, where a tool call or JSON is expected, is followed by a user
            message; only what is empty is left out. The logger `lava_mistral` says what was done.

    Raises:
        InvalidRequestError: Mistral would refuse the request, or never end its answer. Nothing was sent.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(f"{len(tools)} tools were given; Mistral takes at most {MAX_TOOLS}.")
    wire = cast("Sequence[AnyMessage]", messages)
    form = response_format.get("type") if response_format else None
    try:
        checked = _checked(wire)
    except InvalidRequestError:
        if not repair:
            raise
        # A prefix would be the beginning of the JSON, or keep an agent from calling its tools.
        go_on = "Give your answer as JSON." if form in ("json_object", "json_schema") else None
        if go_on is None and tools and tool_choice != "none":
            go_on = "Go on."
        checked = _checked(repaired(wire, go_on=go_on))
    if form == "json_object":
        _check_json_word(checked)
    return cast("list[Message]", checked)


def _checked(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    if not messages:
        raise InvalidRequestError("A conversation needs at least one message; got none.")
    out: list[AnyMessage] = []
    roles = roles_of(messages)
    count = len(messages)
    index = 0
    previous = ""
    while index < count:
        message, role = messages[index], roles[index]
        if type(message.get("content")) is list:
            message = clean(message)
        if role == "assistant":
            if message.get("prefix") and index < count - 1:
                # It steered an answer that came since; in a history Mistral refuses it.
                message = {key: value for key, value in message.items() if key != "prefix"}
            if message.get("tool_calls"):
                end = index + 1
                while end < count and roles[end] == "tool":
                    end += 1
                out += _exchange(message, index, messages[index + 1 : end])
                index, previous = end, "tool"
                continue
            if says_nothing(message):
                raise _refusal(index, role, "has neither content nor tool calls", "leaves it out")
        elif role == "tool":
            raise _orphan(message, index)
        elif previous == "tool" or (previous == "assistant" and role == "system"):
            raise _misplaced(index, role, previous)
        out.append(message)
        previous = role
        index += 1
    if previous == "assistant":
        _check_last(out[-1], count - 1)
    return out


def _exchange(asking: AnyMessage, index: int, results: Sequence[AnyMessage]) -> list[AnyMessage]:
    """An assistant message with calls, and the results that follow it, under ids that agree."""
    calls = calls_of(asking, index)
    ids, positions = paired(calls, results, index)
    out = [with_call_ids(asking, calls, ids)]
    for offset, (result, position) in enumerate(zip(results, positions, strict=True), start=index + 1):
        if position is None:
            raise _orphan(result, offset)
        out.append(with_result_id(result, ids[position]))
    if len(results) < len(calls):
        unanswered = [call for position, call in enumerate(calls) if position not in positions]
        names = ", ".join(f"{call['function'].get('name')!r} (id {call.get('id')!r})" for call in unanswered)
        raise _refusal(
            index,
            "assistant",
            f"calls {names}, but no tool message right after it has the result; Mistral wants one for each call",
            "gives them results that say that they were not run",
        )
    return out


def _check_last(message: AnyMessage, index: int) -> None:
    if not message.get("prefix"):
        raise _refusal(
            index,
            "assistant",
            "is last; expected a user message or a tool result there, or an assistant message with prefix: true, "
            "which the answer continues",
            "sets prefix, or adds a user message",
        )
    if index == 0:
        raise InvalidRequestError(
            "messages[0] (assistant) is the only message; expected a user or system message before it."
        )


def _check_json_word(messages: Sequence[AnyMessage]) -> None:
    for message in messages:
        if message["role"] in ("system", "user") and "json" in text_of(message).lower():
            return
    raise InvalidRequestError(
        "response_format json_object needs the word JSON in a system or user message; without it the model may "
        "send white space without end.",
        advice="Ask for JSON in the prompt, or take json_schema.",
    )


def _misplaced(index: int, role: str, previous: str) -> InvalidRequestError:
    if previous == "tool":
        expected = "an assistant message or another tool result"
    else:
        expected = "a user or assistant message (a system message only at the start, or after system or user)"
    return _refusal(
        index,
        role,
        f"comes right after the {previous} message messages[{index - 1}]; expected {expected} there",
        "puts an assistant message before it, or gives it the role of the user",
    )


def _orphan(result: AnyMessage, index: int) -> InvalidRequestError:
    return _refusal(
        index,
        "tool",
        f"is the result of the call {result.get('tool_call_id')!r}; expected one that the assistant message right "
        "before the results makes and that has no result yet",
        "moves it to its call, or gives it the role of the user where there is none",
    )


def _refusal(index: int, role: str, what: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(f"messages[{index}] ({role}) {what}.", advice=f"repair_messages=True {remedy}.")
