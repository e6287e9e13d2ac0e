"""Hold what blocks say of the calls made in them, bill them (`billed_to`), and decide who pays for a call."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field, replace
from functools import wraps
from threading import get_ident
from types import FrameType
from typing import Any, Self, TypeVar, cast
from weakref import WeakValueDictionary

from lava_mistral._locks import after_fork
from lava_mistral.billing.credentials import (
    MERCHANT,
    Billing,
    BillingContext,
    Secret,
    billing_of_token,
    check_metadata,
    hidden,
)
from lava_mistral.billing.generators import KINDS, calling_generator, leaks
from lava_mistral.billing.spend_limit import Amount, SpendLimit, to_limit
from lava_mistral.billing.usage import Listener, subscribed
from lava_mistral.errors import ConfigurationError

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Scope:
    """What blocks say of the calls that begin in them.

    Attributes:
        fields: those of `Billing` that they name.
        listeners: who is told of the calls.
        run_id: LangChain's run id or LlamaIndex's span id that the calls belong to.
        forked: whether this process was forked inside of blocks that bill.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[SpendLimit, ...] = ()
    listeners: tuple[Listener, ...] = ()
    run_id: str | None = None
    forked: bool = False

    @property
    def bills(self) -> bool:
        """Whether it is one of `billed_to`."""
        return bool(self.fields or self.metadata or self.limits)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Entry:
    """One entry into a block."""

    scope: Scope
    owner: object = None
    # The id of the frame of the generator whose `with` statement entered it; 0 for any other.
    generator: int = 0
    # Whether the block was left. What was started inside it, such as a task, still belongs to it.
    left: bool = False
    # The id of the task or thread that entered it, for a generator's; and whether another one left it, perhaps in a
    # copy of the context: then it holds nowhere any more.
    home: int = 0
    void: bool = False
    # Whether a call was made in it, or after it.
    used: bool = False
    # Whether it holds instead of those around it.
    alone: bool = False


def _home() -> int:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return get_ident() if task is None else id(task)


# The entries around this point, the innermost first.
entries: ContextVar[tuple[Entry, ...]] = ContextVar("lava_mistral_blocks", default=())
# The entry into a block with a customer that was left last.
_left: ContextVar[Entry | None] = ContextVar("lava_mistral_left_block", default=None)
_all: WeakValueDictionary[int, Entry] = WeakValueDictionary()
_SAID_NOWHERE = (
    "This process was forked inside a billed_to block. Whether the call belongs to that block can't be seen, since "
    "pools of processes outlive blocks: open billed_to(…) in the process, or give billing=Billing(customer_id=…, "
    "meter_slug=…) to the model, or billing=Billing() for your own wallet."
)
_NO_CUSTOMER = (
    "No customer is named for this call, and one is required (require_customer=True or LAVA_REQUIRE_CUSTOMER=1): make "
    "it inside billed_to(customer_id, meter_slug), or give it billing=Billing(customer_id=…, meter_slug=…). Nothing "
    "was sent."
)
_UNUSED_BLOCK = (
    "A call for no customer begins outside of billed_to({!r}, …), in which no call was made. Streams of chains, "
    "coroutines and background tasks call the model when they are read, awaited and run, not where they are made: do "
    "that inside the block, or decorate the generator or function that does it with @billed_to(…). A call that your "
    "own wallet is to pay takes billing=Billing()."
)
_NOWHERE = Scope()


def scope_of_call() -> Scope:
    """Return what the blocks around this point say of a call that is made here, and note that one is."""
    outer = _NOWHERE
    for entry in reversed(entries.get()):
        entry.used = True
        if not entry.void:
            inner = entry.scope
            outer = _NOWHERE if entry.alone else outer
            outer = Scope(
                {**outer.fields, **inner.fields},
                {**outer.metadata, **inner.metadata},
                inner.limits + outer.limits,
                outer.listeners + inner.listeners,
                inner.run_id or outer.run_id,
                inner.forked or outer.forked,
            )
    return outer


def _alive() -> list[Entry]:
    return [entry for reference in _all.valuerefs() if (entry := reference()) is not None]


def _after_fork() -> None:
    _all.clear()
    if entries.get():
        scope = scope_of_call()
        entries.set((Entry(Scope(listeners=scope.listeners, run_id=scope.run_id, forked=scope.bills or scope.forked)),))


after_fork(_after_fork)


