"""Bound the requests in flight: one limiter an engine, shared by threads and by every event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from lava_mistral._locks import Inbox
from lava_mistral.calls.responses import EmbeddingAnswer
from lava_mistral.embedding.rate_limit import AdaptiveRateLimiter, Outcome, Permit, Stopped
from lava_mistral.errors import LavaError, RateLimitError


class StopSignal:
    """Tells the threads of one call that it is over."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.waiting: set[threading.Event] = set()

    def is_set(self) -> bool:
        """Whether the call is over."""
        return self._event.is_set()

    def set(self) -> None:
        """End the call and wake its threads that wait for a permit.

        No lock of the limiter is taken: the garbage collector may close a stream on top of whoever holds it.
        """
        self._event.set()
        for event in list(self.waiting):
            event.set()

    def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the call, which raises `Stopped`."""
        if self._event.wait(seconds):
            raise Stopped


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    wake: Callable[[], object]
    permit: Permit | None = None


class ConcurrencyLimiter:
    """Give permits to send requests, as `rate` allows: first come, first served."""

    def __init__(self, rate: AdaptiveRateLimiter, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._queue: deque[_Waiter] = deque()
        self._given: set[Permit] = set()
        self._inbox: Inbox[Callable[[], None]] = Inbox(self._apply)

    def acquire(self, tokens: int, stop: StopSignal) -> Permit:
        """Wait in a thread for the permit to send a request of this many tokens, or for `stop`: `Stopped`."""
        event = threading.Event()
        waiter = _Waiter(tokens, event.set)
        stop.waiting.add(event)
        try:
            wait = 0.0 if stop.is_set() else self._try(waiter, event.clear, new=True)
            while waiter.permit is None:
                if stop.is_set():
                    raise Stopped
                event.wait(None if wait == math.inf else wait)
                wait = self._try(waiter, event.clear)
            return waiter.permit
        except BaseException:
            self._inbox.put(lambda: self._withdraw(waiter))
            raise
        finally:
            stop.waiting.discard(event)

    async def aacquire(self, tokens: int) -> Permit:
        """Wait in a task for the permit to send a request of this many tokens."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        waiter = _Waiter(tokens, lambda: loop.call_soon_threadsafe(event.set))
        try:
            wait = self._try(waiter, event.clear, new=True)
            while waiter.permit is None:
                alarm = None if wait == math.inf else loop.call_later(wait, event.set)
                try:
                    await event.wait()
                finally:
                    if alarm is not None:
                        alarm.cancel()
                wait = self._try(waiter, event.clear)
            return waiter.permit
        except BaseException:
            self._inbox.put(lambda: self._withdraw(waiter))
            raise

    def release(
        self,
        permit: Permit,
        outcome: Outcome,
        *,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """End the request that `permit` allowed, see `AdaptiveRateLimiter.end`; said twice, it counts once."""

        def end() -> None:
            if permit in self._given:
                self._given.discard(permit)
                self.rate.end(permit, self._clock(), outcome, headers=headers, retry_after=retry_after)

        self._inbox.put(end)

    def _apply(self, change: Callable[[], None]) -> None:
        change()
        self._admit()

    def _try(self, waiter: _Waiter, clear: Callable[[], None], *, new: bool = False) -> float:
        """Ask for a permit; seconds to wait where there is none, infinity until being woken."""
        with self._inbox:
            if new:
                self._queue.append(waiter)
            if waiter.permit is not None:
                return 0.0
            clear()
            return self._admit(waiter)

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
                    if wait != math.inf and first is not caller and not self._wake(first):
                        self._queue.popleft()
                        continue
                    return wait
                first.permit = self.rate.start(now, first.tokens)
                self._given.add(first.permit)
            self._queue.popleft()
            if not self._wake(first):
                self._withdraw(first)
        return math.inf

    def _wake(self, waiter: _Waiter) -> bool:
        """Whether somebody still waits: its event loop may have been closed under it."""
        try:
            waiter.wake()
        except RuntimeError:
            return False
        return True

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
        if waiter.permit in self._given:
            self._given.discard(waiter.permit)
            self.rate.withdraw()


class PermitScope:
    """A block around one request, where `permit` is set; it goes back at the end, with what the answer taught."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self.permit: Permit | None = None
        self._limiter = limiter
        self._outcome: Outcome = "failed"
        self._headers: Mapping[str, str] | None = None
        self._retry_after: float | None = None

    def ended(self, answer: EmbeddingAnswer | LavaError) -> EmbeddingAnswer | LavaError:
        """Note what came, and give it back."""
        self._headers = answer.headers or None
        if not isinstance(answer, LavaError):
            self._outcome = "answered"
        elif isinstance(answer, RateLimitError) or answer.status_code == 503:
            self._outcome, self._retry_after = "refused", answer.retry_after
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._release()
        except BaseException:
            # Ctrl-C in the middle of it; a permit that nobody gives back would narrow the limit for good.
            self._release()
            raise

    def _release(self) -> None:
        if self.permit is not None:
            self._limiter.release(self.permit, self._outcome, headers=self._headers, retry_after=self._retry_after)
