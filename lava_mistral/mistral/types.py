"""Typed shapes of what Mistral's API takes and returns (source: Mistral's published OpenAPI schema).

Only shapes live here: plain dictionaries at run time, so that nothing is copied or validated on the way
through. Fields that Mistral may leave out are `NotRequired`; a consumer reads them with `.get`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, cast

from typing_extensions import TypedDict

FinishReason: TypeAlias = Literal["stop", "length", "model_length", "error", "tool_calls"]


class TextPart(TypedDict):
    type: Literal["text"]
    text: str


class ImageURL(TypedDict):
    url: str
    detail: NotRequired[Literal["low", "auto", "high"] | None]


class ImagePart(TypedDict):
    type: Literal["image_url"]
    image_url: ImageURL | str


class DocumentPart(TypedDict):
    type: Literal["document_url"]
    document_url: str
    document_name: NotRequired[str | None]


class AudioPart(TypedDict):
    type: Literal["input_audio"]
    input_audio: str
    """Base64 of the sound file."""


class FilePart(TypedDict):
    type: Literal["file"]
    file_id: str


class ReferencePart(TypedDict):
    type: Literal["reference"]
    reference_ids: list[int | str]
    """Integers by the schema; strings are seen in practice."""


class ThinkingPart(TypedDict):
    type: Literal["thinking"]
    thinking: list[Any]
    """Text, reference and tool reference parts."""
    closed: NotRequired[bool]
    signature: NotRequired[str | None]


ContentPart: TypeAlias = TextPart | ImagePart | DocumentPart | AudioPart | FilePart | ReferencePart | ThinkingPart
Content: TypeAlias = str | list[ContentPart] | None


class FunctionCall(TypedDict):
    name: str
    arguments: str | dict[str, Any]


class ToolCallPart(TypedDict):
    """One tool call of an assistant message, or a fragment of one in a streamed delta."""

    id: NotRequired[str | None]
    type: NotRequired[Literal["function"]]
    function: FunctionCall
    index: NotRequired[int | None]


class SystemMessage(TypedDict):
    role: Literal["system"]
    content: str | list[ContentPart]


class UserMessage(TypedDict):
    role: Literal["user"]
    content: Content


class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    content: NotRequired[Content]
    tool_calls: NotRequired[list[ToolCallPart] | None]
    prefix: NotRequired[bool]


class ToolMessage(TypedDict):
    role: Literal["tool"]
    content: Content
    tool_call_id: NotRequired[str | None]
    name: NotRequired[str | None]


Message: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class Function(TypedDict):
    name: str
    description: NotRequired[str]
    strict: NotRequired[bool]
    parameters: dict[str, Any]


class Tool(TypedDict):
    type: Literal["function"]
    function: Function


class FunctionName(TypedDict):
    name: str


class NamedToolChoice(TypedDict):
    type: Literal["function"]
    function: FunctionName


ToolChoice: TypeAlias = Literal["auto", "none", "any", "required"] | NamedToolChoice


class JsonSchema(TypedDict):
    name: str
    description: NotRequired[str | None]
    schema: dict[str, Any]
    strict: NotRequired[bool]


class ResponseFormat(TypedDict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NotRequired[JsonSchema | None]


class PromptTokensDetails(TypedDict, total=False):
    cached_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    num_cached_tokens: NotRequired[int | None]
    prompt_tokens_details: NotRequired[PromptTokensDetails | None]
    prompt_token_details: NotRequired[PromptTokensDetails | None]
    prompt_audio_seconds: NotRequired[int | None]


class Choice(TypedDict):
    index: int
    message: AssistantMessage
    finish_reason: FinishReason


class ChatResponse(TypedDict):
    id: str
    object: str
    model: str
    created: int
    choices: list[Choice]
    usage: Usage


class DeltaMessage(TypedDict, total=False):
    role: str | None
    content: Content
    tool_calls: list[ToolCallPart] | None


class ChunkChoice(TypedDict):
    index: int
    delta: DeltaMessage
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    id: str
    model: str
    choices: list[ChunkChoice]
    object: NotRequired[str]
    created: NotRequired[int]
    usage: NotRequired[Usage | None]


class EmbeddingItem(TypedDict):
    object: str
    embedding: list[float] | str
    """Numbers, or base64 of little-endian numbers."""
    index: int


class EmbeddingResponse(TypedDict):
    id: str
    object: str
    model: str
    data: list[EmbeddingItem]
    usage: Usage


class ModelCard(TypedDict):
    id: str
    object: NotRequired[str]
    created: NotRequired[int]
    owned_by: NotRequired[str]
    capabilities: NotRequired[dict[str, bool]]
    max_context_length: NotRequired[int]
    aliases: NotRequired[list[str]]


def known_usage(value: Any) -> Usage | None:
    """What an answer says of its usage; `None` where it says nothing that can be counted with."""
    if not isinstance(value, dict) or not value:
        return None
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "num_cached_tokens"):
        if not isinstance(value.get(name) or 0, int):
            return None
    for name in ("prompt_tokens_details", "prompt_token_details"):
        details = value.get(name) or {}
        if not isinstance(details, dict) or not isinstance(details.get("cached_tokens") or 0, int):
            return None
    return cast("Usage", value)


def cached_tokens(usage: Usage) -> int:
    """How many of the prompt's tokens came from Mistral's cache: it names them in three ways; the largest counts."""
    counts = [usage.get("num_cached_tokens")]
    for details in (usage.get("prompt_tokens_details"), usage.get("prompt_token_details")):
        counts.append(details.get("cached_tokens") if details else None)
    return max((count for count in counts if count is not None), default=0)
