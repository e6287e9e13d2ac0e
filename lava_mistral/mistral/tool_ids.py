"""Bring tool-call ids into Mistral's form, and find the call that a result answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.answer_shape import plain_arguments
from lava_mistral.mistral.message_shape import AnyMessage, clean

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# What stands for a missing id; "null" is the default of Mistral's schema.
_NO_ID = frozenset(("", "null"))
_CALL_KEYS = frozenset(("id", "type", "function", "index"))
_FUNCTION_KEYS = frozenset(("name", "arguments"))


def mistral_tool_id(id: str) -> str:
    """Return the tool-call id that Mistral takes for any id: 9 characters of a-z, A-Z and 0-9 (its error 3280).

    An id of that form stays; any other becomes a hash of itself, the same in every process.
    """
    if len(id) == 9 and id.isalnum() and id.isascii():
        return id
    number = int.from_bytes(sha256(id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    digits = []
    for _ in range(9):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(digits)


def known_id(id: Any) -> str:
    """Return Mistral's form of an id that may be missing: then an empty string."""
    return _known_id(id if isinstance(id, str) else "" if id is None else str(id))


@lru_cache(maxsize=4096)
def _known_id(id: str) -> str:
    return "" if id in _NO_ID else mistral_tool_id(id)


def calls_of(message: AnyMessage, index: int) -> list[AnyMessage]:
    """Return the tool calls of `messages[index]`.

    Raises:
        InvalidRequestError: they have not the shape of calls.
    """
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        raise InvalidRequestError(f"messages[{index}].tool_calls should be a list; got {type(calls).__name__}")
    for position, call in enumerate(calls):
        if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
            raise InvalidRequestError(
                f"messages[{index}].tool_calls[{position}] should be an object with a function; got {call!r}"
            )
    return calls


def paired(
    calls: Sequence[AnyMessage], results: Sequence[AnyMessage], index: int
) -> tuple[list[str], list[int | None]]:
    """Return an id for each call of `messages[index]`, no two equal, and which call each result answers, by position.

    A missing or repeated id becomes one that the call's place gives. Results belong to calls by id, and in order
    where ids are equal or missing.
    """
    wanted = [known_id(call.get("id")) for call in calls]
    given = [known_id(result.get("tool_call_id")) for result in results]
    if "" not in wanted and len(set(wanted)) == len(wanted):
        if wanted == given:
            return wanted, [*range(len(wanted))]
        return wanted, _match(wanted, given)
    ids: list[str] = []
    for position, identity in enumerate(wanted):
        if not identity or identity in ids:
            ids.append(mistral_tool_id(f"call {position} of message {index}: {identity}"))
        else:
            ids.append(identity)
    return ids, _match(wanted, given)


def _match(wanted: Sequence[str], given: Sequence[str]) -> list[int | None]:
    waiting: dict[str, list[int]] = {}
    for position, identity in enumerate(wanted):
        waiting.setdefault(identity, []).append(position)
    matches: list[int | None] = []
    for identity in given:
        same = waiting.get(identity) if identity else None
        matches.append(same.pop(0) if same else None)
    nameless = [offset for offset, identity in enumerate(given) if not identity]
    if nameless:
        spare = waiting.pop("", [])
        spare += sorted(position for positions in waiting.values() for position in positions)
        for offset, position in zip(nameless, spare, strict=False):
            matches[offset] = position
    return matches


def with_call_ids(message: AnyMessage, calls: Sequence[AnyMessage], ids: Sequence[str]) -> AnyMessage:
    """Return the message with exactly these calls under these ids; the message itself where nothing changes."""
    new = [_clean_call(call, identity) for call, identity in zip(calls, ids, strict=True)]
    return message if new == message["tool_calls"] else message | {"tool_calls": new}


def with_result_id(result: AnyMessage, identity: str) -> AnyMessage:
    """Return the tool result with this id; the result itself where nothing changes."""
    if type(result.get("content")) is list:
        result = clean(result)
    return result if result.get("tool_call_id") == identity else result | {"tool_call_id": identity}


def _clean_call(call: AnyMessage, identity: str) -> AnyMessage:
    """Return the call with this id and without what the schema refuses."""
    function = call["function"]
    given = function.get("arguments")
    # Some servers leave the arguments of a call without any empty, which is no JSON.
    arguments = "{}" if given is None else given if not isinstance(given, str) else plain_arguments(given) or "{}"
    if not function.keys() <= _FUNCTION_KEYS or arguments is not given:
        function = {"name": function.get("name"), "arguments": arguments}
    elif call.get("id") == identity and call.keys() <= _CALL_KEYS and None not in call.values():
        return call
    kept = {key: value for key, value in call.items() if key in _CALL_KEYS and value is not None}
    return kept | {"id": identity, "function": function}
