"""Mends the order of a conversation without inventing content. Pure.

What can't stand where it is moves, and what can't stand anywhere is dropped. The logger `lava_mistral` tells each step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lava_mistral.mistral.message_shape import AnyMessage, clean, roles_of
from lava_mistral.mistral.tool_ids import calls_of, known_id, paired, with_call_ids, with_result_id

_logger = logging.getLogger("lava_mistral")


class _Step:
    """A message that is not a tool result, with the results that belong to it."""

    __slots__ = ("end", "index", "message", "results", "role")

    def __init__(self, index: int, role: str, message: AnyMessage) -> None:
        self.index = index
        self.role = role
        self.message = message
        self.results: list[tuple[int, AnyMessage]] = []
        self.end = index


def mended(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """The messages in an order that Mistral takes, each word under the role that said it.

    Raises:
        InvalidRequestError: something in the list has not the shape of a message.
    """
    steps = _in_order(_undivided(_answered(_with_results(messages))))
    last = steps[-1] if steps else None
    if last is not None and last.role == "assistant" and not last.results and not last.message.get("prefix"):
        _tell("messages[%d] (assistant) was last: the answer continues it as its prefix", last.index)
        last.message = last.message | {"prefix": True}
    return [message for step in steps for message in (step.message, *(result for _, result in step.results))]


def _with_results(messages: Sequence[AnyMessage]) -> list[_Step]:
    """The messages as steps: each result with the nearest assistant message before it that makes its call."""
    steps: list[_Step] = []
    by_id: dict[str, _Step] = {}
    latest: _Step | None = None
    for index, (role, message) in enumerate(zip(roles_of(messages), messages, strict=True)):
        if role == "tool":
            identity = known_id(message.get("tool_call_id"))
            owner = by_id.get(identity) if identity else latest
            if owner is None:
                _tell("messages[%d] (tool) was dropped: no message before it makes its call", index)
            else:
                owner.results.append((index, message))
            continue
        step = _Step(index, role, clean(message))
        steps.append(step)
        if role == "assistant" and message.get("tool_calls"):
            latest = step
            by_id.update((known_id(call.get("id")), step) for call in calls_of(message, index))
    return steps


def _answered(steps: Sequence[_Step]) -> list[_Step]:
    """The steps with one result for each call, without those that have nothing left to say."""
    kept: list[_Step] = []
    for step in steps:
        if step.role == "assistant":
            if step.message.get("tool_calls"):
                _pair(step)
            if not step.results and not step.message.get("content"):
                _tell("messages[%d] (assistant) was dropped: neither content nor an answered call", step.index)
                continue
        kept.append(step)
    return kept


def _pair(step: _Step) -> None:
    calls = calls_of(step.message, step.index)
    ids, positions = paired(calls, [result for _, result in step.results], step.index)
    results: list[tuple[int, AnyMessage]] = []
    for (index, result), position in zip(step.results, positions, strict=True):
        if position is None:
            _tell("messages[%d] (tool) was dropped: its call has a result already", index)
        else:
            results.append((index, with_result_id(result, ids[position])))
            step.end = index
    step.results = results
    answered = [position for position in range(len(calls)) if position in positions]
    if len(answered) < len(calls):
        dropped = len(calls) - len(answered)
        _tell("messages[%d] (assistant): %d of its calls were dropped, without a result", step.index, dropped)
    if answered:
        step.message = with_call_ids(
            step.message, [calls[position] for position in answered], [ids[position] for position in answered]
        )
    else:
        step.message = {key: value for key, value in step.message.items() if key != "tool_calls"}


def _undivided(steps: Sequence[_Step]) -> list[_Step]:
    """The steps with nothing between calls and their results.

    What stood there was said before the results were known, so it goes in front of the calls.
    """
    out: list[_Step] = []
    waiting: list[_Step] = []
    for step in steps:
        while waiting and waiting[0].end < step.index:
            waiting.pop(0)
        if step.results:
            waiting.append(step)
        elif waiting:
            _tell_move(step, waiting[0])
            out.insert(out.index(waiting[0]), step)
            continue
        out.append(step)
    return out


def _in_order(steps: Sequence[_Step]) -> list[_Step]:
    """The steps with each user and system message at a place where Mistral takes it.

    A user message right after tool results goes in front of the exchanges that run up to it, where it still comes
    before whatever answers it. Mistral's other way, an assistant message in between, would be an invented one.
    """
    out: list[_Step] = []
    for step in steps:
        place = len(out)
        while place and _refused_after(step, out[place - 1]):
            place -= 1
        if place < len(out):
            _tell_move(step, out[place])
        out.insert(place, step)
    return out


def _refused_after(step: _Step, before: _Step) -> bool:
    if step.role == "user":
        return bool(before.results)
    return step.role == "system" and before.role == "assistant"


def _tell_move(step: _Step, before: _Step) -> None:
    _tell("messages[%d] (%s) was moved in front of messages[%d]", step.index, step.role, before.index)


def _tell(what: str, *values: object) -> None:
    _logger.info("repair_messages: " + what, *values)
