"""The settings that the chat model and the embeddings share: who calls, who pays, how patiently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Self

import httpx
from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic import BeforeValidator, InstanceOf
from pydantic.json_schema import SkipJsonSchema

from lava_mistral.billing.credentials import check_base_url
from lava_mistral.billing.identity import Billing, check_metadata, to_billing
from lava_mistral.billing.pickling import carried_fields
from lava_mistral.billing.spend_limit import SpendLimit, to_limit
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.client._base import DEFAULT_TIMEOUT
from lava_mistral.client.async_client import AsyncLavaMistral
from lava_mistral.client.sync_client import LavaMistral
from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES

OF_THE_CLIENT = ("timeout", "max_retries", "stream_chunk_timeout")
"""Settings of the client, not of a request, that a single call may say for itself."""


class LavaSettings(BaseModel):
    """How a model reaches Lava. None of these settings is part of `to_dict`, of events or of the repr of secrets."""

    # A mistyped or misplaced key must be refused, and not be quoted in the refusal.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    api_key: SecretStr | SkipJsonSchema[Callable[[], str]] | None = Field(
        default=None,
        description="Lava's secret key or a forward token, or a function returning it; "
        "else LAVA_FORWARD_TOKEN, then LAVA_SECRET_KEY, read when a call is made.",
        exclude=True,
        repr=False,
    )
    base_url: str | None = Field(
        default=None,
        description="Else LAVA_BASE_URL, else what the key's prefix says: sandbox or production.",
        exclude=True,
    )
    billing: SkipJsonSchema[Annotated[InstanceOf[Billing], BeforeValidator(to_billing)]] | None = Field(
        default=None, description="Who pays.", exclude=True
    )
    lava_metadata: dict[str, str] | None = Field(
        default=None, description="Text pairs that Lava stores with each request.", exclude=True
    )
    trace_metadata: bool = Field(
        default=False, description="Add the id of the call's span to them, as llama_index_span_id.", exclude=True
    )
    spend_limit: SkipJsonSchema[Annotated[InstanceOf[SpendLimit], BeforeValidator(to_limit)]] | None = Field(
        default=None, description="USD that all calls of this object may cost together.", exclude=True
    )
    timeout: float | None = Field(
        default=DEFAULT_TIMEOUT, description="Seconds for an answer, or for a stream to begin.", gt=0, exclude=True
    )
    max_retries: int = Field(
        default=DEFAULT_MAX_RETRIES, description="How often a failed call is tried again.", ge=0, exclude=True
    )
    http_client: SkipJsonSchema[InstanceOf[httpx.Client]] | None = Field(
        default=None, description="Sends in sync code; stays yours to close.", exclude=True, repr=False
    )
    async_http_client: SkipJsonSchema[InstanceOf[httpx.AsyncClient]] | None = Field(
        default=None, description="Sends in async code; stays yours to close.", exclude=True, repr=False
    )

    _synonyms: ClassVar[Mapping[str, str]] = {
        "http_async_client": "async_http_client",
        "request_timeout": "timeout",
    }

    def __init__(self, model: str | None = None, /, **settings: Any) -> None:
        """A model by its name, and its settings."""
        if model is not None:
            if "model" in settings:
                raise TypeError(f"{type(self).__name__} got the model twice: by position and as model=")
            settings = {"model": model, **settings}
        super().__init__(**settings)

    @model_validator(mode="before")
    @classmethod
    def _name_by_synonym(cls, values: Any) -> Any:
        """Take a setting under the name that it has elsewhere."""
        if not isinstance(values, dict):
            return values
        renamed = cls._by_name(values)
        known = set(cls._names())
        unknown = [name for name in renamed if name not in known]
        refuse_keys(unknown)
        for name in unknown:
            if near := get_close_matches(name, known, 1):
                raise ValueError(f"{cls.__name__} has no setting {name}; did you mean {near[0]}?")
        return renamed

    @classmethod
    def _by_name(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values, each under the name of its field."""
        renamed = dict(values)
        for synonym, name in cls._synonyms.items():
            if synonym in renamed:
                if name in renamed:
                    raise ConfigurationError(f"{synonym} is another name of {name}: give one of them.")
                renamed[name] = renamed.pop(synonym)
        return renamed

    @classmethod
    def _names(cls) -> Iterator[str]:
        for name, field in cls.model_fields.items():
            yield name
            # Those of a subclass.
            yield from (alias for alias in (field.alias, field.validation_alias) if isinstance(alias, str))

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str | None) -> str | None:
        return None if value is None else check_base_url(value)

    @field_validator("lava_metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        return None if value is None else check_metadata(value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        # Connections can't be copied, and a limit is shared by all who keep it.
        for name in ("http_client", "async_http_client", "rate_limiter"):
            shared = getattr(self, name, None)
            if shared is not None:
                memo[id(shared)] = shared
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = state["__dict__"]
        for name in ("api_key", "billing", "spend_limit"):
            if name not in fields:
                # LlamaIndex leaves out what can't be pickled; the copy would call with another key, or have others pay.
                raise ConfigurationError(
                    f"{name}= can't be sent to another process (a function must be a module's own, no lambda)."
                )
        return {**state, "__dict__": carried_fields(fields)}

    def __repr_name__(self) -> str:
        # The LangChain package has classes of the same names.
        return f"llama_index_lava_mistral.{type(self).__name__}"

    def _client_settings(self) -> dict[str, Any]:
        return {
            "api_key": self.api_key,
            "base_url": self.base_url,
            "billing": self.billing,
            "metadata": self.lava_metadata,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "spend_limit": self.spend_limit,
        }

    # A client is made for each call: it holds settings alone, and they may have been changed since the last one.

    def _sync_client(self, said: Mapping[str, Any] = {}) -> LavaMistral:
        return LavaMistral(http_client=self.http_client, **(self._client_settings() | _of_the_client(said)))

    def _async_client(self, said: Mapping[str, Any] = {}) -> AsyncLavaMistral:
        return AsyncLavaMistral(http_client=self.async_http_client, **(self._client_settings() | _of_the_client(said)))


def _of_the_client(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: said[name] for name in OF_THE_CLIENT if name in said}
