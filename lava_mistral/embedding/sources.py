"""Where the texts of a stream come from: read in the thread that iterates, or ahead of it in another one."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from typing import Protocol, Self


class NothingYet(Exception):
    """There is no text to take at the moment; a call of `wake` will tell of the next."""


class Source(Protocol):
    """Gives texts."""

    def take(self) -> str:
        """The next text.

        Raises:
            NothingYet: there will be one later.
            StopIteration: there are no more.
            BaseException: what reading raised.
        """

    def close(self) -> None:
        """Read no further."""


class Here:
    """Reads in the thread that asks, for as long as it takes: what belongs to a thread, as many a cursor does, may."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self._iterator: Iterator[str] | None = None

    def take(self) -> str:
        """The next text, when it is there."""
        if self._iterator is None:
            self._iterator = iter(self._texts)
        return next(self._iterator)

    def close(self) -> None:
        """Nothing is under way."""


class Ahead:
    """Reads in a daemon thread, a little ahead of what was taken, so that a pause of the source stops nobody.

    Args:
        texts: what to read.
        context: the context variables to read under.
        wake: called when there is something to take.
        limit: how many texts may be read and not taken.
    """

    def __init__(self, texts: Iterable[str], context: Context, wake: Callable[[], None], limit: int) -> None:
        self._texts = texts
        self._context = context.copy()
        self._wake = wake
        self._room = threading.Semaphore(limit)
        self._read: deque[str] = deque()
        self._stopped = False
        self._end: BaseException | None = None
        self._thread: threading.Thread | None = None

    def take(self) -> str:
        """The next text, if it is there."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lava-mistral-source", daemon=True)
            self._thread.start()
        # In this order: the last text is there before its end is told.
        end = self._end
        if self._read:
            text = self._read.popleft()
            self._room.release()
            return text
        if end is not None:
            raise end
        raise NothingYet

    def close(self) -> None:
        """Read no further than the text that is being waited for."""
        self._stopped = True
        self._room.release()

    def _run(self) -> None:
        end: BaseException = StopIteration()
        try:
            self._context.run(self._read_all)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that takes the texts
            end = error
        self._end = end
        self._wake()

    def _read_all(self) -> None:
        for text in self._texts:
            self._room.acquire()
            if self._stopped:
                return
            self._read.append(text)
            self._wake()


class AsyncAhead:
    """Reads in a thread for async code; see `Ahead`. To be made in the event loop that iterates."""

    def __init__(self, texts: Iterable[str], context: Context, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._source = Ahead(texts, context, self._wake, limit)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            self._changed.clear()
            try:
                return self._source.take()
            except NothingYet:
                await self._changed.wait()
            except StopIteration:
                raise StopAsyncIteration from None

    def close(self) -> None:
        """Read no further than the text that is being waited for."""
        self._source.close()

    def _wake(self) -> None:
        # The loop may be closed before the source gives its next text.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)
