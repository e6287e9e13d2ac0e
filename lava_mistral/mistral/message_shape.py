"""Read the shape of one message, and take out what Mistral's schema refuses. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, TypeAlias

from lava_mistral.errors import InvalidRequestError

AnyMessage: TypeAlias = dict[str, Any]
"""A message whose shape is not known yet."""

_ROLES = ("system", "user", "assistant", "tool")
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


def roles_of(messages: Sequence[Any]) -> list[str]:
    """Return the role of each message; raises InvalidRequestError for what is none, or has none of Mistral's roles."""
    roles = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequestError(
                f"messages[{index}] should be a dictionary with a role; got {type(message).__name__}."
            )
        role = message.get("role")
        if role not in _ROLES:
            raise InvalidRequestError(f"messages[{index}] has role {role!r}; expected system, user, assistant or tool.")
        roles.append(role)
    return roles


def text_of(message: AnyMessage) -> str:
    """Return all text of a message, its parts a line each."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(
        str(part["text"]) for part in content or () if isinstance(part, dict) and part.get("type") == "text"
    )


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
    new = [_clean_part(part, kinds) for part in parts]
    return parts if new == parts else [part for part in new if part is not None]


def _clean_part(part: Any, kinds: Set[str] | None) -> Any:
    """Return a part as the schema takes it, `None` when nothing of it remains; all `kinds` may be there, or any."""
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
