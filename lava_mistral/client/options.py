"""Name the options of calls: `Unpack[…]` of them are the keyword arguments of both clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from lava_mistral.billing.credentials import Billing
from lava_mistral.defaults import OutputDtype
from lava_mistral.embedding.results import EmbedOptions
from lava_mistral.errors import LavaError
from lava_mistral.mistral.types import ChatFields, Prediction, ResponseFormat, ToolChoice

OnRetry: TypeAlias = Callable[[LavaError, int, float], Awaitable[None] | None]
"""Told before each wait: the error, how many tries were made, seconds to the next."""


class CallOptions(TypedDict, total=False):
    """How a call is made, and who pays."""

    billing: Billing | None
    lava_metadata: Mapping[str, str] | None
    timeout: float | None
    idempotency_key: str | None


class ChatOptions(CallOptions, ChatFields, total=False):
    """The options of a chat, `stream_chunk_timeout` of a streamed one, and the fields of Mistral's request."""

    model: str
    stream_chunk_timeout: float | None
    repair_messages: bool
    on_retry: OnRetry | None
    stop: str | Sequence[str] | None
    mistral_metadata: Mapping[str, Any] | None
    response_format: ResponseFormat | Mapping[str, Any] | None
    tools: Sequence[Any] | None
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    prediction: Prediction | None
    guardrails: Sequence[Mapping[str, Any]] | None
    safe_prompt: bool | None


class EmbeddingRequestOptions(CallOptions, total=False):
    """The options of one embeddings request."""

    model: str
    encoding_format: Literal["float", "base64"] | None
    output_dimension: int | None
    output_dtype: OutputDtype | None


class EmbedCallOptions(EmbedOptions, total=False):
    """The options of an embedding of many texts: those of the engine, and what makes the engine."""

    model: str
    dimensions: int | None
    output_dtype: OutputDtype | None
    max_concurrency: int
