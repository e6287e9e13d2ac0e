"""Simulated embeddings: hashed word and character n-grams, so that texts which share words are near each other.

A word is hashed once, to a few positions in the vector with a sign and a weight each: the word itself, its prefix and
its character trigrams. A text's vector is the sum over its words and its pairs of neighbouring words, at unit length.
"""

from __future__ import annotations

import threading
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lava_mistral.gateway.model.retrieval import STOP_WORDS
from lava_mistral.gateway.model.tokens import run_tokens, word_tokens, words

DIMENSIONS: Final = 1024
FEATURES: Final = 8
"""Positions that one word takes in the vector."""
MOST_WORDS: Final = 400_000
"""The memory of words begins anew beyond this, at about 200 bytes a word."""


class Embedder:
    """Embeds batches of texts; safe to use from threads.

    Args:
        most_words: how many words are kept, before all are forgotten.
    """

    def __init__(self, most_words: int = MOST_WORDS) -> None:
        self._most_words = most_words
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._ids: dict[str, int] = {}
        self._positions: npt.NDArray[np.int64] = np.zeros((4096, FEATURES), np.int64)
        self._weights: npt.NDArray[np.float64] = np.zeros((4096, FEATURES), np.float64)
        self._hashes: npt.NDArray[np.uint32] = np.zeros(4096, np.uint32)
        self._tokens: npt.NDArray[np.int32] = np.zeros(4096, np.int32)

    def __call__(self, texts: list[str], *, dimensions: int = DIMENSIONS) -> tuple[npt.NDArray[np.float16], list[int]]:
        """Return the texts' vectors, of unit length in 16-bit floats as Mistral's are, and their numbers of tokens.

        Args:
            texts: at least one.
            dimensions: the length of a vector, at most 1024.
        """
        rows = list(map(words, texts))
        with self._lock:
            ids, lengths = self._look_up(rows)
            return self._embed(ids, lengths, dimensions), self._count(ids, lengths, texts)

    def count(self, texts: list[str]) -> list[int]:
        """Return the texts' numbers of tokens."""
        rows = list(map(words, texts))
        with self._lock:
            return self._count(*self._look_up(rows), texts)

    def _count(self, ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], texts: list[str]) -> list[int]:
        ends, sums = np.cumsum(lengths), np.concatenate(([0], np.cumsum(self._tokens[ids])))
        counts: list[int] = (sums[ends] - sums[ends - lengths] + np.array(list(map(run_tokens, texts)))).tolist()
        return counts

    def _look_up(self, rows: list[list[str]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if len(self._ids) > self._most_words:
            self._forget()
        flat = [word for row in rows for word in row]
        for word in {word for word in flat if word not in self._ids}:
            self._add(word)
        ids = np.fromiter(map(self._ids.__getitem__, flat), np.int64, len(flat))
        return ids, np.array([len(row) for row in rows], np.int64)

    def _add(self, word: str) -> None:
        new = self._ids[word] = len(self._ids)
        if new == len(self._tokens):
            for name in ("_positions", "_weights", "_hashes", "_tokens"):
                old: npt.NDArray[Any] = getattr(self, name)
                setattr(self, name, np.concatenate((old, np.zeros_like(old))))
        self._tokens[new] = word_tokens(word)
        self._hashes[new], self._positions[new], self._weights[new] = _features(word)

    def _embed(
        self, ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], dimensions: int
    ) -> npt.NDArray[np.float16]:
        texts = len(lengths)
        starts = np.repeat(np.arange(texts, dtype=np.int64), lengths) * DIMENSIONS
        places = (starts[:, None] + self._positions[ids]).ravel()
        weights = self._weights[ids]
        # Pairs of neighbours tell apart texts of the same words; a pair across two texts weighs nothing.
        hashes = self._hashes[ids]
        pairs = hashes[:-1] * np.uint32(2654435761) + hashes[1:]
        together = np.sqrt(np.abs(weights[:-1, 0] * weights[1:, 0])) * (starts[:-1] == starts[1:])
        sums = np.bincount(places, weights.ravel(), minlength=texts * DIMENSIONS)
        sums += np.bincount(
            starts[:-1] + (pairs >> np.uint32(22)),
            together * np.where(pairs & np.uint32(1), 0.35, -0.35),
            minlength=texts * DIMENSIONS,
        )
        vectors = sums.reshape(texts, DIMENSIONS)[:, :dimensions]
        # A text without a single word still has a direction, and a vector its length.
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        if not norms.all():
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
    share = weight * 0.9 / len(grams) ** 0.5
    weights = [weight] + [share] * len(grams)
    signed = [value if hash_ & 1 else -value for hash_, value in zip(hashes, weights, strict=True)]
    positions = [(hash_ >> 8) % DIMENSIONS for hash_ in hashes]
    missing = FEATURES - len(positions)
    return whole, positions + [0] * missing, signed + [0.0] * missing
