"""Bill what runs in a block: `billed_to`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import wraps
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from weakref import WeakValueDictionary

from lava_mistral._locks import after_fork
from lava_mistral.billing.generators import astepped, calling_generator, stepped, yields_in_block
from lava_mistral.billing.identity import FIELDS, Billing, Secret, check_metadata, hidden
from lava_mistral.billing.spend_limit import Amount, SpendLimit, to_limit

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class BillingScope:
    """What `billed_to` blocks say of the calls made inside them.

    Attributes:
        forked: whether this process was forked inside the blocks.
    """

    customer_id: str | None = None
    meter_slug: str | None = None
    provider_key: Secret | None = field(default=None, repr=False)
    disable_billing: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[SpendLimit, ...] = ()
    forked: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of `Billing` that the blocks name."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    def over(self, billing: Billing) -> Billing:
        """Put the fields that the blocks name over those of `billing`."""
        return replace(billing, **self.fields) if self.fields else billing

    def within(self, outer: BillingScope) -> BillingScope:
        """Put this scope's fields and metadata over those of an outer one; the limits of both hold."""
        metadata = {**outer.metadata, **self.metadata}
        return replace(outer, **self.fields, metadata=metadata, limits=(*self.limits, *outer.limits))


class _Entry:
    """One entry into a block.

    Attributes:
        generator: identifies the frame of the generator whose `with` statement entered it; 0 for any other.
        left: whether the block was left. What was started inside it, such as a task, still belongs to it.
        void: whether that happened in another context than the entering, which then is no longer in the block.
        used: whether a call was made in it, or after it.
    """

    __slots__ = ("__weakref__", "generator", "left", "owner", "scope", "used", "void")

    def __init__(self, scope: BillingScope, owner: object = None, generator: int = 0) -> None:
        self.scope, self.owner, self.generator = scope, owner, generator
        self.left = self.void = self.used = False


_present: ContextVar[tuple[_Entry, ...]] = ContextVar("lava_mistral_billed_to", default=())
"""The entries around this point, the innermost first."""
_left: ContextVar[_Entry | None] = ContextVar("lava_mistral_left_block", default=None)
"""The entry into a block with a customer that was left last."""
_entries: WeakValueDictionary[int, _Entry] = WeakValueDictionary()


def present_scope() -> BillingScope | None:
    """Add up the blocks around this point; `None` where there is none."""
    total: BillingScope | None = None
    for entry in _present.get():
        if entry.void or (entry.scope.forked and total is not None):
            continue
        total = entry.scope if total is None else total.within(entry.scope)
    return total


def _alive() -> list[_Entry]:
    return [entry for reference in _entries.valuerefs() if (entry := reference()) is not None]


def open_scopes() -> list[BillingScope]:
    """List what the blocks say that were entered in this process, in any thread, task or context, and not left."""
    return [entry.scope for entry in _alive() if not entry.left]


def _after_fork() -> None:
    scope = present_scope()
    _entries.clear()
    _present.set(() if scope is None else (_Entry(replace(scope, forked=True)),))


after_fork(_after_fork)


@contextmanager
def in_scope(scope: BillingScope | None) -> Iterator[None]:
    """Make calls in the block as where the scope was taken, whatever is around the block."""
    outer = _present.get()
    _present.set(() if scope is None else (_Entry(scope),))
    try:
        yield
    finally:
        _present.set(outer)


