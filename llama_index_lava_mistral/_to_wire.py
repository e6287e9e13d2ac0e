"""Map LlamaIndex's messages and blocks to Mistral's messages. Pure, but for the files that blocks name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import Any, Final, assert_never

from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.content import (
    audio_part,
    data_url,
    file_part,
    image_part,
    media_type_of,
    refused,
    text_part,
    url_part,
)
from lava_mistral.mistral.tool_results import tool_content
from lava_mistral.mistral.types import AssistantMessage, ContentPart, Message, ThinkingPart, ToolMessage
from llama_index_lava_mistral._tools import call_parts, calls_of

PROVIDER: Final = "mistral"
"""Marks, under `provider`, the thinking that a Mistral model wrote: only that is replayed with its signature."""
# What LlamaIndex calls a document that nobody gave a name.
_UNNAMED: Final = "input_document"


def to_wire(messages: Iterable[ChatMessage]) -> list[Message]:
    """Return the conversation in Mistral's form, or raise InvalidRequestError for what it has no place for."""
    messages = list(messages)
    return [
        _message(message)
        for message, after in zip(messages, [*messages[1:], None], strict=True)
        if not _repeats_a_result(message, after)
    ]


def _repeats_a_result(message: ChatMessage, after: ChatMessage | None) -> bool:
    # An agent adds one after the result of a `return_direct` tool. It is the answer that the user saw where the user
    # goes on; where the tool failed, the model does.
    return (
        message.role == MessageRole.ASSISTANT
        and "tool_call_id" in message.additional_kwargs
        and (after is None or after.role in (MessageRole.ASSISTANT, MessageRole.TOOL))
    )


def _message(message: ChatMessage) -> Message:
    match message.role:
        case MessageRole.SYSTEM | MessageRole.DEVELOPER:
            return {"role": "system", "content": _system_content(message)}
        case MessageRole.USER:
            return {"role": "user", "content": _content(_parts(message.blocks))}
        case MessageRole.ASSISTANT | MessageRole.CHATBOT | MessageRole.MODEL:
            return _assistant(message)
        case MessageRole.TOOL | MessageRole.FUNCTION:
            return _tool_result(message)
        case _:
            assert_never(message.role)


def _content(parts: list[ContentPart]) -> str | list[ContentPart]:
    """Return parts as the content of a message; a single text becomes a string."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts or ""


def _system_content(message: ChatMessage) -> str | list[ContentPart]:
    parts = _parts(message.blocks)
    for part in parts:
        if part["type"] not in ("text", "thinking"):
            raise InvalidRequestError(
                f"A {message.role.value} message takes text alone; this one holds {part['type']}.",
                advice="Put it into a user message.",
            )
    return _content(parts)


def _tool_result(message: ChatMessage) -> ToolMessage:
    result: ToolMessage = {"role": "tool", "content": tool_content(message.blocks, _block_parts)}
    if (id := message.additional_kwargs.get("tool_call_id")) is not None:
        result["tool_call_id"] = str(id)
    if (name := message.additional_kwargs.get("name")) is not None:
        result["name"] = str(name)
    return result


def _assistant(message: ChatMessage) -> AssistantMessage:
    # What a citation cites is in the text too.
    content = _parts(block for block in message.blocks if not isinstance(block, CitationBlock))
    whole = message.additional_kwargs.get("mistral_content")
    if whole is not None and _text(whole) == _text(content):
        # Nobody changed the text since the model wrote it.
        content = whole
    wire: AssistantMessage = {"role": "assistant", "content": _content(content)}
    if calls := calls_of(message):
        wire["tool_calls"] = call_parts(calls)
    if message.additional_kwargs.get("prefix"):
        wire["prefix"] = True
    return wire


def _text(parts: Iterable[ContentPart]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _parts(blocks: Iterable[ContentBlock]) -> list[ContentPart]:
    return [part for block in blocks for part in _block_parts(block)]


def _block_parts(block: ContentBlock) -> Iterator[ContentPart]:
    match block:
        case TextBlock():
            if block.text:
                yield text_part(block.text)
        case ImageBlock():
            content = _read(block, block.image, block.resolve_image)
            yield image_part(str(block.url) if content is None else _image_url(block, content), detail=block.detail)
        case AudioBlock():
            content = _read(block, block.audio, block.resolve_audio)
            yield audio_part(str(block.url) if content is None else content)
        case DocumentBlock():
            content = _read(block, block.data, block.resolve_document)
            name = block.title if block.title != _UNNAMED else None
            if content is None:
                yield url_part(str(block.url), media_type=block.document_mimetype, name=name)
            else:
                name = PurePath(block.path).name if name is None and block.path is not None else name
                yield file_part(content, media_type=block.document_mimetype, name=name)
        case VideoBlock():
            raise refused("video")
        case CitableBlock():
            yield text_part(f"{block.title} ({block.source}):")
            yield from _parts(block.content)
        case CitationBlock():
            yield from _block_parts(block.cited_content)
        case ThinkingBlock():
            yield from _thinking(block)
        case CachePoint() | ToolCallBlock():
            # Mistral caches by itself; calls have a field of their own.
            return
        case _:
            assert_never(block)


def may_be_read(block: ContentBlock) -> bool:
    """Return whether a block names a file, or may hold one that does."""
    return isinstance(block, CitableBlock) or getattr(block, "path", None) is not None


def _read(block: ImageBlock | AudioBlock | DocumentBlock, data: object, resolve: Callable[[], Any]) -> bytes | None:
    """Return the content of a block that holds a file or names its path; `None` where it names a URL."""
    if data is None and block.path is None:
        if block.url is None:
            raise InvalidRequestError(f"{type(block).__name__} holds neither data nor a path nor a URL.")
        return None
    content: bytes = resolve().read()
    return content


def _image_url(block: ImageBlock, content: bytes) -> str:
    media_type = block.image_mimetype or media_type_of(content)
    if media_type is None or not media_type.startswith("image/"):
        raise InvalidRequestError(
            "The content of an ImageBlock is no image of a known kind.",
            advice="Give its image_mimetype, such as 'image/png'.",
        )
    return data_url(content, media_type)


def _thinking(block: ThinkingBlock) -> Iterator[ThinkingPart]:
    part: ThinkingPart = {"type": "thinking", "thinking": [text_part(block.content)] if block.content else []}
    info = block.additional_information
    if info.get("provider") == PROVIDER:
        if "closed" in info:
            part["closed"] = info["closed"]
        if info.get("signature") is not None:
            part["signature"] = info["signature"]
        yield part
    elif block.content:
        # Signatures, ids and encrypted content of other providers mean nothing to Mistral; their text does.
        yield part
