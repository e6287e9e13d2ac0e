"""Map LlamaIndex's messages and blocks to Mistral's messages. Pure, but for the files that blocks name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, Final, assert_never

from llama_index.core.base.llms import types as llama

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral import content as wire
from lava_mistral.mistral.tool_results import tool_content
from lava_mistral.mistral.types import AssistantMessage, ContentPart, Message, ThinkingPart, ToolMessage
from llama_index_lava_mistral._tools import call_parts, calls_of

PROVIDER: Final = "mistral"
"""Marks, under `provider`, the thinking that a Mistral model wrote: only that is replayed with its signature."""
# What LlamaIndex calls a document that nobody gave a name.
_UNNAMED: Final = "input_document"

_ROLES: Final = {
    **dict.fromkeys((llama.MessageRole.SYSTEM, llama.MessageRole.DEVELOPER), "system"),
    **dict.fromkeys((llama.MessageRole.ASSISTANT, llama.MessageRole.CHATBOT, llama.MessageRole.MODEL), "assistant"),
    **dict.fromkeys((llama.MessageRole.TOOL, llama.MessageRole.FUNCTION), "tool"),
    llama.MessageRole.USER: "user",
}


def to_wire(messages: Iterable[llama.ChatMessage]) -> list[Message]:
    """Return the conversation in Mistral's form, or raise InvalidRequestError for what it has no place for."""
    messages, converted = list(messages), list[Message]()
    for number, message in enumerate(messages, 1):
        if not message.additional_kwargs and (text := _only_text(message.blocks)) is not None:
            # As `_message` would: long histories are made of these.
            plain: Any = {"role": _ROLES[message.role], "content": text}
            converted.append(plain)
        elif not _repeats_a_result(message, messages[number] if number < len(messages) else None):
            converted.append(_message(message))
    return converted


def _only_text(blocks: Sequence[llama.ContentBlock]) -> str | None:
    """Return the text of the block, if there is one alone and it is text."""
    return blocks[0].text if len(blocks) == 1 and isinstance(blocks[0], llama.TextBlock) else None


def _repeats_a_result(message: llama.ChatMessage, after: llama.ChatMessage | None) -> bool:
    # An agent adds one after the result of a `return_direct` tool. It is the answer that the user saw where the user
    # goes on; where the tool failed, the model does.
    is_result = message.role == llama.MessageRole.ASSISTANT and "tool_call_id" in message.additional_kwargs
    return is_result and (after is None or after.role in (llama.MessageRole.ASSISTANT, llama.MessageRole.TOOL))


def _message(message: llama.ChatMessage) -> Message:
    match _ROLES[message.role]:
        case "system":
            return {"role": "system", "content": _system_content(message)}
        case "assistant":
            return _assistant(message)
        case "tool":
            return _tool_result(message)
        case _:
            return {"role": "user", "content": _content(_parts(message.blocks))}


def _content(parts: list[ContentPart]) -> str | list[ContentPart]:
    """Return parts as the content of a message; a single text becomes a string."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts or ""


def _system_content(message: llama.ChatMessage) -> str | list[ContentPart]:
    parts = _parts(message.blocks)
    for part in parts:
        if part["type"] not in ("text", "thinking"):
            raise InvalidRequestError(
                f"A {message.role.value} message takes text alone; this one holds {part['type']}.",
                advice="Put it into a user message.",
            )
    return _content(parts)


def _tool_result(message: llama.ChatMessage) -> ToolMessage:
    text = _only_text(message.blocks)
    result: ToolMessage = {
        "role": "tool",
        "content": tool_content(message.blocks, _block_parts) if text is None else text,
    }
    for key in ("tool_call_id", "name"):
        if (value := message.additional_kwargs.get(key)) is not None:
            result[key] = str(value)
    return result


def _assistant(message: llama.ChatMessage) -> AssistantMessage:
    # What a citation cites is in the text too.
    content = _parts(block for block in message.blocks if not isinstance(block, llama.CitationBlock))
    whole = message.additional_kwargs.get("mistral_content")
    if whole is not None and _text(whole) == _text(content):
        # Nobody changed the text since the model wrote it.
        content = whole
    turn: AssistantMessage = {"role": "assistant", "content": _content(content)}
    if calls := calls_of(message):
        turn["tool_calls"] = call_parts(calls)
    if message.additional_kwargs.get("prefix"):
        turn["prefix"] = True
    return turn


def _text(parts: Iterable[ContentPart]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _parts(blocks: Iterable[llama.ContentBlock]) -> list[ContentPart]:
    return [part for block in blocks for part in _block_parts(block)]


def _block_parts(block: llama.ContentBlock) -> Iterator[ContentPart]:
    match block:
        case llama.TextBlock():
            if block.text:
                yield wire.text_part(block.text)
        case llama.ImageBlock():
            content = _read(block, block.image, block.resolve_image)
            yield wire.image_part(
                str(block.url) if content is None else _image_url(block, content), detail=block.detail
            )
        case llama.AudioBlock():
            content = _read(block, block.audio, block.resolve_audio)
            yield wire.audio_part(str(block.url) if content is None else content)
        case llama.DocumentBlock():
            content = _read(block, block.data, block.resolve_document)
            name = block.title if block.title != _UNNAMED else None
            if content is None:
                yield wire.url_part(str(block.url), media_type=block.document_mimetype, name=name)
            else:
                name = PurePath(block.path).name if name is None and block.path is not None else name
                yield wire.file_part(content, media_type=block.document_mimetype, name=name)
        case llama.VideoBlock():
            raise wire.refused("video")
        case llama.CitableBlock():
            yield wire.text_part(f"{block.title} ({block.source}):")
            yield from _parts(block.content)
        case llama.CitationBlock():
            yield from _block_parts(block.cited_content)
        case llama.ThinkingBlock():
            yield from _thinking(block)
        case llama.CachePoint() | llama.ToolCallBlock():
            # Mistral caches by itself; calls have a field of their own.
            return
        case _:
            assert_never(block)


def may_be_read(block: llama.ContentBlock) -> bool:
    """Return whether a block names a file, or may hold one that does."""
    return type(block) is not llama.TextBlock and (
        isinstance(block, llama.CitableBlock) or getattr(block, "path", None) is not None
    )


def _read(
    block: llama.ImageBlock | llama.AudioBlock | llama.DocumentBlock, data: object, resolve: Callable[[], Any]
) -> bytes | None:
    """Return the content of a block that holds a file or names its path; `None` where it names a URL."""
    if data is None and block.path is None:
        if block.url is None:
            raise InvalidRequestError(f"{type(block).__name__} holds neither data nor a path nor a URL.")
        return None
    content: bytes = resolve().read()
    return content


def _image_url(block: llama.ImageBlock, content: bytes) -> str:
    media_type = block.image_mimetype or wire.media_type_of(content)
    if media_type is None or not media_type.startswith("image/"):
        raise InvalidRequestError(
            "The content of an ImageBlock is no image of a known kind.",
            advice="Give its image_mimetype, such as 'image/png'.",
        )
    return wire.data_url(content, media_type)


def _thinking(block: llama.ThinkingBlock) -> Iterator[ThinkingPart]:
    part: ThinkingPart = {"type": "thinking", "thinking": [wire.text_part(block.content)] if block.content else []}
    info = block.additional_information
    if info.get("provider") == PROVIDER:
        kept: Any = {key: info[key] for key in ("closed", "signature") if info.get(key) is not None}
        yield {**part, **kept}
    elif block.content:
        # Signatures, ids and encrypted content of other providers mean nothing to Mistral; their text does.
        yield part
