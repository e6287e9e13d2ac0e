"""The settings that the chat model and the embeddings share, what becomes of them in copies, and their clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PrivateAttr, SecretStr

from lava_mistral.billing.identity import Billing, to_billing
from lava_mistral.billing.scope import carried_fields
from lava_mistral.billing.spend_limit import SpendLimit, to_limit

if TYPE_CHECKING:
    from lava_mistral.client.async_client import AsyncLavaMistral
    from lava_mistral.client.sync_client import LavaMistral

Key: TypeAlias = SecretStr | Callable[[], str]
"""A key, or a function that returns the one that is valid now."""


def _http_client(kind: str) -> Any:
    """Return the type of a setting that holds a client of httpx or httpx2; neither is loaded for it."""

    def check(value: Any) -> Any:
        if value is not None:
            from lava_mistral.transport.clients import library_of

            library_of(value, kind)
        return value

    return Annotated[Any, BeforeValidator(check)]


# What the core's clients are made of, by the fields' names.
CLIENT = ("api_key", "base_url", "billing", "lava_metadata", "spend_limit", "require_customer", "timeout")
_HTTP = ("http_client", "http_async_client")
# What a copy has in common with its original: it stands for something outside, or counts for both.
_SHARED = ("api_key", "billing", "spend_limit", *_HTTP, "cache", "rate_limiter")


class Made:
    """Hold what was made of a model's settings: it makes no model unequal to another, and no copy has it."""

    def __init__(self, settings: Any = None, value: Any = None) -> None:
        self.settings, self.value = settings, value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Made)

    __hash__ = None  # type: ignore[assignment]

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
    http_client: _http_client("Client") = Field(default=None, exclude=True, repr=False)  # type: ignore[valid-type]
    http_async_client: _http_client("AsyncClient") = Field(default=None, exclude=True, repr=False)  # type: ignore[valid-type]

    # An error must not show the key that was given beside the wrong setting. Validators are built for the first object.
    model_config = ConfigDict(
        arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True, defer_build=True
    )

    _made: Made = PrivateAttr(default_factory=Made)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": carried_fields(state["__dict__"])}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo.update((id(value), value) for value in map(self.__dict__.get, _SHARED))
        return super().__deepcopy__(memo)

    def __repr_name__(self) -> str:
        return f"langchain_lava_mistral.{type(self).__name__}"


shared_settings = itemgetter(*CLIENT, *_HTTP)


def new_clients(fields: Mapping[str, Any], more: Iterable[str] = ()) -> tuple[LavaMistral, AsyncLavaMistral]:
    """Return the core's clients for a model's fields; `more` names those beside the shared ones."""
    # They load httpx.
    from lava_mistral.client.async_client import AsyncLavaMistral
    from lava_mistral.client.sync_client import LavaMistral

    settings = {"metadata" if name == "lava_metadata" else name: fields[name] for name in (*CLIENT, *more)}
    return (
        LavaMistral(**settings, http_client=fields["http_client"]),
        AsyncLavaMistral(**settings, http_client=fields["http_async_client"]),
    )
