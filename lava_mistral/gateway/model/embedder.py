"""Simulated embeddings: hashed word and character n-grams, so that texts which share words are near each other.

A word is hashed once, to a few positions in the vector with a sign and a weight each: the word itself, its prefix and
its character trigrams. A text's vector is the sum over its words and its pairs of neighbouring words, at unit length.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from lava_mistral.gateway.model.text import STOP_WORDS, words

DIMENSIONS: Final = 1024
FEATURES: Final = 8
"""Positions that one word takes in the vector."""


class Embedder:
    """Embeds batches of texts; safe to use from threads. It keeps so many words, before all are forgotten."""

    def __init__(self, most_words: int = 400_000) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, int] = {}
        # Memory that is not written to is not taken.
        self._positions: npt.NDArray[np.int64] = np.zeros((most_words, FEATURES), np.int64)
        self._weights: npt.NDArray[np.float64] = np.zeros((most_words, FEATURES), np.float64)
        self._hashes: npt.NDArray[np.uint32] = np.zeros(most_words, np.uint32)

    def __call__(self, texts: Sequence[str], *, dimensions: int = DIMENSIONS) -> npt.NDArray[np.float16]:
        """Return the texts' vectors, of unit length in 16-bit floats as Mistral's are; at least one text is needed."""
        rows = list(map(words, texts))
        flat = [word for row in rows for word in row]
        with self._lock:
            if len(self._ids) + len(new := {word for word in flat if word not in self._ids}) > len(self._hashes):
                self._ids.clear()
                new = set(flat)
            for at, word in enumerate(new, len(self._ids)):
                self._hashes[at], self._positions[at], self._weights[at] = _features(word)
                self._ids[word] = at
            ids = np.fromiter(map(self._ids.__getitem__, flat), np.int64, len(flat))
            positions, weights, hashes = self._positions[ids], self._weights[ids], self._hashes[ids]
        size = len(texts) * DIMENSIONS
        starts = np.repeat(np.arange(0, size, DIMENSIONS, dtype=np.int64), list(map(len, rows)))
        sums = np.bincount((starts[:, None] + positions).ravel(), weights.ravel(), minlength=size)
        # Pairs of neighbours tell apart texts of the same words; a pair across two texts weighs nothing.
        pairs = hashes[:-1] * np.uint32(2654435761) + hashes[1:]
        together = np.sqrt(np.abs(weights[:-1, 0] * weights[1:, 0])) * (starts[:-1] == starts[1:])
        signed = together * np.where(pairs & np.uint32(1), 0.35, -0.35)
        sums += np.bincount(starts[:-1] + (pairs >> np.uint32(22)), signed, minlength=size)
        vectors = sums.reshape(len(texts), DIMENSIONS)[:, :dimensions]
        # A text without a single word still has a direction, and a vector its length.
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        vectors[norms == 0.0, 0] = 1.0
        norms[norms == 0.0] = 1.0
        unit: npt.NDArray[np.float16] = (vectors / norms[:, None]).astype(np.float16)
        return unit


def _features(word: str) -> tuple[int, list[int], list[float]]:
    folded = word.casefold()
    whole = zlib.crc32(folded.encode("utf-8", "surrogatepass"))
    weight = 0.05 if not word[0].isalnum() else 0.1 if folded in STOP_WORDS else 1.0
    framed = f"<{folded}>"
    grams = [folded[:5]] + [framed[at : at + 3] for at in range(len(framed) - 2)]
    if len(grams) > FEATURES - 1:
        # An even choice of a long word's trigrams, the prefix always among them.
        step = (len(grams) - 1) / (FEATURES - 2)
        grams = [grams[0]] + [grams[1 + int(at * step)] for at in range(FEATURES - 2)]
    hashes = [whole] + [zlib.crc32(gram.encode("utf-8", "surrogatepass"), 7) for gram in grams]
    weights = [weight] + [weight * 0.9 / len(grams) ** 0.5] * len(grams)
    signed = [value if hash_ & 1 else -value for hash_, value in zip(hashes, weights, strict=True)]
    missing = FEATURES - len(hashes)
    return whole, [(hash_ >> 8) % DIMENSIONS for hash_ in hashes] + [0] * missing, signed + [0.0] * missing
