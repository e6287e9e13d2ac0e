"""Read the texts of a call: where they are asked for, or ahead of it in a task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Final

_AHEAD: Final = 8  # texts that are read from an async source before they are taken


class DirectSource:
    """Reads where it is asked, for as long as it takes: what belongs to a thread, as many a cursor does, may."""

    readable = True

    def __init__(self, texts: Iterable[object]) -> None:
        self.take = iter(texts).__next__


class ReadAhead:
    """Holds the texts that a task `read` from an async source and nobody has taken; `wake` is told of each."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._free = asyncio.Semaphore(_AHEAD)
        self._texts: deque[object] = deque()
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

    async def read(self, texts: AsyncIterable[object]) -> None:
        """Read the texts; the cancellation of its task by others is an error of the source."""
        try:
            async for text in texts:
                await self._free.acquire()
                self._texts.append(text)
                self._wake()
            self._end = StopIteration()
        except BaseException as error:  # noqa: BLE001 - raised where the texts are taken
            self._end = error
        self._wake()


Source = DirectSource | ReadAhead
