"""Maps LlamaIndex's messages, blocks and tools to the wire's and back, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from llama_index.core.tools import BaseTool, FunctionTool
from pydantic import BaseModel

from lava_mistral.errors import ConfigurationError, InvalidRequestError
from lava_mistral.mistral.content import (
    add_part,
    audio_part,
    data_url,
    file_part,
    image_part,
    media_type_of,
    refused,
    text_part,
    url_part,
)
from lava_mistral.mistral.tools import json_schema_format, tool_name
from lava_mistral.mistral.turn import ToolCall, Turn
from lava_mistral.mistral.types import (
    AssistantMessage,
    Content,
    ContentPart,
    Function,
    Message,
    ReferencePart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolMessage,
)

PROVIDER: Final = "mistral"
"""Marks, under `provider`, the thinking that a Mistral model wrote: only that is replayed with its signature."""
# What LlamaIndex calls a document that nobody gave a name.
_UNNAMED: Final = "input_document"


def to_wire(messages: Iterable[ChatMessage]) -> list[Message]:
    """The conversation in Mistral's own form.

    Raises:
        InvalidRequestError: a message holds something that Mistral does not take, or not from that role.
    """
    return [_message(message) for message in messages]


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
    """A single text as plain text, as everybody writes it."""
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
    result: ToolMessage = {"role": "tool", "content": _content(_parts(message.blocks))}
    if (id := message.additional_kwargs.get("tool_call_id")) is not None:
        result["tool_call_id"] = str(id)
    if (name := message.additional_kwargs.get("name")) is not None:
        result["name"] = tool_name(str(name))
    return result


def _assistant(message: ChatMessage) -> AssistantMessage:
    wire: AssistantMessage = {"role": "assistant", "content": _assistant_content(message.blocks)}
    if calls := tool_calls_of(message):
        # A call was given its tool's own name, which Mistral may not take.
        wire["tool_calls"] = [_call_part(replace(call, name=tool_name(call.name))) for call in calls]
    if message.additional_kwargs.get("prefix"):
        wire["prefix"] = True
    return wire


def tool_calls_of(message: ChatMessage) -> list[ToolCall]:
    """The tool calls of a message: its blocks, else the older `additional_kwargs["tool_calls"]` of any integration."""
    calls = [
        ToolCall(block.tool_call_id or "", block.tool_name, _json(block.tool_kwargs))
        for block in message.blocks
        if isinstance(block, ToolCallBlock)
    ]
    return calls or [_older_call(call) for call in message.additional_kwargs.get("tool_calls") or ()]


def _older_call(call: Any) -> ToolCall:
    # A wire dictionary, or the object of another provider's SDK that has the same attributes.
    def get(source: Any, name: str) -> Any:
        return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)

    function = get(call, "function") or call
    return ToolCall(
        str(get(call, "id") or ""), str(get(function, "name") or ""), _json(get(function, "arguments") or {})
    )


def _json(arguments: Any) -> str:
    return (
        arguments
        if isinstance(arguments, str)
        else json.dumps(arguments, default=str, ensure_ascii=False, separators=(",", ":"))
    )


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
            "The content of an ImageBlock is no picture of a known kind.",
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


def _assistant_content(blocks: Sequence[ContentBlock]) -> Content:
    """The content of an assistant's turn, with the thinking and the references back where they were in the text."""
    marks = _marks(blocks)
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


def _marks(blocks: Iterable[ContentBlock]) -> list[tuple[int, ContentPart]]:
    """What stood inside the text of a turn, with the number of characters before it."""
    marks: list[tuple[int, ContentPart]] = []
    references: dict[int, ReferencePart] = {}
    for block in blocks:
        if isinstance(block, ThinkingBlock):
            position = block.additional_information.get("position")
            if position is not None and (part := _thinking(block)) is not None:
                marks.append((position, part))
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


def from_turn(turn: Turn) -> ChatMessage:
    """The message that a turn is, complete or as far as it came; nothing in it is shared with another message.

    All text is one block, since LlamaIndex joins text blocks with line breaks.
    """
    kwargs: dict[str, Any] = {}
    blocks: list[ContentBlock] = [*_content_blocks(turn.content)]
    if turn.tool_calls:
        blocks += [
            ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments)
            for call in turn.tool_calls
        ]
        kwargs["tool_calls"] = [_call_part(call) for call in turn.tool_calls]
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=kwargs)


