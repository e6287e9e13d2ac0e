"""Keep secrets out of LlamaIndex's events and spans, which record the arguments of a call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar, cast

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from lava_mistral.billing.generators import astepped, stepped
from lava_mistral.billing.identity import Billing, to_billing
from lava_mistral.billing.listeners import CapturedContext
from lava_mistral.calls.chat_body import refuse_keys
from llama_index_lava_mistral._tools import response_format_of

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

# The `billing=` of the call under way. Spans and events see its description in words, since it may hold a key.
_billing: ContextVar[Billing | None] = ContextVar("llama_index_lava_mistral_billing", default=None)
_FURTHER_FIELDS = ("additional_kwargs", "model_kwargs", "extra_body")


def billing_of(value: Any) -> Billing | None:
    """Return the identity that a `billing=` argument names, be it the description that a span recorded."""
    call = _billing.get()
    return call if call is not None and value == call.payer else to_billing(value)


def _visible(kwargs: Mapping[str, Any], billing: Billing | None) -> dict[str, Any]:
    """Return the arguments of a call as spans and events may record them.

    Raises:
        ConfigurationError: one is a key, or a setting that a call can't have.
    """
    refuse_keys(kwargs)
    for name in _FURTHER_FIELDS:
        if isinstance(kwargs.get(name), Mapping):
            refuse_keys(kwargs[name])
    visible = dict(kwargs)
    if billing is not None:
        visible["billing"] = billing.payer
    if visible.get("response_format") is not None:
        visible["response_format"] = response_format_of(visible["response_format"])
    return visible


@contextmanager
def _billed(billing: Billing | None) -> Iterator[None]:
    token = _billing.set(billing)
    try:
        yield
    finally:
        _billing.reset(token)


def without_span(method: _F) -> _F:
    """Mark a method that opens no span of its own, because the method it calls does."""
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


def redacted(method: _F) -> _F:
    """Open the method's span with redacted arguments: its keyword arguments, or its `llm_kwargs` where it has them.

    Over `without_span` it redacts the arguments alone.
    """
    spanned: Any = get_dispatcher(method.__module__).span(method)
    parameters = signature(method)
    nested = "llm_kwargs" in parameters.parameters

    @contextmanager
    def opened(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Callable[[], Any]]:
        given: Mapping[str, Any] = kwargs
        if nested:
            bound = parameters.bind(self, *args, **kwargs)
            given = bound.arguments.get("llm_kwargs") or {}
        billing = billing_of(given.get("billing"))
        visible = _visible(given, billing)
        if nested:
            bound.arguments["llm_kwargs"] = visible
            _, *args_left = bound.args
            args, visible = tuple(args_left), bound.kwargs
        with _billed(billing):
            yield lambda: spanned.__get__(self, type(self))(*args, **visible)

    @wraps(method)
    def sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        with opened(self, args, kwargs) as call:
            return call()

    @wraps(method)
    async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
        with opened(self, args, kwargs) as call:
            return await call()

    return without_span(cast("_F", asynchronous if iscoroutinefunction(method) else sync))


class CallContext:
    """What surrounds a call, for a generator that calls the model only when it is read.

    These are the `billed_to` and `track_usage` blocks around this point, and the identity of the call itself.
    """

    def __init__(self) -> None:
        self._surroundings = CapturedContext.here()
        self._billing = _billing.get()

    @contextmanager
    def _restored(self) -> Iterator[None]:
        with self._surroundings.again(), _billed(self._billing):
            yield

    def steps(self, generator: Generator[_T, Any, Any]) -> Generator[_T, Any, Any]:
        """Run each step of the generator in this context, wherever it is read."""
        return cast("Generator[_T, Any, Any]", stepped(self._restored, lambda: generator)())

    def asteps(self, generator: AsyncGenerator[_T, Any]) -> AsyncGenerator[_T, Any]:
        """Run each step of the async generator in this context, wherever it is read."""
        return cast("AsyncGenerator[_T, Any]", astepped(self._restored, lambda: generator)())
