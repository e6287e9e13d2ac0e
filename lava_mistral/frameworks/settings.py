"""What the models of both frameworks share: their settings, other names of these, and when clients are made of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PrivateAttr, SecretStr, model_validator
from pydantic.json_schema import SkipJsonSchema

from lava_mistral._locks import ForkSafeLock
from lava_mistral.billing.credentials import Billing, to_billing
from lava_mistral.billing.spend_limit import SpendLimit, to_limit
from lava_mistral.defaults import DEFAULT_TIMEOUT
from lava_mistral.errors import ConfigurationError

CHAT_SYNONYMS = {
    "model_name": "model",
    "random_seed": "seed",
    "stop_sequences": "stop",
    "safe_mode": "safe_prompt",
    "max_completion_tokens": "max_tokens",
}
"""The names that other integrations give to the parameters of a chat."""
PER_CALL_SETTINGS = frozenset(("timeout", "max_retries", "stream_chunk_timeout"))
"""Settings of the clients that a call may change."""
_CLIENT_SETTINGS = ("api_key", "base_url", "billing", "spend_limit", "require_customer", "timeout")
# What a copy has in common with its original: it stands for something outside, or counts for both.
_SHARED = ("api_key", "billing", "spend_limit", "cache", "rate_limiter")
_building = ForkSafeLock()


def setting(default: Any, description: str, **more: Any) -> Any:
    """Return a field that is not serialized."""
    return Field(default, description=description, exclude=True, **more)


@dataclass
class CachedBackend:
    """What was made of a model's fields: it makes no model unequal to another, and no pickle or deep copy has it."""

    fields: Any = field(default=None, compare=False)
    settings: Any = field(default=None, compare=False)
    value: Any = field(default=None, compare=False)

    def __reduce__(self) -> Any:
        return CachedBackend, ()


