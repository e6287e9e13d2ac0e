"""Open LlamaIndex's spans and events around the calls of a model: without secrets, and only where somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar, cast

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR, Dispatcher
from llama_index_instrumentation.event_handlers import NullEventHandler
from llama_index_instrumentation.span_handlers import NullSpanHandler

from lava_mistral.billing.credentials import Billing, to_billing
from lava_mistral.calls.arguments import refuse_keys

_F = TypeVar("_F", bound=Callable[..., Any])

_spans = get_dispatcher("llama_index_lava_mistral.llms")
_llm_dispatcher = get_dispatcher("llama_index.core.llms.callbacks")
# The `billing=` of the call under way. Spans and events see its description in words, since it may hold a key.
_billing: ContextVar[Billing | None] = ContextVar("llama_index_lava_mistral_billing", default=None)


def billing_of(value: Any) -> Billing | None:
    """Return the identity that a `billing=` argument names, be it the description that a span recorded."""
    if value is None:
        return None
    call = _billing.get()
    return call if call is not None and value == call.payer else to_billing(value)


def _visible(kwargs: Mapping[str, Any]) -> tuple[Billing | None, dict[str, Any]]:
    """Return who pays for a call, and its arguments as spans and events may record them; refuse keys among them."""
    for names in (kwargs, *(kwargs.get(name) for name in ("additional_kwargs", "model_kwargs", "extra_body"))):
        refuse_keys(names or ())
    billing = billing_of(kwargs.get("billing"))
    visible = dict(kwargs)
    if billing is not None:
        visible["billing"] = billing.payer
    if visible.get("response_format") is not None:
        from llama_index_lava_mistral._tools import response_format_of

        visible["response_format"] = response_format_of(visible["response_format"])
    return billing, visible


def _is_observed(model: Any, kwargs: Mapping[str, Any]) -> bool:
    """Return whether anybody is told of a call; LlamaIndex asks the rate limiter beside the events."""
    if model.callback_manager.handlers or model.rate_limiter is not None:
        return True
    if kwargs.get("trace_metadata", getattr(model, "trace_metadata", False)):
        return True
    dispatchers = (*dispatchers_of(_spans), *dispatchers_of(_llm_dispatcher))
    handlers = (each for dispatcher in dispatchers for each in (*dispatcher.event_handlers, *dispatcher.span_handlers))
    return not all(isinstance(each, NullEventHandler | NullSpanHandler) for each in handlers)


def dispatchers_of(dispatcher: Dispatcher) -> Iterator[Dispatcher]:
    """Yield a dispatcher and those above it that are told of the same."""
    yield dispatcher
    while dispatcher.propagate:
        dispatcher = dispatcher.parent
        yield dispatcher


def observed(events: Callable[[Any], Any] | None = None) -> Callable[[_F], _F]:
    """Open a method's span and `events` with redacted `llm_kwargs`, or what else its last parameter collects."""

    def decorate(method: _F) -> _F:
        parameters = signature(method)
        hiding = "llm_kwargs" if "llm_kwargs" in parameters.parameters else list(parameters.parameters)[-1]
        spanned: Any = _spans.span(method if events is None else events(method))

        @contextmanager
        def redacted(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Callable[[], Any]]:
            bound = parameters.bind(self, *args, **kwargs)
            billing, bound.arguments[hiding] = _visible(bound.arguments.get(hiding) or {})
            token = _billing.set(billing)
            try:
                yield partial(spanned.__get__(self, type(self)), *bound.args[1:], **bound.kwargs)
            finally:
                _billing.reset(token)

        @wraps(method)
        def sync(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not _is_observed(self, kwargs):
                return method(self, *args, **kwargs)
            with redacted(self, args, kwargs) as call:
                return call()

        @wraps(method)
        async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not _is_observed(self, kwargs):
                return await method(self, *args, **kwargs)
            with redacted(self, args, kwargs) as call:
                return await call()

        wrapper = asynchronous if iscoroutinefunction(method) else sync
        # Else LlamaIndex's base class opens a span of its own around it.
        setattr(wrapper, DISPATCHER_SPAN_DECORATED_ATTR, True)
        return cast("_F", wrapper)

    return decorate
