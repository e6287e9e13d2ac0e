"""Run the steps of generators inside a block, and find blocks that a generator holds open while it yields."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from types import CodeType, FrameType
from typing import Any


def calling_generator(entering: FrameType | None) -> FrameType | None:
    """Return the frame that calls a method, such as a block's `__enter__`, if it is a generator's."""
    caller = None if entering is None else entering.f_back
    generator = caller is not None and caller.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    return caller if generator else None


def yields_in_block(generator: FrameType) -> bool:
    """Tell whether the `with` statement that a generator is entering holds a `yield`.

    A decorated generator, such as a `contextmanager` or a test's fixture, is a block to its consumer on purpose.
    """
    return generator.f_globals is not globals() and _yields_at(generator.f_code, generator.f_lineno)


@lru_cache(maxsize=256)
def _yields_at(code: CodeType, line: int) -> bool:
    try:
        lines, first = inspect.getsourcelines(code)
        [function] = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, SyntaxError, ValueError):
        return False
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.decorator_list:
        return False
    blocks = [node for node in ast.walk(function) if isinstance(node, ast.With | ast.AsyncWith)]
    entered = [block for block in blocks if block.lineno <= line - first + 1 < block.body[0].lineno]
    inside = [node for block in entered for part in block.body for node in ast.walk(part)]
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in inside)


def stepped(
    block: Callable[[], AbstractContextManager[Any]], function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Any]:
    """Make a generator function of another that takes each of its steps, and none of its consumer's, inside a block."""

    def made(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Any] = partial(next, generator)
        while True:
            try:
                with block():
                    value = step()
            except StopIteration as end:
                return end.value
            try:
                step = partial(generator.send, (yield value))
            except BaseException as error:  # noqa: BLE001 - it is the generator's to handle, as its end is
                step = partial(generator.throw, error)

    return made


def astepped(
    block: Callable[[], AbstractContextManager[Any]], function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., Any]:
    """Make an async generator function whose steps are taken inside a block; see `stepped`."""

    async def made(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Awaitable[Any]] = partial(anext, generator)
        while True:
            try:
                with block():
                    value = await step()
            except StopAsyncIteration:
                return
            try:
                step = partial(generator.asend, (yield value))
            except BaseException as error:  # noqa: BLE001 - it is the generator's to handle, as its end is
                step = partial(generator.athrow, error)

    return made
