"""Drive a call of the embedding engine: with threads in sync code, with tasks of one event loop in async code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Final, Protocol

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.batch_request import BatchRequest, Endpoint, Send, Sleep
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.limiter import ConcurrencyLimiter, Signal, TaskSignal, ThreadSignal
from lava_mistral.embedding.rate_limit import Permit, Stopped
from lava_mistral.embedding.results import BatchResult
from lava_mistral.embedding.run import BaseStream, EmbeddingRun, supervised
from lava_mistral.embedding.sources import DirectSource, ReadAhead, Source, read_in_thread
from lava_mistral.errors import LavaError
from lava_mistral.transport.flow import Flow, adrive, drive

MOST_THREADS: Final = 64  # beyond so many, threads only wait for the interpreter's lock
TURN: Final = 0.005  # seconds after which other tasks of the event loop have their turn
_AHEAD: Final = 8  # texts that are read from an async source before they are taken


class SyncEmbedder(Protocol):
    """What sends one embeddings request: `LavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., EmbeddingAnswer]: ...


class AsyncEmbedder(Protocol):
    """What sends one embeddings request: `AsyncLavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., Awaitable[EmbeddingAnswer]]: ...


class Workers:
    """What does the batches of one call, under the caller's context variables; `done` holds what nobody has taken."""

    _signal: Callable[[], Signal]
    _sleep: Callable[[float], Any]

    def __init__(self, send: Callable[..., Any], endpoint: Endpoint, limiter: ConcurrencyLimiter, limit: int) -> None:
        self._send = send
        self._endpoint = endpoint
        self._limiter = limiter
        self._limit = min(limit, MOST_THREADS)
        self._context = copy_context()
        self._stop = threading.Event()
        self._sending: set[BatchRequest] = set()
        self.done: deque[BatchResult] = deque()

    def _perform(self, request: BatchRequest) -> Flow[None]:
        """Get the vectors of a batch, or raise why part of it can't be had; `Stopped` when the call is over."""
        todo = request.steps()
        with suppress(StopIteration):
            step = next(todo)
            while not self._stop.is_set():
                if isinstance(step, Sleep):
                    yield self._sleep(step.seconds)
                    step = next(todo)
                    continue
                answer = yield from self._ask(step, request)
                try:
                    yield self._turn()
                finally:
                    # It was paid for, also where the task is cancelled now.
                    step = todo.send(answer)
            raise Stopped

    def _ask(self, step: Send, request: BatchRequest) -> Flow[EmbeddingAnswer | LavaError | None]:
        permit: Permit | None = None
        answer: EmbeddingAnswer | LavaError | None = None
        try:
            permit = yield from self._limiter.acquire(step.batch.tokens, self._signal())
            self._sending.add(request)
            answer = yield self._send(step.batch.texts, encoding_format=step.encoding)
        except LavaError as error:
            answer = error
        finally:
            self._sending.discard(request)
            self._limiter.release(permit, answer)
        return answer

    def _turn(self) -> Any:
        """Give others their turn before an answer is decoded."""


