"""Read the texts of a call: where they are asked for, in a thread of their own, or in a task."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from contextvars import Context
from typing import Final, Protocol

from lava_mistral.embedding.batching import MAX_REQUEST_INPUTS

_TASK_AHEAD: Final = 8
"""Texts that a task reads before they are taken."""


class EndOfSource(Exception):
    """There are no more texts; `error` is what ended the source early, if anything did."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error


class Source(Protocol):
    """Gives texts."""

    @property
    def readable(self) -> bool:
        """Whether `take` has something: a text or the end."""

    def take(self) -> object:
        """The next text; raises `EndOfSource` where there is none."""


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


class _AheadSource:
    """Holds the texts that were read and not taken, and the end of the source; `free` counts what may be read."""

    def __init__(self, free: asyncio.Semaphore | threading.Semaphore) -> None:
        self._free = free
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
            self._free.release()
            return text
        assert self._end is not None
        raise self._end


class ThreadSource(_AheadSource):
    """Reads in a daemon thread, up to `limit` texts ahead of what was taken; `wake` tells of each."""

    def __init__(self, texts: Iterable[object], context: Context, wake: Callable[[], None], limit: int) -> None:
        free = threading.Semaphore(limit)
        super().__init__(free)
        self._wake = wake
        arguments = (self._run, texts, free)
        threading.Thread(target=context.copy().run, args=arguments, name="lava-mistral-source", daemon=True).start()

    def close(self) -> None:
        """Read no further than the text that is being waited for."""
        self._closed = True
        self._free.release()

    def _run(self, texts: Iterable[object], free: threading.Semaphore) -> None:
        end = EndOfSource()
        try:
            for text in texts:
                free.acquire()
                if self._closed:
                    break
                self._texts.append(text)
                self._wake()
        except BaseException as error:  # noqa: BLE001 - raised where the texts are taken
            end = EndOfSource(error)
        self._end = end
        self._wake()


class TaskSource(_AheadSource):
    """Reads an async source in a task, a little ahead of what was taken; `wake` tells of each text."""

    def __init__(self, texts: AsyncIterable[object], wake: Callable[[], None]) -> None:
        free = asyncio.Semaphore(_TASK_AHEAD)
        super().__init__(free)
        self._wake = wake
        self._task = asyncio.create_task(self._run(texts, free))

    async def aclose(self) -> None:
        """Read no further."""
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, texts: AsyncIterable[object], free: asyncio.Semaphore) -> None:
        try:
            async for text in texts:
                await free.acquire()
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
    """Open the source of a call, in a thread where there is a `context` for it; `wake` tells of texts read ahead."""
    if isinstance(texts, AsyncIterable):
        return TaskSource(texts, wake)
    return DirectSource(texts) if context is None else ThreadSource(texts, context, wake, MAX_REQUEST_INPUTS)
