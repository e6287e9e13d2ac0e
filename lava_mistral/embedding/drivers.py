"""Drive a call of the embedding engine: with threads in sync code, with tasks of one event loop in async code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import ReferenceType

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.batch_packing import Batch
from lava_mistral.embedding.batch_request import BatchRequest, Endpoint
from lava_mistral.embedding.limiter import ConcurrencyLimiter, Signal, TaskSignal, ThreadSignal
from lava_mistral.embedding.rate_limit import Permit, Stopped
from lava_mistral.embedding.results import BatchResult, EmbeddingUsage, PartialEmbedding
from lava_mistral.embedding.run import StreamJob
from lava_mistral.embedding.sources import DirectSource, ReadAhead, Source
from lava_mistral.errors import ConfigurationError, LavaError, StreamInterruptedError
from lava_mistral.transport.flow import Flow, adrive, drive

T = TypeVar("T")
U = TypeVar("U")

MOST_THREADS: Final = 64  # beyond so many, threads only wait for the interpreter's lock
TURN: Final = 0.005  # seconds after which other tasks of the event loop have their turn


class Embedder(Protocol):
    """What sends one embeddings request: `LavaMistral`, or `AsyncLavaMistral`, whose answer is awaited."""

    @property
    def embedding_request(self) -> Callable[..., Any]: ...


class Workers:
    """What does the batches of one call, under the caller's context variables; `done` holds what nobody has taken."""

    client: str  # which of an engine's sends the requests
    _signal: Callable[[], Signal]

    def __init__(self, send: Callable[..., Any], endpoint: Endpoint, limiter: ConcurrencyLimiter, limit: int) -> None:
        self._send = send
        self._endpoint = endpoint
        self._limiter = limiter
        self._limit = min(limit, MOST_THREADS)
        self._context = copy_context()
        self._stop = threading.Event()
        self._sending: set[BatchRequest] = set()
        self.done: deque[BatchResult] = deque()

    def ask(self, request: BatchRequest, part: Batch, encoding: str) -> Flow[Any]:
        """Send part of a batch and return the answer or the error; raise `Stopped` when the call is over."""
        if self._stop.is_set():
            raise Stopped
        permit: Permit | None = None
        answer: EmbeddingAnswer | LavaError | None = None
        try:
            permit = yield from self._limiter.acquire(part.tokens, self._signal())
            self._sending.add(request)
            answer = yield self._send(part.texts, encoding_format=encoding)
        except LavaError as error:
            answer = error
        finally:
            self._sending.discard(request)
            self._limiter.release(permit, answer)
        return answer

    def turn(self) -> Any:
        """Give others their turn before an answer is decoded."""


class ThreadWorkers(Workers):
    """Daemon threads that live as long as one call."""

    client = "client"

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._todo: SimpleQueue[Batch | None] = SimpleQueue()
        # Not an `Event`: Ctrl-C in its Python code may become a RuntimeError of its lock.
        self._changed: SimpleQueue[None] = SimpleQueue()
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

    def vectors(self, run: StreamJob, texts: Iterable[object]) -> Iterator[tuple[int, Any]]:
        """Do what a run says, in the thread that iterates, and yield its vectors with their indexes."""
        with supervised(run, self):
            try:
                for step in run.steps(self, DirectSource(texts)):
                    if isinstance(step, tuple):
                        yield step
                    elif step is not None:
                        with suppress(Empty):
                            self._changed.get(timeout=min(step, threading.TIMEOUT_MAX))
            finally:
                self.finish()
                self._todo.put(None)
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (batch := self._todo.get()) is not None:
            self._context.copy().run(self._do, batch)
            self._changed.put(None)
        # For the next thread: Ctrl-C may come between the start of one and its entry in the list.
        self._todo.put(None)

    def _do(self, batch: Batch) -> None:
        request = BatchRequest(batch, self._endpoint, self)
        try:
            drive(request.steps())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            request.result.error = error
        self.done.append(request.result)

    def _signal(self) -> ThreadSignal:
        return ThreadSignal(self._stop)

    def sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


class TaskWorkers(Workers):
    """Tasks of which none outlives the call."""

    client = "async_client"

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._decoding = asyncio.Lock()
        self._tasks: dict[asyncio.Task[None], BatchRequest] = {}

    def start(self, batch: Batch, *, alone: bool) -> None:
        request = BatchRequest(batch, self._endpoint, self)
        task = self._context.run(asyncio.create_task, adrive(request.steps()))
        self._tasks[task] = request
        task.add_done_callback(self._ended)

    def finish(self) -> None:
        self._stop.set()
        for task, request in self._tasks.items():
            if request not in self._sending:
                task.cancel()

    async def vectors(
        self, run: StreamJob, texts: AsyncIterable[object] | Iterable[object]
    ) -> AsyncIterator[tuple[int, Any]]:
        """Do what a run says, in the task that iterates, and yield its vectors with their indexes."""
        self._changed = TaskSignal()
        reading: list[asyncio.Task[None]] = []
        source: Source
        with supervised(run, self):
            if isinstance(texts, AsyncIterable):
                source = ReadAhead(self._changed.set)
                reading.append(asyncio.create_task(source.read(texts)))
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

    def sleep(self, seconds: float) -> Awaitable[None]:
        if self._stop.is_set():
            raise Stopped
        return asyncio.sleep(seconds)

    async def turn(self) -> None:
        # Answers that come together are decoded one by one; other tasks have their turn between two.
        async with self._decoding:
            await asyncio.sleep(0)


