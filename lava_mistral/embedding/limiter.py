"""Bound the requests in flight: one limiter an engine, shared by threads and by every event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

from lava_mistral._locks import Inbox
from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.rate_limit import AdaptiveRateLimiter, Outcome, Permit, Stopped
from lava_mistral.errors import LavaError, RateLimitError

_LOOK: Final = 0.2
"""Seconds after which a thread that waits for a permit looks whether its call is over."""


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    notify: Callable[[], object]
    permit: Permit | None = None

    def wake(self) -> bool:
        """Whether somebody still waits: its event loop may have been closed under it."""
        try:
            self.notify()
        except RuntimeError:
            return False
        return True


class ConcurrencyLimiter:
    """Give permits to send requests, as `rate` allows: first come, first served."""

    def __init__(self, rate: AdaptiveRateLimiter, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._queue: deque[_Waiter] = deque()
        self._inbox: Inbox[Callable[[], None]] = Inbox(self._apply)

    def acquire(self, tokens: int, stop: threading.Event) -> Permit:
        """Wait in a thread for the permit to send a request of this many tokens, or for `stop`: `Stopped`."""
        if stop.is_set():
            raise Stopped
        event = threading.Event()
        waiter = _Waiter(tokens, event.set)
        with closing(self._waits(waiter, event)) as waits:
            for seconds in waits:
                event.wait(min(seconds, _LOOK))
                if stop.is_set():
                    raise Stopped
        assert waiter.permit is not None
        return waiter.permit

    async def aacquire(self, tokens: int) -> Permit:
        """Wait in a task for the permit to send a request of this many tokens."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        waiter = _Waiter(tokens, lambda: loop.call_soon_threadsafe(event.set))
        with closing(self._waits(waiter, event)) as waits:
            for seconds in waits:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await event.wait()
        assert waiter.permit is not None
        return waiter.permit

    def _waits(self, waiter: _Waiter, event: threading.Event | asyncio.Event) -> Generator[float, None, None]:
        """Queue up; yield the seconds to wait for `event` until the permit is there, infinity for any time."""
        try:
            with self._inbox:
                self._queue.append(waiter)
            while True:
                with self._inbox:
                    event.clear()
                    seconds = self._admit(waiter)
                    if waiter.permit is not None:
                        return
                yield seconds
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
                    if wait == math.inf or first is caller or first.wake():
                        return wait
                else:
                    first.permit = self.rate.start(now, first.tokens)
            self._queue.popleft()
            if first.permit is not None and not first.wake():
                self._withdraw(first)
        return math.inf

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
        if waiter.permit is not None:
            # Nothing was sent.
            self.rate.in_flight -= 1
            waiter.permit = None
