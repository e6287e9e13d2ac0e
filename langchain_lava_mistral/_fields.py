"""The settings that the chat model and the embeddings share: where they come from when they are not given."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, InstanceOf, SecretStr

from lava_mistral.billing import Billing, to_billing
from lava_mistral.spend import SpendLimit, to_limit

Key: TypeAlias = SecretStr | Callable[[], str]
"""A key, or a function that returns the one that is valid now."""


def environment_key() -> SecretStr | None:
    """The credential in the environment, by the core's order."""
    for name in ("LAVA_FORWARD_TOKEN", "LAVA_SECRET_KEY"):
        if value := os.environ.get(name):
            return SecretStr(value)
    return None


def environment_url() -> str | None:
    """The base URL in the environment."""
    return os.environ.get("LAVA_BASE_URL") or None


BillingField = Annotated[InstanceOf[Billing], BeforeValidator(to_billing)]
SpendLimitField = Annotated[InstanceOf[SpendLimit], BeforeValidator(to_limit)]
