"""Tells for whom this code runs: for a pool of processes, in its thread or in one of them, or for the whole program."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any, Final

# `multiprocessing.Queue` names its thread like this. `concurrent.futures` sends through such a queue.
_FEEDER: Final = "QueueFeederThread"
_MANAGER: Final = "_ExecutorManagerThread"
"""`concurrent.futures.ProcessPoolExecutor`'s own thread."""
LOADER: Final = "mistral-tokenizer"
"""Our own thread that is no daemon, and sends nothing."""
_TASK_HANDLER: Final = ("multiprocessing.pool", "_handle_tasks")
_POOLS: Final = frozenset({"multiprocessing.pool", "concurrent.futures.process"})


def _target(of: Any) -> tuple[str, str]:
    """Module and name of the function that a thread or a process was started with."""
    function = getattr(of, "_target", None)
    return getattr(function, "__module__", ""), getattr(function, "__name__", "")


def feeds_processes() -> bool:
    """Whether this thread pickles what other threads have sent to processes: its context is not the sender's."""
    thread = threading.current_thread()
    return thread.name == _FEEDER or _target(thread) == _TASK_HANDLER


def others_may_send() -> bool:
    """Whether a thread is alive beside the main one that may send work to processes: neither a daemon nor a pool's."""
    return any(
        not thread.daemon
        and thread is not threading.main_thread()
        and type(thread).__name__ != _MANAGER
        and thread.name != LOADER
        for thread in threading.enumerate()
    )


def works_for_a_pool() -> bool:
    """Whether this process does the tasks of a pool: its context is that in which the pool was made."""
    # A process of a pool has loaded it; others need not.
    multiprocessing = sys.modules.get("multiprocessing.process")
    return multiprocessing is not None and _target(multiprocessing.current_process())[0] in _POOLS


def runs_alone() -> bool:
    """Whether the main thread does nothing else until this code is done: it runs there, and not in an event loop."""
    return threading.current_thread() is threading.main_thread() and asyncio._get_running_loop() is None
