"""Embeds many short texts as a stream and prints by how many MB the process grew, and how fast it was.

The service is in memory and its answers are prepared, so that what is measured is the engine.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.engine import EmbeddingEngine

ROWS = [base64.b64encode(np.full(1024, place / 1024, "<f4").tobytes()).decode() for place in range(512)]


class Service:
    """Gives each text a vector of its number modulo 512."""

    def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        data = [{"index": place, "embedding": "".join(ROWS[int(text) % 512])} for place, text in enumerate(inputs)]
        # A copy for each answer, as if it had come over the wire.
        for item in data:
            item["embedding"] = item["embedding"].encode().decode()  # type: ignore[attr-defined]
        response: Any = {"data": data, "usage": {"prompt_tokens": 3 * len(inputs)}}
        return EmbeddingAnswer(response=response, headers={}, request_id="req")


def resident() -> float:
    """This process's memory in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def stream(engine: EmbeddingEngine, texts: Iterator[str], way: str) -> Iterator[tuple[int, Any]]:
    if way == "iter":
        yield from engine.embed_iter(texts)
    else:
        for batch in engine.prefetch(texts, str, lambda text, vector: (int(text), vector), batch_size=64):
            # As a store would ask for them.
            assert engine.embed([str(index) for index, _ in batch]).requests == 0
            yield from batch


def main(count: int, way: str = "iter") -> None:
    def texts() -> Iterator[str]:
        for number in range(count):
            yield str(number)

    engine = EmbeddingEngine(Service(), max_concurrency=4, count_tokens=lambda text: 4)
    for _, _ in engine.embed_iter(str(number) for number in range(600)):
        pass
    before = most = resident()
    began = time.perf_counter()
    for index, vector in stream(engine, texts(), way):
        assert vector[7] == (index % 512) / 1024
        if index % 1_000 == 0:
            most = max(most, resident())
    seconds = time.perf_counter() - began
    print(f"{most - before:.1f} MB grown, {count / seconds:,.0f} texts a second")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
