"""Keep track of a batch of texts whose vectors come from LlamaIndex's `embeddings_cache` or from Mistral. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from llama_index.core.base.embeddings.base import Embedding

from lava_mistral.embedding.results import PartialEmbedding, known_vectors, partial_of

COLLECTION: Final = "embeddings"
"""The collection in which LlamaIndex looks for vectors."""


class CachedBatch:
    """The texts of one call, and those of their `vectors` that were taken, in the order of the texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._known: dict[str, Embedding] = {}
        self._cached: set[str] = set()
        self.vectors: list[Embedding] = []

    @property
    def distinct(self) -> list[str]:
        """The texts, each once."""
        return list(dict.fromkeys(self._texts))

    @property
    def missing(self) -> list[str]:
        """The texts that the cache does not hold, each once."""
        return [text for text in self.distinct if text not in self._cached]

    def look_up(self, text: str, held: Mapping[str, Any] | None) -> None:
        """Note what the cache holds for a text."""
        if held:
            self._known[text] = next(iter(held.values()))
            self._cached.add(text)

    def resume_from(self, partial: PartialEmbedding | None) -> PartialEmbedding:
        """Return what the engine need not ask for: the cache's vectors, and those that an earlier call had got."""
        return known_vectors(self._texts, self._known, partial)

    def take(self, index: int, vector: Embedding) -> Iterator[tuple[str, dict[str, Embedding]]]:
        """Take the vector of the next text, and yield what the cache shall store, if anything."""
        text = self._texts[index]
        self.vectors.append(vector)
        if text not in self._cached:
            self._known[text] = vector
            self._cached.add(text)
            # A copy: the caller may change the vector.
            yield text, _entry(list(vector))

    def rest(self, error: BaseException) -> Iterator[tuple[str, dict[str, Embedding]]]:
        """Give the error that ended the call the vectors that are there, and yield what the cache shall store."""
        partial = replace(known_vectors(self._texts, self._known, partial_of(error)), next_index=0)
        error.partial = partial  # type: ignore[attr-defined]
        for index, vector in partial.vectors.items():
            if self._texts[index] not in self._cached:
                self._cached.add(self._texts[index])
                yield self._texts[index], _entry(vector)


def _entry(vector: Embedding) -> dict[str, Embedding]:
    return {str(uuid.uuid4()): vector}
