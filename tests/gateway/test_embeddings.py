"""Simulated embeddings: unit vectors, near for similar texts, in every form that Mistral sends."""

from __future__ import annotations

import base64
import re
import threading

import numpy as np
import orjson
import pytest

from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.mistral.embeddings import embed
from lava_mistral.gateway.model import text as pieces


def vectors(*texts: str) -> np.ndarray:
    return embed(list(texts)).astype(np.float32)


def similarity(one: str, other: str) -> float:
    first, second = vectors(one, other)
    return float(first @ second)


def test_an_answer_has_the_fields_of_a_recorded_one(forward, gateway):
    response = forward.embed(["Tell me a joke about OpenTelemetry", "Tell me a joke about Traceloop"])
    body = response.json()
    assert body.keys() == {"id", "object", "data", "model", "usage"}
    assert re.fullmatch("[0-9a-f]{32}", body["id"])
    assert (body["object"], body["model"]) == ("list", "mistral-embed")
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", 0), ("embedding", 1)]
    tokens = body["usage"]["prompt_tokens"]
    assert body["usage"] == {
        "prompt_audio_seconds": None,
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_token_details": None,
    }
    assert response.headers["x-ratelimit-tokens-query-cost"] == str(tokens)
    assert gateway.requests[0].kind == "embeddings"


def test_vectors_have_1024_numbers_of_16_bits_and_unit_length(forward):
    raw = forward.embed("Paris is the capital of France.").content
    [numbers] = [one["embedding"] for one in orjson.loads(raw)["data"]]
    assert len(numbers) == 1024
    assert all(type(number) is float for number in numbers)
    assert [float(np.float16(number)) for number in numbers] == numbers
    assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-3)
    assert b"[0," not in raw


def test_base64_holds_the_same_numbers_as_little_endian_floats(forward):
    texts = ["One text.", "Another, longer text."]
    plain = [one["embedding"] for one in forward.embed(texts).json()["data"]]
    coded = [one["embedding"] for one in forward.embed(texts, encoding_format="base64").json()["data"]]
    assert [np.frombuffer(base64.b64decode(one), "<f4").tolist() for one in coded] == plain


def test_base64_may_be_ignored(connect):
    with LocalGateway(base64=False) as gateway:
        [one] = connect(gateway).embed("a", encoding_format="base64").json()["data"]
    assert len(one["embedding"]) == 1024


@pytest.mark.parametrize(
    ("dtype", "length", "low", "high"),
    [("int8", 1024, -127, 127), ("uint8", 1024, 0, 255), ("binary", 128, -128, 127), ("ubinary", 128, 0, 255)],
)
def test_other_number_types(forward, dtype, length, low, high):
    [one] = forward.embed("Paris is the capital of France.", output_dtype=dtype).json()["data"]
    assert len(one["embedding"]) == length
    assert all(type(number) is int and low <= number <= high for number in one["embedding"])
    assert len(set(one["embedding"])) > 2


def test_fewer_dimensions_are_still_of_unit_length(forward):
    [one] = forward.embed("Paris is the capital of France.", output_dimension=256).json()["data"]
    assert len(one["embedding"]) == 256
    assert np.linalg.norm(one["embedding"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("How do I get a refund?", "Refunds are paid within 14 days.", "The office is in Paris."),
        ("Delivery takes three days.", "How many days does the delivery take?", "Cats like to sleep in the sun."),
        ("Das Büro ist in Lyon.", "Wo ist das Büro?", "Die Lieferung dauert drei Tage."),
        ("巴黎是法国的首都", "法国首都巴黎", "机器学习很有趣"),
        ("def embed_documents(self, texts)", "embed_documents(texts)", "raise ValueError(message)"),
    ],
)
def test_similar_texts_are_near(text, near, far):
    assert similarity(text, near) > similarity(text, far) + 0.05


def test_a_question_finds_its_passage_among_many():
    subjects = ["gardens", "volcanoes", "violins", "bridges", "glaciers", "bakeries", "lighthouses", "telescopes"]
    passages = [
        f"This chapter is about {subject}, how they came to be and who looks after them." for subject in subjects
    ]
    stored = embed(passages).astype(np.float32)
    for at, subject in enumerate(subjects):
        asked = embed([f"Tell me who looks after {subject}"]).astype(np.float32)[0]
        assert int(np.argmax(stored @ asked)) == at


def test_the_same_text_has_the_same_vector_everywhere():
    texts = ["one two three", "", "…", "naïve café", "x" * 500, "1 2 3 4", "🙂 🙂"]
    alone = [vectors(text)[0] for text in texts]
    assert np.array_equal(np.stack(alone), vectors(*texts))
    assert np.array_equal(vectors(*texts), vectors(*texts[::-1])[::-1])
    assert np.allclose(np.linalg.norm(vectors(*texts), axis=1), 1, atol=1e-3)


def test_word_order_shows_a_little():
    assert 0.9 < similarity("dog bites man", "man bites dog") < 1


def test_counts_agree_with_the_tokens_of_the_text(forward):
    texts = ["one two", "", "Überraschungsmomente 2024", "日本語です", "a-b_c … !!", "word " * 50]
    usage = forward.embed(texts).json()["usage"]
    assert usage["prompt_tokens"] == sum(len([one for one in pieces.split(text) if one.strip()]) for text in texts)


def test_threads_embed_at_once():
    texts = [[f"thread {number} says {word}" for word in ("alpha", "beta", "gamma")] for number in range(16)]
    expected = [embed(batch) for batch in texts]
    found: list[np.ndarray | None] = [None] * 16

    def work(number: int) -> None:
        for _ in range(20):
            found[number] = embed(texts[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_large_batch_comes_back_whole(forward):
    texts = [f"text number {number} " + "word " * 25 for number in range(500)]
    data = forward.embed(texts, encoding_format="base64").json()["data"]
    assert [one["index"] for one in data] == list(range(500))
    last = np.frombuffer(base64.b64decode(data[-1]["embedding"]), "<f4")
    assert np.array_equal(last, vectors(texts[-1])[0])
