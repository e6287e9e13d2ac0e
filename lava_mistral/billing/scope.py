"""`billed_to`: who pays, for everything that runs in a block; and what a call made at this point is sent with."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from weakref import WeakValueDictionary

from lava_mistral._processes import runs_alone, works_for_a_pool
from lava_mistral.billing.credentials import Secret, hidden
from lava_mistral.billing.identity import FIELDS, MERCHANT, Billing, check_metadata, credential_billing
from lava_mistral.billing.spend_limit import Amount, SpendLimit, to_limit

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Scope:
    """What the enclosing `billed_to` blocks add up to.

    Attributes:
        outer: what they added up to before the innermost of them was entered.
        owner: the innermost of them.
    """

    customer_id: str | None = None
    meter_slug: str | None = None
    provider_key: Secret | None = field(default=None, repr=False)
    disable_billing: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[SpendLimit, ...] = ()
    outer: Scope | None = field(default=None, repr=False)
    owner: object = field(default=None, repr=False)

    def over(self, billing: Billing) -> Billing:
        """`billing` with the fields that this scope names put over its own."""
        given = {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
        return replace(billing, **given) if given else billing

    def within(self, outer: Scope | None, owner: object) -> Scope:
        """This scope with what an outer one says beside it."""
        if outer is None:
            return replace(self, owner=owner)
        given = {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
        metadata = {**outer.metadata, **self.metadata}
        return replace(
            outer, **given, metadata=metadata, limits=(*self.limits, *outer.limits), outer=outer, owner=owner
        )


_scope: ContextVar[Scope | None] = ContextVar("lava_mistral_billed_to", default=None)


# Every scope that some thread, task or copied context of this process is in.
entered: WeakValueDictionary[int, Scope] = WeakValueDictionary()


# Those that the main thread is in, outside of event loops: it does nothing else until it has left them.
in_charge: list[Scope] = []


# The scope in which this process was forked.
_inherited: Scope | None = None


def _after_fork() -> None:
    global _inherited
    _inherited = present_scope()
    _scope.set(_inherited)
    entered.clear()
    if _inherited is not None:
        entered[id(_inherited)] = _inherited
    if not in_charge or in_charge[-1] is not _inherited:
        in_charge.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def present_scope() -> Scope | None:
    """What the blocks around this point add up to.

    A forked process is still in the blocks that it was started in. One of a pool is in none: it outlives them, and its
    tasks come from anywhere.
    """
    scope = _scope.get()
    return None if scope is None or is_left(scope) else scope


def is_left(scope: Scope) -> bool:
    return scope is _inherited and works_for_a_pool()


@contextmanager
def in_scope(scope: Scope | None) -> Iterator[None]:
    """A block in which calls are made as where the scope was taken, whatever is around it."""
    outer = _scope.get()
    _scope.set(scope)
    try:
        yield
    finally:
        _scope.set(outer)


class billed_to:
    """Bill every call made inside the block to a customer, whatever makes the call.

    The block holds for chains, agents, tools, retrievers and workflows of both frameworks, for tasks, and for the
    threads that the frameworks start. A thread pool of your own copies it with
    `pool.submit(contextvars.copy_context().run, function)`. A model that is sent to a pool of processes, as
    `num_workers=` of LlamaIndex's pipelines does, takes the block along where the main thread is in it; wait for the
    results inside the block, since a pool may send a task long after it was given it. Where a block is open in an event
    loop or in another thread, nobody can see from which one the model was sent: an error then asks for `billing=` on
    the model.

    Blocks nest: an inner one wins, field by field. `billing=` given to a single call wins over all blocks; a block wins
    over `billing=` on the model, which is also where LangChain's `configurable_fields` put it. A stream of a model is
    billed to where it was asked for; one of what LangChain wraps around it (`model | parser`, `bind`, `bind_tools`,
    `with_structured_output`, events), or the answer of a LlamaIndex query engine with `streaming=True`, to where it is
    read, since only then they ask the model.

    It decorates functions, coroutine functions and generators too. A generator is the one place where it must: a `with`
    block around a `yield` would hold for whoever takes the values, and be lost where each is taken in a context of its
    own, as web servers do. Decorated, it holds for the generator's own steps alone.

    Args:
        customer_id: Lava's id of the customer who pays; needs a meter here, in an outer block or on the model.
        meter_slug: the meter that the usage counts on.
        metadata: stored by Lava with each request; merged over the outer blocks' metadata.
        provider_key: your own Mistral key for these calls.
        disable_billing: track the customer without charging them.
        spend_limit: USD that all calls in the block may cost together, or a `SpendLimit` to share; the limits of the
            outer blocks and of the models hold too. A call that could pass one is refused before it is sent. A process
            that is forked in the block counts on its own.

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
        self._inner = Scope(
            customer_id=customer_id,
            meter_slug=meter_slug,
            provider_key=hidden(provider_key),
            disable_billing=disable_billing,
            metadata=check_metadata(metadata),
            limits=() if self.spend_limit is None else (self.spend_limit,),
        )

    def __enter__(self) -> Self:
        scope = self._inner.within(present_scope(), self)
        entered[id(scope)] = scope
        if runs_alone():
            in_charge.append(scope)
        _scope.set(scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        present = _scope.get()
        # A generator may be closed in another context than it was entered in; there is nothing to leave there.
        left = present is not None and present.owner is self
        if runs_alone():
            for place in reversed(range(len(in_charge))):
                # The same block may be open in other threads and tasks: it is theirs to leave there.
                if in_charge[place] is present if left else in_charge[place].owner is self:
                    del in_charge[place]
                    break
        if present is not None and left:
            _scope.set(present.outer)

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


def stepped(
    block: Callable[[], AbstractContextManager[Any]], function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Any]:
    """The generator function, each of whose steps is taken inside a block, and none of its consumer's (PEP 380)."""

    def made(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Any] = partial(next, generator)
        try:
            while True:
                try:
                    with block():
                        value = step()
                except StopIteration as end:
                    return end.value
                try:
                    step = partial(generator.send, (yield value))
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                    step = partial(generator.throw, error)
        finally:
            with block():
                generator.close()

    return made


def astepped(
    block: Callable[[], AbstractContextManager[Any]], function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., Any]:
    """The async generator function, each of whose steps is taken inside a block; see `stepped`."""

    async def made(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Awaitable[Any]] = partial(anext, generator)
        try:
            while True:
                try:
                    with block():
                        value = await step()
                except StopAsyncIteration:
                    return
                try:
                    step = partial(generator.asend, (yield value))
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                    step = partial(generator.athrow, error)
        finally:
            with block():
                await generator.aclose()

    return made


@dataclass(frozen=True)
class Identity:
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
) -> Identity:
    """The identity of a call made now: the model's settings, under the enclosing blocks, under the call's own.

    Below all of them lies what a forward token says that is itself the credential. `call_billing` replaces the
    customer, meter and switch as one; the provider key falls through where it names none. All limits hold, the
    innermost first: those of the blocks, then `limit`, the model's.
    """
    scope = present_scope()
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
    return Identity(base, merged, tuple(dict.fromkeys(limits)) if len(limits) > 1 else limits)
