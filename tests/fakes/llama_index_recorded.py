"""Recorded requests, as a LlamaIndex user writes them."""

from __future__ import annotations

import base64
import json
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)


def options(request: dict[str, Any]) -> dict[str, Any]:
    """What a recorded request says beside the conversation, as arguments of a call."""
    more = {key: value for key, value in request.items() if key not in ("model", "messages", "stream", "tools")}
    if "tools" in request:
        more["tools"] = [{"type": "function", **tool} for tool in request["tools"]]
    return more


def block(part: dict[str, Any]) -> list[ContentBlock]:
    """A part of a recorded request, as a LlamaIndex user writes it."""
    match part["type"]:
        case "text":
            return [TextBlock(text=part["text"])]
        case "image_url" if part["image_url"]["url"].startswith("data:"):
            kind, data = split(part["image_url"]["url"])
            return [ImageBlock(image=data, image_mimetype=kind)]
        case "image_url":
            return [ImageBlock(url=part["image_url"]["url"])]
        case "document_url" if part["document_url"].startswith("data:"):
            kind, data = split(part["document_url"])
            return [DocumentBlock(data=data, document_mimetype=kind)]
        case "document_url":
            return [DocumentBlock(url=part["document_url"])]
        case "thinking":
            return [ThinkingBlock(content=item["text"]) for item in part["thinking"]]
        case kind:
            raise AssertionError(kind)


def split(url: str) -> tuple[str, bytes]:
    head, data = url.split(",", 1)
    return head[5:].removesuffix(";base64"), base64.b64decode(data)


def message(wire: dict[str, Any]) -> ChatMessage:
    """A recorded message, as a LlamaIndex user writes it."""
    content = wire["content"]
    blocks = [TextBlock(text=content)] if isinstance(content, str) else [b for part in content for b in block(part)]
    for made in wire.get("tool_calls") or ():
        function = made["function"]
        blocks.append(
            ToolCallBlock(
                tool_call_id=made["id"], tool_name=function["name"], tool_kwargs=json.loads(function["arguments"])
            )
        )
    kwargs = {"tool_call_id": wire["tool_call_id"]} if "tool_call_id" in wire else {}
    return ChatMessage(role=wire["role"], blocks=blocks, additional_kwargs=kwargs)
