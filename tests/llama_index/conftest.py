"""Fixtures of the LlamaIndex package's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.llama_index.scripted import Caller


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    """Runs a scenario in sync code, then in async code."""
    return Caller(request.param)


@pytest.fixture
def idle_loop() -> Iterator[None]:
    """An event loop for what LlamaIndex runs in sync code: it takes the thread's own, or leaves one open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    asyncio.set_event_loop(None)
