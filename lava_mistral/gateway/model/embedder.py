"""Simulated embeddings: hashed word and character n-grams, so that texts which share words are near each other.

A word is hashed once, to a few positions in the vector with a sign and a weight each: the word itself, its prefix and
its character trigrams. A text's vector is the sum over its words and its pairs of neighbouring words, at unit length.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from lava_mistral.gateway.model.text import STOP_WORDS, words

DIMENSIONS: Final = 1024
_FEATURES = 8  # Positions that one word takes in the vector.
_WORD = np.dtype([("hash", np.uint32), ("positions", np.int64, _FEATURES), ("weights", np.float64, _FEATURES)])
Vectors: TypeAlias = npt.NDArray[np.float16]


def embed(texts: Sequence[str], *, dimensions: int = DIMENSIONS) -> Vectors:
    """Return the texts' vectors, of unit length in 16-bit floats as Mistral's are; at least one text is needed."""
    rows = list(map(words, texts))
    found = np.frombuffer(b"".join(_features(word) for row in rows for word in row), _WORD)
    hashes, positions, weights = found["hash"], found["positions"], found["weights"]
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
    unit: Vectors = (vectors / norms[:, None]).astype(np.float16)
    return unit


@lru_cache(400_000)
def _features(word: str) -> bytes:
    folded = word.casefold()
    weight = 0.05 if not word[0].isalnum() else 0.1 if folded in STOP_WORDS else 1.0
    framed = f"<{folded}>"
    grams = [framed[at : at + 3] for at in range(len(framed) - 2)]
    if len(grams) > _FEATURES - 2:
        # An even choice of a long word's trigrams.
        step = len(grams) / (_FEATURES - 2)
        grams = [grams[int(at * step)] for at in range(_FEATURES - 2)]
    seeded = [(folded, 0), (folded[:5], 7), *((gram, 7) for gram in grams)]
    hashes = [zlib.crc32(text.encode("utf-8", "surrogatepass"), seed) for text, seed in seeded]
    features = np.zeros((), _WORD)
    features["hash"] = hashes[0]
    features["positions"][: len(hashes)] = [(hash_ >> 8) % DIMENSIONS for hash_ in hashes]
    share = weight * 0.9 / (len(hashes) - 1) ** 0.5
    weights = [weight] + [share] * (len(hashes) - 1)
    features["weights"][: len(hashes)] = [w if h & 1 else -w for w, h in zip(weights, hashes, strict=True)]
    return features.tobytes()
