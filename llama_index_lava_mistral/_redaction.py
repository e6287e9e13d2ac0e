"""Keep secrets out of LlamaIndex's events and spans, which record the arguments of a call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar, cast

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from lava_mistral.billing.context import CapturedContext, watching
from lava_mistral.billing.generators import astepped, stepped
from lava_mistral.billing.identity import Billing, to_billing
from lava_mistral.calls.chat_body import refuse_keys
from llama_index_lava_mistral._tools import response_format_of

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

# The `billing=` of the call under way. Spans and events see its description in words, since it may hold a key.
_billing: ContextVar[Billing | None] = ContextVar("llama_index_lava_mistral_billing", default=None)


@contextmanager
def _billed(billing: Billing | None) -> Iterator[None]:
    token = _billing.set(billing)
    try:
        yield
    finally:
        _billing.reset(token)


def billing_of(value: Any) -> Billing | None:
    """Return the identity that a `billing=` argument names, be it the description that a span recorded."""
    if value is None:
        return None
    call = _billing.get()
    return call if call is not None and value == call.payer else to_billing(value)


def _visible(kwargs: Mapping[str, Any]) -> tuple[Billing | None, dict[str, Any]]:
    """Return who pays for a call, and its arguments as spans and events may record them; refuse keys among them."""
    refuse_keys(kwargs)
    for name in ("additional_kwargs", "model_kwargs", "extra_body"):
        if isinstance(kwargs.get(name), Mapping):
            refuse_keys(kwargs[name])
    billing = billing_of(kwargs.get("billing"))
    visible = dict(kwargs)
    if billing is not None:
        visible["billing"] = billing.payer
    if visible.get("response_format") is not None:
        visible["response_format"] = response_format_of(visible["response_format"])
    return billing, visible


def without_span(method: _F) -> _F:
    """Mark a method that opens no span of its own, because the method it calls does."""
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


def redacted(method: _F) -> _F:
    """Open the method's span with redacted arguments: its keyword arguments, or its `llm_kwargs` where it has them.

    Over `without_span` it redacts the arguments alone.
    """
    parameters = signature(method)
    nested = "llm_kwargs" in parameters.parameters
    if not hasattr(method, DISPATCHER_SPAN_DECORATED_ATTR):
        # Else each span works it out anew.
        setattr(method, "__signature__", parameters)  # noqa: B010
    spanned: Any = get_dispatcher(method.__module__).span(method)

    def prepared(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Billing | None, Any, Any]:
        if nested:
            bound = parameters.bind(self, *args, **kwargs)
            billing, bound.arguments["llm_kwargs"] = _visible(bound.arguments.get("llm_kwargs") or {})
            return billing, bound.args[1:], bound.kwargs
        billing, visible = _visible(kwargs) if kwargs else (None, kwargs)
        return billing, args, visible

    @wraps(method)
    def sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        billing, args, kwargs = prepared(self, args, kwargs)
        with _billed(billing):
            return spanned.__get__(self, type(self))(*args, **kwargs)

    @wraps(method)
    async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
        billing, args, kwargs = prepared(self, args, kwargs)
        with _billed(billing):
            return await spanned.__get__(self, type(self))(*args, **kwargs)

    return without_span(cast("_F", asynchronous if iscoroutinefunction(method) else sync))


def resumed(generator: _T) -> _T:
    """Run each step of a generator, sync or async, with the `billing=` of the call and the blocks around this point."""
    blocks, billing = CapturedContext.here(), _billing.get()

    @contextmanager
    def around() -> Iterator[None]:
        with _billed(billing), watching(inside=blocks):
            yield

    run: Any = astepped if isinstance(generator, AsyncGenerator) else stepped
    return cast("_T", run(around, lambda: generator)())
