"""The threads or tasks of one call of the embedding engine: batches go in, reports come out as they get done."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from types import TracebackType
from typing import Self

from lava_mistral.embedding.batch_request import Report
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.limiter import Stop, Stopped


class ThreadLanes:
    """Daemon threads that live as long as one call.

    Args:
        work: fills a report, in one of the threads.
        limit: how many threads at most; they are started as batches come.
        context: the context variables of the caller, under which the work is done.
    """

    def __init__(self, work: Callable[[Report, Stop], None], limit: int, context: Context) -> None:
        self.under_way = 0
        self._work = work
        self._limit = limit
        self._context = context
        self._stop = Stop()
        self._todo: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def launch(self, batch: Batch) -> None:
        """Have a batch done by the next free thread."""
        self.under_way += 1
        self._todo.put(batch)
        if len(self._threads) < min(self._limit, self.under_way):
            thread = threading.Thread(target=self._run, name="lava-mistral-embedding", daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self, timeout: float | None = None) -> Report | None:
        """The next report, when it is there; `None` after `wake`, or when none comes within so many seconds."""
        try:
            report = self._done.get(timeout=timeout)
        except queue.Empty:
            return None
        if report is not None:
            self.under_way -= 1
        return report

    def wake(self) -> None:
        """Let `wait` return: something else has happened."""
        self._done.put(None)

    def finished(self) -> Iterator[Report]:
        """The reports that are there."""
        while not self._done.empty():
            report = self.wait()
            if report is not None:
                yield report

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stop.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
        for _ in self._threads:
            self._todo.put(None)
        if not self.under_way:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (batch := self._todo.get()) is not None:
            report = Report(batch)
            try:
                self._context.copy().run(self._work, report, self._stop)
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                report.error = error
            self._done.put(report)


class TaskLanes:
    """The tasks of one call; none of them outlives it.

    Args:
        work: fills a report.
        changed: set when a report is there.
        context: the context variables under which the tasks run; the present ones by default.
    """

    def __init__(
        self,
        work: Callable[[Report, TaskLanes], Coroutine[None, None, None]],
        changed: asyncio.Event,
        context: Context | None = None,
    ) -> None:
        self.done: deque[Report] = deque()
        self._work = work
        self._changed = changed
        self._context = copy_context() if context is None else context
        self._tasks: dict[asyncio.Task[None], Report] = {}
        self._sending: set[asyncio.Task[None] | None] = set()
        self._stopped = False

    @property
    def under_way(self) -> int:
        """How many batches are not done."""
        return len(self._tasks)

    def launch(self, batch: Batch) -> None:
        """Have a batch done by a task of its own."""
        report = Report(batch)
        task = self._context.run(asyncio.create_task, self._work(report, self))
        self._tasks[task] = report
        task.add_done_callback(self._ended)

    def finished(self) -> Iterator[Report]:
        """The reports that are there."""
        while self.done:
            yield self.done.popleft()

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""
        self._stopped = True
        for task in self._tasks:
            if task not in self._sending:
                task.cancel()

    def check(self) -> None:
        """Whether something new may begin.

        Raises:
            Stopped: it may not.
        """
        if self._stopped:
            raise Stopped

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """While this task's request is in flight."""
        task = asyncio.current_task()
        self._sending.add(task)
        try:
            yield
        finally:
            self._sending.discard(task)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        report = self._tasks.pop(task)
        if task.cancelled():
            report.error = Stopped()
        elif (error := task.exception()) is not None:
            report.error = error
        self.done.append(report)
        self._changed.set()
