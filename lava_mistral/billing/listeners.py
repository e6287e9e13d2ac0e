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
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from lava_mistral._locks import ForkSafeLock
from lava_mistral.billing.usage import CallRecord, Listener, RetryStats

_log = logging.getLogger("lava_mistral")


@dataclass(frozen=True, slots=True)
class Listening:
    """Who is told of the calls that begin now, and the framework's run that they belong to."""

    listeners: tuple[Listener, ...] = ()
    run_id: str | None = None
    outer: Listening | None = field(default=None, repr=False)
    owner: object = field(default=None, repr=False)


NOBODY: Final = Listening()
listening: ContextVar[Listening] = ContextVar("lava_mistral_usage", default=NOBODY)
"""Who listens at this point, without those of the whole process."""
_subscribing = ForkSafeLock()
_subscribed: tuple[Listener, ...] = ()


def present_listeners() -> Listening:
    """Who is told of a call that begins now: the context's listeners and the process's, each once."""
    watch = listening.get()
    if not _subscribed:
        return watch
    return Listening(tuple(dict.fromkeys((*watch.listeners, *_subscribed))), watch.run_id)


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


def notify(listeners: Sequence[Listener], told: CallRecord | RetryStats) -> None:
    """Tell listeners of a call, or those that have an `add_effort` of what it did beside.

    One that fails is logged: the call itself did not.
    """
    if isinstance(told, RetryStats) and not (told.retries or told.duplicates):
        return
    for listener in listeners:
        tell: Any = listener if isinstance(told, CallRecord) else getattr(listener, "add_effort", None)
        try:
            if tell is not None:
                tell(told)
        except Exception:  # noqa: BLE001 - what a listener does is not the call's fault
            _log.exception("A listener to usage failed: %r", listener)
