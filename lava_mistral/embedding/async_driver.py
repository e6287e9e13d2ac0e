"""Drive a call of the embedding engine with tasks of one event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from typing import Any, Final, Protocol, Self

from lava_mistral.calls.responses import EmbeddingAnswer
from lava_mistral.embedding.batch_request import BatchRequest, Endpoint, Send, Sleep
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.input_validation import InputValidator
from lava_mistral.embedding.limiter import ConcurrencyLimiter, PermitScope
from lava_mistral.embedding.progress import ProgressReporter
from lava_mistral.embedding.rate_limit import Stopped
from lava_mistral.embedding.results import BatchResult
from lava_mistral.embedding.run import BaseStream, EmbeddingRun, Start, Step, supervised
from lava_mistral.embedding.sources import EndOfSource, Source, TaskSource, ThreadSource
from lava_mistral.errors import LavaError

TURN: Final = 0.005
"""Seconds after which other tasks of the event loop have their turn."""


class AsyncEmbedder(Protocol):
    """What sends one embeddings request: `AsyncLavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., Awaitable[EmbeddingAnswer]]: ...


class TaskWorkers:
    """The tasks of one call, under the caller's context variables; none of them outlives it.

    `options` are the keyword arguments of each request.
    """

    def __init__(
        self,
        client: AsyncEmbedder,
        options: Mapping[str, Any],
        endpoint: Endpoint,
        limiter: ConcurrencyLimiter,
        context: Context,
    ) -> None:
        self._client = client
        self._options = options
        self._endpoint = endpoint
        self._limiter = limiter
        self._decoding = asyncio.Lock()
        self._stopped = False
        self._sending: set[asyncio.Task[Any] | None] = set()
        self._context = context
        self._changed = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], BatchRequest] = {}
        self.done: deque[BatchResult] = deque()

    def start(self, batch: Batch) -> None:
        """Have a batch done by a task of its own."""
        request = BatchRequest(batch, self._endpoint)
        task = self._context.run(asyncio.create_task, self._perform(request))
        self._tasks[task] = request
        task.add_done_callback(self._ended)

    def wake(self) -> None:
        """Let `wait` return: something else has happened, in whatever thread."""
        # The loop may be closed before a source that is read in a thread gives its next text.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    async def wait(self, seconds: float | None) -> None:
        """Wait until a result is there or `wake` was called, or for so many seconds."""
        alarm = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if alarm is not None:
                alarm.cancel()
        self._changed.clear()

    def finished(self) -> Iterator[BatchResult]:
        """The results that are there."""
        while self.done:
            yield self.done.popleft()

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stopped = True
        for task in self._tasks:
            if task not in self._sending:
                task.cancel()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        result = self._tasks.pop(task).result
        result.error = Stopped() if task.cancelled() else task.exception()
        self.done.append(result)
        self._changed.set()

    async def _perform(self, request: BatchRequest) -> None:
        """Get the vectors of a batch, or raise why part of it can't be had; `Stopped` when the call is over."""
        steps = request.steps()
        task = asyncio.current_task()
        with suppress(StopIteration):
            step = next(steps)
            while True:
                if self._stopped:
                    raise Stopped
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    answer = await self._send(step, task)
                    try:
                        # Answers that come together are decoded one by one; other tasks have their turn between two.
                        async with self._decoding:
                            await asyncio.sleep(0)
                    finally:
                        # It was paid for, also where the task is cancelled now.
                        step = steps.send(answer)
                finally:
                    self._sending.discard(task)

    async def _send(self, step: Send, task: asyncio.Task[Any] | None) -> EmbeddingAnswer | LavaError:
        with PermitScope(self._limiter) as scope:
            scope.permit = await self._limiter.aacquire(step.batch.tokens)
            self._sending.add(task)
            try:
                answer = await self._client.embedding_request(
                    step.batch.texts, encoding_format=step.encoding, **self._options
                )
            except LavaError as error:
                return scope.ended(error)
            return scope.ended(answer)


class _Turns:
    """Gives the event loop its turn, every few milliseconds."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def give(self) -> None:
        if time.monotonic() - self._since > TURN:
            await asyncio.sleep(0)
            self._since = time.monotonic()


async def drive(
    run: EmbeddingRun,
    source: Callable[[], Source],
    workers: TaskWorkers,
    reporter: Callable[[], ProgressReporter],
) -> AsyncGenerator[tuple[int, Any], None]:
    """Do what a run says, in the task that iterates, until nothing is left to do; see `sync_driver.drive`."""
    with supervised(run, workers), reporter() as progress:
        async with workers, AsyncExitStack() as stack:
            texts = source()
            if isinstance(texts, TaskSource):
                stack.push_async_callback(texts.aclose)
            elif isinstance(texts, ThreadSource):
                stack.callback(texts.close)
            turns = _Turns()
            while True:
                while workers.done:
                    # It stays there until it is filled, which may be cancelled.
                    if run.fill(workers.done[0]):
                        await turns.give()
                    else:
                        if run.take(workers.done.popleft()):
                            workers.finish()
                        progress.update()
                await turns.give()
                action = run.next(readable=texts.readable)
                if action is Step.READ:
                    try:
                        text = texts.take()
                    except EndOfSource as end:
                        run.end_of_source(end.error)
                        continue
                    if InputValidator.is_long(text):
                        await asyncio.to_thread(run.push, text)
                    else:
                        run.push(text)
                elif action is Step.HAND_ON:
                    yield run.pop()
                elif action is Step.DONE:
                    break
                elif isinstance(action, Start):
                    workers.start(action.batch)
                else:
                    await workers.wait(action.seconds)
                    turns = _Turns()
            run.check_success()
        progress.finish()


class AsyncEmbeddingStream(BaseStream):
    """Vectors as they get ready: an async iterator of `(index, vector)`.

    It is an async context manager too; leaving it, `aclose()` and exhausting it end its tasks.
    """

    def __init__(self, vectors: AsyncGenerator[tuple[int, Any], None], job: EmbeddingRun, workers: TaskWorkers) -> None:
        self._vectors = vectors
        self._job = job
        self._workers = workers

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Any]:
        return await self._vectors.__anext__()

    async def aclose(self) -> None:
        """Give up: requests in flight are cancelled."""
        await self._vectors.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
