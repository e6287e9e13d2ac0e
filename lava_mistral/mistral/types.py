"""Name the shapes of what Mistral's API takes and returns (source: Mistral's published OpenAPI schema)."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from lava_mistral.defaults import OutputDtype
from lava_mistral.mistral.usage import Usage as Usage


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


class ToolReferencePart(TypedDict):
    type: Literal["tool_reference"]
    tool: str
    title: str
    url: NotRequired[str | None]
    favicon: NotRequired[str | None]
    description: NotRequired[str | None]


class ThinkingPart(TypedDict):
    type: Literal["thinking"]
    thinking: list[Any]
    """Text, reference and tool reference parts."""
    closed: NotRequired[bool]
    signature: NotRequired[str | None]


class ResourcePart(TypedDict):
    type: Literal["resource"]
    uri: str
    content: TextPart | ImagePart


class ResourceLinkPart(TypedDict):
    type: Literal["resource_link"]
    uri: str
    metadata: NotRequired[dict[str, str | int | float | bool] | None]


_FileLike: TypeAlias = ImagePart | DocumentPart | AudioPart | FilePart | ResourcePart | ResourceLinkPart
ContentPart: TypeAlias = TextPart | ReferencePart | ThinkingPart | _FileLike
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


class ToolConfiguration(TypedDict):
    include: NotRequired[list[str] | None]
    exclude: NotRequired[list[str] | None]
    requires_confirmation: NotRequired[list[str] | None]


class BuiltInTool(TypedDict):
    type: Literal["web_search", "web_search_premium", "code_interpreter", "image_generation"]
    tool_configuration: NotRequired[ToolConfiguration | None]


class DocumentLibraryTool(TypedDict):
    type: Literal["document_library"]
    library_ids: list[str]
    tool_configuration: NotRequired[ToolConfiguration | None]


class ConnectorTool(TypedDict):
    type: Literal["connector"]
    connector_id: str
    authorization: NotRequired[dict[str, Any] | None]
    tool_configuration: NotRequired[ToolConfiguration | None]


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
    type: NotRequired[Literal["text", "json_object", "json_schema"]]
    json_schema: NotRequired[JsonSchema | None]


class Prediction(TypedDict):
    type: NotRequired[Literal["content"]]
    content: NotRequired[str]


ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatFields(TypedDict):
    """The fields of a chat request that users give as they go on the wire."""

    temperature: NotRequired[float | None]
    top_p: NotRequired[float | None]
    top_k: NotRequired[int | None]
    max_tokens: NotRequired[int | None]
    min_tokens: NotRequired[int | None]
    random_seed: NotRequired[int | None]
    presence_penalty: NotRequired[float | None]
    frequency_penalty: NotRequired[float | None]
    repetition_penalty: NotRequired[float | None]
    logprobs: NotRequired[bool | None]
    top_logprobs: NotRequired[int | None]
    prompt_logprobs: NotRequired[bool | None]
    top_prompt_logprobs: NotRequired[int | None]
    n: NotRequired[int | None]
    reasoning_effort: NotRequired[ReasoningEffort | None]
    prompt_mode: NotRequired[Literal["reasoning"] | None]
    prompt_cache_key: NotRequired[str | None]
    service_tier: NotRequired[Literal["auto", "standard_only"] | None]


class ChatRequest(ChatFields):
    """The body of `POST /v1/chat/completions`; null stands only where Mistral takes it."""

    model: str
    messages: list[Message]
    stream: NotRequired[bool]
    stop: NotRequired[str | list[str] | None]
    metadata: NotRequired[dict[str, Any] | None]
    response_format: NotRequired[ResponseFormat]
    tools: NotRequired[list[Tool | BuiltInTool | DocumentLibraryTool | ConnectorTool] | None]
    tool_choice: NotRequired[ToolChoice]
    parallel_tool_calls: NotRequired[bool]
    prediction: NotRequired[Prediction]
    guardrails: NotRequired[list[dict[str, Any]] | None]
    safe_prompt: NotRequired[bool]


class EmbeddingRequest(TypedDict):
    """The body of `POST /v1/embeddings`."""

    model: str
    input: str | list[str]
    metadata: NotRequired[dict[str, Any] | None]
    output_dimension: NotRequired[int | None]
    output_dtype: NotRequired[OutputDtype]
    encoding_format: NotRequired[Literal["float", "base64"]]
