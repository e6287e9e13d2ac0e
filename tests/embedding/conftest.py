"""Fixtures of the tests of embeddings."""

from __future__ import annotations

import pytest

from tests.fakes.vector_service import engine_threads
from tests.fakes.waiting import eventually


@pytest.fixture(autouse=True)
def _no_threads_of_others() -> None:
    """Begin when the threads of an earlier test have ended: tests look at all of the process's."""
    eventually(lambda: not engine_threads())
