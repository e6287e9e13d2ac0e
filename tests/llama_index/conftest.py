"""Fixtures of the LlamaIndex package's tests."""

from __future__ import annotations

import pytest

from tests.fakes.llama_index_scripted import Caller


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    """Runs a scenario in sync code, then in async code."""
    return Caller(request.param)