@contextmanager
def supervised(run: StreamJob, workers: ThreadWorkers | TaskWorkers) -> Iterator[None]:
    """Draw the progress bar of a call, give the exception that ends it its `partial`, and close it."""
    if run.show_progress:
        from tqdm.auto import tqdm

        run.bar = tqdm(total=run.total, initial=run.done, unit="text", desc="Embedding")
    try:
        with run.translated():
            yield
    except GeneratorExit:
        # A stream was left: it can be asked itself.
        raise
    except BaseException as error:
        while workers.done:
            run.take(workers)
        partial = run.partial()
        if partial.rows or partial.next_index or partial.usage.requests:
            with suppress(AttributeError):
                error.partial = partial  # type: ignore[attr-defined]
        raise
    finally:
        if run.bar is not None:
            run.bar.update(run.done - run.bar.n)
            run.bar.close()


class Stream(Iterator[T], AsyncIterator[T], AbstractContextManager[Any], AbstractAsyncContextManager[Any]):
    """What becomes ready: iterate with `for`, or with `async for` where an async method made it.

    The end, leaving it as a context manager, and `close()` or `aclose()` stop its threads or tasks. A request in flight
    ends in the background of sync code and is cancelled in async code.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._cancelled = False

    def __next__(self) -> T:
        return cast("T", next(self._source))

    async def __anext__(self) -> T:
        if self._cancelled:
            self._cancelled = False
            raise StreamInterruptedError(
                "a wait for the next vectors was cancelled, as by asyncio.wait_for, which ended the requests: what has "
                "come is not all",
                advice="Give partial() of the stream to another one as resume_from=.",
            )
        try:
            return cast("T", await anext(self._source))
        except asyncio.CancelledError:
            # The generator is over now, and would seem to have come to its end.
            self._cancelled = True
            raise

    def close(self) -> None:
        """Give up: begin nothing new."""
        self._source.close()

    async def aclose(self) -> None:
        """Give up: cancel the requests in flight."""
        await self._source.aclose()

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


class EmbeddingStream(Stream[tuple[int, Any]]):
    """Vectors as they get ready, with the index of their text."""

    def __init__(self, run: StreamJob, workers: ThreadWorkers | TaskWorkers, vectors: Any) -> None:
        super().__init__(vectors)
        self._run = run
        self._workers = workers

    @property
    def usage(self) -> EmbeddingUsage:
        """What the stream has taken so far."""
        return self._run.usage

    def partial(self) -> PartialEmbedding:
        """What is there and was not handed on, to be given as `resume_from=` to a later call over the same source.

        After `close()` of a sync stream it may grow while requests in flight end.
        """
        while self._workers.done:
            self._run.take(self._workers)
        return self._run.partial()


class Prefetch(Stream[list[U]]):
    """Batches of items whose texts have been embedded; for the arguments see `EmbeddingEngine.prefetch`.

    Attributes:
        window: the vectors of the latest batch, by text; `among` has a reference to this object while it lives.
    """

    def __init__(
        self,
        embed: Callable[[Any], EmbeddingStream],
        items: AsyncIterable[T] | Iterable[T],
        text_of: Callable[[T], str],
        embedded: Callable[[T, Any], U],
        batch_size: int,
        among: list[ReferenceType[Prefetch[Any]]],
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}.")
        read: deque[tuple[T, str]] = deque()

        def take(item: T) -> str:
            text = text_of(item)
            read.append((item, text))
            return text

        texts = (take(item) async for item in items) if isinstance(items, AsyncIterable) else map(take, items)
        self.window: dict[str, Any] = {}
        super().__init__(embed(texts))
        self._read = read
        self._embedded: Callable[[Any, Any], U] = embedded
        self._batch_size = batch_size
        self._left = 0
        self._error: Exception | None = None
        among.append(ReferenceType(self, among.remove))

    def _next(self, advance: Callable[..., Any]) -> Flow[list[U]]:
        """Fill a batch; an empty one is the end. What is there when the stream fails comes before its error."""
        batch: list[U] = []
        self.window = {}
        try:
            while self._error is None and len(batch) < self._batch_size:
                pair = yield advance(self._source, None)
                if pair is None:
                    break
                # What an earlier loop had got is passed over.
                while self._left <= pair[0]:
                    item, text = self._read.popleft()
                    self._left += 1
                self.window[text] = pair[1]
                batch.append(self._embedded(item, pair[1]))
        except Exception as error:  # noqa: BLE001 - raised again
            self._error = error
            # One of `embedded` leaves the stream open.
            leave: Callable[[], Any] = self.close if advance is next else self.aclose
            yield leave()
        if self._error is not None and not batch:
            raise self._error
        return batch

    def __next__(self) -> list[U]:
        if batch := drive(self._next(next)):
            return batch
        raise StopIteration

    async def __anext__(self) -> list[U]:
        if batch := await adrive(self._next(anext)):
            return batch
        raise StopAsyncIteration
