"""The names that the models and their calls understand, and what a call's arguments become."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage
from pydantic import Field, model_validator

from langchain_lava_mistral._settings import LavaSettings
from langchain_lava_mistral._to_wire import to_wire
from langchain_lava_mistral._tools import normalize
from langchain_lava_mistral.callbacks import CallRun, traced
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.errors import ConfigurationError, InvalidRequestError
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES


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

SETTINGS = frozenset(
    (
        "billing",
        "lava_metadata",
        "trace_metadata",
        "timeout",
        "max_retries",
        "stream_chunk_timeout",
        "repair_messages",
        "include_response_headers",
    )
)
"""Arguments of a call that say how it is made; they are no part of the request's body."""

FRAMEWORK = frozenset(("stream", "streaming", "ls_structured_output_format", "structured_output_format", "_run"))
"""Arguments of LangChain's own, which reach the model on some ways."""

# The names that other integrations give to the same settings.
CHAT_SYNONYMS = {
    "model_name": "model",
    "random_seed": "seed",
    "stop_sequences": "stop",
    "safe_mode": "safe_prompt",
    "max_completion_tokens": "max_tokens",
    "request_timeout": "timeout",
    "client": "http_client",
    "async_client": "http_async_client",
    "extra_body": "model_kwargs",
}
EMBEDDING_SYNONYMS = {
    "model_name": "model",
    "request_timeout": "timeout",
    "max_concurrent_requests": "max_concurrency",
    "output_dimension": "dimensions",
    "client": "http_client",
    "async_client": "http_async_client",
}
# What has no meaning here, and what to write instead.
_HINTS = {
    "max_concurrent_requests": 'calls in flight are limited where they are made: batch(…, {"max_concurrency": 8})',
    "wait_time": "the wait before a new try follows Lava's Retry-After; max_retries= says how often",
    "show_thinking": "thinking is always there, in message.content_blocks, and never in message.text",
    "stream_usage": "the last chunk of a stream always has the usage, and costs nothing",
    "tokenizer": "tokens are counted without a download; the extra lava-mistral[tokenizer] counts exactly",
    "batch_size": "texts are put into requests within Mistral's limits by themselves",
    "chunk_size": "texts are put into requests within Mistral's limits by themselves",
    "best_of": "Mistral has no such parameter",
    "logit_bias": "Mistral has no such parameter",
    "organization": "Lava's key says whose account it is",
}
# Fields of the body that no field of the model stands for.
_BODY = frozenset(("model", "messages", "tools", *PARAMETERS.values()))
KNOWN = frozenset((*PARAMETERS, *_BODY, *SETTINGS, *FRAMEWORK))
"""What a call understands, without synonyms."""
# The settings of the model's clients that a call may change.
OF_A_CALL = frozenset(("timeout", "max_retries", "stream_chunk_timeout"))
_IN_USERS_FORMS = frozenset(("stop", "tools", "tool_choice", "response_format", "prediction"))
_RENAMED = frozenset((*CHAT_SYNONYMS, "model_kwargs"))


