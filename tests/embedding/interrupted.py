"""Embeds against a service that does not answer; a test interrupts it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.engine import EmbeddingEngine


class Service:
    """Says that it is under way, and never answers."""

    def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        if inputs[0] == "text 0":
            print("under way", flush=True)  # noqa: T201
        threading.Event().wait()
        raise AssertionError


EmbeddingEngine(Service(), count_tokens=lambda text: 8_000).embed([f"text {place}" for place in range(50)])
