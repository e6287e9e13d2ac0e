"""The names that the models and their calls understand, and what a call's arguments become."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.messages import BaseMessage
from pydantic import Field, model_validator

from langchain_lava_mistral._settings import LavaSettings, Made, new_clients, shared_settings
from langchain_lava_mistral._to_wire import to_wire
from langchain_lava_mistral._tools import normalize
from langchain_lava_mistral.callbacks import CallRun, traced
from langchain_lava_mistral.errors import translated
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.errors import ConfigurationError, InvalidRequestError
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES

if TYPE_CHECKING:
    from lava_mistral.client.async_client import AsyncLavaMistral
    from lava_mistral.client.sync_client import LavaMistral


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
SETTINGS = frozenset(
    [
        "billing",
        "lava_metadata",
        "trace_metadata",
        "timeout",
        "max_retries",
        "stream_chunk_timeout",
        "repair_messages",
        "include_response_headers",
    ]
)
# Arguments of LangChain's own, which reach the model on some ways.
FRAMEWORK = frozenset(("stream", "streaming", "ls_structured_output_format", "structured_output_format", "_run"))

# The names that other integrations give to the same settings.
_SYNONYMS = {
    "model_name": "model",
    "request_timeout": "timeout",
    "client": "http_client",
    "async_client": "http_async_client",
}
EMBEDDING_SYNONYMS = _SYNONYMS | {"max_concurrent_requests": "max_concurrency", "output_dimension": "dimensions"}
CHAT_SYNONYMS = _SYNONYMS | {
    "random_seed": "seed",
    "stop_sequences": "stop",
    "safe_mode": "safe_prompt",
    "max_completion_tokens": "max_tokens",
    "extra_body": "model_kwargs",
}
# What has no meaning here, and what to write instead.
_HINTS = {
    "max_concurrent_requests": 'calls in flight are limited where they are made: batch(…, {"max_concurrency": 8})',
    "wait_time": "the wait before a new try follows Lava's Retry-After; max_retries= says how often",
    "show_thinking": "thinking is always there, in message.content_blocks, and never in message.text",
    "stream_usage": "the last chunk of a stream always has the usage, and costs nothing",
    "tokenizer": "tokens are counted without a download; the extra lava-mistral[tokenizer] counts exactly",
    **dict.fromkeys(("batch_size", "chunk_size"), "texts are put into requests within Mistral's limits by themselves"),
    **dict.fromkeys(("best_of", "logit_bias"), "Mistral has no such parameter"),
    "organization": "Lava's key says whose account it is",
}
# Fields of the body that no field of the model stands for.
_BODY = frozenset(("model", "messages", "tools", *PARAMETERS.values()))
OUTSIDE = SETTINGS | FRAMEWORK
SHOWN = frozenset((*PARAMETERS, *_BODY)) - OUTSIDE
"""What a call understands as parts of the request's body, without synonyms."""
_KNOWN = SHOWN | OUTSIDE
# The settings of the model's clients, and those that a call may change.
_RETRIES = ("max_retries", "stream_chunk_timeout")
_OF_A_CALL = frozenset(("timeout", *_RETRIES))
_IN_USERS_FORMS = frozenset(("stop", "tools", "tool_choice", "response_format", "prediction"))
_INNER = ("model_kwargs", "extra_body")
_RENAMED = frozenset((*CHAT_SYNONYMS, "model_kwargs"))


def named(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a call's arguments under the fields' own names, those in `model_kwargs` or `extra_body` among them."""
    if _RENAMED.isdisjoint(kwargs):
        return kwargs
    given = {**_inner(kwargs), **kwargs}
    return {CHAT_SYNONYMS.get(name, name): value for name, value in given.items() if name not in _INNER}


def _inner(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**(kwargs.get("model_kwargs") or {}), **(kwargs.get("extra_body") or {})}


def check_names(kwargs: Mapping[str, Any]) -> None:
    """Refuse the arguments of a call that are keys, misspelt, or fields that Mistral does not have."""
    unknown = named(kwargs).keys() - _KNOWN
    refuse_keys(unknown)
    # A name that nobody knows yet may stand in `model_kwargs`.
    for name in unknown - _inner(kwargs).keys():
        if hint := _hint(name, (*_KNOWN, *CHAT_SYNONYMS)):
            raise ConfigurationError(hint)


def _hint(name: str, known: Iterable[str]) -> str | None:
    """Return what to write instead of a name that has no meaning here or is nearly a known one."""
    if name in _HINTS:
        return f"{name!r} has no meaning here: {_HINTS[name]}."
    near = get_close_matches(name, [each for each in known if not each.startswith("_")], n=1, cutoff=0.74)
    return f"There is no parameter {name!r}. Did you mean {near[0]!r}?" if near else None


def by_field(
    values: Mapping[str, Any], synonyms: Mapping[str, str], fields: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a constructor's arguments under the fields' own names, and those that no field is for."""
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
        if hint := _hint(name, (*fields, *synonyms)):
            raise ValueError(hint)
    return given, extra


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
        outer = {name: value for name, value in values.items() if name not in _INNER}
        given, extra = by_field(outer, CHAT_SYNONYMS, fields)
        body = {CHAT_SYNONYMS.get(name, name): value for name, value in _inner(values).items()}
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
        given: dict[str, Any] = {}
        for name, wire in PARAMETERS.items():
            if (value := fields[name]) is not None:
                given[wire] = value
        return {**given, **self.model_kwargs}

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        with translated():
            self._clients({})
        return self

    def _clients(self, changed: Mapping[str, Any]) -> tuple[LavaMistral, AsyncLavaMistral]:
        """Return the clients of the present settings, made anew only where one has changed."""
        fields = self.__dict__
        if changed:
            return new_clients({**fields, **changed}, _RETRIES)
        present = shared_settings(fields), self.max_retries, self.stream_chunk_timeout, dict(self.lava_metadata or ())
        if self._made.settings != present:
            self._made = Made(present, new_clients(fields, _RETRIES))
        return cast("tuple[LavaMistral, AsyncLavaMistral]", self._made.value)

    def _request(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        run: CallRun,
        *,
        stream: bool = False,
    ) -> tuple[tuple[LavaMistral, AsyncLavaMistral], dict[str, Any], bool]:
        """Return a call's clients, the arguments of their `chat` or `stream`, and whether to show the headers."""
        parameters = self.parameters()
        said: dict[str, Any] = {}
        if not _KNOWN.issuperset(kwargs):
            check_names(kwargs)
            kwargs = named(kwargs)
        for name, value in kwargs.items():
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
        parameters["messages"] = to_wire(messages)
        if parameters.get("prompt_cache_key") == "auto" and (thread := run.thread_id()) is not None:
            # Without a thread the core derives one from the beginning of the conversation.
            parameters["prompt_cache_key"] = sha256(thread.encode()).hexdigest()[:32]
        metadata = said.get("lava_metadata")
        parameters["lava_metadata"] = traced(metadata) if said.get("trace_metadata", self.trace_metadata) else metadata
        parameters["billing"] = said.get("billing")
        parameters["repair_messages"] = said.get("repair_messages", self.repair_messages)
        parameters["on_retry"] = run.on_retry
        changed = {name: said[name] for name in _OF_A_CALL & said.keys()} if said else said
        return self._clients(changed), parameters, said.get("include_response_headers", self.include_response_headers)
