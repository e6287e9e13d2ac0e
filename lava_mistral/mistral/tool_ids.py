"""Bring tool calls and their ids into Mistral's form. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.answer_shape import NO_ID, plain_arguments
from lava_mistral.mistral.message_shape import AnyMessage

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CALL_KEYS = frozenset(("id", "type", "function", "index"))
_FUNCTION_KEYS = frozenset(("name", "arguments"))


@lru_cache(maxsize=4096)
def mistral_tool_id(identity: str) -> str:
    """Return the tool-call id that Mistral takes for any id: 9 characters of a-z, A-Z and 0-9 (its error 3280).

    An id of that form stays; any other becomes a hash of itself, the same in every process.
    """
    if len(identity) == 9 and identity.isalnum() and identity.isascii():
        return identity
    number = int.from_bytes(sha256(identity.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return "".join(_DIGITS[number // 62**place % 62] for place in range(9))


def wire_id(identity: Any) -> str:
    """Return Mistral's form of an id that may be missing: then an empty string."""
    text = "" if identity is None else str(identity)
    return "" if text in NO_ID else mistral_tool_id(text)


def calls_of(message: AnyMessage, index: int) -> list[AnyMessage]:
    """Return the tool calls of `messages[index]`; raises InvalidRequestError where they have not the shape of calls."""
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        raise InvalidRequestError(f"messages[{index}].tool_calls should be a list; got {type(calls).__name__}")
    for position, call in enumerate(calls):
        if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
            raise InvalidRequestError(
                f"messages[{index}].tool_calls[{position}] should be an object with a function; got {call!r}"
            )
    return calls


def different(wanted: Sequence[str], index: int) -> list[str]:
    """Return an id for each call of `messages[index]`; a missing or repeated one becomes one of the call's place."""
    ids: list[str] = []
    for position, identity in enumerate(wanted):
        if not identity or identity in ids:
            identity = mistral_tool_id(f"call {position} of message {index}: {identity}")
        ids.append(identity)
    return ids


def with_call_ids(message: AnyMessage, ids: Sequence[str]) -> AnyMessage:
    """Return the message with its calls under these ids; the message itself where nothing changes."""
    calls = message["tool_calls"]
    new = [_clean_call(call, identity) for call, identity in zip(calls, ids, strict=True)]
    return message if new == calls else message | {"tool_calls": new}


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
