"""Wait until something is so: as short as it takes, and long enough for a machine that is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE = 30.0


def eventually(happened: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait in sync code until `happened` returns something true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.002)


async def aeventually(happened: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait in async code until `happened` returns something true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it has not come to pass"
        await asyncio.sleep(0.002)
