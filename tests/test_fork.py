"""Forked children meet no lock that a thread of their parent holds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import weakref
from collections.abc import Callable

import pytest

from lava_mistral._locks import ForkSafeLock
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def passes_in_a_child(act: Callable[[], object]) -> bool:
    """Whether a forked child does it within seconds."""
    child = multiprocessing.get_context("fork").Process(target=act, daemon=True)
    child.start()
    child.join(20)
    if child.is_alive():
        child.kill()
        child.join()
    return child.exitcode == 0


def test_a_lock_is_free_in_a_child_and_still_held_in_its_parent() -> None:
    lock = ForkSafeLock()
    with lock:
        assert passes_in_a_child(lambda: os._exit(not lock.acquire(timeout=1)))
        assert lock.locked()


def test_a_lock_that_is_gone_is_forgotten() -> None:
    lock = ForkSafeLock()
    reference = weakref.ref(lock)
    del lock
    gc.collect()
    assert reference() is None


def test_every_lock_of_the_packages_is_one_that_a_child_finds_free() -> None:
    for package in ("lava_mistral", "langchain_lava_mistral", "llama_index_lava_mistral"):
        for file in (ROOT / package).rglob("*.py"):
            # The gateway is a server of its own; a forked child closes what it inherits of it.
            if file.name != "_locks.py" and "gateway" not in file.parts:
                assert not re.search(r"threading\.(R?Lock|Condition)\(", file.read_text("utf-8")), file
