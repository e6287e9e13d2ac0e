"""Checks a conversation before it is sent, and mends it where that is asked for. Pure.

The order that Mistral accepts (its error 3230; the same rules are in mistral-common's request validators):

- a system message comes first, or after a system or user message;
- each tool call of an assistant message is answered by exactly one tool message, and all of these follow it directly;
- after the answers comes an assistant message, or the end;
- the last message is from the user or a tool, or an assistant message with `prefix: true`, which the answer continues.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, TypeAlias, cast

from lava_mistral.errors import InvalidRequestError
from lava_mistral.wire import Message, ResponseFormat, Tool

logger = logging.getLogger("lava_mistral")

MAX_TOOLS = 128
"""How many tools Mistral takes in one request."""

_AnyMessage: TypeAlias = dict[str, Any]

_ROLES = frozenset(("system", "user", "assistant", "tool"))
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NO_ID = frozenset((None, "", "null"))
_CALL_KEYS = frozenset(("id", "type", "function", "index"))
_FUNCTION_KEYS = frozenset(("name", "arguments"))
# Mistral's schema allows these keys and no others; what else a part carries (a signature, a cache mark) is refused.
_PART_KEYS = {
    "text": frozenset(("type", "text")),
    "image_url": frozenset(("type", "image_url")),
    "document_url": frozenset(("type", "document_url", "document_name")),
    "input_audio": frozenset(("type", "input_audio")),
    "file": frozenset(("type", "file_id")),
    "reference": frozenset(("type", "reference_ids")),
    "thinking": frozenset(("type", "thinking", "closed")),
    "tool_reference": frozenset(("type", "tool", "title", "url", "favicon", "description")),
}


def mistral_tool_id(id: str) -> str:  # the wire's own name
    """The tool-call id that Mistral takes for any id: 9 characters of a-z, A-Z and 0-9 (its error 3280).

    An id of that form stays; any other becomes a hash of itself, the same in every process.
    """
    if len(id) == 9 and id.isalnum() and id.isascii():
        return id
    return _hashed_id(id)


@lru_cache(maxsize=4096)
def _hashed_id(id: str) -> str:
    number = int.from_bytes(sha256(id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    digits = []
    for _ in range(9):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(digits)


def prepare(
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    response_format: ResponseFormat | None = None,
    repair: bool = False,
) -> list[Message]:
    """The messages as Mistral takes them: valid tool-call ids, no key that its schema refuses, the right order.

    Args:
        messages: the conversation, which is left as it is; unchanged messages are shared with the result.
        tools: the tools of the request.
        response_format: the response format of the request.
        repair: mend a wrong order instead of refusing it. No content is invented: a last assistant message becomes
            the prefix of the answer; tool calls without a result, and results without a call, are dropped, and so
            are assistant messages left with nothing; results move to their call; a user or system message where
            Mistral refuses one moves in front of the assistant message that made the calls. The logger
            `lava_mistral` tells each step.

    Raises:
        InvalidRequestError: Mistral would refuse the request (or never end its answer); the message says which
            message is wrong and what was expected there.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(f"{len(tools)} tools were given; Mistral takes at most {MAX_TOOLS}")
    wire = cast("Sequence[_AnyMessage]", messages)
    try:
        checked = _checked(wire)
    except InvalidRequestError:
        if not repair:
            raise
        checked = _checked(_mended(wire))
    if response_format is not None and response_format.get("type") == "json_object":
        _check_json_word(checked)
    return cast("list[Message]", checked)


def _checked(messages: Sequence[_AnyMessage]) -> list[_AnyMessage]:
    out: list[_AnyMessage] = []
    count = len(messages)
    index = 0
    previous = ""
    while index < count:
        message = messages[index]
        role = _role_of(message, index)
        if role == "assistant":
            last = index == count - 1
            message = _clean(message)
            if message.get("prefix") and not last:
                # It steered the answer that follows it; in a history Mistral refuses it.
                message = {key: value for key, value in message.items() if key != "prefix"}
            if message.get("tool_calls"):
                end = index + 1
                while end < count and _role_of(messages[end], end) == "tool":
                    end += 1
                _put_exchange(out, message, messages, index, end)
                index, previous = end, "tool"
                continue
            if not message.get("content"):
                raise _refused(index, role, "has neither content nor tool calls", "drops it")
            if last:
                _check_last(message, index)
        elif role == "tool":
            raise _orphan(message, index)
        else:
            if previous == "tool":
                raise _refused(
                    index,
                    role,
                    f"comes right after the tool result messages[{index - 1}], where Mistral takes only another "
                    "result or an assistant message",
                    "moves it in front of the assistant message that made the calls",
                )
            if role == "system" and previous == "assistant":
                raise _refused(
                    index,
                    role,
                    f"comes right after the assistant message messages[{index - 1}]; Mistral takes a system message "
                    "at the start, or after a system or user message",
                    "moves it in front of the assistant message",
                )
            if type(message.get("content")) is list:
                message = _clean(message)
        out.append(message)
        previous = role
        index += 1
    if not out:
        raise InvalidRequestError("a conversation needs at least one message; got none")
    return out


