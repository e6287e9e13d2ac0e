"""What paid calls used and cost, told to whoever listens.

    with track_usage() as usage:
        chain.invoke(…)
    usage.cost, usage.by_customer["c_1"].total_tokens

A call is told of once, when it is over, by every way: chat, streams and each request of the embedding engine, in both
frameworks and without one. The listeners are those of the context in which the call began, so a stream that is read
elsewhere still counts where it was asked for.

What is told is each request that Lava may have charged: every answer with status 200, and every request whose answer
the caller never saw. A refusal (4xx, 5xx) costs nothing and is not told. The provider says how many tokens it counted
at the very end of an answer; for a stream that was left before, a connection that broke, or a request that timed out
or was cancelled, nobody here knows: such a record has `usage` and `cost` `None`, the totals count it as `unknown`, and
`LavaMistral.reconcile` asks Lava for what it was. What other libraries send through a `LavaTransport` is not told.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar, cast

from lava_mistral._fork import new_lock
from lava_mistral.billing.generators import astepped, stepped
from lava_mistral.billing.scope import BillingScope, in_scope, present_scope
from lava_mistral.billing.usage import CallRecord, Listener, RetryStats
from lava_mistral.billing.usage_totals import UsageTotals

_T = TypeVar("_T")

_log = logging.getLogger("lava_mistral")


@dataclass(frozen=True, slots=True)
class Listening:
    """Who is told of the calls that begin now, and the framework's run that they belong to."""

    listeners: tuple[Listener, ...] = ()
    run_id: str | None = None
    outer: Listening | None = field(default=None, repr=False)
    owner: object = field(default=None, repr=False)


_NOBODY: Final = Listening()
_watch: ContextVar[Listening] = ContextVar("lava_mistral_usage", default=_NOBODY)
_subscribing = new_lock()
_subscribed: tuple[Listener, ...] = ()


def present_listeners() -> Listening:
    """Who is told of a call that begins now: the context's listeners and the process's, each once."""
    watch = _watch.get()
    if not _subscribed:
        return watch
    return Listening(tuple(dict.fromkeys((*watch.listeners, *_subscribed))), watch.run_id)


class watching:
    """Tell further listeners of the calls that begin in the block, and of the framework's run they belong to.

    Args:
        listeners: each is told once of a call, also where it listens by another way.
        run_id: LangChain's run id or LlamaIndex's span id; the outer block's by default.
        inside: blocks to begin the calls in, instead of those around this one.
    """

    __slots__ = ("_inside", "_listeners", "_outer", "_run_id", "_scope")

    def __init__(
        self, listeners: Sequence[Listener] = (), run_id: str | None = None, inside: CapturedContext | None = None
    ) -> None:
        self._listeners, self._run_id, self._inside = listeners, run_id, inside

    def __enter__(self) -> None:
        self._outer = outer = _watch.get()
        self._scope: AbstractContextManager[None] | None = None
        if self._inside is not None:
            outer = self._inside.watch
            if self._inside.scope is not present_scope():
                self._scope = in_scope(self._inside.scope)
                self._scope.__enter__()
        if self._listeners or self._run_id is not None:
            joined = tuple(dict.fromkeys((*outer.listeners, *self._listeners)))
            outer = Listening(joined, outer.run_id if self._run_id is None else self._run_id)
        _watch.set(outer)

    def __exit__(self, *failure: Any) -> None:
        _watch.set(self._outer)
        if self._scope is not None:
            self._scope.__exit__(*failure)


class CapturedContext(NamedTuple):
    """The `billed_to` and `track_usage` blocks around a point, to begin a call later as if there."""

    scope: BillingScope | None
    watch: Listening

    @classmethod
    def here(cls) -> CapturedContext:
        """Those around this point."""
        return cls(present_scope(), _watch.get())

    def again(self) -> watching:
        """A block inside them, whatever is around it."""
        return watching(inside=self)

    def steps(self, generator: Generator[_T, Any, Any]) -> Generator[_T, Any, Any]:
        """The generator, each of whose steps is taken inside them, wherever it is read."""
        return cast("Generator[_T, Any, Any]", stepped(self.again, lambda: generator)())

    def asteps(self, generator: AsyncGenerator[_T, Any]) -> AsyncGenerator[_T, Any]:
        """The async generator, each of whose steps is taken inside them, wherever it is read."""
        return cast("AsyncGenerator[_T, Any]", astepped(self.again, lambda: generator)())


class track_usage:
    """Sum up the calls that begin in the block, whatever makes them.

        with track_usage() as usage:
            …
        print(usage.cost, usage.by_model)

    The block holds for tasks and for the threads that the frameworks start, like `billed_to`. Blocks nest; each sums
    up its own calls and those of the blocks inside.

    Args:
        usage: what to sum up in; by default a new `UsageTotals`.
        listener: told of each call too.
    """

    def __init__(self, usage: UsageTotals | None = None, *, listener: Listener | None = None) -> None:
        self.usage = UsageTotals() if usage is None else usage
        self._listeners = (self.usage,) if listener is None else (self.usage, listener)

    def __enter__(self) -> UsageTotals:
        outer = _watch.get()
        joined = tuple(dict.fromkeys((*outer.listeners, *self._listeners)))
        _watch.set(Listening(joined, outer.run_id, outer, self))
        return self.usage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        present = _watch.get()
        # A generator may be closed in another context than it was entered in; there is nothing to leave there.
        if present.owner is self:
            _watch.set(present.outer or _NOBODY)


def subscribe(listener: Listener) -> None:
    """Tell a listener of every call of this process that begins from now on; `unsubscribe` ends it.

    Subscribing twice has no further effect.
    """
    global _subscribed
    with _subscribing:
        _subscribed = tuple(dict.fromkeys((*_subscribed, listener)))


def unsubscribe(listener: Listener) -> None:
    """Tell a listener of no further calls; those that have begun are still told of."""
    global _subscribed
    with _subscribing:
        _subscribed = tuple(known for known in _subscribed if known != listener)


def notify(listeners: Sequence[Listener], record: CallRecord) -> None:
    """Tell listeners of a call. One that fails is logged: the call itself did not."""
    for listener in listeners:
        try:
            listener(record)
        except Exception:  # noqa: BLE001 - what a listener does is not the call's fault
            _log.exception("A listener to usage failed: %r", listener)


def notify_retries(listeners: Sequence[Listener], effort: RetryStats) -> None:
    """Tell those listeners of it that have a method for it. One that fails is logged: the call itself did not."""
    if not effort.retries and not effort.duplicates:
        return
    for listener in listeners:
        add_effort = getattr(listener, "add_effort", None)
        if add_effort is None:
            continue
        try:
            add_effort(effort)
        except Exception:  # noqa: BLE001 - what a listener does is not the call's fault
            _log.exception("A listener to usage failed: %r", listener)