class billed_to:
    """Bill every call made inside the block to a customer, whatever makes the call.

    The block holds for chains, agents, tools, retrievers and workflows of both frameworks, for tasks, and for the
    threads that the frameworks start. A thread pool of your own copies it with
    `pool.submit(contextvars.copy_context().run, function)`. It does not reach other processes: a model that is pickled
    inside the block takes its payer along, but pools of processes (`num_workers=` of LlamaIndex's pipelines) pickle in
    a thread of their own, where no block can be seen, and forked processes outlive the block. An error then asks for
    `billing=` on the model.

    Blocks nest: an inner one wins, field by field. `billing=` given to a single call wins over all blocks; a block wins
    over `billing=` on the model, which is also where LangChain's `configurable_fields` put it. A stream of a model is
    billed to where it was asked for; one of what LangChain wraps around it (`model | parser`, `bind`, `bind_tools`,
    `with_structured_output`, events), or the answer of a LlamaIndex query engine with `streaming=True`, to where it is
    read, since only then they ask the model.

    It decorates functions, coroutine functions and generators too. A generator is the one place where it must: a `with`
    block around a `yield` would hold for whoever takes the values, and be lost where each is taken in a context of its
    own, as web servers do. A warning says so. Decorated, it holds for the generator's own steps alone. Blocks may be
    left in any order; each ends its own part.

    Args:
        customer_id: Lava's id of the customer who pays; needs a meter here, in an outer block or on the model.
        meter_slug: the meter that the usage counts on.
        metadata: stored by Lava with each request; merged over the outer blocks' metadata.
        provider_key: your own Mistral key for these calls.
        disable_billing: track the customer without charging them.
        spend_limit: USD that all calls in the block may cost together, or a `SpendLimit` to share; the limits of the
            outer blocks and of the models hold too. A call that could pass one is refused before it is sent.

    Attributes:
        spend_limit: the block's limit, which says what is spent and left; `None` without one. Entering the same block
            again, also in several threads or tasks at once, goes on with it.

    Raises:
        ConfigurationError: on construction, for metadata that Lava refuses; on the first call, for an identity that
            is incomplete.
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
        self._scope = BillingScope(
            customer_id=customer_id,
            meter_slug=meter_slug,
            provider_key=hidden(provider_key),
            disable_billing=disable_billing,
            metadata=check_metadata(metadata),
            limits=() if self.spend_limit is None else (self.spend_limit,),
        )

    def __enter__(self) -> Self:
        caller = calling_generator(inspect.currentframe())
        if caller is not None and yields_in_block(caller):
            warnings.warn(
                "A `with billed_to(…)` around a `yield` also bills what the consumer of the generator calls, and is "
                "lost where each value is taken in a context of its own, as web servers do: decorate the generator "
                "with @billed_to(…), or put the block around a call that yields nothing.",
                stacklevel=2,
            )
        entry = _Entry(self._scope, self, 0 if caller is None else id(caller))
        _entries[id(entry)] = entry
        _present.set((entry, *_present.get()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A generator that is closed late, in whatever context, ends its own part and nobody else's.
        caller = calling_generator(inspect.currentframe())
        generator = 0 if caller is None else id(caller)
        present = _present.get()
        mine = next((entry for entry in present if entry.owner is self and generator in (0, entry.generator)), None)
        if mine is not None:
            _present.set(tuple(entry for entry in present if entry is not mine))
        elif generator:
            mine = next((entry for entry in _alive() if entry.owner is self and entry.generator == generator), None)
            if mine is not None:
                mine.void = True
        if mine is not None:
            mine.left = True
            if error is None and mine.scope.customer_id is not None:
                _left.set(mine)

    def __call__(self, function: _F) -> _F:
        """Bill every call made inside the function: a plain one, a coroutine function or a generator of either kind.

        What a plain function returns is part of it where it is a coroutine or a generator.
        """
        made: Any
        if inspect.iscoroutinefunction(function):

            async def made(*args: Any, **kwargs: Any) -> Any:
                return await _awaited(self, function(*args, **kwargs))

        elif inspect.isgeneratorfunction(function):
            made = stepped(lambda: self, function)
        elif inspect.isasyncgenfunction(function):
            made = astepped(lambda: self, function)
        else:

            def made(*args: Any, **kwargs: Any) -> Any:
                with self:
                    result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    return _awaited(self, result)
                if inspect.isgenerator(result):
                    return stepped(lambda: self, lambda: result)()
                return astepped(lambda: self, lambda: result)() if inspect.isasyncgen(result) else result

        return cast("_F", wraps(function)(made))


async def _awaited(block: billed_to, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with block:
        return await coroutine


def note_call() -> None:
    """Note that a call is made in the blocks around this point, or that its answer was at hand."""
    for entry in _present.get():
        entry.used = True


def warn_of_unused_block(customer_id: str | None, *, streams: bool) -> None:
    """Warn where a stream starts that was probably meant for a block, which was left without any call in it.

    Args:
        customer_id: who pays for a call that begins now.
        streams: whether it is a stream.
    """
    left = _left.get()
    if left is None or left.used:
        return
    left.used = True
    if streams and customer_id is None:
        warnings.warn(
            f"A stream starts outside of billed_to({left.scope.customer_id!r}, …), in which no call was made. A chain, "
            "an agent or a query engine asks the model when its stream is read, not where it is made: read the stream "
            "inside the block, or decorate the generator that reads it with @billed_to(…).",
            stacklevel=2,
        )
