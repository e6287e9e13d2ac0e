"""Drive a call of the embedding engine with threads: one reads, decides and hands on, the others send."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from contextvars import copy_context
from typing import Any, Final, Protocol, Self

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.batch_request import BatchRequest, Endpoint, Send, Sleep
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.limiter import ConcurrencyLimiter
from lava_mistral.embedding.rate_limit import Stopped
from lava_mistral.embedding.results import BatchResult
from lava_mistral.embedding.run import BaseStream, EmbeddingRun, supervised
from lava_mistral.embedding.sources import DirectSource, Source, read_in_thread
from lava_mistral.errors import LavaError

MOST_THREADS: Final = 64
"""Beyond so many, threads only wait for the interpreter's lock."""


class SyncEmbedder(Protocol):
    """What sends one embeddings request: `LavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., EmbeddingAnswer]: ...


class ThreadWorkers:
    """At most `limit` daemon threads that live as long as one call and work under the caller's context variables."""

    def __init__(
        self, send: Callable[..., EmbeddingAnswer], endpoint: Endpoint, limiter: ConcurrencyLimiter, limit: int
    ) -> None:
        self._send = send
        self._endpoint = endpoint
        self._limiter = limiter
        self._limit = min(limit, MOST_THREADS)
        self._context = copy_context()
        self._stop = threading.Event()
        self._todo: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._changes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.done: deque[BatchResult] = deque()

    def start(self, batch: Batch, *, alone: bool) -> None:
        """Have a batch done by the next free thread; by this one where it is alone."""
        if alone:
            self.done.append(self._perform(batch))
            return
        self._todo.put(batch)
        if len(self._threads) < self._limit:
            thread = threading.Thread(target=self._run, name="lava-mistral-embedding", daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self, seconds: float) -> None:
        """Wait until a result is there or `wake` was called, or for so many seconds, infinity for any time."""
        with suppress(queue.Empty):
            self._changes.get(timeout=min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        """Let `wait` return: something has happened, in whatever thread."""
        self._changes.put(None)

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stop.set()

    def open(self, texts: Iterable[object], in_thread: bool) -> Source:
        """Read texts where they are asked for, or ahead of it in a thread of their own."""
        if not in_thread:
            return DirectSource(texts)
        return read_in_thread(texts, self._context, self.wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.finish()
        self._todo.put(None)
        if kind is None:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (batch := self._todo.get()) is not None:
            self.done.append(self._context.copy().run(self._perform, batch))
            self.wake()
        # For the next thread: Ctrl-C may come between the start of one and its entry in the list.
        self._todo.put(None)

    def _perform(self, batch: Batch) -> BatchResult:
        """Get the vectors of a batch; whatever fails is the result's error."""
        request = BatchRequest(batch, self._endpoint)
        answer = None
        try:
            todo = request.steps()
            while True:
                answer = self._obey(todo.send(answer))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            request.result.error = error
        return request.result

    def _obey(self, step: Send | Sleep) -> EmbeddingAnswer | LavaError | None:
        if isinstance(step, Sleep):
            if self._stop.wait(step.seconds):
                raise Stopped
            return None
        permit = None
        answer: EmbeddingAnswer | LavaError | None = None
        try:
            permit = self._limiter.acquire(step.batch.tokens, self._stop)
            answer = self._send(step.batch.texts, encoding_format=step.encoding)
        except LavaError as error:
            answer = error
        finally:
            self._limiter.release(permit, answer)
        return answer


def drive(
    run: EmbeddingRun, workers: ThreadWorkers, texts: Iterable[object], *, in_thread: bool = False
) -> Generator[tuple[int, Any], None, None]:
    """Do what a run says, in the thread that iterates, and yield the vectors of a `StreamJob` with their indexes."""
    with supervised(run, workers), workers, closing(workers.open(texts, in_thread)) as source:
        for step in run.steps(workers, source):
            if isinstance(step, tuple):
                yield step
            elif step is not None:
                workers.wait(step)


class EmbeddingStream(BaseStream, Iterator[tuple[int, Any]], AbstractContextManager["EmbeddingStream"]):
    """Vectors as they get ready: an iterator of `(index, vector)`.

    It is a context manager too; leaving it, `close()` and exhausting it stop its threads.
    """

    def __init__(self, job: EmbeddingRun, workers: ThreadWorkers, texts: Iterable[object], in_thread: bool) -> None:
        super().__init__(job, workers)
        self._vectors = drive(job, workers, texts, in_thread=in_thread)

    def __next__(self) -> tuple[int, Any]:
        return next(self._vectors)

    def close(self) -> None:
        """Give up: begin nothing new; a request in flight ends in the background."""
        self._vectors.close()

    def __exit__(self, *exception: object) -> None:
        self.close()
