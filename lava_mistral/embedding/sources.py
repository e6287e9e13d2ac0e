"""Read the texts of a call: where they are asked for, or ahead of it in a thread or a task."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from contextvars import Context
from typing import Final

from lava_mistral.transport.flow import Flow, drive

_IN_THREAD: Final = 512  # texts that are read ahead in a thread, as many as a request takes


class DirectSource:
    """Reads where it is asked, for as long as it takes: what belongs to a thread, as many a cursor does, may."""

    readable = True

    def __init__(self, texts: Iterable[object]) -> None:
        self.take = iter(texts).__next__

    def close(self) -> None:
        pass


class ReadAhead:
    """Holds the texts that `read` has read and nobody has taken.

    Args:
        wake: told of each text.
        free: counts how many more may be read.
    """

    def __init__(self, wake: Callable[[], object], free: asyncio.Semaphore | threading.Semaphore) -> None:
        self._wake = wake
        self._free = free
        self._texts: deque[object] = deque()
        self._closed = False
        self._end: BaseException | None = None

    @property
    def readable(self) -> bool:
        """Whether a text or the end was read."""
        # The last text is there before the end is.
        return self._end is not None or bool(self._texts)

    def take(self) -> object:
        """Give the next text, or raise the end: `StopIteration`, or the source's error."""
        if not self._texts and self._end is not None:
            raise self._end
        text = self._texts.popleft()
        self._free.release()
        return text

    def close(self) -> None:
        """Read no further than the text that is being waited for."""
        self._closed = True
        self._free.release()

    def read(self, texts: AsyncIterable[object] | Iterable[object]) -> Flow[None]:
        """Read the texts; the cancellation of its task by others is an error of the source."""
        try:
            advance = texts.__aiter__().__anext__ if isinstance(texts, AsyncIterable) else iter(texts).__next__
            while not self._closed:
                text = yield advance()
                yield self._free.acquire()
                self._texts.append(text)
                self._wake()
        except (StopIteration, StopAsyncIteration):
            self._end = StopIteration()
        except BaseException as error:  # noqa: BLE001 - raised where the texts are taken
            self._end = error
        self._wake()


Source = DirectSource | ReadAhead


def read_in_thread(texts: Iterable[object], context: Context, wake: Callable[[], object]) -> ReadAhead:
    """Read texts in a daemon thread."""
    source = ReadAhead(wake, threading.Semaphore(_IN_THREAD))
    arguments = (drive, source.read(texts))
    threading.Thread(target=context.copy().run, args=arguments, name="lava-mistral-source", daemon=True).start()
    return source