def _check_last(message: _AnyMessage, index: int) -> None:
    if not message.get("prefix"):
        raise _refused(
            index,
            "assistant",
            "is last; expected a user message or a tool result there, or an assistant message with prefix: true, "
            "which the answer continues",
            "sets prefix",
        )
    if index == 0:
        raise InvalidRequestError(
            "messages[0] (assistant) is the only message; expected a user or system message before it"
        )


def _put_exchange(
    out: list[_AnyMessage], asking: _AnyMessage, messages: Sequence[_AnyMessage], index: int, end: int
) -> None:
    """Append an assistant message and the results that follow it, with ids that match."""
    calls = _calls_of(asking, index)
    ids = _call_ids(calls, index)
    results = messages[index + 1 : end]
    positions = _match(calls, results)
    for offset, position in enumerate(positions):
        if position is None:
            raise _orphan(results[offset], index + 1 + offset)
    if len(results) < len(calls):
        open_calls = [calls[position] for position in range(len(calls)) if position not in positions]
        names = ", ".join(f"{call['function'].get('name')!r} (id {call.get('id')!r})" for call in open_calls)
        raise _refused(
            index,
            "assistant",
            f"makes {len(calls)} tool calls, and {len(results)} results follow it directly; no result for {names}",
            "drops the calls that have no result",
        )
    out.append(_with_calls(asking, calls, ids))
    for result, position in zip(results, positions, strict=True):
        out.append(_with_id(result, ids[cast("int", position)]))


def _call_ids(calls: Sequence[_AnyMessage], index: int) -> list[str]:
    """An id of Mistral's form for each call of `messages[index]`, no two equal."""
    ids: list[str] = []
    for position, call in enumerate(calls):
        raw = call.get("id")
        identity = "" if raw in _NO_ID else mistral_tool_id(str(raw))
        if not identity or identity in ids:
            identity = mistral_tool_id(f"call {position} of message {index}: {identity}")
        ids.append(identity)
    return ids


def _match(calls: Sequence[_AnyMessage], results: Sequence[_AnyMessage]) -> list[int | None]:
    """Which call each result answers: by id, and in order where the ids are equal or missing."""
    waiting: dict[str, list[int]] = {}
    for position, call in enumerate(calls):
        waiting.setdefault(_key(call.get("id")), []).append(position)
    matches: list[int | None] = []
    for result in results:
        key = _key(result.get("tool_call_id"))
        same = waiting.get(key) if key else None
        matches.append(same.pop(0) if same else None)
    if any(match is None for match in matches):
        unnamed = waiting.pop("", [])
        spare = unnamed + sorted(position for positions in waiting.values() for position in positions)
        for offset, result in enumerate(results):
            if spare and not _key(result.get("tool_call_id")):
                matches[offset] = spare.pop(0)
    return matches


def _key(id: Any) -> str:
    return "" if id in _NO_ID else mistral_tool_id(str(id))


def _calls_of(message: _AnyMessage, index: int) -> list[_AnyMessage]:
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        raise InvalidRequestError(f"messages[{index}].tool_calls should be a list; got {type(calls).__name__}")
    for position, call in enumerate(calls):
        if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
            raise InvalidRequestError(
                f"messages[{index}].tool_calls[{position}] should be an object with a function; got {call!r}"
            )
    return calls


def _with_calls(message: _AnyMessage, calls: Sequence[_AnyMessage], ids: Sequence[str]) -> _AnyMessage:
    clean = [_clean_call(call, identity) for call, identity in zip(calls, ids, strict=True)]
    if _same(clean, message["tool_calls"]):
        return message
    return message | {"tool_calls": clean}


