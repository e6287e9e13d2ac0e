"""`POST /v1/embeddings` of the simulated Mistral: hashed n-grams, so that texts which share words are near each other.

A word is hashed once, to a few positions in the vector with a sign and a weight each: the word itself, its prefix and
its character trigrams. A text's vector is the sum over its words and its pairs of neighbouring words, at unit length.
"""

import asyncio
import uuid
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lava_mistral.gateway.faults import Fault, WrongVectors
from lava_mistral.gateway.mistral import rules
from lava_mistral.gateway.mistral.answers import json_answer
from lava_mistral.gateway.mistral.rules import DIMENSIONS
from lava_mistral.gateway.model.text import STOP_WORDS, count, words
from lava_mistral.gateway.request_log import RequestRecord
from lava_mistral.gateway.server import HttpAnswer
from lava_mistral.mistral.types import Usage
from lava_mistral.pricing.token_counting import count_tokens

Vectors: TypeAlias = npt.NDArray[np.float16]
_MANY = 8_000  # Characters whose embedding takes a millisecond: worth a thread, so that streams flow on meanwhile.
_FEATURES = 8  # Positions that one word takes in the vector.
_WORD = np.dtype([("hash", np.uint32), ("positions", np.int64, _FEATURES), ("weights", np.float64, _FEATURES)])


async def embedded(body: Mapping[str, Any], *, exact: bool) -> tuple[Vectors, int]:
    """Return the vectors of a request's texts and their number of tokens, by Mistral's tokenizer or quickly."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    dimensions = body.get("output_dimension") or DIMENSIONS

    def embed_all() -> tuple[Vectors, int]:
        counts = [count_tokens(text, model=body["model"]).tokens if exact else count(text) for text in texts]
        rules.check_inputs(counts, dimensions)
        return embed(texts, dimensions=dimensions), sum(counts)

    return await asyncio.to_thread(embed_all) if exact or sum(map(len, texts)) > _MANY else embed_all()


def answer(
    body: Mapping[str, Any], vectors: Vectors, tokens: int, record: RequestRecord, fault: Fault | None, *, base64: bool
) -> HttpAnswer:
    """Return the vectors as Mistral sends them, or wrong where the fault says so."""
    as_text = base64 and body.get("encoding_format") == "base64"
    dtype = body.get("output_dtype", "float")
    rows: npt.NDArray[Any]
    if dtype == "float":
        # In decimal, a 16-bit float has the few exact digits that Mistral's have only as a 64-bit float.
        rows = vectors.astype("<f4" if as_text else np.float64)
    elif dtype in ("int8", "uint8"):
        rows = np.rint(vectors.astype(np.float32) * 127 + (128 if dtype == "uint8" else 0)).astype(dtype)
    else:
        bits = np.packbits(vectors > 0, axis=1)
        rows = bits if dtype == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    written = [b64encode(row.tobytes()).decode() for row in rows] if as_text else list(rows)
    data = [{"object": "embedding", "embedding": row, "index": at} for at, row in enumerate(written)]
    if isinstance(fault, WrongVectors):
        data = _wrong(data, fault.how, as_text=as_text, dimensions=vectors.shape[1])
    usage: Usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    told = {"prompt_audio_seconds": None, **usage, "prompt_token_details": None}
    record.response_id = uuid.uuid4().hex
    named = {"id": record.response_id, "object": "list", "model": body["model"]}
    return json_answer(200, {**named, "data": data, "usage": told}, usage=usage)


def _wrong(data: list[dict[str, Any]], how: str, *, as_text: bool, dimensions: int) -> list[dict[str, Any]]:
    *others, last = data
    # orjson writes NaN as null, the only thing that JSON has for it; base64 holds a real one.
    nan = np.full(dimensions, np.nan, "<f4")
    lists = {
        "short": others,
        "empty": [],
        "shuffled": data[1::2][::-1] + data[::2],
        "duplicated": [*others, dict(data[0])] if others else [last, dict(last)],
        "dimension": [*others, {**last, "embedding": last["embedding"][: len(last["embedding"]) // 2]}],
        "nan": [*others, {**last, "embedding": b64encode(nan.tobytes()).decode() if as_text else nan}],
    }
    return lists[how]


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