class ThreadWorkers(Workers):
    """Daemon threads that live as long as one call."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._todo: SimpleQueue[Batch | None] = SimpleQueue()
        self._changed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, batch: Batch, *, alone: bool) -> None:
        """Have a batch done by the next free thread; by this one where it is alone."""
        if alone:
            self._do(batch)
            return
        self._todo.put(batch)
        if len(self._threads) < self._limit:
            thread = threading.Thread(target=self._run, name="lava-mistral-embedding", daemon=True)
            thread.start()
            self._threads.append(thread)

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stop.set()

    def vectors(
        self, run: EmbeddingRun, texts: Iterable[object], *, in_thread: bool = False
    ) -> Generator[tuple[int, Any], None, None]:
        """Do what a run says, in the thread that iterates, and yield its vectors with their indexes."""
        with supervised(run, self):
            source = read_in_thread(texts, self._context, self._changed.set) if in_thread else DirectSource(texts)
            try:
                for step in run.steps(self, source):
                    if isinstance(step, tuple):
                        yield step
                    elif step is not None:
                        self._changed.wait(min(step, threading.TIMEOUT_MAX))
                        self._changed.clear()
            finally:
                source.close()
                self.finish()
                self._todo.put(None)
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (batch := self._todo.get()) is not None:
            self._context.copy().run(self._do, batch)
            self._changed.set()
        # For the next thread: Ctrl-C may come between the start of one and its entry in the list.
        self._todo.put(None)

    def _do(self, batch: Batch) -> None:
        request = BatchRequest(batch, self._endpoint)
        try:
            drive(self._perform(request))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            request.result.error = error
        self.done.append(request.result)

    def _signal(self) -> ThreadSignal:
        return ThreadSignal(self._stop)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


class TaskWorkers(Workers):
    """Tasks of which none outlives the call."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._decoding = asyncio.Lock()
        self._tasks: dict[asyncio.Task[None], BatchRequest] = {}

    def start(self, batch: Batch, *, alone: bool) -> None:
        """Have a batch done by a task of its own."""
        request = BatchRequest(batch, self._endpoint)
        task = self._context.run(asyncio.create_task, adrive(self._perform(request)))
        self._tasks[task] = request
        task.add_done_callback(self._ended)

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stop.set()
        for task, request in self._tasks.items():
            if request not in self._sending:
                task.cancel()

    async def vectors(
        self, run: EmbeddingRun, texts: AsyncIterable[object] | Iterable[object], *, in_thread: bool = False
    ) -> AsyncGenerator[tuple[int, Any], None]:
        """Do what a run says, in the task that iterates, and yield its vectors with their indexes."""
        self._changed = TaskSignal()
        reading: list[asyncio.Task[None]] = []
        source: Source
        with supervised(run, self):
            if isinstance(texts, AsyncIterable):
                free = asyncio.Semaphore(_AHEAD)
                source = ReadAhead(self._changed.set, free)
                reading.append(asyncio.create_task(source.aread(texts, free)))
            elif in_thread:
                source = read_in_thread(texts, self._context, self._changed.set)
            else:
                source = DirectSource(texts)
            since = time.monotonic()
            try:
                for step in run.steps(self, source):
                    if isinstance(step, tuple):
                        yield step
                    elif step is not None:
                        await self._changed.wait(step)
                        self._changed.clear()
                        since = time.monotonic()
                    if time.monotonic() - since > TURN:
                        await asyncio.sleep(0)
                        since = time.monotonic()
            finally:
                source.close()
                tasks = [*self._tasks, *reading]
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        result = self._tasks.pop(task).result
        result.error = Stopped() if task.cancelled() else task.exception()
        self.done.append(result)
        self._changed.event.set()

    def _signal(self) -> TaskSignal:
        return TaskSignal()

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)

    async def _turn(self) -> None:
        # Answers that come together are decoded one by one; other tasks have their turn between two.
        async with self._decoding:
            await asyncio.sleep(0)


class EmbeddingStream(BaseStream, Iterator[tuple[int, Any]], AbstractContextManager["EmbeddingStream"]):
    """Vectors as they get ready: iterate for `(index, vector)`; the end, `close()` and leaving it stop its threads."""

    def __init__(self, job: EmbeddingRun, workers: ThreadWorkers, texts: Iterable[object], in_thread: bool) -> None:
        super().__init__(job, workers)
        self._vectors = workers.vectors(job, texts, in_thread=in_thread)

    def __next__(self) -> tuple[int, Any]:
        return next(self._vectors)

    def close(self) -> None:
        """Give up: begin nothing new; a request in flight ends in the background."""
        self._vectors.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncEmbeddingStream(
    BaseStream, AsyncIterator[tuple[int, Any]], AbstractAsyncContextManager["AsyncEmbeddingStream"]
):
    """Vectors as they get ready, for `async for`; the end, `aclose()` and leaving it end its tasks."""

    def __init__(
        self, job: EmbeddingRun, workers: TaskWorkers, texts: AsyncIterable[object] | Iterable[object], in_thread: bool
    ) -> None:
        super().__init__(job, workers)
        self._vectors = workers.vectors(job, texts, in_thread=in_thread)

    async def __anext__(self) -> tuple[int, Any]:
        return await anext(self._vectors)

    async def aclose(self) -> None:
        """Give up: requests in flight are cancelled."""
        await self._vectors.aclose()

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
