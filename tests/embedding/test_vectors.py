"""What comes back: read in every encoding, refused when it could put a vector on the wrong text."""

from __future__ import annotations

import base64
import itertools
import math
import random
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.embedding.decoding import BadAnswer, UnreadableBase64, read_rows, to_lists

DIMENSION = 8


def vector(place: int, dimension: int = DIMENSION) -> list[float]:
    """Numbers that 16 bits can hold, different for each place."""
    return [(place * dimension + step) / 64 for step in range(dimension)]


def encode(numbers: list[float], how: str) -> Any:
    if how == "float":
        return numbers
    return base64.b64encode(struct.pack(f"<{len(numbers)}{'f' if how == 'float32' else 'e'}", *numbers)).decode()


def answer(count: int, how: str = "float") -> list[dict[str, Any]]:
    return [{"object": "embedding", "index": place, "embedding": encode(vector(place), how)} for place in range(count)]


def read(data: list[Any], count: int, dimension: int | None = DIMENSION) -> list[list[float]]:
    return to_lists(read_rows(data, count, dimension=dimension))


@pytest.mark.parametrize("how", ["float", "float32", "float16"])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_every_encoding_gives_the_same_floats(how: str, count: int) -> None:
    data = answer(count, how)
    random.Random(count).shuffle(data)
    rows = read(data, count)
    assert rows == [vector(place) for place in range(count)]
    assert all(type(number) is float for row in rows for number in row)


def test_nothing_asked_nothing_answered() -> None:
    assert read([], 0) == []


def test_integers_in_json_become_floats() -> None:
    rows = read([{"index": 0, "embedding": [0, 1, 0, 0, 0, 0, 0, 0]}], 1)
    assert all(type(number) is float for number in rows[0])


@given(st.permutations(range(5)))
def test_the_index_decides_and_not_the_order(order: list[int]) -> None:
    data = answer(5)
    assert read([data[place] for place in order], 5) == [vector(place) for place in range(5)]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1], "expected 4 vectors, 3 came"),
        (lambda data: [], "expected 4 vectors, 0 came"),
        (lambda data: [*data, data[0]], "expected 4 vectors, 5 came"),
        (lambda data: [*data[:3], data[0]], "two vectors came with the index 0"),
        (lambda data: [*data[:3], {**data[3], "index": 4}], "index 4; expected 0 to 3"),
        (lambda data: [*data[:3], {**data[3], "index": -1}], "index -1"),
        (lambda data: [*data[:3], {**data[3], "index": True}], "index True"),
        (lambda data: [*data[:3], {"embedding": data[3]["embedding"]}], "index None"),
        (lambda data: [*data[:3], None], "index None"),
        (lambda data: [*data[:3], {"index": 3}], "not a list of numbers"),
        (lambda data: [*data[:3], {"index": 3, "embedding": None}], "not a list of numbers"),
        (lambda data: [*data[:3], {"index": 3, "embedding": vector(3)[:-1]}], "8 dimensions, one of 7 came"),
        (lambda data: [*data[:3], {"index": 3, "embedding": []}], "8 dimensions, one of 0 came"),
        (lambda data: [*data[:3], {"index": 3, "embedding": [*vector(3)[:7], None]}], "consist of numbers"),
        (lambda data: [*data[:3], {"index": 3, "embedding": [*vector(3)[:7], "1"]}], "consist of numbers"),
        (lambda data: [*data[:3], {"index": 3, "embedding": [*vector(3)[:7], 10**400]}], "consist of numbers"),
        (lambda data: [*data[:3], {"index": 3, "embedding": [*vector(3)[:7], math.nan]}], "not finite"),
        (lambda data: [*data[:3], {"index": 3, "embedding": [*vector(3)[:7], -math.inf]}], "not finite"),
        (lambda data: [*data[:3], {"index": 3, "embedding": encode(vector(3), "float32")}], "list of numbers"),
    ],
)
def test_an_answer_that_can_not_be_right_is_refused(spoil: Any, words: str) -> None:
    with pytest.raises(BadAnswer, match=words):
        read(spoil(answer(4)), 4)


