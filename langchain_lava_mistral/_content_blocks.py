"""Translate Mistral's content into LangChain's standard blocks: what `message.content_blocks` gives. Pure."""

from __future__ import annotations

from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.content import KNOWN_BLOCK_TYPES, ContentBlock

PROVIDER = "lava_mistral"
"""How LangSmith, `response_metadata` and `init_chat_model` call this integration."""


def translate_message(message: AIMessage) -> list[ContentBlock]:
    """Return the standard blocks of a whole message."""
    blocks = [{key: value for key, value in block.items() if key != "index"} for block in _content(message.content)]
    return cast("list[ContentBlock]", [*blocks, *map(dict, message.tool_calls)])


def translate_chunk(message: AIMessageChunk) -> list[ContentBlock]:
    """Return the standard blocks of a chunk, or of several put together, with their indices.

    Fragments of tool calls stay fragments until the answer is whole: as calls, split arguments would be lost.
    """
    calls: list[dict[str, Any]] = [dict(call) for call in message.tool_calls]
    if message.chunk_position != "last":
        calls = [{**call, "type": "tool_call_chunk"} for call in message.tool_call_chunks]
        calls = [{key: call[key] for key in call if key != "index" or call[key] is not None} for call in calls]
    return cast("list[ContentBlock]", [*_content(message.content), *calls])


def _content(content: str | list[Any]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content, "index": "lc_txt_0"}] if content else []
    blocks: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, str):
            blocks += _content(part)
            continue
        match part.get("type"):
            case "thinking":
                texts = (item["text"] for item in part["thinking"] if item.get("type") == "text")
                blocks.append({"type": "reasoning", "reasoning": "".join(texts), **_index(part)})
                if part.get("signature"):
                    blocks[-1]["extras"] = {"signature": part["signature"]}
            case "reference" | "tool_reference":
                if not blocks or blocks[-1]["type"] != "text":
                    blocks.append({"type": "text", "text": "", **_index(part)})
                blocks[-1]["annotations"] = [*blocks[-1].get("annotations", ()), _citation(part)]
            case "tool_call" | "tool_call_chunk" | "invalid_tool_call":
                # These are in `tool_calls`.
                continue
            case kind if kind in KNOWN_BLOCK_TYPES:
                blocks.append(dict(part))
            case _:
                value = {key: inner for key, inner in part.items() if key != "index"}
                blocks.append({"type": "non_standard", "value": value, **_index(part)})
    return blocks


def _index(part: dict[str, Any]) -> dict[str, Any]:
    """Return the index of the block that a part belongs to: a reference belongs to the text of its number."""
    return {"index": part["index"].replace("lc_ref_", "lc_txt_")} if "index" in part else {}


def _citation(part: dict[str, Any]) -> dict[str, Any]:
    shown = {key: part[key] for key in ("url", "title") if part.get(key)}
    skipped = ("type", "index", "url", "title")
    extras = {key: value for key, value in part.items() if key not in skipped and value is not None}
    return {"type": "citation", **shown, "extras": extras}
