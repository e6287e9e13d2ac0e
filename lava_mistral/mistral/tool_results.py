"""Make the content of a tool's message from what a tool returned: a result is data, unless it can be read. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from lava_mistral.errors import LavaError
from lava_mistral.mistral.content import media_type_of, text_part
from lava_mistral.mistral.json_codec import to_text
from lava_mistral.mistral.types import ContentPart

_OWN_KINDS: Final = ("file", "document", "media")
_SOURCE_KEYS: Final = frozenset(("mime_type", "media_type", "source_type", "source"))
_LONG_BASE64: Final = re.compile(r"(?:data:[^,\s]*,)?[\w+/=-]{1000,}", re.ASCII)


def tool_content(blocks: Iterable[Any], convert: Callable[[Any], Iterable[ContentPart]]) -> str | list[ContentPart]:
    """Return the content of a tool's message: readable blocks as parts, and data as JSON text.

    What has a `type` of its own, a URL that Mistral can't fetch (`file:///`, `gs://`, a path) or no readable content is
    data; where nothing is content, the list as a whole. `convert` turns a block into parts; a `LavaError`, `OSError` or
    `ValueError` of it says that the block is data.
    """
    read = [(block, _read_block(block, convert)) for block in blocks]
    if read and all(parts is None for _, parts in read):
        return to_text(_abridged([block for block, _ in read]))
    content: list[ContentPart] = []
    for block, parts in read:
        content += [text_part(to_text(_abridged(block)))] if parts is None else parts
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else content or ""


def _read_block(block: Any, convert: Callable[[Any], Iterable[ContentPart]]) -> list[ContentPart] | None:
    """Return the parts of a block that is content; `None` for data."""
    if isinstance(block, str):
        return [text_part(block)] if block else []
    fields = block if isinstance(block, Mapping) else {"type": "text", "text": ""}
    kind = fields.get("type")
    # With a bare URL these are as often rows of a table as files.
    a_row = kind in _OWN_KINDS and "url" in fields and not fields.keys() & _SOURCE_KEYS
    if a_row or (kind is None and fields.keys() != {"text"}):
        return None
    try:
        parts = list(convert(block))
    except (LavaError, OSError, ValueError):
        return None
    nothing = not parts and fields.get("text") != ""
    return None if nothing or not all(map(_is_readable, parts)) else parts


def _is_readable(part: ContentPart) -> bool:
    match part:
        case {"type": "text" | "file"}:
            return True
        case {"type": "image_url", "image_url": str(url) | {"url": str(url)}}:
            return _is_file(url, "image/")
        case {"type": "document_url", "document_url": str(url)}:
            return _is_file(url)
        case {"type": "input_audio", "input_audio": str(data)}:
            return _is_file(data if "://" in data else f"data:;base64,{data}")
        case _:
            return False


def _is_file(url: str, kind: str = "") -> bool:
    """Return whether Mistral can fetch a URL, or it is a `data:` URL that begins as a file of this kind."""
    if url.startswith(("https://", "http://")):
        return True
    head, _, data = url.partition(";base64,")
    try:
        beginning = base64.b64decode("".join(data[:400].split())[:256], validate=True)
    except ValueError:
        return False
    return head.startswith("data:") and bool(beginning) and (media_type_of(beginning) or "").startswith(kind)


def _abridged(value: Any) -> Any:
    """Return the data without long base64, which tells a model nothing and costs a token for every few letters."""
    if isinstance(value, str):
        return f"[{len(value)} characters of base64]" if _LONG_BASE64.fullmatch(value) else value
    if isinstance(value, Mapping):
        return {key: _abridged(inner) for key, inner in value.items()}
    return [_abridged(inner) for inner in value] if isinstance(value, list) else value