class ModelSettings(BaseModel):
    """How a framework's model reaches Lava. Without key and URL the clients ask the environment, at each call."""

    api_key: SecretStr | SkipJsonSchema[Callable[[], str]] | None = setting(
        None, "Lava's key or a function returning it; else LAVA_FORWARD_TOKEN, then LAVA_SECRET_KEY.", repr=False
    )
    base_url: str | None = None
    billing: SkipJsonSchema[Annotated[InstanceOf[Billing], BeforeValidator(to_billing)]] | None = setting(
        None, "Who pays."
    )
    lava_metadata: dict[str, str] | None = None
    trace_metadata: bool = False
    require_customer: bool = False
    spend_limit: SkipJsonSchema[Annotated[InstanceOf[SpendLimit], BeforeValidator(to_limit)]] | None = setting(
        None, "USD that all calls may cost together, or a SpendLimit to share."
    )
    timeout: float | None = DEFAULT_TIMEOUT
    http_client: SkipJsonSchema[Any] = setting(
        None, "A client of httpx or httpx2 for sync code; stays yours to close.", repr=False
    )

    # Validators are built for the first object. An error must not show the key that was given beside the wrong setting.
    model_config = ConfigDict(
        defer_build=True, arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True
    )

    # The field of the HTTP client for async code.
    _async_client: ClassVar[str]
    # Further arguments of what is made, and the attributes that they come from.
    _backend_arguments: ClassVar[Mapping[str, str]]
    _cached: CachedBackend = PrivateAttr(default_factory=CachedBackend)

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        self._backend()
        return self

    def __getstate__(self) -> dict[Any, Any]:
        from lava_mistral.billing.scope import carried

        own = self.__dict__.copy()
        state = super().__getstate__()
        fields = state["__dict__"].copy()
        # LlamaIndex takes what can't be pickled, such as handlers of tracers, away from the model itself.
        self.__dict__.update(own)
        # The copy would call with another key, or have others pay.
        if lost := {"api_key", "billing", "spend_limit"} - fields.keys():
            raise ConfigurationError(
                f"{lost.pop()}= can't be sent to another process (a function must be a module's own, no lambda)."
            )
        billing, metadata = carried(*map(fields.get, ("billing", "lava_metadata", "spend_limit", "api_key")))
        return {**state, "__dict__": {**fields, "billing": billing, "lava_metadata": metadata}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo.update((id(each), each) for each in map(self.__dict__.get, (*_SHARED, "http_client", self._async_client)))
        return super().__deepcopy__(memo)

    def __repr_name__(self) -> str:
        # Both packages have classes of the same names.
        return f"{type(self).__module__.partition('.')[0]}.{type(self).__name__}"

    def _backend(self, call: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Return the clients, or the engine, of the settings; made anew where one has changed or a call changes it."""
        if not PER_CALL_SETTINGS.isdisjoint(call):
            return self._make_backend(
                {**self._settings(), **{name: call[name] for name in PER_CALL_SETTINGS if name in call}}
            )
        made = self._cached
        if made.fields != self.__dict__:
            with _building:
                # The metadata may be changed in place.
                fields = {**self.__dict__, "lava_metadata": self.lava_metadata and {**self.lava_metadata}}
                settings, made = self._settings(), self._cached
                value = made.value if made.settings == settings else self._make_backend({**settings})
                self._cached = made = CachedBackend(fields, settings, value)
        return made.value

    def _settings(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in _CLIENT_SETTINGS}
        settings |= {argument: getattr(self, name) for argument, name in self._backend_arguments.items()}
        settings["metadata"] = {**(self.lava_metadata or {})}
        settings["http_clients"] = self.http_client, getattr(self, self._async_client)
        return settings

    @abstractmethod
    def _make_backend(self, settings: dict[str, Any]) -> Any: ...


class ChatParameters(BaseModel):
    """The fields of Mistral's request that a model and each of its calls may set."""

    model_config = ConfigDict(defer_build=True)

    temperature: float | None = Field(None, description="Randomness of the answer.", ge=0.0, le=1.5)
    max_tokens: int | None = Field(None, description="The longest answer, in tokens.", gt=0)
    min_tokens: int | None = Field(None, description="The shortest answer, in tokens.", ge=0)
    top_p: float | None = Field(None, description="Nucleus sampling.", gt=0.0, le=1.0)
    top_k: int | None = Field(None, description="Sample among so many tokens.", ge=0)
    stop: str | list[str] | None = Field(None, description="Texts that end the answer.")
    seed: int | None = Field(None, description="Makes the answer repeatable; random_seed on the wire.")
    presence_penalty: float | None = Field(None, description="Against words that were used.")
    frequency_penalty: float | None = Field(None, description="Against words that were used often.")
    repetition_penalty: float | None = Field(None, description="Against repeated tokens.")
    n: int | None = Field(None, description="How many answers; one for LlamaIndex.", ge=1)
    logprobs: bool | None = Field(None, description="Give the log probabilities of the answer's tokens.")
    top_logprobs: int | None = Field(None, description="And of so many likely tokens at each place.", ge=0)
    prompt_logprobs: bool | None = Field(None, description="The same for the prompt's tokens.")
    top_prompt_logprobs: int | None = Field(None, description="And of so many likely tokens there.", ge=0)
    safe_prompt: bool | None = Field(None, description="Put Mistral's safety prompt first.")
    guardrails: list[dict[str, Any]] | None = Field(None, description="Mistral's moderation of the call.")
    tool_choice: str | bool | dict[str, Any] | None = Field(None, description="'auto', 'any', 'none' or a tool.")
    parallel_tool_calls: bool | None = Field(None, description="May one turn call several tools?")
    prompt_mode: str | None = Field(None, description="'reasoning' for magistral models.")
    reasoning_effort: str | None = Field(None, description="How much to think, from 'none' to 'high'.")
    prediction: str | dict[str, Any] | None = Field(None, description="What is expected of the answer.")
    response_format: Any = Field(None, description="Text, JSON or a JSON schema, also as a pydantic class.")
    prompt_cache_key: str | None = Field(None, description="Groups prompts for Mistral's cache, or 'auto'.")
    service_tier: str | None = Field(None, description="Mistral's service tier.")
    mistral_metadata: dict[str, Any] | None = Field(None, description="Mistral's own metadata of the request.")

    def _parameters(self) -> dict[str, Any]:
        """Return the fields that are set, by Mistral's names."""
        fields, parameters = self.__dict__, {}
        for name, wire in WIRE_NAMES.items():
            if fields[name] is not None:
                parameters[wire] = fields[name]
        return parameters


WIRE_NAMES: Mapping[str, str] = {name: name for name in ChatParameters.model_fields} | {"seed": "random_seed"}
"""The fields of Mistral's request: their names in the models, and on the wire."""
