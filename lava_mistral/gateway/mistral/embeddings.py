"""`POST /v1/embeddings` of the simulated Mistral."""

from __future__ import annotations

import asyncio
import uuid
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lava_mistral.gateway.faults import WrongVectors
from lava_mistral.gateway.mistral import rules
from lava_mistral.gateway.mistral.answers import Terms, json_answer
from lava_mistral.gateway.model.embedder import DIMENSIONS, Vectors, embed
from lava_mistral.gateway.model.text import count
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.server.delivery import Answer
from lava_mistral.mistral.types import Usage
from lava_mistral.pricing.tokens import count_tokens

# Characters whose embedding takes a millisecond: worth a thread, so that streams flow on meanwhile.
_MANY = 8_000


async def embedded(body: Mapping[str, Any], *, exact: bool) -> tuple[Vectors, int]:
    """Return the vectors of a request's texts and their number of tokens, by Mistral's tokenizer or quickly."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    dimensions = body.get("output_dimension") or DIMENSIONS

    def embed_all() -> tuple[Vectors, int]:
        counts = [count_tokens(text, model=body["model"]).tokens if exact else count(text) for text in texts]
        rules.check_inputs(counts, dimensions)
        return embed(texts, dimensions=dimensions), sum(counts)

    return await asyncio.to_thread(embed_all) if exact or sum(map(len, texts)) > _MANY else embed_all()


def answer(body: Mapping[str, Any], vectors: Vectors, tokens: int, terms: Terms, options: Options) -> Answer:
    """Return the vectors as Mistral sends them, or wrong where the fault says so."""
    as_text = body.get("encoding_format") == "base64" and options.base64
    rows = _rows(vectors, body.get("output_dtype", "float"), as_text=as_text)
    written = [b64encode(row.tobytes()).decode() for row in rows] if as_text else list(rows)
    data = [{"object": "embedding", "embedding": row, "index": at} for at, row in enumerate(written)]
    if isinstance(terms.fault, WrongVectors):
        data = _wrong(data, terms.fault.how, as_text=as_text, dimensions=vectors.shape[1])
    usage: Usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    told = {"prompt_audio_seconds": None, **usage, "prompt_token_details": None}
    terms.record.response_id = uuid.uuid4().hex
    named = {"id": terms.record.response_id, "object": "list", "model": body["model"]}
    response = {**named, "data": data, "usage": told}
    return json_answer(200, response, terms.limits(tokens), delay=terms.delay, usage=usage)


def _rows(vectors: Vectors, dtype: str, *, as_text: bool) -> npt.NDArray[Any]:
    match dtype:
        case "float":
            # In decimal, a 16-bit float has the few exact digits that Mistral's have only as a 64-bit float.
            return vectors.astype("<f4" if as_text else np.float64)
        case "int8":
            return np.rint(vectors.astype(np.float32) * 127).astype(np.int8)
        case "uint8":
            return np.rint(vectors.astype(np.float32) * 127 + 128).astype(np.uint8)
    bits = np.packbits(vectors > 0, axis=1)
    return bits if dtype == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)


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
