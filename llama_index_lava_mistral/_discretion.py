"""Keeps what may hold a key out of LlamaIndex's events and spans, which are made of a call's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, Self, TypeVar, cast

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from lava_mistral.billing.identity import Billing, to_billing
from lava_mistral.calls.chat_body import refuse_keys
from llama_index_lava_mistral._convert import response_format_of

_F = TypeVar("_F", bound=Callable[..., Any])

_OF_THE_MODEL = "llm_kwargs"


class Payer(str):
    """Who pays for one call, as text in events and traces; the identity itself, which may hold a key, is beside it.

    LlamaIndex puts a call's keyword arguments into events, and tracers write those out field by field. A copy is the
    text alone.
    """

    billing: Billing

    def __new__(cls, billing: Billing) -> Self:
        payer = super().__new__(cls, billing.payer)
        payer.billing = billing
        return payer

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def billing_of(value: Any) -> Billing | None:
    """The identity that a call's `billing=` names."""
    return value.billing if isinstance(value, Payer) else to_billing(value)


def shown(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as everybody may see them.

    Raises:
        ConfigurationError: one is a key, or a setting that no single call has.
    """
    refuse_keys(kwargs)
    given = dict(kwargs)
    billing = billing_of(given.get("billing"))
    if billing is not None:
        given["billing"] = Payer(billing)
    if given.get("response_format") is not None:
        given["response_format"] = response_format_of(given["response_format"])
    return given


def within_a_span(method: _F) -> _F:
    """Say that the method needs no span of its own: the one that it calls opens it."""
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


def discreet(method: _F) -> _F:
    """The method in its span, with nothing secret in the arguments; in a method that has them, in its `llm_kwargs`."""
    spanned: Any = get_dispatcher(method.__module__).span(method)
    names = list(signature(method).parameters)
    place = names.index(_OF_THE_MODEL) if _OF_THE_MODEL in names else None

    def call(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = spanned.__get__(self, type(self))
        if place is None:
            return bound(*args, **shown(kwargs))
        at = place - 1
        if len(args) > at:
            args = (*args[:at], shown(args[at] or {}), *args[at + 1 :])
        elif kwargs.get(_OF_THE_MODEL) is not None:
            kwargs = {**kwargs, _OF_THE_MODEL: shown(kwargs[_OF_THE_MODEL])}
        return bound(*args, **kwargs)

    @wraps(method)
    def sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, args, kwargs)

    @wraps(method)
    async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await call(self, args, kwargs)

    return within_a_span(cast("_F", asynchronous if iscoroutinefunction(method) else sync))
