"""The names that the chat model and its calls understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from langchain_lava_mistral._settings import INNER, SYNONYMS, LavaSettings, hint, inner
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.errors import ConfigurationError


class ChatParameters(LavaSettings):
    """The fields of a request that the chat model and its calls take; `ChatLavaMistral` explains them."""

    temperature: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    n: int | None = Field(default=None, ge=1)
    safe_prompt: bool | None = None
    tool_choice: str | bool | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prompt_mode: str | None = None
    reasoning_effort: str | None = None
    prediction: str | dict[str, Any] | None = None
    response_format: Any = None
    prompt_cache_key: str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prompt_logprobs: bool | None = None
    top_prompt_logprobs: int | None = None
    service_tier: str | None = None
    guardrails: list[Any] | None = None
    # Mistral's own; `metadata` is LangChain's, for traces. The core gives it its name on the wire.
    mistral_metadata: dict[str, Any] | None = None


PARAMETERS = {name: name for name in ChatParameters.__annotations__} | {"seed": "random_seed"}
"""Field → Mistral's name for it. Each can be given to a call too."""

# Arguments of a call that say how it is made; they are no part of the request's body.
_SETTINGS = (
    *("billing", "lava_metadata", "trace_metadata", "timeout", "max_retries", "stream_chunk_timeout"),
    *("repair_messages", "include_response_headers"),
)
# Arguments of LangChain's own, which reach the model on some ways, and the run.
_FRAMEWORK = ("stream", "streaming", "ls_structured_output_format", "structured_output_format", "_run")
OUTSIDE = frozenset((*_SETTINGS, *_FRAMEWORK))
SHOWN = frozenset((*PARAMETERS, *PARAMETERS.values(), "model", "messages", "tools"))
"""What a call understands as parts of the request's body, without synonyms."""
KNOWN = SHOWN | OUTSIDE
CHAT_SYNONYMS = SYNONYMS | {
    "random_seed": "seed",
    "stop_sequences": "stop",
    "safe_mode": "safe_prompt",
    "max_completion_tokens": "max_tokens",
}
_RENAMED = frozenset((*CHAT_SYNONYMS, *INNER))


def named(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a call's arguments under the fields' own names, those in `model_kwargs` or `extra_body` among them."""
    if _RENAMED.isdisjoint(kwargs):
        return kwargs
    given = {**inner(kwargs), **kwargs}
    return {CHAT_SYNONYMS.get(name, name): value for name, value in given.items() if name not in INNER}


def check_names(kwargs: Mapping[str, Any]) -> None:
    """Refuse the arguments of a call that are keys, misspelt, or fields that Mistral does not have."""
    unknown = named(kwargs).keys() - KNOWN
    refuse_keys(unknown)
    # A name that nobody knows yet may stand in `model_kwargs`.
    for name in unknown - inner(kwargs).keys():
        if said := hint(name, (*KNOWN, *CHAT_SYNONYMS)):
            raise ConfigurationError(said)
