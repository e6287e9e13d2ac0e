"""Where requests wait for their turn: one gate an engine, shared by threads and by every event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from lava_mistral._fork import new_lock
from lava_mistral.embedding.rate_limit import Outcome, Pacer, Ticket


class Stopped(Exception):
    """The call that was waiting has been given up."""


class Stop:
    """Tells the threads of one call that it is over."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.waiting: set[threading.Event] = set()

    def __call__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """The call is over; threads that wait at a gate look at it.

        No lock of the gate is taken: a stream may be closed by the garbage collector on top of whoever holds it.
        """
        self._event.set()
        for event in list(self.waiting):
            event.set()

    def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the call.

        Raises:
            Stopped: the call is over.
        """
        if self._event.wait(seconds):
            raise Stopped


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    wake: Callable[[], object]
    ticket: Ticket | None = None


class Gate:
    """Lets requests through one after another, as the pacer allows: first come, first served.

    Args:
        pacer: decides; touched under the gate's lock only.
        clock: seconds, never going back.
    """

    def __init__(self, pacer: Pacer, clock: Callable[[], float] = time.monotonic) -> None:
        self.pacer = pacer
        self._clock = clock
        self._lock = new_lock()
        self._queue: deque[_Waiter] = deque()
        self._given: set[Ticket] = set()
        # What is to be done under the lock by who may be on top of it: a stream or a task that the garbage collector
        # ends runs on any frame, this class's own included.
        self._jobs: deque[Callable[[], None]] = deque()

    def enter(self, tokens: int, stop: Stop) -> Ticket:
        """Wait in a thread for leave to send a request of this many tokens.

        Raises:
            Stopped: `stop` was set.
        """
        event = threading.Event()
        waiter = _Waiter(tokens, event.set)
        stop.waiting.add(event)
        try:
            if stop():
                raise Stopped
            wait = self._queue_up(waiter, event.clear)
            while waiter.ticket is None:
                if stop():
                    raise Stopped
                event.wait(None if wait == math.inf else wait)
                wait = self._try(waiter, event.clear)
        except BaseException:
            self._give_up(waiter)
            raise
        finally:
            stop.waiting.discard(event)
        return waiter.ticket

    async def aenter(self, tokens: int) -> Ticket:
        """Wait in a task for leave to send a request of this many tokens."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(event.set)

        waiter = _Waiter(tokens, wake)
        try:
            wait = self._queue_up(waiter, event.clear)
            while waiter.ticket is None:
                alarm = None if wait == math.inf else loop.call_later(wait, event.set)
                try:
                    await event.wait()
                finally:
                    if alarm is not None:
                        alarm.cancel()
                wait = self._try(waiter, event.clear)
        except BaseException:
            self._give_up(waiter)
            raise
        return waiter.ticket

    def leave(
        self,
        ticket: Ticket,
        outcome: Outcome,
        *,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """The request that `ticket` allowed has ended; said twice, it counts once."""

        def end() -> None:
            if ticket in self._given:
                self._given.discard(ticket)
                self.pacer.end(ticket, self._clock(), outcome, headers=headers, retry_after=retry_after)
            self._admit()

        self._jobs.append(end)
        self._work_off()

    def _queue_up(self, waiter: _Waiter, clear: Callable[[], None]) -> float:
        with self._held():
            self._queue.append(waiter)
            wait = self._admit(waiter)
            if waiter.ticket is None:
                clear()
            return wait

    def _try(self, waiter: _Waiter, clear: Callable[[], None]) -> float:
        with self._held():
            if waiter.ticket is not None:
                return 0.0
            clear()
            return self._admit(waiter)

    def _admit(self, caller: _Waiter | None = None) -> float:
        """Let through whoever may go; seconds until the next may, infinity where another must end before.

        The first of those that stay is woken, so that it learns how long to wait, unless it is the caller.
        """
        now = self._clock()
        while self._queue:
            first = self._queue[0]
            if first.ticket is not None:
                # Ctrl-C came between its ticket and its leaving the queue.
                self._queue.popleft()
                self._wake(first)
                continue
            wait = self.pacer.wait(now, first.tokens)
            if wait > 0.0:
                if wait != math.inf and first is not caller and not self._wake(first):
                    continue
                return wait
            first.ticket = self.pacer.start(now, first.tokens)
            self._given.add(first.ticket)
            self._queue.popleft()
            if not self._wake(first):
                self._given.discard(first.ticket)
                self.pacer.withdraw()
        return math.inf

    def _wake(self, waiter: _Waiter) -> bool:
        try:
            waiter.wake()
        except RuntimeError:
            # Its event loop was closed under it: nobody waits any more.
            if waiter in self._queue:
                self._queue.remove(waiter)
            return False
        return True

    def _give_up(self, waiter: _Waiter) -> None:
        def withdraw() -> None:
            if waiter in self._queue:
                self._queue.remove(waiter)
            if waiter.ticket in self._given:
                self._given.discard(waiter.ticket)
                self.pacer.withdraw()
            self._admit()

        self._jobs.append(withdraw)
        self._work_off()

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        finally:
            self._work_off()

    def _work_off(self) -> None:
        """Do the jobs, unless the lock is held: then its holder does them when it lets go."""
        while self._jobs and self._lock.acquire(blocking=False):
            try:
                while self._jobs:
                    try:
                        self._jobs[0]()
                    except Exception:
                        self._jobs.popleft()
                        raise
                    # Not before it is done: one that Ctrl-C has ended is done once more.
                    self._jobs.popleft()
            finally:
                self._lock.release()
