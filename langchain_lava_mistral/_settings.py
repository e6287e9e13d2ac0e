"""The settings of both models, and the names that their constructors and calls understand."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PrivateAttr, SecretStr, model_validator

from lava_mistral._locks import ForkSafeLock
from lava_mistral.billing.identity import Billing, to_billing
from lava_mistral.billing.scope import carried_fields
from lava_mistral.billing.spend_limit import SpendLimit, to_limit
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.errors import ConfigurationError

Key: TypeAlias = SecretStr | Callable[[], str]
"""A key, or a function that returns the one that is valid now."""

# The names that other integrations give to the same settings.
SYNONYMS = {
    "model_name": "model",
    "request_timeout": "timeout",
    "client": "http_client",
    "async_client": "http_async_client",
}
CHAT_SYNONYMS = SYNONYMS | {
    "random_seed": "seed",
    "stop_sequences": "stop",
    "safe_mode": "safe_prompt",
    "max_completion_tokens": "max_tokens",
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
# Fields of the request's body that no argument is for.
INNER = ("model_kwargs", "extra_body")
_HTTP = ("http_client", "http_async_client")
_CLIENT = ("api_key", "base_url", "billing", "spend_limit", "require_customer", "timeout")
# What a copy has in common with its original: it stands for something outside, or counts for both.
_SHARED = ("api_key", "billing", "spend_limit", *_HTTP, "cache", "rate_limiter")
_building = ForkSafeLock()


def inner(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that stand in `model_kwargs` or `extra_body`."""
    return {**(values.get("model_kwargs") or {}), **(values.get("extra_body") or {})}


def _hint(name: str, known: Iterable[str]) -> str | None:
    if name in _HINTS:
        return f"{name!r} has no meaning here: {_HINTS[name]}."
    near = get_close_matches(name, [each for each in known if not each.startswith("_")], n=1, cutoff=0.74)
    return f"There is no parameter {name!r}. Did you mean {near[0]!r}?" if near else None


class Made:
    """What was made of a model's fields: it makes no model unequal to another, and no pickle or deep copy has it."""

    def __init__(self, fields: Any = None, value: Any = None) -> None:
        self.fields, self.value = fields, value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Made)

    def __reduce__(self) -> Any:
        return Made, ()


class LavaSettings(BaseModel):
    """The settings of either model."""

    # Without them the core asks the environment, at each call.
    api_key: Key | None = Field(default=None, exclude=True, repr=False)
    base_url: str | None = None
    billing: Annotated[InstanceOf[Billing], BeforeValidator(to_billing)] | None = Field(default=None, exclude=True)
    lava_metadata: dict[str, str] | None = None
    trace_metadata: bool = False
    require_customer: bool = False
    spend_limit: Annotated[InstanceOf[SpendLimit], BeforeValidator(to_limit)] | None = Field(default=None, exclude=True)
    timeout: float | None = 120.0
    http_client: Any = Field(default=None, exclude=True, repr=False)
    http_async_client: Any = Field(default=None, exclude=True, repr=False)

    # An error must not show the key that was given beside the wrong setting. Validators are built for the first object.
    model_config = ConfigDict(
        arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True, defer_build=True
    )

    _synonyms: ClassVar[Mapping[str, str]] = SYNONYMS
    _made: Made = PrivateAttr(default_factory=Made)

    @model_validator(mode="before")
    @classmethod
    def _by_field(cls, values: Any) -> Any:
        """Put the arguments under the fields' own names; what is no field moves to `model_kwargs`, with a warning."""
        if not isinstance(values, dict):
            return values
        given: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        inside = inner(values)
        for name, value in (*inside.items(), *values.items()):
            field = cls._synonyms.get(name, name)
            if field in given or field in extra:
                raise ValueError(f"{field!r} is given twice: {name!r} is the same setting, in model_kwargs too.")
            # Usage is always streamed, so that only its refusal has no meaning.
            if name not in INNER and not (name == "stream_usage" and value):
                (given if field in cls.model_fields else extra)[field] = value
        refuse_keys(extra)
        unknown = extra.keys() - inside.keys()
        for name in unknown:
            if said := _hint(name, (*cls.model_fields, *cls._synonyms)):
                raise ValueError(said)
        if "model_kwargs" not in cls.model_fields:
            return given | extra
        if unknown:
            warnings.warn(
                f"{sorted(unknown)} are no parameters of {cls.__name__}; they go to Mistral as they are, through "
                "model_kwargs. Mistral refuses fields that it does not know.",
                stacklevel=6,
            )
        return {**given, "model_kwargs": extra}

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        self._present()
        return self

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": carried_fields(state["__dict__"])}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo.update((id(value), value) for value in map(self.__dict__.get, _SHARED))
        return super().__deepcopy__(memo)

    def __repr_name__(self) -> str:
        return f"langchain_lava_mistral.{type(self).__name__}"

    @abstractmethod
    def _make(self, fields: Mapping[str, Any]) -> Any: ...

    def _present(self) -> Any:
        """Return what `_make` makes of the fields, made anew only where one has changed."""
        made = self._made
        if made.fields != self.__dict__:
            with _building:
                made = self._made
                if made.fields != self.__dict__:
                    # The metadata may be changed in place.
                    fields = {**self.__dict__, "lava_metadata": self.lava_metadata and {**self.lava_metadata}}
                    self._made = made = Made(fields, self._make(fields))
        return made.value


def new_clients(kinds: tuple[type, type], fields: Mapping[str, Any], *more: str) -> Any:
    """Return the core's clients of both kinds for a model's fields; `more` names those beside the shared ones."""
    settings = {name: fields[name] for name in (*_CLIENT, *more)}
    settings["metadata"] = fields["lava_metadata"]
    return tuple(kind(**settings, http_client=fields[name]) for kind, name in zip(kinds, _HTTP, strict=True))


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
        if said := _hint(name, (*KNOWN, *CHAT_SYNONYMS)):
            raise ConfigurationError(said)
