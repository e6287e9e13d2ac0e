"""Read the texts of a call: where they are asked for, in a thread of their own, or in a task."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from contextvars import Context
from typing import Final, Protocol

from lava_mistral.embedding.batching import MAX_REQUEST_INPUTS

_TASK_AHEAD: Final = 8
"""Texts that a task reads before they are taken."""


class EndOfSource(Exception):
    """There are no more texts.

    Attributes:
        error: what ended the source early, if anything.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error


class Source(Protocol):
    """Gives texts."""

    @property
    def readable(self) -> bool:
        """Whether `take` has something: a text or the end."""

    def take(self) -> object:
        """The next text.

        Raises:
            EndOfSource: there is none.
        """


class DirectSource:
    """Reads where it is asked, for as long as it takes: what belongs to a thread, as many a cursor does, may."""

    readable = True

    def __init__(self, texts: Iterable[object]) -> None:
        self._texts = texts
        self._next: Callable[[], object] | None = None

    def take(self) -> object:
        """The next text, when it is there."""
        try:
            if self._next is None:
                self._next = iter(self._texts).__next__
            return self._next()
        except StopIteration:
            raise EndOfSource from None
        except Exception as error:
            raise EndOfSource(error) from error


class _AheadSource(ABC):
    """Holds the texts that were read and not taken, and the end of the source."""

    def __init__(self) -> None:
        self._texts: deque[object] = deque()
        self._end: EndOfSource | None = None
        self._closed = False

    @property
    def readable(self) -> bool:
        """Whether a text or the end was read."""
        # The last text is there before the end is.
        return self._end is not None or bool(self._texts)

    def take(self) -> object:
        """The next text that was read."""
        if self._texts:
            text = self._texts.popleft()
            self._taken()
            return text
        assert self._end is not None
        raise self._end

    @abstractmethod
    def _taken(self) -> None:
        """Let another text be read."""


class ThreadSource(_AheadSource):
    """Reads in a daemon thread, a little ahead of what was taken, so that a pause of the source stops nobody.

    Args:
        texts: what to read.
        context: the context variables to read under.
        wake: called in that thread when there is something to take.
        limit: how many texts may be read and not taken.
    """

    def __init__(self, texts: Iterable[object], context: Context, wake: Callable[[], None], limit: int) -> None:
        super().__init__()
        self._wake = wake
        self._free = threading.Semaphore(limit)
        thread = threading.Thread(
            target=context.copy().run, args=(self._run, texts), name="lava-mistral-source", daemon=True
        )
        thread.start()

    def close(self) -> None:
        """Read no further than the text that is being waited for."""
        self._closed = True
        self._free.release()

    def _taken(self) -> None:
        self._free.release()

    def _run(self, texts: Iterable[object]) -> None:
        end = EndOfSource()
        try:
            for text in texts:
                self._free.acquire()
                if self._closed:
                    break
                self._texts.append(text)
                self._wake()
        except BaseException as error:  # noqa: BLE001 - raised where the texts are taken
            end = EndOfSource(error)
        self._end = end
        self._wake()


class TaskSource(_AheadSource):
    """Reads an async source in a task, a little ahead of what was taken, so that a pause of it stops nobody.

    Args:
        texts: what to read.
        wake: called when there is something to take.
    """

    def __init__(self, texts: AsyncIterable[object], wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake
        self._free = asyncio.Semaphore(_TASK_AHEAD)
        self._task = asyncio.create_task(self._run(texts))

    async def aclose(self) -> None:
        """Read no further."""
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _taken(self) -> None:
        self._free.release()

    async def _run(self, texts: AsyncIterable[object]) -> None:
        try:
            async for text in texts:
                await self._free.acquire()
                self._texts.append(text)
                self._wake()
            self._end = EndOfSource()
        except BaseException as error:
            # A source may be cancelled by others, and so end early.
            if not self._closed:
                self._end = EndOfSource(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            self._wake()


def open_source(
    texts: AsyncIterable[object] | Iterable[object], wake: Callable[[], None], context: Context | None
) -> Source:
    """Open the source of a call, where it will be read.

    Args:
        texts: what to read.
        wake: called when there is something to take of a source that is read ahead.
        context: the context variables to read a plain iterable under in a thread; `None` to read it where it is asked.
    """
    if isinstance(texts, AsyncIterable):
        return TaskSource(texts, wake)
    return DirectSource(texts) if context is None else ThreadSource(texts, context, wake, MAX_REQUEST_INPUTS)
