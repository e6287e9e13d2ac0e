"""Prepare a conversation for a request: check it, and repair what Mistral would refuse. Pure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.message_shape import AnyMessage, text_of
from lava_mistral.mistral.repair import Repair
from lava_mistral.mistral.types import Message, ResponseFormat, Tool, ToolChoice

MAX_TOOLS = 128
"""How many tools Mistral takes in one request."""

_logger = logging.getLogger("lava_mistral")


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
        repair: repair what Mistral would refuse, every word in its order, instead of refusing it; the logger
            `lava_mistral` says what was done.

    Raises:
        InvalidRequestError: Mistral would refuse the request, or never end its answer. Nothing was sent.
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
        repaired = Repair(given, strict=not repair)
        repaired.end(go_on)
        if repaired.done:
            _logger.info("repair_messages: %s", "; ".join(repaired.done))
        out = repaired.out
    if not out:
        raise InvalidRequestError("A conversation needs at least one message; got none.")
    if form == "json_object":
        _check_json_word(out)
    return cast("list[Message]", out)


def _is_plain(messages: Sequence[AnyMessage]) -> bool:
    """Whether the messages are texts without calls in the order that Mistral takes, as most conversations are."""
    before = "system"
    for message in messages:
        if type(message) is not dict or type(message.get("content")) is not str:
            return False
        role = message.get("role")
        if role == "assistant":
            if not message["content"] or message.get("tool_calls") or message.get("prefix"):
                return False
        elif role != "user" and (role != "system" or before == "assistant"):
            return False
        before = role
    return before != "assistant"


def _check_json_word(messages: Sequence[AnyMessage]) -> None:
    for message in messages:
        if message["role"] in ("system", "user") and "json" in text_of(message).lower():
            return
    raise InvalidRequestError(
        "response_format json_object needs the word JSON in a system or user message; without it the model may "
        "send white space without end.",
        advice="Ask for JSON in the prompt, or take json_schema.",
    )
