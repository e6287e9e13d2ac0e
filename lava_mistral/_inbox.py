"""Hand items to the owner of a lock without waiting for the lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from lava_mistral._fork import ForkSafeLock

T = TypeVar("T")


class Inbox(Generic[T]):
    """Guard a state by a lock that whoever reports a change of it never waits for.

    A request can end while the garbage collector runs, on top of any frame of any thread, also one that holds the lock
    (a `__del__` that ends an abandoned stream). So `put` never blocks: it stores the item, and whoever holds the lock
    applies it.

        with inbox:      # the lock is held and every item is applied
            return self._total

    Args:
        apply: applies one item to the state; called with the lock held.
    """

    def __init__(self, apply: Callable[[T], None]) -> None:
        self._apply = apply
        self._items: deque[T] = deque()
        self._lock = ForkSafeLock()

    def put(self, item: T) -> None:
        """Apply the item now if the lock is free, else when its holder releases it."""
        self._items.append(item)
        self._settle()

    def _settle(self) -> None:
        # Again after each release: an item may have come just before it, when the lock could not be had.
        while self._items and self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()

    def _drain(self) -> None:
        while self._items:
            self._apply(self._items.popleft())

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._drain()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
        self._settle()
