"""Who pays for what a model does that is sent to another process: blocks don't reach there."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lava_mistral._processes import feeds_processes, others_may_send
from lava_mistral.billing.credentials import Secret
from lava_mistral.billing.identity import FIELDS, MERCHANT, Billing
from lava_mistral.billing.scope import Scope, entered, identify, in_charge, in_scope, is_left, present_scope
from lava_mistral.billing.spend_limit import SpendLimit
from lava_mistral.errors import ConfigurationError


def carried(
    billing: Billing | None,
    metadata: Mapping[str, str] | None,
    limit: SpendLimit | None = None,
    api_key: Secret | None = None,
) -> tuple[Billing | None, Mapping[str, str] | None]:
    """Who pays for what a copy does in another process, and its metadata: those of the blocks around its pickling.

    Blocks don't reach another process, and the copy's calls must not go to another wallet than they would here.

    Args:
        billing: the model's own.
        metadata: the model's own.
        limit: the model's own.

    Raises:
        ConfigurationError: a block sets a spend limit, which processes can't share; or a pool pickles the model in a
            thread of its own, where it can't be seen from which block it was sent.
    """
    scope = _sender(billing, metadata, limit) if feeds_processes() else present_scope()
    if scope is None:
        return billing, metadata
    if scope.limits:
        raise ConfigurationError(
            "A spend limit of a billed_to block can't be kept in another process, where this model is about to be "
            "sent (it is being pickled). Give spend_limit= to the model itself, which each process then counts on its "
            "own, or use threads or tasks."
        )
    with in_scope(scope):
        identity = identify(billing, metadata, api_key=api_key)
    if all(getattr(scope, name) is None for name in FIELDS):
        return billing, identity.metadata
    said = identity.billing
    own_key = None if billing is None else billing.provider_key
    if said.provider_key is not None and scope.provider_key is None and own_key is None:
        # The token's own, which is with the key and not to be written down beside it.
        said = replace(said, provider_key=None)
    return said, identity.metadata


def _sender(billing: Billing | None, metadata: Mapping[str, str] | None, limit: SpendLimit | None) -> Scope | None:
    """The scope from which a pool was sent the model that it pickles here, in a thread of its own.

    It is certain where one scope alone is open, the main thread is in it, outside of an event loop, and there is no
    other thread that could have sent the model. It does not
    matter where the model itself says who pays.

    Raises:
        ConfigurationError: it matters and nobody knows.
    """
    scopes = _innermost()
    if _unsaid(scopes, billing, metadata, limit) is not None or len(scopes) > 1:
        # What was left behind by a failed call may still hold a scope that is over.
        del scopes
        gc.collect()
        scopes = _innermost()
    if len(scopes) == 1 and in_charge and scopes[0] is in_charge[-1] and not others_may_send():
        return scopes[0]
    if (why := _unsaid(scopes, billing, metadata, limit)) is not None:
        raise ConfigurationError(why)
    return None


def _innermost() -> list[Scope]:
    """The scopes of this process that no other scope lies in."""
    scopes = [scope for reference in entered.valuerefs() if (scope := reference()) is not None]
    outer = {id(scope.outer) for scope in scopes}
    return [scope for scope in scopes if id(scope) not in outer and not is_left(scope)]


def _unsaid(
    scopes: Iterable[Scope], billing: Billing | None, metadata: Mapping[str, str] | None, limit: SpendLimit | None
) -> str | None:
    """Why it matters from which of the scopes, or from none, a model was sent.

    A model that names a customer, or the merchant by a plain `Billing()`, says itself who pays.
    """
    said = billing is not None and (billing.customer_id is not None or billing == MERCHANT)
    own = (billing or MERCHANT, metadata or {})
    for scope in scopes:
        if scope.limits and limit is None:
            return (
                "A billed_to block with a spend limit is open, and can't be kept in a pool of processes, where this "
                "model is about to be sent. Give spend_limit= to the model itself, which each process then counts on "
                "its own, or use threads or tasks."
            )
        if not said and (scope.over(own[0]), {**own[1], **scope.metadata}) != own:
            return (
                "A pool of processes pickles this model in a thread of its own, from where it can't be seen whether "
                "it was sent from a billed_to block, and so who shall pay. Say it on the model itself: "
                "billing=Billing(customer_id=…, meter_slug=…), or billing=Billing() for your own wallet, and "
                "lava_metadata=; or let it work in this process."
            )
    return None


def carried_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A model's fields for pickling; see `carried`.

    Args:
        fields: `billing`, `lava_metadata` and `spend_limit` among them.
    """
    billing, metadata = carried(
        fields.get("billing"), fields.get("lava_metadata"), fields.get("spend_limit"), fields.get("api_key")
    )
    return {**fields, "billing": billing, "lava_metadata": metadata}
