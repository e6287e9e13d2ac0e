"""What goes into a request, and what is refused before: pure, for any texts."""

from __future__ import annotations

import itertools
import random
from enum import Enum
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.embedding.batch_packing import Batch, Batcher, TokenRatio
from lava_mistral.embedding.batch_request import split
from lava_mistral.embedding.input_validation import InputValidator, name_inputs
from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.limits import MAX_INPUT_TOKENS, MAX_REQUEST_INPUTS, MAX_REQUEST_TOKENS


def plan(texts: list[str], batcher: Batcher) -> list[Batch]:
    return list(batcher.batches(enumerate(texts)))


def even(texts: list[str], *, workers: int) -> Batcher:
    return Batcher(len, TokenRatio(), characters=sum(map(len, texts)), workers=lambda: workers)


# A token a character: then a text's length is its weight.
weights = st.lists(st.integers(1, MAX_INPUT_TOKENS), max_size=300)


@given(weights, st.booleans(), st.integers(1, 20))
def test_every_text_is_planned_once_in_order_and_within_the_limits(sizes: list[int], known: bool, workers: int) -> None:
    texts = ["x" * size for size in sizes]
    batches = plan(texts, even(texts, workers=workers) if known else Batcher(len, TokenRatio()))
    assert [index for batch in batches for index in batch.indexes] == list(range(len(texts)))
    for batch in batches:
        assert batch.texts == [texts[index] for index in batch.indexes]
        assert batch.tokens == sum(map(len, batch.texts)) <= MAX_REQUEST_TOKENS
        assert 1 <= len(batch.texts) <= MAX_REQUEST_INPUTS


@given(weights)
def test_batches_of_a_stream_are_full(sizes: list[int]) -> None:
    batches = plan(["x" * size for size in sizes], Batcher(len, TokenRatio()))
    for batch, following in itertools.pairwise(batches):
        full = batch.tokens + len(following.texts[0]) > MAX_REQUEST_TOKENS
        assert full or len(batch.texts) == MAX_REQUEST_INPUTS


def test_more_inputs_than_a_request_takes_are_split_by_number() -> None:
    batches = plan(["x"] * 1_100, Batcher(len, TokenRatio()))
    assert [len(batch.texts) for batch in batches] == [512, 512, 76]


@pytest.mark.parametrize(("count", "workers"), [(5_000, 16), (5_000, 7), (1_000, 16), (300, 4), (82, 16)])
def test_the_last_round_of_requests_is_as_full_as_the_others(count: int, workers: int) -> None:
    texts = ["x" * (180 + index % 41) for index in range(count)]
    batches = plan(texts, even(texts, workers=workers))
    total = sum(map(len, texts))
    fewest = -(-total // MAX_REQUEST_TOKENS)
    rounds = -(-len(batches) // workers)
    # One more round can be the price of texts that can't be cut; never more.
    assert rounds <= -(-(fewest + 1) // workers)
    # Apart from the last one, which gets what is left.
    assert min(batch.tokens for batch in batches[:-1]) >= 0.9 * max(batch.tokens for batch in batches)
    assert total / len(batches) >= 0.95 * min(total, MAX_REQUEST_TOKENS / 2)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_a_little_over_makes_no_further_round(seed: int) -> None:
    draw = random.Random(seed)
    texts = [f"{place}".ljust(draw.randint(150, 250)) for place in range(4_500)]
    count = {text: int(len(text) * (1.0 + place / 100_000)) for place, text in enumerate(texts)}
    batcher = Batcher(lambda text: count[text], TokenRatio(), workers=lambda: 16, characters=sum(map(len, texts)))
    assert len(plan(texts, batcher)) <= 64


def test_little_work_is_not_spread_over_many_requests() -> None:
    texts = ["x" * 200] * 30
    assert len(plan(texts, even(texts, workers=16))) == 1


@given(st.lists(st.integers(1, 8_000), min_size=2, max_size=60))
def test_a_batch_is_split_into_two_halves(sizes: list[int]) -> None:
    texts = ["x" * size for size in sizes]
    whole = Batch(list(range(len(texts))), texts, sum(sizes))
    left, right = split(whole, len)
    assert left.texts + right.texts == texts
    assert left.indexes + right.indexes == whole.indexes
    assert left.texts
    assert right.texts
    assert left.tokens + right.tokens == whole.tokens
    assert abs(len(left.texts) - len(right.texts)) <= 1


def test_work_is_spread_over_no_more_requests_than_the_account_keeps_busy() -> None:
    texts = ["x" * 200] * 400
    assert len(plan(texts, even(texts, workers=16))) == 9
    assert len(plan(texts, even(texts, workers=1))) == 5


def batch(tokens: int) -> Batch:
    return Batch([0, 1], ["a", "b"], tokens)


def learn(ratio: TokenRatio, share: float, times: int = 4) -> None:
    """Have full batches accepted whose answers count this share of the tokens."""
    for _ in range(times):
        counted = min(ratio.limit, int(MAX_REQUEST_TOKENS / share))
        ratio.answered(batch(counted), int(counted * share))


@pytest.mark.parametrize("share", [0.8, 1.0, 1.28, 2.0])
def test_answers_say_how_far_the_count_is_off(share: float) -> None:
    ratio = TokenRatio()
    learn(ratio, share)
    assert 0.97 * MAX_REQUEST_TOKENS < ratio.limit * share <= MAX_REQUEST_TOKENS


def test_answers_to_small_batches_say_it_too() -> None:
    ratio = TokenRatio()
    for _ in range(60):
        ratio.answered(batch(100), 128)
    assert ratio.limit == pytest.approx(MAX_REQUEST_TOKENS / 1.28, rel=0.03)


@pytest.mark.parametrize("odd", [0, 1, MAX_REQUEST_TOKENS, 10**9, -5])
def test_one_odd_count_in_an_answer_changes_nothing(odd: int) -> None:
    ratio = TokenRatio()
    learn(ratio, 1.0)
    before = ratio.limit
    ratio.answered(batch(2_000), odd)
    learn(ratio, 1.0, times=1)
    assert ratio.limit == before


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(-5, 10**7)), max_size=100))
def test_whatever_is_learned_a_batch_can_be_made(lessons: list[tuple[int, int]]) -> None:
    ratio = TokenRatio()
    for counted, actual in lessons:
        ratio.answered(batch(counted), actual)
        assert 1 <= ratio.limit <= 2 * MAX_REQUEST_TOKENS


