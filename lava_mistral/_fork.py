"""Locks that a forked child finds free, whichever thread of its parent held them at the moment of the fork."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

_locks: WeakSet[threading.Lock] = WeakSet()


def new_lock() -> threading.Lock:
    """A `threading.Lock` that is free in every forked child: the thread that would release it there does not exist.

    What it guards must be whole whenever the lock may be seen free, since a fork can come at any point of a block.
    """
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def _after_fork() -> None:
    for lock in list(_locks):
        # What the standard library does with its own locks; Python has no public name for it.
        lock._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
