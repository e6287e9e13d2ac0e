"""Map LlamaIndex's messages and blocks to Mistral's messages. Pure, but for the files that blocks name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Final, assert_never

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
    add_part,
    audio_part,
    data_url,
    file_part,
    image_part,
    media_type_of,
    refused,
    text_part,
    tool_content,
    url_part,
)
from lava_mistral.mistral.types import (
    AssistantMessage,
    Content,
    ContentPart,
    Message,
    ReferencePart,
    ThinkingPart,
    ToolMessage,
)
from llama_index_lava_mistral._tools import call_parts, calls_of

PROVIDER: Final = "mistral"
"""Marks, under `provider`, the thinking that a Mistral model wrote: only that is replayed with its signature."""
# What LlamaIndex calls a document that nobody gave a name.
_UNNAMED: Final = "input_document"


def to_wire(messages: Iterable[ChatMessage]) -> list[Message]:
    """Return the conversation in Mistral's form.

    Raises:
        InvalidRequestError: a message holds something that Mistral does not take, or not from that role.
    """
    messages = list(messages)
    return [
        _message(message)
        for message, after in zip(messages, [*messages[1:], None], strict=True)
        if not _repeats_a_result(message, after)
    ]


def _repeats_a_result(message: ChatMessage, after: ChatMessage | None) -> bool:
    """Return whether a message repeats a tool's result and is no turn of the model's.

    An agent adds one after the result of a `return_direct` tool. It is the answer that the user saw where the user goes
    on; where the tool failed, the model does.
    """
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
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


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
    wire: AssistantMessage = {"role": "assistant", "content": _assistant_content(message)}
    if calls := calls_of(message):
        wire["tool_calls"] = call_parts(calls)
    if message.additional_kwargs.get("prefix"):
        wire["prefix"] = True
    return wire


def _parts(blocks: Iterable[ContentBlock]) -> list[ContentPart]:
    return [part for block in blocks for part in _block_parts(block)]


def _block_parts(block: ContentBlock) -> Iterator[ContentPart]:
    match block:
        case TextBlock():
            if block.text:
                yield text_part(block.text)
        case ImageBlock():
            yield _image(block)
        case AudioBlock():
            yield _audio(block)
        case DocumentBlock():
            yield _document(block)
        case VideoBlock():
            raise refused("video")
        case CitableBlock():
            yield text_part(f"{block.title} ({block.source}):")
            yield from _parts(block.content)
        case CitationBlock():
            yield from _block_parts(block.cited_content)
        case ThinkingBlock():
            if (thinking := _thinking(block)) is not None:
                yield thinking
        case CachePoint() | ToolCallBlock():
            # Mistral caches by itself; calls have a field of their own.
            return
        case _:
            assert_never(block)


def _image(block: ImageBlock) -> ContentPart:
    if block.image is None and block.path is None:
        if block.url is None:
            raise _empty(block)
        return image_part(str(block.url), detail=block.detail)
    content = block.resolve_image().read()
    media_type = block.image_mimetype or media_type_of(content)
    if media_type is None or not media_type.startswith("image/"):
        raise InvalidRequestError(
            "The content of an ImageBlock is no image of a known kind.",
            advice="Give its image_mimetype, such as 'image/png'.",
        )
    return image_part(data_url(content, media_type), detail=block.detail)


def _audio(block: AudioBlock) -> ContentPart:
    if block.audio is None and block.path is None:
        if block.url is None:
            raise _empty(block)
        return audio_part(str(block.url))
    return audio_part(block.resolve_audio().read())


def _document(block: DocumentBlock) -> ContentPart:
    name = block.title if block.title != _UNNAMED else None
    if block.data is None and block.path is None:
        if block.url is None:
            raise _empty(block)
        return url_part(block.url, media_type=block.document_mimetype, name=name)
    if name is None and block.path is not None:
        name = PurePath(block.path).name
    return file_part(block.resolve_document().read(), media_type=block.document_mimetype, name=name)


def _empty(block: ContentBlock) -> InvalidRequestError:
    return InvalidRequestError(f"{type(block).__name__} holds neither data nor a path nor a URL.")


def _thinking(block: ThinkingBlock) -> ThinkingPart | None:
    info = block.additional_information
    if info.get("provider") != PROVIDER:
        # Signatures, ids and encrypted content of other providers mean nothing to Mistral; their text does.
        return {"type": "thinking", "thinking": [text_part(block.content)]} if block.content else None
    pieces = info.get("thinking") or ([text_part(block.content)] if block.content else [])
    part: ThinkingPart = {"type": "thinking", "thinking": pieces}
    if "closed" in info:
        part["closed"] = info["closed"]
    if info.get("signature") is not None:
        part["signature"] = info["signature"]
    return part


def _assistant_content(message: ChatMessage) -> Content:
    """Return an assistant's content with thinking and references back at their places in the text."""
    blocks, marks = message.blocks, _marks(message)
    parts: list[ContentPart] = []
    for block in blocks:
        pieces: Iterable[ContentPart] = ()
        match block:
            case TextBlock():
                pieces, marks = _interleaved(block.text, marks), []
            case ThinkingBlock() if "position" in block.additional_information:
                pass
            case CitationBlock():
                pass
            case _:
                pieces = _block_parts(block)
        for piece in pieces:
            add_part(parts, piece)
    for _, piece in marks:
        add_part(parts, piece)
    return _content(parts)


def _marks(message: ChatMessage) -> list[tuple[int, ContentPart]]:
    """Return the parts inside the text of a turn, each with the number of characters before it."""
    marks: list[tuple[int, ContentPart]] = []
    references: dict[int, ReferencePart] = {}
    for block in message.blocks:
        if isinstance(block, ThinkingBlock):
            position = block.additional_information.get("position")
            if position is not None and (part := _thinking(block)) is not None:
                marks.append((position, part))
        elif isinstance(block, CitationBlock) and "part" in block.additional_location_info:
            where = block.additional_location_info
            # A slice: a memory may keep blocks alone.
            parts = (message.additional_kwargs.get("parts") or [])[where["part"] :][:1]
            marks += [(where["end"], part) for part in parts]
        elif isinstance(block, CitationBlock) and "reference" in block.additional_location_info:
            where = block.additional_location_info
            reference = references.get(where["reference"])
            if reference is None:
                reference = references[where["reference"]] = {"type": "reference", "reference_ids": []}
                marks.append((where["end"], reference))
            reference["reference_ids"].append(where.get("reference_id", block.source))
    return sorted(marks, key=lambda mark: mark[0])


def _interleaved(text: str, marks: Iterable[tuple[int, ContentPart]]) -> Iterator[ContentPart]:
    done = 0
    for position, part in marks:
        if text[done:position]:
            yield text_part(text[done:position])
            done = position
        yield part
    if text[done:]:
        yield text_part(text[done:])
