"""The settings that the chat model and the embeddings share: where they come from, what becomes of them in copies."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, TypeAlias

from pydantic import AliasChoices, BaseModel, BeforeValidator, InstanceOf, SecretStr

from lava_mistral.billing.identity import Billing, to_billing
from lava_mistral.billing.spend_limit import SpendLimit, to_limit

Key: TypeAlias = SecretStr | Callable[[], str]
"""A key, or a function that returns the one that is valid now."""


class _EnvironmentKey(SecretStr):
    """A key that a pickle does not hold: where it is read back, the environment there is asked.

    Attributes:
        variable: where it was found, for errors.
    """

    def __init__(self, value: str, variable: str) -> None:
        super().__init__(value)
        self.variable = variable

    def __reduce__(self) -> tuple[Any, ...]:
        return environment_key, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _EnvironmentKey:
        return self


class _EnvironmentURL(str):
    """A base URL that stays with its key: a pickle holds neither."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return environment_url, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _EnvironmentURL:
        return self


def environment_key() -> SecretStr | None:
    """The credential in the environment, by the core's order."""
    for name in ("LAVA_FORWARD_TOKEN", "LAVA_SECRET_KEY"):
        if value := os.environ.get(name):
            return _EnvironmentKey(value, name)
    return None


def environment_url() -> str | None:
    """The base URL in the environment."""
    value = os.environ.get("LAVA_BASE_URL")
    return _EnvironmentURL(value) if value else None


# What a copy has in common with its original: it stands for something outside, or counts for both.
_SHARED = ("api_key", "billing", "spend_limit", "http_client", "http_async_client", "cache", "rate_limiter")


def shared_in(model: BaseModel, memo: dict[int, Any] | None) -> dict[int, Any]:
    """The memo with which a model's deep copy shares what can't or must not be copied."""
    memo = {} if memo is None else memo
    for name in _SHARED:
        value = getattr(model, name, None)
        memo[id(value)] = value
    return memo


@lru_cache
def aliases_of(cls: type[BaseModel]) -> dict[str, str]:
    """The other names of a model's fields, each with the field's own."""
    aliases = {}
    for name, field in cls.model_fields.items():
        choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else ()
        aliases.update({str(choice): name for choice in (*choices, field.alias) if choice not in (None, name)})
    return aliases


BillingField = Annotated[InstanceOf[Billing], BeforeValidator(to_billing)]
SpendLimitField = Annotated[InstanceOf[SpendLimit], BeforeValidator(to_limit)]
