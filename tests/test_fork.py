"""Forked children meet no lock that a thread of their parent holds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from lava_mistral import Model, SpendLimit, UsageTotals
from lava_mistral._fork import ForkSafeLock
from lava_mistral.embedding import engine as embedding
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.limiter import Gate, Stop
from lava_mistral.embedding.rate_limit import Pacer
from lava_mistral.pricing import catalog
from lava_mistral.pricing.catalog import add_model
from lava_mistral.transport import pools

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


def _draw_on(limit: SpendLimit) -> None:
    limit.reserve(Decimal("0.5"))
    assert limit.left == Decimal("0.5")


def _embed(engine: EmbeddingEngine) -> None:
    assert engine.gate.enter(1, Stop())


limit, totals, engine, gate = SpendLimit("1"), UsageTotals(), EmbeddingEngine(), Gate(Pacer(1))

HELD: dict[str, tuple[Any, Callable[[], object]]] = {
    "catalogue": (catalog._lock, lambda: add_model(Model("new"))),
    "engine": (embedding._starting, lambda: _embed(engine)),
    "gate": (gate._lock, lambda: gate.leave(gate.enter(1, Stop()), "answered")),
    "pools": (pools._lock, pools.close_sync_pools),
    "spend limit": (limit._lock, lambda: _draw_on(limit)),
    "usage": (totals._lock, lambda: totals.total),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_thread_holds_during_a_fork_does_not_stop_the_child(name: str) -> None:
    lock, act = HELD[name]
    with lock:
        assert passes_in_a_child(act)


def test_the_embeddings_of_both_frameworks_are_made_in_a_child_while_a_thread_makes_others() -> None:
    langchain = pytest.importorskip("langchain_lava_mistral.embeddings")
    llama_index = pytest.importorskip("llama_index_lava_mistral.embeddings")
    with langchain._building, llama_index._making:
        assert passes_in_a_child(lambda: langchain.LavaMistralEmbeddings()._engine())
        assert passes_in_a_child(lambda: llama_index.LavaMistralEmbeddings()._engine())


FORK_WHILE_LOADING = """
import os, threading, time, warnings
warnings.simplefilter("ignore")
from lava_mistral.pricing import tokenizers
assert tokenizers.prepare("mistral-embed") is False
while not tokenizers._lock.locked():
    time.sleep(0.001)
child = os.fork()
if child == 0:
    os._exit(0 if tokenizers.count_text("a word", "mistral-embed") else 1)
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        # The parent can fork, and load, as before.
        assert tokenizers._lock.acquire(timeout=10)
        raise SystemExit(os.waitstatus_to_exitcode(status))
    time.sleep(0.01)
os.kill(child, 9)
raise SystemExit("the child hangs")
"""


def test_a_fork_waits_for_a_tokenizer_that_is_being_loaded() -> None:
    pytest.importorskip("mistral_common", reason="the extra [tokenizer] is not installed")
    subprocess.run([sys.executable, "-c", FORK_WHILE_LOADING], check=True, timeout=60)
