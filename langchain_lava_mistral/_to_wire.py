"""Convert LangChain's messages to Mistral's wire, with blocks of any provider. Pure.

Readable reasoning of another provider is replayed as Mistral's own; other blocks of an assistant that only its provider
can read are left out; a user's block that Mistral can't take is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core import messages as langchain

from langchain_lava_mistral._content_blocks import PROVIDER
from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.content import add_part, audio_part, file_part, image_part, refused, text_part, url_part
from lava_mistral.mistral.json_codec import to_text
from lava_mistral.mistral.tool_results import tool_content
from lava_mistral.mistral.types import AssistantMessage, ContentPart, Message, ThinkingPart

# Whose models sign their thoughts for Mistral: a signature of any other provider means nothing to it.
_MISTRALS = (PROVIDER, "mistralai")

_log = logging.getLogger("lava_mistral")

_KINDS: dict[type[langchain.BaseMessage], str] = {
    **dict.fromkeys((langchain.HumanMessage, langchain.HumanMessageChunk), "human"),
    **dict.fromkeys((langchain.AIMessage, langchain.AIMessageChunk), "ai"),
    **dict.fromkeys((langchain.ToolMessage, langchain.FunctionMessage), "tool"),
    **dict.fromkeys((langchain.SystemMessage, langchain.ChatMessage), "system"),
}
_ROLES = {"human": "user", "developer": "system", "ai": "assistant"}
# Blocks that repeat what the message's `tool_calls` say.
_CALLS = {"tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "function_call", "custom_tool_call"}
# Blocks that a tool's result holds as data.
_NO_RESULT = _CALLS | {"thinking", "reasoning", "reasoning_content", "refusal", "reference", "non_standard"}
_GENERIC_TYPE = {"audio": "audio/*", "input_audio": "audio/*", "video": "video/*"}


def to_wire(messages: Sequence[langchain.BaseMessage]) -> list[Message]:
    """Return the conversation in Mistral's own form."""
    converted: list[Any] = []
    for message in messages:
        content: Any = message.content
        # To ask whether an object of pydantic is of a class is slow, and conversations are long.
        kind = _KINDS.get(type(message)) or next((_KINDS[each] for each in _KINDS if isinstance(message, each)), "")
        match kind:
            case "human" if type(content) is str:
                converted.append({"role": "user", "content": content})
            case "human":
                converted += _user(content)
            case "ai":
                converted.append(_assistant(cast("langchain.AIMessage", message)))
            case "tool":
                converted.append(_tool(getattr(message, "tool_call_id", None), content, message.name))
            case "system":
                role = getattr(message, "role", "system")
                role = _ROLES.get(role, role)
                if role not in ("user", "system", "assistant", "tool"):
                    known = "'user', 'assistant', 'system' or 'tool'"
                    raise InvalidRequestError(f"A ChatMessage's role is {known}, not {role!r}.")
                converted.append({"role": role, "content": content_to_wire(content)})
            case _:
                raise InvalidRequestError(f"A {type(message).__name__} can't be sent to a model.")
    return converted


def _user(content: Any) -> list[Message]:
    # Anthropic puts the results of tools into the user's turn.
    of_tools = [isinstance(block, dict) and block.get("type") == "tool_result" for block in content]
    results = [block for block, of_tool in zip(content, of_tools, strict=True) if of_tool]
    rest = [block for block, of_tool in zip(content, of_tools, strict=True) if not of_tool]
    converted = [_tool(block.get("tool_use_id"), block.get("content") or "", None) for block in results]
    return converted if results and not rest else [*converted, {"role": "user", "content": content_to_wire(rest)}]


def _tool(call_id: str | None, content: Any, name: str | None) -> Message:
    # Only blocks with content that Mistral can read become parts.
    content = content if isinstance(content, str) else tool_content(content, _readable)
    converted: dict[str, Any] = {"role": "tool", "content": content}
    if call_id is not None:
        converted["tool_call_id"] = call_id
    if name:
        converted["name"] = name
    return cast("Message", converted)


def _readable(block: Any) -> list[ContentPart]:
    """Return the parts that a block of a tool's result stands for."""
    if not isinstance(block, dict) or block.get("type") in _NO_RESULT:
        raise ValueError("data")
    try:
        return [*_block(block, lenient=False)]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("data that looks like a block") from error


def _assistant(message: langchain.AIMessage) -> AssistantMessage:
    content: Any = message.content
    if type(content) is not str:
        own = message.response_metadata.get("model_provider") in _MISTRALS
        content = content_to_wire(content, lenient=True, signed=own)
    converted: AssistantMessage = {"role": "assistant", "content": content}
    if message.tool_calls or message.invalid_tool_calls:
        calls: list[tuple[Any, Any]] = [(call, to_text(call["args"])) for call in message.tool_calls]
        # A call with broken arguments stays in the history: its error message would be an orphan otherwise.
        calls += [(call, call.get("args") or "") for call in message.invalid_tool_calls]
        converted["tool_calls"] = [
            {"id": call.get("id"), "type": "function", "function": {"name": call.get("name") or "", "arguments": text}}
            for call, text in calls
        ]
    if message.additional_kwargs.get("prefix"):
        converted["prefix"] = True
    return converted


