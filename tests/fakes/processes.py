"""What the processes of pools do. A module of its own, since a spawned process imports all that stands beside it."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import EmbeddingEngine


def work(model: Any) -> str:
    """One paid call; the process's name."""
    if hasattr(model, "invoke"):
        model.invoke("Hello")
    elif hasattr(model, "complete"):
        model.complete("Hello")
    elif hasattr(model, "embed_query"):
        model.embed_query("Hello")
    elif hasattr(model, "get_query_embedding"):
        model.get_query_embedding("Hello")
    else:
        model.chat([{"role": "user", "content": "Hello"}])
    return multiprocessing.current_process().name


def load_and_work(pickled: bytes) -> str:
    """The same with a model that was pickled before."""
    return work(pickle.loads(pickled))


def work_in_a_block(model: Any) -> None:
    """A call, and one inside a block that is opened here."""
    from lava_mistral import billed_to

    work(model)
    with billed_to(meter_slug="inner"):
        work(model)


def embed_in_both_ways(engine: EmbeddingEngine, texts: list[str]) -> list[list[float]]:
    """The vectors by a sync call, which those of an async call equal."""
    import asyncio

    vectors: list[list[float]] = engine.embed(texts).vectors
    assert asyncio.run(engine.aembed(texts)).vectors == vectors
    return vectors
