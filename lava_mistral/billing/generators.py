"""Run coroutines and the steps of generators inside a block, and find a block that a generator yields in."""

from __future__ import annotations

import ast
import contextlib
import inspect
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from types import CodeType, FrameType
from typing import Any, Final


def calling_generator() -> FrameType | None:
    """Return the frame that calls a block's `__enter__` or `__exit__`, which calls this, if it is a generator's."""
    frame: Any = inspect.currentframe()
    # A frame that held itself would keep what its callers hold until the garbage collector runs.
    frame = frame.f_back.f_back
    return frame if frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR) else None


def leaks(generator: FrameType) -> bool:
    """Tell whether the `with` statement that a generator is at holds a `yield`, and is no block to its consumer."""
    driver, asynchronous = generator.f_back, generator.f_code.co_flags & inspect.CO_ASYNC_GENERATOR
    if asynchronous and driver is not None and driver.f_code.co_filename == contextlib.__file__:
        # FastAPI makes an asynccontextmanager of a dependency that yields, entered and left in the request's task.
        return False
    return _yields_at(generator.f_code, generator.f_lineno)


@lru_cache(maxsize=256)
def _yields_at(code: CodeType, line: int) -> bool:
    try:
        lines, first = inspect.getsourcelines(code)
        [function] = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, SyntaxError, ValueError):
        return False
    # A `contextmanager` or a test's fixture is a block to its consumer on purpose.
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.decorator_list:
        return False
    return any(
        isinstance(inside, ast.Yield | ast.YieldFrom)
        for block in ast.walk(function)
        if isinstance(block, ast.With | ast.AsyncWith)
        and block.lineno <= line - first + 1 <= (block.items[-1].context_expr.end_lineno or 0)
        for part in block.body
        for inside in ast.walk(part)
    )


def _awaited(block: AbstractContextManager[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    async def made(*args: Any, **kwargs: Any) -> Any:
        with block:
            return await function(*args, **kwargs)

    return made


def _stepped(
    block: AbstractContextManager[Any], function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Any]:
    """Make a generator function of another that takes each of its steps, and none of its consumer's, inside a block."""

    def made(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Any] = partial(next, generator)
        while True:
            try:
                with block:
                    value = step()
            except StopIteration as end:
                return end.value
            try:
                step = partial(generator.send, (yield value))
            except BaseException as error:  # noqa: BLE001 - it is the generator's to handle, as its end is
                step = partial(generator.throw, error)

    return made


def _astepped(
    block: AbstractContextManager[Any], function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., Any]:
    async def made(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Awaitable[Any]] = partial(anext, generator)
        while True:
            try:
                with block:
                    value = await step()
            except StopAsyncIteration:
                return
            try:
                step = partial(generator.asend, (yield value))
            except BaseException as error:  # noqa: BLE001 - it is the generator's to handle, as its end is
                step = partial(generator.athrow, error)

    return made


# What tells a kind of function, and what it returns; what runs one inside a block.
KINDS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], bool], Callable[[Any, Any], Any]], ...]] = (
    (inspect.iscoroutinefunction, inspect.iscoroutine, _awaited),
    (inspect.isgeneratorfunction, inspect.isgenerator, _stepped),
    (inspect.isasyncgenfunction, inspect.isasyncgen, _astepped),
)
