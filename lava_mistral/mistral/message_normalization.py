"""Bring one message into the shape that Mistral's schema takes: its parts, its tool calls and their ids. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import lru_cache
from hashlib import sha256
from typing import Any, TypeAlias

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.response_parsing import NO_ID, plain_arguments

AnyMessage: TypeAlias = dict[str, Any]
"""A message whose shape is not known yet."""

# The schema allows these keys and no others: what else a part carries (an index, a cache mark) is refused. The
# signature of a thought is newer than the published schema: Mistral's SDK 3.7 sends back the one that Mistral gave.
_PART_KEYS = {
    "text": frozenset(("type", "text")),
    "image_url": frozenset(("type", "image_url")),
    "document_url": frozenset(("type", "document_url", "document_name")),
    "input_audio": frozenset(("type", "input_audio")),
    "file": frozenset(("type", "file_id")),
    "reference": frozenset(("type", "reference_ids")),
    "thinking": frozenset(("type", "thinking", "closed", "signature")),
    "tool_reference": frozenset(("type", "tool", "title", "url", "favicon", "description")),
}
# What an assistant's message may hold; answers hold more, which Mistral does not take back.
_ASSISTANT_KINDS = _PART_KEYS.keys() - {"tool_reference"} | {"resource", "resource_link"}
_THOUGHT_KINDS = frozenset(("text", "reference", "tool_reference"))
_CALL_KEYS = frozenset(("id", "type", "function", "index"))
_FUNCTION_KEYS = frozenset(("name", "arguments"))
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def text_of(content: Any) -> str:
    """Return all text of a message's content, its parts a line each."""
    if isinstance(content, str):
        return content
    parts = (part for part in content or () if isinstance(part, dict) and part.get("type") == "text")
    return "\n".join(str(part["text"]) for part in parts)


def says_nothing(message: AnyMessage) -> bool:
    """Return whether the content of a message is missing or holds empty texts alone."""
    content = message.get("content")
    if not content or not isinstance(content, list):
        return not content
    return all(
        not part or (isinstance(part, dict) and part.get("type") == "text" and not part.get("text")) for part in content
    )


def clean(message: AnyMessage) -> AnyMessage:
    """Return the message without what the schema refuses in its parts; the message itself where that is nothing."""
    content = message.get("content")
    if type(content) is not list:
        return message
    parts = _clean_parts(content, _ASSISTANT_KINDS if message.get("role") == "assistant" else None)
    return message if parts is content else message | {"content": parts}


def _clean_parts(parts: list[Any], kinds: Set[str] | None) -> list[Any]:
    """Return parts as the schema takes them, of these kinds or any; the same list where nothing changes."""
    new = [_clean_part(part, kinds) for part in parts]
    return parts if new == parts else [part for part in new if part is not None]


def _clean_part(part: Any, kinds: Set[str] | None) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        return part
    if kinds is not None and kind not in kinds:
        return None
    keys = _PART_KEYS.get(kind)
    if keys is None:
        return part
    if not part.keys() <= keys:
        part = {key: value for key, value in part.items() if key in keys}
    if kind == "thinking":
        thoughts = part.get("thinking")
        parts = _clean_parts([thoughts] if isinstance(thoughts, str) else thoughts or [], _THOUGHT_KINDS)
        return part if parts is thoughts else part | {"thinking": parts}
    if kind == "reference":
        # Whole numbers are all that the schema takes (mistralai/client-python#325).
        ids: Sequence[Any] = part.get("reference_ids") or []
        numbers = [int(id) for id in ids if isinstance(id, int) or (isinstance(id, str) and id.isdecimal())]
        return None if not numbers else part if numbers == ids else part | {"reference_ids": numbers}
    return part


@lru_cache(maxsize=4096)
def mistral_tool_id(call_id: str) -> str:
    """Return an id, or its hash, in the form that Mistral takes: 9 characters of a-z, A-Z and 0-9 (its error 3280)."""
    if len(call_id) == 9 and call_id.isalnum() and call_id.isascii():
        return call_id
    number = int.from_bytes(sha256(call_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return "".join(_DIGITS[number // 62**place % 62] for place in range(9))


def wire_id(call_id: Any) -> str:
    """Return Mistral's form of an id that may be missing: then an empty string."""
    text = "" if call_id is None else str(call_id)
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


def with_call_ids(message: AnyMessage, ids: Sequence[str]) -> AnyMessage:
    """Return the message with its calls as the schema takes them, under these ids; itself where nothing changes."""
    calls, new = message["tool_calls"], []
    for call, call_id in zip(calls, ids, strict=True):
        function = call["function"]
        given = function.get("arguments")
        # Some servers leave the arguments of a call without any empty, which is no JSON.
        arguments = "{}" if given is None else given if not isinstance(given, str) else plain_arguments(given) or "{}"
        if arguments is not given or not function.keys() <= _FUNCTION_KEYS:
            function = {"name": function.get("name"), "arguments": arguments}
        elif call.get("id") == call_id and call.keys() <= _CALL_KEYS and None not in call.values():
            new.append(call)
            continue
        kept = {key: value for key, value in call.items() if key in _CALL_KEYS and value is not None}
        new.append(kept | {"id": call_id, "function": function})
    return message if new == calls else message | {"tool_calls": new}