def _clean_call(call: _AnyMessage, identity: str) -> _AnyMessage:
    function = call["function"]
    if not function.get("arguments") and function.get("arguments") != {}:
        # A call without arguments: some servers leave them empty, which is no JSON.
        function = function | {"arguments": "{}"}
    if not function.keys() <= _FUNCTION_KEYS:
        function = {key: value for key, value in function.items() if key in _FUNCTION_KEYS}
    if (
        function is call["function"]
        and call.get("id") == identity
        and call.keys() <= _CALL_KEYS
        and call.get("index", 0) is not None
    ):
        return call
    kept = {key: value for key, value in call.items() if key in _CALL_KEYS and value is not None}
    return kept | {"id": identity, "function": function}


def _with_id(result: _AnyMessage, identity: str) -> _AnyMessage:
    result = _clean(result)
    return result if result.get("tool_call_id") == identity else result | {"tool_call_id": identity}


def _clean(message: _AnyMessage) -> _AnyMessage:
    """The message without what Mistral's schema refuses in its parts."""
    content = message.get("content")
    if type(content) is not list:
        return message
    clean = _clean_parts(content)
    return message if clean is content else message | {"content": clean}


def _clean_parts(parts: list[Any]) -> list[Any]:
    clean = [new for part in parts if (new := _clean_part(part)) is not None]
    return parts if _same(clean, parts) else clean