class Block:
    """A `with` statement that says something of the calls which begin in it, and in tasks and threads started there."""

    _decorates = False  # a function, or each step of a generator, of which many make no call

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def _enter(self, caller: FrameType | None) -> None:
        """Enter it, called by the generator `caller` if by one."""
        entry = Entry(self._scope, self)
        if caller is not None:
            entry.generator, entry.home = id(caller), _home()
        _all[id(entry)] = entry
        entries.set((entry, *(outer for outer in entries.get() if not outer.void)))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # A generator that is closed late, in whatever context, ends its own part and nobody else's.
        caller, present = calling_generator(), entries.get()
        generator = 0 if caller is None else id(caller)
        for mine in present if caller is None else (*present, *_alive()):
            # A frame that is gone may have had the same id: its entries were left.
            if mine.owner is self and mine.generator == generator and not (caller is not None and mine.left):
                mine.left, mine.void = True, mine not in present or bool(caller and mine.home != _home())
                entries.set(tuple(entry for entry in present if entry is not mine))
                if error is None and not self._decorates and "customer_id" in mine.scope.fields:
                    _left.set(mine)
                return


class billed_to(Block):
    """Bill every call made inside the block to a customer, whatever makes the call.

    It holds for tasks and for the threads that the frameworks start; a thread pool of your own copies it with
    `pool.submit(contextvars.copy_context().run, function)`. It does not reach other processes: a model that is pickled
    inside the block takes its payer along; where no block can be seen, an error asks for `billing=` on the model.

    Blocks nest: an inner one wins, field by field. `billing=` given to a single call wins over all blocks; a block wins
    over `billing=` on the model. A stream of a model is billed to where it was asked for; one of what LangChain wraps
    around it, or the answer of a LlamaIndex query engine with `streaming=True`, to where it is read.

    It decorates functions, coroutine functions and generators too. A generator must be decorated: a `with` block around
    a `yield` would hold for whoever takes the values, and be lost where each is taken in a context of its own.

    Args:
        customer_id: Lava's id of the customer who pays; needs a meter here, in an outer block or on the model.
        meter_slug: the meter that the usage counts on.
        metadata: stored by Lava with each request; merged over the outer blocks' metadata.
        provider_key: your own Mistral key for these calls.
        disable_billing: track the customer without charging them.
        spend_limit: USD that all calls in the block may cost together, or a `SpendLimit` to share; the limits of the
            outer blocks and of the models hold too. A call that could pass one is refused before it is sent. Entering
            the same block again goes on with its `.spend_limit`.

    Raises:
        ConfigurationError: one of them is of the wrong kind.
    """

    def __init__(
        self,
        customer_id: str | None = None,
        meter_slug: str | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        provider_key: Secret | None = None,
        disable_billing: bool | None = None,
        spend_limit: Amount | SpendLimit | None = None,
    ) -> None:
        self.spend_limit = to_limit(spend_limit)
        given: dict[str, Any] = {"customer_id": customer_id, "meter_slug": meter_slug}
        given |= {"provider_key": hidden(provider_key), "disable_billing": disable_billing}
        fields = {name: value for name, value in given.items() if value is not None}
        # Each field is checked; the others may come from an outer block or the model.
        Billing(**{"customer_id": "any", "meter_slug": "any"} | fields)
        limits = () if self.spend_limit is None else (self.spend_limit,)
        super().__init__(Scope(fields, check_metadata(metadata), limits))

    def __enter__(self) -> Self:
        caller = calling_generator()
        if caller is not None and leaks(caller):
            warnings.warn(
                "A `with billed_to(…)` around a `yield` also bills what the consumer of the generator calls, and is "
                "lost where each value is taken in a context of its own, as web servers do: decorate the generator "
                "with @billed_to(…), or put the block around a call that yields nothing.",
                stacklevel=2,
            )
        self._enter(caller)
        return self

    def __call__(self, function: _F) -> _F:
        """Bill every call made inside a function of any kind, and inside a coroutine or generator that it returns."""
        block = copy(self)
        block._decorates = True
        for is_function, _, inside in KINDS:
            if is_function(function):
                return cast("_F", wraps(function)(inside(block, function)))

        @wraps(function)
        def made(*args: Any, **kwargs: Any) -> Any:
            with block:
                result = function(*args, **kwargs)
            for _, is_made, inside in KINDS:
                if is_made(result):
                    return inside(block, lambda: result)()
            return result

        return cast("_F", made)


