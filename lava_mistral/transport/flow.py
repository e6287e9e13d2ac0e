"""Drive one piece of logic in sync and in async code.

A flow is a generator that yields each step which may wait, such as `yield socket.receive(deadline)`, and is sent its
result. In sync code the step has been made when it is yielded and its value goes straight back; in async code it is an
awaitable. What has nothing to wait for yields `None`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Flow: TypeAlias = Generator[Any, Any, T]


def drive(flow: Flow[T]) -> T:
    """Run a flow whose steps are values."""
    # What was received is handed over, so that no frame of a traceback holds a server's bytes.
    values: list[Any] = [None]
    try:
        while True:
            values.append(flow.send(values.pop()))
    except StopIteration as end:
        result: T = end.value
        return result


async def adrive(flow: Flow[T]) -> T:
    """Run a flow whose steps are awaitables or `None`."""
    failure: BaseException | None = None
    values: list[Any] = [None]
    try:
        while True:
            try:
                # Out of the handler below, so that what the flow raises then has no context.
                step = flow.send(values.pop()) if failure is None else flow.throw(failure)
            finally:
                failure = None
            try:
                values.append(None if step is None else await step)
            except GeneratorExit:
                # The coroutine is closed, not awaited: nothing may be awaited any more.
                flow.close()
                raise
            except BaseException as error:  # noqa: BLE001  the flow decides what becomes of it
                failure = error
    except StopIteration as end:
        result: T = end.value
        return result


def driven(flow: Callable[P, Flow[T]]) -> Callable[P, T]:
    """Make a function for sync code of one that returns a flow."""

    @wraps(flow)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return drive(flow(*args, **kwargs))

    _describe(flow, run)
    return run


def adriven(flow: Callable[P, Flow[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a function for async code of one that returns a flow."""

    @wraps(flow)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await adrive(flow(*args, **kwargs))

    _describe(flow, run)
    return run


def _describe(flow: Callable[..., Any], run: Any) -> None:
    """Name what runs a flow, and its result, as its caller knows them: tools and documentation show both."""
    signature = inspect.signature(flow)
    result = str(signature.return_annotation).removeprefix("Flow[").removesuffix("]")
    run.__name__, run.__signature__ = flow.__name__.lstrip("_"), signature.replace(return_annotation=result)
