"""Read the texts of a call: where they are asked for, or ahead of it in a thread or a task."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from contextvars import Context
from typing import Literal, Protocol

from lava_mistral.embedding.batching import MAX_REQUEST_INPUTS


class Reader(Protocol):
    """What takes texts: a run of the engine."""

    def push(self, text: object) -> None: ...

    def end_of_source(self, error: BaseException | None = None) -> None: ...


class DirectSource:
    """Reads where it is asked, for as long as it takes: what belongs to a thread, as many a cursor does, may."""

    readable = True

    def __init__(self, texts: Iterable[object]) -> None:
        self._texts = iter(texts)

    def feed(self, reader: Reader) -> None:
        """Give the next text, or the end."""
        try:
            text = next(self._texts)
        except StopIteration:
            reader.end_of_source()
        except Exception as error:  # noqa: BLE001 - raised when all before was handed on
            reader.end_of_source(error)
        else:
            reader.push(text)

    def close(self) -> None:
        pass


class ReadAhead:
    """Holds the texts that `read` or `aread` has read and nobody has taken.

    Args:
        wake: told of each text.
        free: counts how many more may be read.
    """

    def __init__(self, wake: Callable[[], object], free: asyncio.Semaphore | threading.Semaphore) -> None:
        self._wake = wake
        self._free = free
        self._texts: deque[object] = deque()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    @property
    def readable(self) -> bool:
        """Whether a text or the end was read."""
        # The last text is there before the end is.
        return self._ended or bool(self._texts)

    def feed(self, reader: Reader) -> None:
        """Give the next text, or the end."""
        if self._texts:
            reader.push(self._texts.popleft())
            self._free.release()
        else:
            reader.end_of_source(self._error)

    def close(self) -> None:
        """Read no further than the text that is being waited for."""
        self._closed = True
        self._free.release()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> Literal[True]:
        # An error is raised where the texts are taken.
        self._error, self._ended = error, True
        self._wake()
        return True

    def read(self, texts: Iterable[object], free: threading.Semaphore) -> None:
        """Read the texts in this thread."""
        with self:
            for text in texts:
                free.acquire()
                if self._closed:
                    break
                self._texts.append(text)
                self._wake()

    async def aread(self, texts: AsyncIterable[object], free: asyncio.Semaphore) -> None:
        """Read the texts in this task; its cancellation by others is an error of the source."""
        with self:
            async for text in texts:
                await free.acquire()
                self._texts.append(text)
                self._wake()


Source = DirectSource | ReadAhead


def read_in_thread(texts: Iterable[object], context: Context, wake: Callable[[], object]) -> ReadAhead:
    """Read texts in a daemon thread, as many ahead as a request takes."""
    free = threading.Semaphore(MAX_REQUEST_INPUTS)
    source = ReadAhead(wake, free)
    arguments = (source.read, texts, free)
    threading.Thread(target=context.copy().run, args=arguments, name="lava-mistral-source", daemon=True).start()
    return source