def validator(*, overrated: float = 1.0) -> InputValidator:
    return InputValidator(lambda text: int(len(text) * overrated))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "input 7 is empty"),
        (None, "input 7 must be text, not NoneType"),
        (b"bytes", "input 7 must be text, not bytes"),
        (3, "input 7 must be text, not int"),
        ("x" * 20_000, "input 7 has about 20,000 tokens"),
    ],
)
def test_a_bad_input_is_named(text: object, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        validator().check(7, text)
    assert caught.value.inputs == (7,)
    assert caught.value.origin == "client"
    assert not caught.value.retryable


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_is_joined() -> None:
    assert validator().check(0, "half \ud800 a pair") == "half \ufffd a pair"
    assert validator().check(0, "\ud83d\ude00") == "\U0001f600"


def test_string_scalars_of_numpy_and_pyarrow_are_texts() -> None:
    for scalar in (np.array(["a"])[0], pyarrow.array(["a"])[0], pyarrow.array(["a"], pyarrow.large_string())[0]):
        checked = validator().check(0, scalar)
        assert (checked, type(checked)) == ("a", str)
    with pytest.raises(InvalidRequestError, match="input 3 must be text, not Int64Scalar of int"):
        validator().check(3, pyarrow.array([7])[0])
    with pytest.raises(InvalidRequestError, match="input 3 must be text, not StringScalar of NoneType"):
        validator().check(3, pyarrow.array([None], pyarrow.string())[0])


def test_a_text_of_a_class_of_its_own_is_taken_for_its_characters() -> None:
    class Label(str, Enum):  # noqa: UP042 - a StrEnum is text in any way
        A = "a"

    checked = validator().check(0, Label.A)
    assert (checked, type(checked)) == ("a", str)


@pytest.mark.parametrize(("on_empty", "sent"), [("skip", ""), ("placeholder", ".")])
def test_an_empty_text_may_be_skipped_or_replaced(on_empty: Any, sent: str) -> None:
    assert InputValidator(len, on_empty).check(0, "") == sent


def test_what_is_far_too_long_is_refused_by_its_beginning() -> None:
    """To count megabytes takes seconds, and holds up everyone else's thread."""
    looked_at = 0

    def estimate(text: str) -> int:
        nonlocal looked_at
        looked_at += len(text)
        return len(text) // 4

    with pytest.raises(InvalidRequestError, match="input 3 has about 2,500,000 tokens"):
        InputValidator(estimate).check(3, "x" * 10_000_000)
    assert looked_at < 500_000
    with pytest.raises(InvalidRequestError, match="input 3 has about 40,000 tokens"):
        InputValidator(estimate).check(3, "x" * 160_000)


def test_a_text_of_many_characters_and_few_tokens_is_counted() -> None:
    InputValidator(lambda text: len(text) // 100).check(0, " " * 800_000)


def test_what_an_estimate_leaves_in_doubt_is_for_mistral_to_judge() -> None:
    validator(overrated=0.7).check(0, "x" * 2 * MAX_INPUT_TOKENS)
    with pytest.raises(InvalidRequestError):
        validator(overrated=0.8).check(0, "x" * 2 * MAX_INPUT_TOKENS)


def test_an_input_in_doubt_travels_alone() -> None:
    texts = ["x" * 100, "x" * 20_000, "x" * 100]
    assert [batch.indexes for batch in plan(texts, Batcher(len, TokenRatio()))] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("indexes", "words"),
    [
        ([4], "input 4"),
        ([4, 5, 6], "inputs 4 to 6"),
        ([1, 3, 9], "inputs 1, 3, 9"),
        ([*range(0, 40, 2)], "inputs 0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and 10 more up to 38"),
    ],
)
def test_inputs_are_named_briefly(indexes: list[int], words: str) -> None:
    assert name_inputs(indexes) == words
