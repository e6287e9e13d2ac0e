"""Keep a forked child usable: its locks are free, and what belongs to the parent is dropped.

A thread that holds a lock at the moment of a fork does not exist in the child and would never release it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from weakref import WeakSet

_locks: WeakSet[ForkSafeLock] = WeakSet()
_callbacks: list[Callable[[], None]] = []


class ForkSafeLock:
    """Lock like `threading.Lock`; every forked child finds it free.

    What it guards must be whole whenever the lock may be seen free, since a fork can come at any point of a block.
    """

    __slots__ = ("__weakref__", "acquire", "locked", "release")

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Replace the lock beneath by a free one."""
        lock = threading.Lock()
        self.acquire, self.release, self.locked = lock.acquire, lock.release, lock.locked

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


new_lock = ForkSafeLock


def after_fork(callback: Callable[[], None]) -> None:
    """Call a function in every forked child, after its locks were freed."""
    _callbacks.append(callback)


def _in_child() -> None:
    for lock in list(_locks):
        lock.renew()
    for callback in _callbacks:
        callback()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