def named(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a call's arguments under the fields' own names, those in `model_kwargs` or `extra_body` among them."""
    if _RENAMED.isdisjoint(kwargs):
        return kwargs
    given = {**(kwargs.get("model_kwargs") or {}), **(kwargs.get("extra_body") or {}), **kwargs}
    return {
        CHAT_SYNONYMS.get(name, name): value
        for name, value in given.items()
        if name not in ("model_kwargs", "extra_body")
    }


def check_call(names: Iterable[str], free: Iterable[str]) -> None:
    """Refuse the arguments of a call that would be sent as fields that Mistral does not have.

    Args:
        names: the unknown arguments.
        free: those that stand in `model_kwargs`, where a name that nobody knows yet may be given.

    Raises:
        ConfigurationError: a name is that of a key or an address, is misspelt, or has no meaning here.
    """
    names = [*names]
    refuse_keys(names)
    for name in names:
        if name not in free and (hint := hint_for(name, (*KNOWN, *CHAT_SYNONYMS))):
            raise ConfigurationError(hint)


def hint_for(name: str, known: Iterable[str]) -> str | None:
    """Return what to write instead of a name that has no meaning here or is nearly a known one."""
    if name in _HINTS:
        return f"{name!r} has no meaning here: {_HINTS[name]}."
    near = get_close_matches(name, [each for each in known if not each.startswith("_")], n=1, cutoff=0.74)
    if not near:
        return None
    return f"There is no parameter {name!r}. Did you mean {near[0]!r}?"


def by_field(
    values: Mapping[str, Any], synonyms: Mapping[str, str], fields: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a constructor's arguments under the fields' own names, and those that no field is for.

    Raises:
        ValueError: an argument is given twice, has no meaning here, is misspelt or is a key by another name.
    """
    given: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in values.items():
        field = synonyms.get(name, name)
        if field in given:
            raise ValueError(f"{name!r} and {field!r} are the same setting: give it once.")
        # Usage is always streamed, so that only its refusal has no meaning.
        if not (name == "stream_usage" and value):
            (given if field in fields else extra)[field] = value
    refuse_keys(extra)
    for name in extra:
        if hint := hint_for(name, (*fields, *synonyms)):
            raise ValueError(hint)
    return given, extra


class ChatRequest(NamedTuple):
    """A call of the framework, resolved.

    Attributes:
        changed: settings of the client that are not the model's.
        arguments: of the client's `chat` or `stream`.
        headers: whether the message is to hold the answer's headers.
    """

    changed: dict[str, Any]
    arguments: dict[str, Any]
    headers: bool


class ChatSettings(ChatParameters):
    """All fields of the chat model, and the requests that it makes of them."""

    model: str = "mistral-small-2603"
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    # `None` beside false: LangChain takes a false that was ever set for "never stream", and sets every field anew
    # where it configures a model.
    streaming: bool | None = None
    max_retries: int = DEFAULT_MAX_RETRIES
    stream_chunk_timeout: float | None = 120.0
    repair_messages: bool = True
    include_response_headers: bool = False
    cache_by_customer: bool = True

    @model_validator(mode="before")
    @classmethod
    def _by_field(cls, values: Any) -> Any:
        """Move what is no field to `model_kwargs` with a warning, as LangChain's users know it."""
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields.keys()
        inner = {**(values.get("model_kwargs") or {}), **(values.get("extra_body") or {})}
        outer = {name: value for name, value in values.items() if name not in ("model_kwargs", "extra_body")}
        given, extra = by_field(outer, CHAT_SYNONYMS, fields)
        body = {CHAT_SYNONYMS.get(name, name): value for name, value in inner.items()}
        if twice := body.keys() & {*given, *extra}:
            raise ValueError(f"{sorted(twice)} stand in model_kwargs and beside it: give them once.")
        refuse_keys(body.keys() - fields)
        if extra:
            warnings.warn(
                f"{sorted(extra)} are no parameters of {cls.__name__}; they go to Mistral as they are, through "
                "model_kwargs. Mistral refuses fields that it does not know.",
                stacklevel=6,
            )
        given |= {name: body.pop(name) for name in list(body) if name in fields}
        return {**given, "model_kwargs": {**body, **extra}}

    def parameters(self) -> dict[str, Any]:
        """Return the fields that are set, by Mistral's names."""
        fields = self.__dict__
        given = {wire: fields[name] for name, wire in PARAMETERS.items() if fields[name] is not None}
        return {**given, **self.model_kwargs}

    @staticmethod
    def _check_names(kwargs: Mapping[str, Any]) -> None:
        unknown = named(kwargs).keys() - KNOWN
        if unknown:
            check_call(unknown, free={**(kwargs.get("model_kwargs") or {}), **(kwargs.get("extra_body") or {})})

    def _request(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        run: CallRun,
        *,
        stream: bool = False,
    ) -> ChatRequest:
        """Return a call, resolved from the model's settings and its own arguments."""
        parameters = self.parameters()
        said: dict[str, Any] = {}
        if not KNOWN.issuperset(kwargs):
            self._check_names(kwargs)
        for name, value in named(kwargs).items():
            if name in SETTINGS:
                said[name] = value
            elif name not in FRAMEWORK:
                parameters[PARAMETERS.get(name, name)] = value
        if stop is not None:
            parameters["stop"] = stop
        if stream and (parameters.get("n") or 1) > 1:
            raise InvalidRequestError("A stream is one message: ask for n > 1 with generate() or invoke().")
        if not _IN_USERS_FORMS.isdisjoint(parameters):
            normalize(parameters)
        parameters.setdefault("model", self.model)
        metadata = said.get("lava_metadata")
        if said.get("trace_metadata", self.trace_metadata):
            metadata = traced(metadata)
        parameters["messages"] = to_wire(messages)
        if parameters.get("prompt_cache_key") == "auto" and (thread := run.thread_id()) is not None:
            # Without a thread the core derives one from the beginning of the conversation.
            parameters["prompt_cache_key"] = sha256(thread.encode()).hexdigest()[:32]
        parameters["billing"] = said.get("billing")
        parameters["lava_metadata"] = metadata
        parameters["repair_messages"] = said.get("repair_messages", self.repair_messages)
        changed = {name: said[name] for name in OF_A_CALL & said.keys()} if said else said
        headers = said.get("include_response_headers", self.include_response_headers)
        return ChatRequest(changed, parameters, headers)