def _call_part(call: ToolCall) -> ToolCallPart:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _content_blocks(content: Sequence[ContentPart]) -> list[ContentBlock]:
    text = ""
    text_at: int | None = None
    cited = 0
    references = 0
    blocks: list[ContentBlock] = []
    for part in content:
        match part["type"]:
            case "text":
                if text_at is None:
                    text_at = len(blocks)
                text += part["text"]
            case "thinking":
                blocks.append(_thinking_block(part, len(text)))
            case "reference":
                blocks += _citations(part, text, cited, references)
                cited = len(text)
                references += 1
            case "image_url":
                image = part["image_url"]
                blocks.append(ImageBlock(url=image if isinstance(image, str) else image["url"]))
            case "document_url":
                blocks.append(DocumentBlock(url=part["document_url"], title=part.get("document_name")))
            case _:
                # Kinds that a model does not write today; they stay readable in `raw`.
                continue
    blocks.insert(len(blocks) if text_at is None else text_at, TextBlock(text=text))
    return blocks


def _thinking_block(part: ThinkingPart, position: int) -> ThinkingBlock:
    pieces = part["thinking"]
    information: dict[str, Any] = {"provider": PROVIDER}
    for key in ("closed", "signature"):
        if part.get(key) is not None:
            information[key] = part[key]
    if any(piece.get("type") != "text" for piece in pieces):
        information["thinking"] = pieces
    if position:
        information["position"] = position
    text = "".join(piece["text"] for piece in pieces if piece.get("type") == "text")
    return ThinkingBlock(content=text, additional_information=information)


def _citations(part: ReferencePart, text: str, start: int, ordinal: int) -> Iterator[CitationBlock]:
    """One block for each source; the text since the last reference is what it stands for."""
    for source in part["reference_ids"]:
        where = {"start": start, "end": len(text), "reference": ordinal}
        if isinstance(source, int):
            where["reference_id"] = source
        yield CitationBlock(
            cited_content=TextBlock(text=text[start:]),
            source=str(source),
            title=str(source),
            additional_location_info=where,
        )


def tool_specs(tools: Iterable[Any]) -> list[Tool]:
    """Tools in the wire's form: LlamaIndex's own, plain functions, or dictionaries that have it already.

    Raises:
        InvalidRequestError: two tools have names that Mistral can't tell apart.
    """
    tools = list(tools)
    own_names(tools)
    return [_tool_spec(tool) for tool in tools]


def own_names(tools: Iterable[Any]) -> dict[str, str]:
    """The names that the tools have themselves, by those that Mistral takes.

    Raises:
        InvalidRequestError: two are the same to Mistral.
    """
    names: dict[str, str] = {}
    for tool in tools:
        if isinstance(tool, BaseTool) and (own := tool.metadata.name) is not None:
            other = names.setdefault(tool_name(own), own)
            if other != own:
                raise InvalidRequestError(
                    f"The tools {other!r} and {own!r} are both {tool_name(own)!r} to Mistral, whose names have "
                    "letters, digits, underscores and hyphens, 64 at most.",
                    advice="Rename one of them.",
                )
    return names


def with_own_names(message: ChatMessage, names: Mapping[str, str]) -> None:
    """Give the calls in a message the names that the tools have themselves, in place; see `own_names`."""
    for block in message.blocks:
        if isinstance(block, ToolCallBlock):
            block.tool_name = names.get(block.tool_name, block.tool_name)
    for call in message.additional_kwargs.get("tool_calls") or ():
        function = call["function"]
        function["name"] = names.get(function["name"], function["name"])


def function_of(cls: type[BaseModel]) -> Function:
    """The function that takes what an object of the class has, in the wire's form."""
    schema = cls.model_json_schema()
    name = tool_name(str(schema.get("title", cls.__name__)))
    return {"name": name, "description": str(schema.get("description", "")), "parameters": schema}


def named_choice(choice: Any) -> Any:
    """A tool choice, in which a tool stands for its name."""
    return choice.metadata.get_name() if isinstance(choice, BaseTool) else choice


def response_format_of(form: Any) -> Any:
    """The wire's form of an answer: that of a pydantic class, or what has it already.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(form, type) and issubclass(form, BaseModel):
        function = function_of(form)
        return json_schema_format(function["name"], function["parameters"], description=function.get("description"))
    if not isinstance(form, Mapping):
        raise ConfigurationError(
            "response_format= takes a pydantic class, or Mistral's form of it in a dictionary, such as "
            f"{{'type': 'json_object'}}, not {form!r}."
        )
    return form


def _tool_spec(tool: Any) -> Tool:
    if isinstance(tool, dict):
        return tool  # type: ignore[return-value]  # Mistral checks it
    if not isinstance(tool, BaseTool):
        tool = FunctionTool.from_defaults(tool)
    # LlamaIndex's limit on descriptions is OpenAI's, not Mistral's.
    spec: Tool = tool.metadata.to_openai_tool(skip_length_check=True)
    spec["function"]["name"] = tool_name(tool.metadata.get_name())
    return spec
