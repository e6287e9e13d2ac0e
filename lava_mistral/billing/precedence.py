"""Decide which payer wins: the call, the enclosing blocks, the model's settings, or the credential."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lava_mistral.billing.identity import MERCHANT, Billing, Secret, check_metadata, credential_billing
from lava_mistral.billing.scope import note_call, present_scope
from lava_mistral.billing.spend_limit import SpendLimit
from lava_mistral.errors import ConfigurationError


@dataclass(frozen=True)
class BillingContext:
    """What one call is sent with: who pays, the metadata stored with it, and the limits that it draws on."""

    billing: Billing = MERCHANT
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[SpendLimit, ...] = ()


def identify(
    billing: Billing | None,
    metadata: Mapping[str, str] | None,
    *,
    call_billing: Billing | None = None,
    call_metadata: Mapping[str, str] | None = None,
    limit: SpendLimit | None = None,
    api_key: Secret | None = None,
) -> BillingContext:
    """The identity of a call made now: the model's settings, under the enclosing blocks, under the call's own.

    Below all of them lies what a forward token says that is itself the credential. `call_billing` replaces the
    customer, meter and switch as one; the provider key falls through where it names none. All limits hold, the
    innermost first: those of the blocks, then `limit`, the model's.

    Raises:
        ConfigurationError: the metadata breaks Lava's rules, or the process was forked inside a block and nothing else
            says who pays.
    """
    scope = present_scope()
    note_call()
    if scope is not None and scope.forked:
        if billing is None and call_billing is None:
            raise ConfigurationError(
                "This process was forked inside a billed_to block. Whether the call belongs to that block can't be "
                "seen, since pools of processes outlive blocks: open billed_to(…) in the process, or give "
                "billing=Billing(customer_id=…, meter_slug=…) to the model, or billing=Billing() for your own wallet."
            )
        scope = None
    token = credential_billing(api_key)
    if token.disable_billing and scope is not None and scope.customer_id is not None:
        # It is the token's own customer whom the token does not charge.
        token = replace(token, disable_billing=None)
    base = token if billing is None else billing.over(token)
    if call_billing is not None:
        provider_key = (scope.provider_key if scope is not None else None) or base.provider_key
        base = call_billing
        if base.provider_key is None and provider_key is not None:
            base = replace(base, provider_key=provider_key)
    elif scope is not None:
        base = scope.over(base)
    merged = dict(metadata) if metadata else {}
    if scope is not None:
        merged.update(scope.metadata)
    if call_metadata:
        merged.update(check_metadata(call_metadata))
    if len(merged) > 100:
        check_metadata(merged)
    limits = () if scope is None else scope.limits
    if limit is not None:
        limits = (*limits, limit)
    return BillingContext(base, merged, tuple(dict.fromkeys(limits)) if len(limits) > 1 else limits)


def requires_customer() -> bool:
    """Whether `LAVA_REQUIRE_CUSTOMER` asks every call of this process to name a customer."""
    return os.environ.get("LAVA_REQUIRE_CUSTOMER", "").lower() not in ("", "0", "false", "no")


def check_customer(identity: BillingContext, required: bool = False) -> None:
    """Refuse a call that no customer is named for, where one is required.

    Args:
        identity: of the call.
        required: whether the model or client requires one; `LAVA_REQUIRE_CUSTOMER=1` does too.

    Raises:
        ConfigurationError: none is named. Nothing was sent.
    """
    if identity.billing.customer_id is not None:
        return
    if required or requires_customer():
        raise ConfigurationError(
            "No customer is named for this call, and one is required (require_customer=True or "
            "LAVA_REQUIRE_CUSTOMER=1): make it inside billed_to(customer_id, meter_slug), or give it "
            "billing=Billing(customer_id=…, meter_slug=…). Nothing was sent."
        )
