"""Locks that a forked child finds free, and an inbox for changes that must not wait for a lock."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_locks: WeakSet[ForkSafeLock] = WeakSet()


class ForkSafeLock:
    """Lock like `threading.Lock`; a forked child finds it free, though the thread that held it does not exist there."""

    __slots__ = ("__weakref__", "acquire", "locked", "release")

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        lock = threading.Lock()
        self.acquire, self.release, self.locked = lock.acquire, lock.release, lock.locked

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


def after_fork(callback: Callable[[], None]) -> None:
    """Call a function in every forked child, after its locks were freed."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


def _free() -> None:
    for lock in list(_locks):
        lock.renew()


after_fork(_free)


class Inbox(Generic[T]):
    """Guard a state by a lock that whoever reports a change of it never waits for: `with inbox:` all is applied.

    A request can end while the garbage collector runs, on top of any frame of any thread, also one that holds the lock
    (a `__del__` that ends an abandoned stream). So `put` stores the item, and whoever holds the lock applies it.
    """

    def __init__(self, apply: Callable[[T], None]) -> None:
        self._apply = apply
        self._items: deque[T] = deque()
        self._lock = ForkSafeLock()

    def put(self, item: T) -> None:
        """Apply the item now if the lock is free, else when its holder releases it."""
        self._items.append(item)
        self._apply_waiting()

    def _apply_waiting(self) -> None:
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
        self._apply_waiting()
