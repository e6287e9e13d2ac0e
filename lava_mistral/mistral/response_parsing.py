"""Read the parts of an answer, in each of the forms in which servers word them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from uuid import uuid4

from lava_mistral.errors import ServerError

NO_ID = frozenset(("", "null"))
"""What stands for a missing tool-call id, beside `None`: "null" is the default of Mistral's schema."""
# The field that a part of a known type must have, and what its value must be.
_PART_FIELDS: dict[str, tuple[str, type]] = {
    "image_url": ("image_url", str),
    "document_url": ("document_url", str),
    "input_audio": ("input_audio", str),
    "file": ("file_id", str),
    "resource": ("content", dict),
    "tool_reference": ("title", str),
    "resource_link": ("uri", str),
}
_FORMS = {dict: "an object", list: "a list", str: "a string"}
_T = TypeVar("_T", dict[Any, Any], list[Any], str)
_DEEPEST = 50  # levels of parts inside parts; real answers have two


def malformed(name: str, expected: str, value: Any) -> ServerError:
    """Return the error for an answer in which something has not the shape that it should have."""
    return ServerError(
        f"an answer came whose {name} should be {expected}; got {type(value).__name__}", origin="mistral"
    )


def checked(value: Any, form: type[_T], name: str) -> _T:
    """Return a value in an answer that has the form that it should have, or raise ServerError."""
    if not isinstance(value, form):
        raise malformed(name, _FORMS[form], value)
    return value


def as_list(value: Any, name: str) -> list[Any]:
    """Return a list in an answer, which may be missing, or raise ServerError."""
    return [] if value is None else checked(value, list, name)


def read_parts(content: Any, depth: int = 0) -> list[Any]:
    """Return content (a string, a list of strings and parts, or nothing) as a list of parts, without empty text.

    What has not what its type promises becomes a part of the type "unknown"; what is no content raises ServerError.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, Iterable) or isinstance(content, Mapping):
        raise malformed("content", "a string or a list", content)
    if depth > _DEEPEST:
        raise malformed("content", f"nested {_DEEPEST} levels at most", content)
    return [part for item in content for part in _read_part(item, depth)]


def _read_part(item: Any, depth: int) -> list[Any]:
    if isinstance(item, str):
        return read_parts(item)
    match checked(item, dict, "content's part").get("type"):
        case "text" | None if item.get("text"):
            checked(item["text"], str, "text")
            return [item if item.get("type") else {**item, "type": "text"}]
        case "text":
            return []
        case "thinking":
            return [item | {"thinking": read_parts(item.get("thinking"), depth + 1)}]
        case "reference":
            ids = item.get("reference_ids")
            kept = [id for id in ids if isinstance(id, int | str)] if isinstance(ids, list) else []
            rest = {key: value for key, value in item.items() if key != "text"} | {"reference_ids": kept}
            # The schema has no text there, but it is seen: no cited word may be lost (langchain-ai/langchain#35259).
            return [*read_parts(item.get("text") or None), rest]
        case str() as kind:
            name, form = _PART_FIELDS.get(kind, ("type", str))
            value: Any = item.get(name)
            if kind == "image_url" and isinstance(value, dict):
                value = value.get("url")
            return [item if isinstance(value, form) else {**item, "type": "unknown"}]
        case _:
            return [{**item, "type": "unknown"}]


def content_of(message: Mapping[str, Any]) -> Any:
    """Return the content of a message or a delta, after the thoughts that other servers put into a field beside it."""
    content, thoughts = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    if not thoughts or not isinstance(thoughts, str):
        return content
    return [{"type": "thinking", "thinking": thoughts}, *read_parts(content)]


def text_in(parts: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of the parts that are text, joined."""
    return "".join(part["text"] for part in parts if part["type"] == "text")


def thinking_in(parts: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of the parts that are thinking, joined."""
    return "".join(text_in(part["thinking"]) for part in parts if part["type"] == "thinking")


def known_id(call_id: Any) -> str | None:
    return call_id if isinstance(call_id, str) and call_id not in NO_ID else None


def fresh_call_id() -> str:
    return uuid4().hex[:9]


def read_function(call: Any) -> tuple[str, str]:
    """Return the name and the arguments' JSON text of a tool call or a fragment of one; raises ServerError."""
    function = checked(checked(call, dict, "tool_calls' item").get("function") or {}, dict, "function")
    name, arguments = checked(function.get("name") or "", str, "name"), function.get("arguments")
    if arguments is None:
        return name, ""
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    return name, arguments


def plain_arguments(text: str) -> str:
    """Return the arguments of a call without a second layer of JSON; an empty string for JSON's null."""
    if text.lstrip()[:1] not in ('"', "n"):
        return text
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text
    return plain_arguments(value) if isinstance(value, str) else ""
