"""Vectors of texts that come one by one: what reads, sends and hands on for `embed_iter` and `aembed_iter`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, closing
from types import TracebackType
from typing import Any, Final, Self

from lava_mistral.embedding.batch_request import Report
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.conduct import take_all, what_is_there
from lava_mistral.embedding.jobs import Flow
from lava_mistral.embedding.progress import Watch
from lava_mistral.embedding.results import EmbeddingUsage, PartialEmbedding
from lava_mistral.embedding.sources import AsyncAhead, NothingYet, Source
from lava_mistral.embedding.workers import TaskLanes, ThreadLanes

LINGER: Final = 0.2
"""Seconds that the first text of a batch waits for the others."""
HOLD: Final = 0.02
"""Seconds for which reading may go on although a vector could be handed on."""
GIVE: Final = 0.2
"""Seconds for which vectors are handed on, where there are so many, before reading goes on."""
_TOGETHER: Final = 256
"""Texts read from memory before the event loop has its turn."""


class EmbeddingStream:
    """Vectors as they get ready: an iterator of `(index, vector)`.

    It is a context manager too; leaving it, `close()` and exhausting it stop its threads.
    """

    def __init__(self, vectors: Generator[tuple[int, Any], None, None], flow: Flow, lanes: ThreadLanes) -> None:
        self._vectors = vectors
        self._flow = flow
        self._lanes = lanes

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Any]:
        return next(self._vectors)

    def close(self) -> None:
        """Give up: begin nothing new; a request in flight ends in the background."""
        self._vectors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def usage(self) -> EmbeddingUsage:
        """What the stream has taken so far."""
        return self._flow.progress().usage

    def partial(self) -> PartialEmbedding:
        """What is there and was not handed on, to be given as `resume_from=` to a later call over the same source.

        After `close()` it may grow while requests in flight end.
        """
        what_is_there(self._flow, self._lanes)
        return self._flow.partial()


class AsyncEmbeddingStream:
    """Vectors as they get ready: an async iterator of `(index, vector)`.

    It is an async context manager too; leaving it, `aclose()` and exhausting it end its tasks.
    """

    def __init__(self, vectors: AsyncGenerator[tuple[int, Any], None], flow: Flow, lanes: TaskLanes) -> None:
        self._vectors = vectors
        self._flow = flow
        self._lanes = lanes

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Any]:
        return await self._vectors.__anext__()

    async def aclose(self) -> None:
        """Give up: requests in flight are cancelled."""
        await self._vectors.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def usage(self) -> EmbeddingUsage:
        """What the stream has taken so far."""
        return self._flow.progress().usage

    def partial(self) -> PartialEmbedding:
        """What is there and was not handed on, to be given as `resume_from=` to a later call over the same source."""
        what_is_there(self._flow, self._lanes)
        return self._flow.partial()


class _Turns:
    """Whose turn it is where one thread reads the source and hands on vectors.

    Reading goes first, so that requests are under way; but while a vector is ready, for a moment only.
    """

    def __init__(self) -> None:
        self._last = self._spent = 0.0
        self._giving_until = -math.inf

    def have_read(self, seconds: float) -> None:
        """The source was read for so long."""
        self._last += seconds

    def have_given(self) -> None:
        """A vector was handed on."""
        self._spent = 0.0

    def may_read(self, *, ready: bool) -> bool:
        """Whether to read on, although a vector is ready."""
        self._spent = self._spent + self._last if ready else 0.0
        self._last = 0.0
        if not ready:
            self._giving_until = -math.inf
            return True
        if self._spent > HOLD:
            self._giving_until, self._spent = time.monotonic() + GIVE, 0.0
            return False
        return self._giving_until == -math.inf or time.monotonic() > self._giving_until


def stream(
    flow: Flow, source: Source, lanes: ThreadLanes, limit: int, conduct: AbstractContextManager[Watch]
) -> Generator[tuple[int, Any], None, None]:
    """Read the source, keep the lanes busy and hand on what is ready, all in the thread that iterates."""
    with conduct as watch, lanes, closing(source):
        yield from _stream(flow, source, lanes, limit, watch)
        watch.finish()


def _stream(
    flow: Flow, source: Source, lanes: ThreadLanes, limit: int, watch: Watch
) -> Generator[tuple[int, Any], None, None]:
    reading = True
    source_error: Exception | None = None
    turns = _Turns()
    pending_since: float | None = None

    def take(report: Report | None) -> None:
        if report is not None:
            if flow.take(report):
                lanes.finish()
            watch.update()

    while True:
        for report in lanes.finished():
            take(report)
        reading = reading and flow.error is None
        ready = flow.ready()
        idle = lanes.under_way < limit
        paused = False
        if reading and flow.room and turns.may_read(ready=ready) and (idle or not ready):
            batch = None
            began = time.monotonic()
            try:
                text = source.take()
                flow.check(text)
                batch = flow.push(text)
            except NothingYet:
                paused = True
            except StopIteration:
                reading = False
            except Exception as error:  # noqa: BLE001 - raised below, after what came before
                reading, source_error = False, error
            now = time.monotonic()
            turns.have_read(now - began)
            if batch is not None:
                lanes.launch(batch)
                pending_since = None
            if flow.pending and pending_since is None:
                pending_since = began
            if pending_since is not None and idle and now - pending_since > LINGER:
                rest, pending_since = flow.flush(), None
                if rest is not None:
                    lanes.launch(rest)
            if not paused:
                continue
        if ready:
            yield flow.pop()
            turns.have_given()
        elif paused:
            # The next text or report ends the wait, or the time at which what has come is sent as it is.
            due = None if pending_since is None or not idle else pending_since + LINGER - time.monotonic()
            take(lanes.wait(None if due is None else max(0.0, due)))
        elif lanes.under_way:
            take(lanes.wait())
        else:
            # What is left is a batch that is not full.
            batch = flow.flush() if flow.error is None else None
            if batch is None:
                break
            lanes.launch(batch)
    failure = flow.error or source_error
    if failure is not None:
        raise failure


class Feeder:
    """The task that reads the texts of an async flow and launches batches, never too far ahead."""

    def __init__(
        self,
        texts: AsyncIterable[str] | Iterable[str],
        flow: Flow,
        lanes: TaskLanes,
        changed: asyncio.Event,
    ) -> None:
        self.reading = True
        self.held_up = False
        self.error: BaseException | None = None
        self._texts = texts
        self._flow = flow
        self._lanes = lanes
        self._changed = changed
        self._room = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped = False
        self._in_a_row = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await asyncio.gather(self._task, return_exceptions=True)

    def go_on(self) -> None:
        """Something has left the flow."""
        if self.held_up and self._flow.room:
            self.held_up = False
            self._room.set()

    def stop(self) -> None:
        """Read no further."""
        self._stopped = True
        self._task.cancel()

    async def _read(self) -> None:
        try:
            if isinstance(self._texts, AsyncIterable):
                async for text in self._texts:
                    await self._push(text)
                    self._linger()
            else:
                for text in self._texts:
                    await self._push(text)
        except BaseException as error:
            # Raised by the stream, after what came before. A source may be cancelled by others, and so end early.
            if not self._stopped:
                self.error = error
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            self.reading = False
            self._changed.set()

    async def _push(self, text: str) -> None:
        flow = self._flow
        if flow.is_long(text):
            await asyncio.to_thread(flow.check, text)
        else:
            flow.check(text)
        batch = flow.push(text)
        self._in_a_row += 1
        if batch is not None:
            self._launch(batch)
        if batch is not None or self._in_a_row >= _TOGETHER:
            # Reading from memory never waits; the requests need their turn.
            self._in_a_row = 0
            await asyncio.sleep(0)
        while not flow.room:
            self._room.clear()
            self.held_up = True
            self._changed.set()
            await self._room.wait()

    def _launch(self, batch: Batch) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._lanes.launch(batch)

    def _linger(self) -> None:
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(LINGER, self._hurry)

    def _hurry(self) -> None:
        self._alarm = None
        batch = self._flow.flush() if self._flow.error is None else None
        if batch is not None:
            self._lanes.launch(batch)


async def astream(
    texts: AsyncIterable[str] | Iterable[str],
    flow: Flow,
    lanes: TaskLanes,
    changed: asyncio.Event,
    conduct: AbstractContextManager[Watch],
    ahead: Callable[[Iterable[str]], AsyncAhead] | None,
) -> AsyncGenerator[tuple[int, Any], None]:
    """Keep the lanes busy with what a feeder reads, and hand on what is ready.

    Args:
        ahead: makes a source that is read in a thread of one that is not async; `None` to read it in the event loop.
    """
    with conduct as watch, ExitStack() as stack:
        if ahead is not None and not isinstance(texts, AsyncIterable):
            texts = stack.enter_context(closing(ahead(texts)))
        async with lanes, Feeder(texts, flow, lanes, changed) as feeder:
            while True:
                if take_all(flow, lanes, watch):
                    feeder.stop()
                while flow.ready():
                    yield flow.pop()
                    feeder.go_on()
                if lanes.done:
                    continue
                if not lanes.under_way and (feeder.held_up or not feeder.reading):
                    # What is left is a batch that is not full.
                    batch = flow.flush() if flow.error is None else None
                    if batch is not None:
                        lanes.launch(batch)
                    elif not feeder.reading:
                        break
                await changed.wait()
                changed.clear()
        error = flow.error or feeder.error
        if error is not None:
            raise error
        watch.finish()
