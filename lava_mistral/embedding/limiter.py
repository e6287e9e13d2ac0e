"""Bound the requests in flight: one limiter an engine, shared by threads and by every event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from lava_mistral._locks import Inbox
from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.rate_limit import AdaptiveRateLimiter, Outcome, Permit, Stopped
from lava_mistral.errors import LavaError, RateLimitError
from lava_mistral.transport.flow import Flow

_LOOK: Final = 0.2  # seconds after which a thread that waits for a permit looks whether its call is over


class ThreadSignal:
    """An event that a thread waits for, until `stop` is set, which raises `Stopped`."""

    def __init__(self, stop: threading.Event) -> None:
        self._event = threading.Event()
        self._stop = stop
        self.clear = self._event.clear

    def set(self) -> bool:
        self._event.set()
        return True

    def wait(self, seconds: float) -> None:
        """Wait for so many seconds at most, and not for long: the caller looks again."""
        self._event.wait(min(seconds, _LOOK))
        if self._stop.is_set():
            raise Stopped


class TaskSignal:
    """An event that a task waits for, and that any thread may set."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.clear = self.event.clear

    def set(self) -> bool:
        """Wake who waits; whether somebody can: the event loop may have been closed under it."""
        try:
            self._loop.call_soon_threadsafe(self.event.set)
        except RuntimeError:
            return False
        return True

    async def wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self.event.wait()


Signal: TypeAlias = ThreadSignal | TaskSignal


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    signal: Signal
    permit: Permit | None = None


class ConcurrencyLimiter:
    """Give permits to send requests, as `rate` allows: first come, first served."""

    def __init__(self, rate: AdaptiveRateLimiter, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._queue: deque[_Waiter] = deque()
        self._inbox: Inbox[Callable[[], None]] = Inbox(self._apply)

    def acquire(self, tokens: int, signal: Signal) -> Flow[Permit]:
        """Wait for the permit to send a request of this many tokens."""
        waiter = _Waiter(tokens, signal)
        try:
            with self._inbox:
                self._queue.append(waiter)
            while True:
                with self._inbox:
                    signal.clear()
                    seconds = self._admit(waiter)
                    if waiter.permit is not None:
                        return waiter.permit
                yield signal.wait(seconds)
        except BaseException:
            self._inbox.put(lambda: self._withdraw(waiter))
            raise

    def release(self, permit: Permit | None, answer: EmbeddingAnswer | LavaError | None) -> None:
        """End the request that `permit` allowed and learn from its answer; there may be neither."""
        if permit is None:
            return
        outcome: Outcome = "failed"
        retry_after = None
        if isinstance(answer, EmbeddingAnswer):
            outcome = "answered"
        elif isinstance(answer, RateLimitError) or (answer is not None and answer.status_code == 503):
            outcome, retry_after = "refused", answer.retry_after
        headers = None if answer is None else answer.headers or None

        self._inbox.put(lambda: self.rate.end(permit, self._clock(), outcome, headers=headers, retry_after=retry_after))

    def _apply(self, change: Callable[[], None]) -> None:
        change()
        self._admit()

    def _admit(self, caller: _Waiter | None = None) -> float:
        """Give permits to whoever may go; seconds until the next may, infinity where another must end before.

        The first of those that stay is woken, so that it learns how long to wait, unless it is the caller.
        """
        now = self._clock()
        while self._queue:
            first = self._queue[0]
            if first.permit is None:
                wait = self.rate.wait(now, first.tokens)
                if wait > 0.0:
                    if wait == math.inf or first is caller or first.signal.set():
                        return wait
                else:
                    first.permit = self.rate.start(now, first.tokens)
            self._queue.popleft()
            if first is not caller and not first.signal.set():
                self._withdraw(first)
        return math.inf

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
        if waiter.permit is not None:
            # Nothing was sent.
            self.rate.in_flight -= 1
            waiter.permit = None