def resolve_billing(
    billing: Billing | None,
    metadata: Mapping[str, str] | None,
    *,
    call_billing: Billing | None = None,
    call_metadata: Mapping[str, str] | None = None,
    limit: SpendLimit | None = None,
    api_key: Secret | None = None,
    customer_required: bool | None = None,
) -> BillingContext:
    """Return who pays for a call made now: the model's settings, under the enclosing blocks, under the call's own.

    Below all of them lies what a forward token says that is itself the credential. `call_billing` replaces the
    customer, meter and switch as one; the provider key falls through where it names none. All limits hold, the
    innermost first: those of the blocks, then `limit`, the model's.

    A call that no customer is named for is refused where one is required: `False` asks `LAVA_REQUIRE_CUSTOMER`, `None`
    nobody. A call for no customer may have been meant for a block that was left without one: that warns.
    """
    scope = scope_of_call()
    if scope.forked and not scope.bills and billing is None and call_billing is None:
        raise ConfigurationError(_SAID_NOWHERE)
    key: Any = os.environ.get("LAVA_FORWARD_TOKEN") if api_key is None else api_key
    if hasattr(key, "get_secret_value"):
        key = key.get_secret_value()
    # What a function gives is asked for anew with each request.
    token = billing_of_token(key) if isinstance(key, str) else MERCHANT
    if token.disable_billing and "customer_id" in scope.fields:
        # It is the token's own customer whom the token does not charge.
        token = replace(token, disable_billing=None)
    base = token if billing is None else billing.over(token)
    if call_billing is None:
        base = replace(base, **scope.fields) if scope.fields else base
    else:
        own_key = scope.fields.get("provider_key") or base.provider_key
        keeps = own_key is None or call_billing.provider_key
        base = call_billing if keeps else replace(call_billing, provider_key=own_key)
    merged = {**(metadata or {}), **scope.metadata}
    if call_metadata is not None:
        merged |= check_metadata(call_metadata)
    if len(merged) > 100:
        check_metadata(merged)
    if customer_required is False:
        customer_required = "LAVA_REQUIRE_CUSTOMER" in os.environ and requires_customer()
    if customer_required and base.customer_id is None:
        raise ConfigurationError(_NO_CUSTOMER)
    left = _left.get()
    if left is not None and not left.used:
        left.used = True
        if base.customer_id is None and call_billing is None:
            warnings.warn(_UNUSED_BLOCK.format(left.scope.fields["customer_id"]), stacklevel=3)
    limits = scope.limits if limit is None else (*scope.limits, limit)
    listeners = (*scope.listeners, *subscribed)
    return BillingContext(
        base,
        merged,
        tuple(dict.fromkeys(limits)) if limits else (),
        tuple(dict.fromkeys(listeners)) if listeners else (),
        scope.run_id,
    )


def requires_customer() -> bool:
    """Tell whether `LAVA_REQUIRE_CUSTOMER` asks every call of this process to name a customer."""
    return os.environ.get("LAVA_REQUIRE_CUSTOMER", "").lower() not in ("", "0", "false", "no")


def carried(
    billing: Billing | None,
    metadata: Mapping[str, str] | None,
    limit: SpendLimit | None = None,
    api_key: Secret | None = None,
) -> tuple[Billing | None, Mapping[str, str] | None]:
    """Return the billing and the metadata that a pickled model is to have: its own, under the enclosing blocks.

    Refused where a block sets a spend limit, which processes can't share, and where no block is around the pickling,
    but one is open elsewhere in this process, and the model does not say itself who pays.
    """
    scope = scope_of_call()
    elsewhere = [entry.scope for entry in _alive() if entry.scope.bills and not entry.left]
    if not scope.bills and billing is None and (elsewhere or scope.forked):
        raise ConfigurationError(
            "This model is being pickled, for a pool of processes perhaps, while a billed_to block is open in "
            "another thread or task, and nobody can see whether it was sent from there. Say on the model who pays: "
            "billing=Billing(customer_id=…, meter_slug=…), or billing=Billing() for your own wallet."
        )
    if scope.limits if scope.bills else limit is None and any(other.limits for other in elsewhere):
        raise ConfigurationError(
            "The spend limit of an open billed_to block can't be kept in another process, where this model is about "
            "to be sent (it is being pickled). Give spend_limit= to the model itself, which each process then counts "
            "on its own, or use threads or tasks."
        )
    if not scope.bills:
        return billing, metadata
    billing_context = resolve_billing(billing, metadata, api_key=api_key)
    if scope.fields:
        own = "provider_key" in scope.fields or (billing is not None and billing.provider_key is not None)
        # A provider key of the token itself stays with the key, and is not written down beside it.
        billing = billing_context.billing if own else replace(billing_context.billing, provider_key=None)
    return billing, billing_context.metadata
