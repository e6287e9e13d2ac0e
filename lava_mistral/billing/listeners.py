"""Tell listeners what paid calls used and cost, once each: chat, streams and every request of the embedding engine.

The listeners are those of the context in which the call began. They are told of each request that Lava may have
charged: every answer with status 200, and every request whose answer the caller never saw, with `usage` and `cost`
`None`; `LavaMistral.reconcile` asks Lava for what it was. A refusal (4xx, 5xx) costs nothing and is not told, nor is
what other libraries send through a `LavaTransport`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

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
_subscribed: dict[Listener, None] = {}


def present_listeners() -> Listening:
    """Return who is told of a call that begins now: the context's listeners and the process's, each once."""
    watch = listening.get()
    if not _subscribed:
        return watch
    return Listening(tuple(dict.fromkeys((*watch.listeners, *_subscribed))), watch.run_id)


def subscribe(listener: Listener) -> None:
    """Tell a listener of every call of this process that begins from now on; `unsubscribe` ends it."""
    _subscribed[listener] = None


def unsubscribe(listener: Listener) -> None:
    """Tell a listener of no further calls; those that have begun are still told of."""
    _subscribed.pop(listener, None)


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
