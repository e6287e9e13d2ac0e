"""Read a streamed answer from its connection, in sync and in async code."""

from __future__ import annotations

import time
from typing import Any, Final, Self

from lava_mistral.calls.stream_parser import StreamReader
from lava_mistral.errors import LavaError
from lava_mistral.mistral.turn import Delta
from lava_mistral.transport.failures import Deadline, TransportError
from lava_mistral.transport.flow import Flow, adrive, drive
from lava_mistral.transport.request import Response, read

LONGEST_END: Final = 0.25
"""Seconds to wait, after `[DONE]`, for the end of the body, which gives the connection back to its pool."""


class StreamBase(StreamReader):
    """What both streams do with their connection, as flows."""

    _over = False

    def begin(self, response: Response, deadline: Deadline) -> Flow[Self]:
        """Read until there is something to hand on. A failure before that can still be tried again."""
        self._response, self._deadline = response, deadline
        while not self.started and not self._over:
            yield from self._pull()
        if not self.started:
            self.raise_failure()
        self._deadline = Deadline(None)
        return self

    def _next(self) -> Flow[Delta | None]:
        """Read until there is a delta, or `None` at the end."""
        while not self.ready:
            self.raise_failure()
            if self._over:
                return None
            yield from self._pull()
        return self.ready.popleft()

    def _pull(self) -> Flow[None]:
        began, data = time.monotonic(), b""
        try:
            try:
                if self.done:
                    # The caller has all that came; only now is it worth a moment to get the connection back.
                    yield from read(self._response, Deadline(LONGEST_END))
                else:
                    patience = None if self.call.gap is None else max(self.call.gap - self.silent_for, 0.0)
                    data = yield from self._response.receive(Deadline(patience, self._deadline))
            except TransportError as error:
                if not self.finished:
                    self._failure = self.broken(error, late=self._deadline.over)
            self.silent_for += time.monotonic() - began
            if data:
                self.feed(data)
                if self.done:
                    self.settle()
                return
            if self._failure is None:
                self.end()
        except LavaError as error:
            # What had come before it is handed on first.
            self._failure = error
        except GeneratorExit:
            self.settle()
            raise
        except BaseException:
            yield self._leave()
            raise
        yield self._leave()

    def _leave(self) -> Any:
        self._over = True
        self.settle()
        return self._response.close()


class ChatStream(StreamBase):
    """A streamed answer: iterate for its deltas; `turn`, `usage`, `cost` and `request_id` grow with it.

    Closing it, or leaving its `with` block, before its end closes the connection.

    Raises:
        StreamInterruptedError: while iterating, when the stream ends before the answer does; `partial` holds what came.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        if self.ready:
            return self.ready.popleft()
        delta = drive(self._next())
        if delta is None:
            raise StopIteration
        return delta

    def close(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream(StreamBase):
    """A streamed answer in async code; see `ChatStream`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self.ready:
            return self.ready.popleft()
        delta = await adrive(self._next())
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def aclose(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        closing = self._leave()
        if closing is not None:
            await closing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
