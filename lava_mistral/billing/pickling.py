"""Resolve who pays for a model that is pickled: `billed_to` blocks do not reach another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lava_mistral.billing.identity import Billing, Secret
from lava_mistral.billing.precedence import identify
from lava_mistral.billing.scope import open_scopes, present_scope
from lava_mistral.billing.spend_limit import SpendLimit
from lava_mistral.errors import ConfigurationError


def carried(
    billing: Billing | None,
    metadata: Mapping[str, str] | None,
    limit: SpendLimit | None = None,
    api_key: Secret | None = None,
) -> tuple[Billing | None, Mapping[str, str] | None]:
    """Return the billing and the metadata that a pickled copy is to have: with the enclosing blocks put over them.

    Args:
        billing: the model's own.
        metadata: the model's own.
        limit: the model's own.
        api_key: the model's own.

    Raises:
        ConfigurationError: an enclosing block sets a spend limit, which processes can't share; or no block is around
            the pickling, but one is open elsewhere in this process, and the model does not say itself who pays.
    """
    scope = present_scope()
    if scope is None:
        elsewhere = open_scopes()
        if elsewhere and billing is None:
            raise ConfigurationError(
                "This model is being pickled, for a pool of processes perhaps, while a billed_to block is open in "
                "another thread or task, and nobody can see whether it was sent from there. Say on the model who pays: "
                "billing=Billing(customer_id=…, meter_slug=…), or billing=Billing() for your own wallet."
            )
        if limit is None and any(other.limits for other in elsewhere):
            raise ConfigurationError(_LIMIT.format("open elsewhere"))
        return billing, metadata
    if scope.limits:
        raise ConfigurationError(_LIMIT.format("around it"))
    identity = identify(billing, metadata, api_key=api_key)
    if not scope.fields:
        return billing, identity.metadata
    resolved = identity.billing
    if scope.provider_key is None and (billing is None or billing.provider_key is None):
        # A provider key of the token itself stays with the key, and is not written down beside it.
        resolved = replace(resolved, provider_key=None)
    return resolved, identity.metadata


_LIMIT = (
    "The spend limit of the billed_to block {} can't be kept in another process, where this model is about to be sent "
    "(it is being pickled). Give spend_limit= to the model itself, which each process then counts on its own, or use "
    "threads or tasks."
)


def carried_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve a model's fields for pickling; see `carried`.

    Args:
        fields: `billing`, `lava_metadata`, `spend_limit` and `api_key` among them.
    """
    billing, metadata = carried(
        fields.get("billing"), fields.get("lava_metadata"), fields.get("spend_limit"), fields.get("api_key")
    )
    return {**fields, "billing": billing, "lava_metadata": metadata}
