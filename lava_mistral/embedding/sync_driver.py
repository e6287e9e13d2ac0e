"""Drive a call of the embedding engine with threads: one reads, decides and hands on, the others send."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from contextvars import Context
from typing import Any, Final, Protocol, Self

from lava_mistral.calls.responses import EmbeddingAnswer
from lava_mistral.embedding.batch_request import BatchRequest, Endpoint, Send, Sleep
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.limiter import ConcurrencyLimiter, PermitScope, StopSignal
from lava_mistral.embedding.progress import ProgressReporter
from lava_mistral.embedding.results import BatchResult
from lava_mistral.embedding.run import BaseStream, EmbeddingRun, Start, Step, supervised
from lava_mistral.embedding.sources import EndOfSource, Source, ThreadSource
from lava_mistral.errors import LavaError

UNMEASURED: Final = 64
"""Threads that are started whatever the processor does; beyond them, only while it has time to spare."""
SATURATED: Final = 0.8
"""Processor seconds a second of this process from which on further threads only make it slower: they wait for the
interpreter's lock, and each change of hands costs time."""
INTERVAL: Final = 0.1
"""Seconds over which that is measured."""


class SyncEmbedder(Protocol):
    """What sends one embeddings request: `LavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., EmbeddingAnswer]: ...


class ThreadWorkers:
    """At most `limit` daemon threads that live as long as one call and work under the caller's context variables.

    `options` are the keyword arguments of each request.
    """

    def __init__(
        self,
        client: SyncEmbedder,
        options: Mapping[str, Any],
        endpoint: Endpoint,
        limiter: ConcurrencyLimiter,
        limit: int,
        context: Context,
    ) -> None:
        self._client = client
        self._options = options
        self._endpoint = endpoint
        self._limiter = limiter
        self._limit = limit
        self._context = context
        self._stop = StopSignal()
        self._under_way = 0
        self._todo: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BatchResult | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._allowed = min(limit, UNMEASURED)
        self._measured = (time.monotonic(), time.process_time())

    def start(self, batch: Batch) -> None:
        """Have a batch done by the next free thread."""
        self._under_way += 1
        self._todo.put(batch)
        self._grow()

    def perform(self, batch: Batch) -> None:
        """Do a batch in this thread."""
        self._done.put(self._perform(batch))
        self._under_way += 1

    def wait(self, timeout: float | None = None) -> BatchResult | None:
        """The next result, when it is there; `None` after `wake`, or when none comes within so many seconds."""
        growing = self._allowed < min(self._limit, self._under_way)
        try:
            result = self._done.get(
                timeout=INTERVAL if growing and (timeout is None or timeout > INTERVAL) else timeout
            )
        except queue.Empty:
            self._grow()
            return None
        if result is not None:
            self._under_way -= 1
        return result

    def wake(self) -> None:
        """Let `wait` return: something else has happened."""
        self._done.put(None)

    def finished(self) -> Iterator[BatchResult]:
        """The results that are there."""
        while not self._done.empty():
            result = self.wait(0)
            if result is not None:
                yield result

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stop.set()

    def _grow(self) -> None:
        """Start the threads that have something to do, and that the processor has time for."""
        if self._allowed < min(self._limit, self._under_way):
            now, used = time.monotonic(), time.process_time()
            if now - self._measured[0] >= INTERVAL:
                if used - self._measured[1] < SATURATED * (now - self._measured[0]):
                    self._allowed = min(self._limit, self._allowed + self._allowed // 4)
                self._measured = (now, used)
        while len(self._threads) < min(self._allowed, self._under_way):
            thread = threading.Thread(target=self._run, name="lava-mistral-embedding", daemon=True)
            thread.start()
            self._threads.append(thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()
        self._todo.put(None)
        if not self._under_way:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (batch := self._todo.get()) is not None:
            self._done.put(self._context.copy().run(self._perform, batch))
        # For the next thread: Ctrl-C may come between the start of one and its entry in the list.
        self._todo.put(None)

    def _perform(self, batch: Batch) -> BatchResult:
        """Get the vectors of a batch; whatever fails is the result's error."""
        request = BatchRequest(batch, self._endpoint)
        steps = request.steps()
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self._stop.sleep(step.seconds)
                    step = next(steps)
                else:
                    step = steps.send(self._send(step))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            request.result.error = error
        return request.result

    def _send(self, step: Send) -> EmbeddingAnswer | LavaError:
        with PermitScope(self._limiter) as scope:
            scope.permit = self._limiter.acquire(step.batch.tokens, self._stop)
            try:
                answer = self._client.embedding_request(
                    step.batch.texts, encoding_format=step.encoding, **self._options
                )
            except LavaError as error:
                return scope.ended(error)
            return scope.ended(answer)


def drive(
    run: EmbeddingRun,
    source: Callable[[], Source],
    workers: ThreadWorkers,
    reporter: Callable[[], ProgressReporter],
) -> Generator[tuple[int, Any], None, None]:
    """Do what a run says, in the thread that iterates, and yield the vectors of a `StreamJob` with their indexes."""
    with supervised(run, workers), reporter() as progress, workers, ExitStack() as stack:

        def take(result: BatchResult) -> None:
            if run.take(result):
                workers.finish()
            progress.update()

        texts = source()
        if isinstance(texts, ThreadSource):
            stack.callback(texts.close)
        while True:
            for result in workers.finished():
                take(result)
            action = run.next(readable=texts.readable)
            if action is Step.READ:
                try:
                    run.push(texts.take())
                except EndOfSource as end:
                    run.end_of_source(end.error)
            elif action is Step.HAND_ON:
                yield run.pop()
            elif action is Step.DONE:
                break
            elif isinstance(action, Start):
                (workers.perform if action.alone else workers.start)(action.batch)
            else:
                waited = workers.wait(action.seconds)
                if waited is not None:
                    take(waited)
        run.check_success()
        progress.finish()


class EmbeddingStream(BaseStream):
    """Vectors as they get ready: an iterator of `(index, vector)`.

    It is a context manager too; leaving it, `close()` and exhausting it stop its threads.
    """

    def __init__(
        self, vectors: Generator[tuple[int, Any], None, None], job: EmbeddingRun, workers: ThreadWorkers
    ) -> None:
        self._vectors = vectors
        self._job = job
        self._workers = workers

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Any]:
        return next(self._vectors)

    def close(self) -> None:
        """Give up: begin nothing new; a request in flight ends in the background."""
        self._vectors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