def _clean_part(part: Any) -> Any:
    """The part as the schema takes it, `None` when nothing of it remains. Unknown types stay as they are."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    keys = _PART_KEYS.get(kind) if isinstance(kind, str) else None
    if keys is None:
        return part
    if not part.keys() <= keys:
        part = {key: value for key, value in part.items() if key in keys}
    if kind == "thinking":
        thoughts = part.get("thinking")
        clean = _clean_parts([thoughts] if isinstance(thoughts, str) else thoughts or [])
        return part if clean is thoughts else part | {"thinking": clean}
    if kind == "reference":
        ids = part.get("reference_ids") or []
        # Answers are seen with strings here; requests take integers only.
        numbers = [int(id) for id in ids if isinstance(id, int) or (id.isascii() and id.isdigit())]
        if not numbers:
            return None
        return part if numbers == ids else part | {"reference_ids": numbers}
    return part


def _same(new: Sequence[Any], old: Sequence[Any]) -> bool:
    return len(new) == len(old) and all(map(lambda a, b: a is b, new, old))


def _check_json_word(messages: Sequence[_AnyMessage]) -> None:
    for message in messages:
        if message["role"] in ("system", "user") and "json" in _text_of(message).lower():
            return
    raise InvalidRequestError(
        "response_format json_object needs the word JSON in a system or user message; without it the model may "
        "send white space without end",
        advice="Ask for JSON in the prompt, or use a json_schema.",
    )


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return " ".join(
        str(part.get("text")) for part in content or () if isinstance(part, dict) and part.get("type") == "text"
    )


def _role_of(message: Any, index: int) -> str:
    if not isinstance(message, dict):
        raise InvalidRequestError(f"messages[{index}] should be a dictionary with a role; got {type(message).__name__}")
    role = message.get("role")
    if role not in _ROLES:
        raise InvalidRequestError(f"messages[{index}] has role {role!r}; expected system, user, assistant or tool")
    return cast("str", role)


def _refused(index: int, role: str, what: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(f"messages[{index}] ({role}) {what}.", advice=f"repair_messages=True {remedy}.")


def _orphan(message: _AnyMessage, index: int) -> InvalidRequestError:
    identity = message.get("tool_call_id")
    return _refused(
        index,
        "tool",
        f"is the result of the call {identity!r}, but the assistant message before the results makes no such call, "
        "or it is answered already",
        "moves it to its call, or drops it where there is none",
    )


class _Step:
    """A message that is not a tool result, with the results that belong to it."""

    __slots__ = ("end", "index", "message", "results", "role")

    def __init__(self, index: int, role: str, message: _AnyMessage) -> None:
        self.index = index
        self.role = role
        self.message = message
        self.results: list[tuple[int, _AnyMessage]] = []
        self.end = index


def _mended(messages: Sequence[_AnyMessage]) -> list[_AnyMessage]:
    steps = _ordered(_gathered(_answered(_with_results(messages))))
    if steps and steps[-1].role == "assistant" and not steps[-1].results:
        last = steps[-1]
        if not last.message.get("prefix") and _can_continue(last.message):
            _tell("messages[%d] (assistant) was last: it became the prefix of the answer", last.index)
            last.message = last.message | {"prefix": True}
    return [message for step in steps for message in (step.message, *(result for _, result in step.results))]


def _with_results(messages: Sequence[_AnyMessage]) -> list[_Step]:
    """The messages as steps: each result with the nearest assistant message before it that makes its call."""
    steps: list[_Step] = []
    asking: dict[str, _Step] = {}
    latest: _Step | None = None
    for index, message in enumerate(messages):
        role = _role_of(message, index)
        if role != "tool":
            step = _Step(index, role, _clean(message))
            steps.append(step)
            if role == "assistant" and message.get("tool_calls"):
                latest = step
                for call in _calls_of(message, index):
                    asking[_key(call.get("id"))] = step
            continue
        key = _key(message.get("tool_call_id"))
        owner = asking.get(key) if key else latest
        if owner is None:
            _tell("messages[%d] (tool) was dropped: no call before it has its id", index)
        else:
            owner.results.append((index, message))
    return steps


def _answered(steps: Sequence[_Step]) -> list[_Step]:
    """The steps with exactly one result for each call, without calls or messages that have nothing left."""
    kept: list[_Step] = []
    for step in steps:
        message = step.message
        if step.role == "assistant" and message.get("tool_calls"):
            _pair(step, message)
        if step.role == "assistant" and not step.results and not step.message.get("content"):
            _tell("messages[%d] (assistant) was dropped: it has neither content nor answered calls", step.index)
        else:
            kept.append(step)
    return kept


def _pair(step: _Step, message: _AnyMessage) -> None:
    calls = _calls_of(message, step.index)
    ids = _call_ids(calls, step.index)
    positions = _match(calls, [result for _, result in step.results])
    results = []
    for (index, result), position in zip(step.results, positions, strict=True):
        if position is None:
            _tell("messages[%d] (tool) was dropped: its call is answered already", index)
        else:
            results.append((index, _with_id(result, ids[position])))
            step.end = index
    for position in range(len(calls)):
        if position not in positions:
            _tell("messages[%d] (assistant): its call %d was dropped, no result answers it", step.index, position)
    answered = [position for position in range(len(calls)) if position in positions]
    step.results = results
    step.message = {key: value for key, value in message.items() if key != "tool_calls"}
    if answered:
        step.message["tool_calls"] = [_clean_call(calls[position], ids[position]) for position in answered]


def _gathered(steps: Sequence[_Step]) -> list[_Step]:
    """The steps in an order in which nothing stands between calls and their results.

    What stood there was said before the results were known, so it moves in front of the calls.
    """
    out: list[_Step] = []
    open_steps: list[_Step] = []
    for step in steps:
        while open_steps and open_steps[0].end < step.index:
            open_steps.pop(0)
        if step.results:
            open_steps.append(step)
        elif open_steps:
            _tell_moved(step, open_steps[0])
            out.insert(out.index(open_steps[0]), step)
            continue
        out.append(step)
    return out


def _ordered(steps: Sequence[_Step]) -> list[_Step]:
    """The steps with each user or system message at a place where Mistral takes it.

    A user message after tool results goes in front of the first of the exchanges that run up to it: there it still
    comes before whatever answers it, and the results stay with their calls.
    """
    out: list[_Step] = []
    for step in steps:
        place = len(out)
        if step.role in ("user", "system"):
            while place and (out[place - 1].results or (step.role == "system" and out[place - 1].role == "assistant")):
                place -= 1
            if place < len(out):
                _tell_moved(step, out[place])
        out.insert(place, step)
    return out


def _can_continue(message: _AnyMessage) -> bool:
    content = message.get("content")
    return isinstance(content, str) or any(
        part.get("type") in ("text", "thinking") for part in content or () if isinstance(part, dict)
    )


def _tell_moved(step: _Step, before: _Step) -> None:
    _tell("messages[%d] (%s) was moved in front of messages[%d]", step.index, step.role, before.index)


def _tell(what: str, *values: object) -> None:
    logger.info("repair_messages: " + what, *values)
