"""Drive a call of the embedding engine with tasks of one event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, closing, suppress
from contextvars import copy_context
from typing import Any, Final, Protocol, Self

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.batch_request import BatchRequest, Endpoint, Send, Sleep
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.limiter import ConcurrencyLimiter
from lava_mistral.embedding.rate_limit import Stopped
from lava_mistral.embedding.results import BatchResult
from lava_mistral.embedding.run import BaseStream, EmbeddingRun, supervised
from lava_mistral.embedding.sources import DirectSource, ReadAhead, Source, read_in_thread
from lava_mistral.errors import LavaError

TURN: Final = 0.005
"""Seconds after which other tasks of the event loop have their turn."""
_AHEAD: Final = 8
"""Texts that are read from an async source before they are taken."""


class AsyncEmbedder(Protocol):
    """What sends one embeddings request: `AsyncLavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., Awaitable[EmbeddingAnswer]]: ...


class TaskWorkers:
    """The tasks of one call, under the caller's context variables; none of them outlives it."""

    def __init__(
        self, send: Callable[..., Awaitable[EmbeddingAnswer]], endpoint: Endpoint, limiter: ConcurrencyLimiter
    ) -> None:
        self._send = send
        self._endpoint = endpoint
        self._limiter = limiter
        self._context = copy_context()
        self._decoding = asyncio.Lock()
        self._changed = asyncio.Event()
        self._stopped = False
        self._tasks: dict[asyncio.Task[None], BatchRequest] = {}
        self._sending: set[BatchRequest] = set()
        self._reading: list[asyncio.Task[None]] = []
        self.done: deque[BatchResult] = deque()

    def start(self, batch: Batch, *, alone: bool) -> None:
        """Have a batch done by a task of its own."""
        request = BatchRequest(batch, self._endpoint)
        task = self._context.run(asyncio.create_task, self._perform(request))
        self._tasks[task] = request
        task.add_done_callback(self._ended)

    async def wait(self, seconds: float) -> None:
        """Wait until a result is there or `wake` was called, or for so many seconds, infinity for any time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    def wake(self) -> None:
        """Let `wait` return: something has happened, in whatever thread."""
        # The loop may be closed before a source that is read in a thread gives its next text.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stopped = True
        for task, request in self._tasks.items():
            if request not in self._sending:
                task.cancel()

    def open(self, texts: AsyncIterable[object] | Iterable[object], in_thread: bool) -> Source:
        """Read texts where they are asked for, or ahead of it in a task or thread of their own."""
        if isinstance(texts, AsyncIterable):
            free = asyncio.Semaphore(_AHEAD)
            source = ReadAhead(self.wake, free)
            self._reading.append(asyncio.create_task(source.aread(texts, free)))
            return source
        return read_in_thread(texts, self._context, self.wake) if in_thread else DirectSource(texts)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *exception: object) -> None:
        tasks = [*self._tasks, *self._reading]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        result = self._tasks.pop(task).result
        result.error = Stopped() if task.cancelled() else task.exception()
        self.done.append(result)
        self._changed.set()

    async def _perform(self, request: BatchRequest) -> None:
        """Get the vectors of a batch, or raise why part of it can't be had; `Stopped` when the call is over."""
        todo = request.steps()
        with suppress(StopIteration):
            step = next(todo)
            while not self._stopped:
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                    step = next(todo)
                    continue
                try:
                    answer = await self._ask(step, request)
                    try:
                        # Answers that come together are decoded one by one; other tasks have their turn between two.
                        async with self._decoding:
                            await asyncio.sleep(0)
                    finally:
                        # It was paid for, also where the task is cancelled now.
                        step = todo.send(answer)
                finally:
                    self._sending.discard(request)
            raise Stopped

    async def _ask(self, step: Send, request: BatchRequest) -> EmbeddingAnswer | LavaError | None:
        permit = None
        answer: EmbeddingAnswer | LavaError | None = None
        try:
            permit = await self._limiter.aacquire(step.batch.tokens)
            self._sending.add(request)
            answer = await self._send(step.batch.texts, encoding_format=step.encoding)
        except LavaError as error:
            answer = error
        finally:
            self._limiter.release(permit, answer)
        return answer


async def drive(
    run: EmbeddingRun,
    workers: TaskWorkers,
    texts: AsyncIterable[object] | Iterable[object],
    *,
    in_thread: bool = False,
) -> AsyncGenerator[tuple[int, Any], None]:
    """Do what a run says, in the task that iterates, until nothing is left to do; see `sync_driver.drive`."""
    with supervised(run, workers):
        async with workers:
            with closing(workers.open(texts, in_thread)) as source:
                since = time.monotonic()
                for step in run.steps(workers, source):
                    if isinstance(step, tuple):
                        yield step
                    elif step is not None:
                        await workers.wait(step)
                        since = time.monotonic()
                    if time.monotonic() - since > TURN:
                        await asyncio.sleep(0)
                        since = time.monotonic()


class AsyncEmbeddingStream(
    BaseStream, AsyncIterator[tuple[int, Any]], AbstractAsyncContextManager["AsyncEmbeddingStream"]
):
    """Vectors as they get ready: an async iterator of `(index, vector)`.

    It is an async context manager too; leaving it, `aclose()` and exhausting it end its tasks.
    """

    def __init__(
        self,
        job: EmbeddingRun,
        workers: TaskWorkers,
        texts: AsyncIterable[object] | Iterable[object],
        in_thread: bool,
    ) -> None:
        super().__init__(job, workers)
        self._vectors = drive(job, workers, texts, in_thread=in_thread)

    async def __anext__(self) -> tuple[int, Any]:
        return await anext(self._vectors)

    async def aclose(self) -> None:
        """Give up: requests in flight are cancelled."""
        await self._vectors.aclose()

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