def content_to_wire(content: Any, *, lenient: bool = False, signed: bool = False) -> str | list[ContentPart]:
    """Return content in Mistral's own form: a string stays one, a list of blocks becomes a list of parts."""
    if isinstance(content, str):
        return content
    parts: list[ContentPart] = []
    for block in content:
        for part in _block(block, lenient, signed):
            add_part(parts, part)
    return parts or ""


def _block(block: Any, lenient: bool, signed: bool = False) -> Iterator[ContentPart]:
    if isinstance(block, str):
        block = {"type": "text", "text": block}
    match block.get("type"):
        case "text" | "input_text" | "output_text" | None if isinstance(block.get("text"), str):
            yield from _text(block)
        case "refusal" if isinstance(block.get("refusal"), str):
            yield text_part(block["refusal"])
        case "text-plain":
            head = "\n".join(filter(None, (block.get("title"), block.get("context")))) or None
            if isinstance(block.get("text"), str):
                yield text_part(block["text"], name=head)
            else:
                yield from _file({"mime_type": "text/plain", **block, "name": head}, "file")
        case "image_url":
            image = block.get("image_url")
            image = image if isinstance(image, dict) else {"url": image}
            yield image_part(_url(image.get("url")), detail=image.get("detail"))
        case "document_url":
            yield url_part(_url(block.get("document_url")), media_type=None, name=block.get("document_name") or None)
        case "image" | "audio" | "file" | "document" | "media" | "input_audio" as kind:
            yield from _file(block, kind)
        case "thinking" | "reasoning" | "reasoning_content":
            part = _thinking(block, signed)
            if part["thinking"] or "signature" in part:
                yield part
        case "reference":
            yield {"type": "reference", "reference_ids": block.get("reference_ids") or []}
        case "non_standard":
            yield from _block(block.get("value") or {}, lenient, signed)
        case "video" | "video_url":
            raise refused("video")
        case kind if kind in _CALLS:
            return
        case kind if lenient:
            _log.debug("a %r block of an assistant's turn is left out: Mistral has no such block", kind)
        case kind:
            taken = "it takes text, pictures, PDF documents and sounds"
            raise InvalidRequestError(f"A content block of type {kind!r} can't be sent to Mistral: {taken}.")


def _text(block: Mapping[str, Any]) -> Iterator[ContentPart]:
    if block["text"]:
        yield text_part(block["text"])
    # References, as langchain-mistralai keeps them or as LangChain's annotations.
    annotations = block.get("annotations") or ()
    marks = (each.get("extras") if each.get("type") == "citation" else each.get("value") for each in annotations)
    for mark in (block.get("reference"), *marks):
        if isinstance(mark, dict) and mark.get("reference_ids"):
            yield {"type": "reference", "reference_ids": list(mark["reference_ids"])}


def _file(block: Mapping[str, Any], kind: str) -> Iterator[ContentPart]:
    """Yield the part for a file in LangChain's, OpenAI's, Anthropic's or Google's form; Mistral's own included."""
    source: Any = block.get("source") or block.get(kind)
    if kind == "input_audio" and isinstance(source, str):
        yield audio_part(source)
        return
    facts: dict[str, Any] = {**block, **source} if isinstance(source, dict) else dict(block)
    names = {**(facts.get("extras") or {}), **facts}
    name = next((str(names[key]) for key in ("filename", "file_name", "name", "title") if names.get(key)), None)
    if facts.get("type") == "content" and isinstance(facts.get("content"), list):
        for inner in facts["content"]:
            yield from _block(inner, False)
        return
    data = facts.get("base64") or facts.get("data") or facts.get("file_data")
    url = facts.get("url") or facts.get("file_uri") or facts.get("fileUri")
    # A generic type of a picture tells nothing that it does not tell better itself.
    media_type = facts.get("mime_type") or facts.get("media_type") or _GENERIC_TYPE.get(kind)
    if isinstance(data, str) and facts.get("type") == "text":
        yield text_part(data, name=name)
    elif isinstance(data, str) and data.startswith("data:"):
        yield url_part(data, media_type=media_type, name=name)
    elif data:
        yield file_part(data, media_type=media_type, name=name)
    elif url:
        yield url_part(url, media_type=media_type or ("image/*" if kind == "image" else None), name=name)
    elif facts.get("file_id"):
        yield {"type": "file", "file_id": facts["file_id"]}
    else:
        raise InvalidRequestError(f"A block of type {kind!r} needs its content as base64, url or file_id.")


def _url(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"A picture or document block needs a URL as text, not {value!r}.")
    return value


def _thinking(block: Mapping[str, Any], signed: bool) -> ThinkingPart:
    """Return the readable thoughts of a block of any provider; without any for encrypted ones."""
    keys = ("thinking", "reasoning", "reasoning_content", "summary", "content", "text")
    value: Any = next((block[key] for key in keys if block.get(key)), None) or ()
    thoughts: list[Any] = []
    for item in [value] if isinstance(value, str | dict) else value:
        if isinstance(item, dict) and item.get("type") in ("reference", "tool_reference"):
            thoughts.append({key: inner for key, inner in item.items() if key != "index"})
        elif text := item if isinstance(item, str) else item.get("text"):
            thoughts.append(text_part(text))
    part: ThinkingPart = {"type": "thinking", "thinking": thoughts}
    if block.get("closed") is False:
        part["closed"] = False
    signature = block.get("signature") or (block.get("extras") or {}).get("signature")
    if signed and signature:
        part["signature"] = signature
    return part