@pytest.mark.parametrize("count", [2, 40])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("how", ["float", "float32", "float16"])
def test_a_number_that_is_not_finite_names_its_input(how: str, number: float, count: int) -> None:
    data = answer(count, how)
    data[1]["embedding"] = encode([*vector(1)[:7], number], how)
    with pytest.raises(BadAnswer) as caught:
        read(data, count)
    assert list(caught.value.places) == [1]


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    numbers = [1.7e308] * DIMENSION
    assert read([{"index": 0, "embedding": numbers}], 1) == [numbers]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AAAA",
        "not base64!",
        "A",
        encode(vector(0)[:7], "float32"),
        encode(vector(0) * 3, "float16"),
        encode(vector(0), "float32")[:-4] + "????",
        encode(vector(0), "float32").replace("A", "*", 1) if "A" in encode(vector(0), "float32") else "*",
        " " + encode(vector(0), "float32"),
    ],
)
def test_base64_that_can_not_be_the_vector_is_told_apart(text: str) -> None:
    with pytest.raises(UnreadableBase64):
        read([{"index": 0, "embedding": text}], 1)


def test_base64_of_unequal_length_is_refused() -> None:
    data = answer(2, "float32")
    data[1]["embedding"] = encode(vector(1), "float16")
    with pytest.raises(UnreadableBase64):
        read(data, 2)


def test_base64_needs_a_known_dimension() -> None:
    with pytest.raises(UnreadableBase64, match="unknown dimensions"):
        read_rows(answer(1, "float32"), 1, dimension=None)


def test_without_an_expected_dimension_all_must_be_equal() -> None:
    assert read(answer(2), 2, dimension=None) == [vector(0), vector(1)]
    with pytest.raises(BadAnswer, match="8 dimensions, one of 3 came"):
        read([answer(1)[0], {"index": 1, "embedding": [1.0, 2.0, 3.0]}], 2, dimension=None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["index", "embedding"]), inner),
    max_leaves=20,
)


@given(st.lists(json_values, max_size=4), st.integers(0, 4))
def test_whatever_comes_is_read_right_or_refused(data: list[Any], count: int) -> None:
    try:
        rows = read(data, count, dimension=None)
    except BadAnswer:
        return
    assert len(rows) == count == len(data)
    for item in data:
        assert rows[item["index"]] == [float(number) for number in item["embedding"]]


def test_large_answers_are_matrices_that_share_no_memory_with_the_text() -> None:
    rows = read_rows(answer(20, "float32"), 20, dimension=DIMENSION)
    assert isinstance(rows, np.ndarray)
    assert rows.dtype == np.float32
    assert rows.shape == (20, DIMENSION)


def test_all_of_it_works_without_numpy() -> None:
    program = """
import sys
sys.modules["numpy"] = None
del sys.modules["numpy"]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "numpy":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import base64, struct
from lava_mistral.embedding.decoding import BadAnswer, read_rows, to_lists
for code in "fe":
    numbers = [[place / 4] * 8 for place in range(40)]
    texts = [base64.b64encode(struct.pack(f"<8{code}", *row)).decode() for row in numbers]
    data = [{"index": place, "embedding": text} for place, text in enumerate(texts)]
    assert to_lists(read_rows(data, 40, dimension=8)) == numbers
    data[3]["embedding"] = base64.b64encode(struct.pack(f"<8{code}", *[float("nan")] * 8)).decode()
    try:
        read_rows(data, 40, dimension=8)
    except BadAnswer as error:
        assert list(error.places) == [3]
    else:
        raise SystemExit("NaN was taken")
assert not any(name.split(".")[0] == "numpy" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("how", ["float32", "float16"])
@pytest.mark.parametrize("count", [1, 40])
def test_arrays_of_the_standard_library_do_where_numpy_is_not(
    monkeypatch: pytest.MonkeyPatch, how: str, count: int
) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    rows = read_rows(answer(count, how), count, dimension=DIMENSION)
    assert isinstance(rows, list)
    assert to_lists(rows) == [vector(place) for place in range(count)]


def test_recorded_vectors_survive_sixteen_bits() -> None:
    numbers = [step / 1024 - 0.5 for step in range(DIMENSION)]
    for left, right in itertools.pairwise(("float", "float32", "float16")):
        assert read([{"index": 0, "embedding": encode(numbers, left)}], 1) == read(
            [{"index": 0, "embedding": encode(numbers, right)}], 1
        )
