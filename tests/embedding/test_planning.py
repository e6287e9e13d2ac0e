"""What goes into a request, and what is refused before: pure, for any texts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.embedding.batching import (
    MAX_INPUT_TOKENS,
    MAX_REQUEST_INPUTS,
    MAX_REQUEST_TOKENS,
    Batch,
    Calibration,
    Planner,
)
from lava_mistral.embedding.input_validation import Inspector, name_inputs
from lava_mistral.errors import InvalidRequestError


def plan(texts: list[str], planner: Planner) -> list[Batch]:
    batches = [planner.add(index, text) for index, text in enumerate(texts)]
    return [batch for batch in (*batches, planner.flush()) if batch is not None]


def even(texts: list[str], *, lanes: int) -> Planner:
    return Planner(len, Calibration(), lanes=lanes, characters=sum(map(len, texts)), sample=texts[::7])


# A token a character: then a text's length is its weight.
weights = st.lists(st.integers(1, MAX_INPUT_TOKENS), max_size=300)


@given(weights, st.booleans(), st.integers(1, 20))
def test_every_text_is_planned_once_in_order_and_within_the_limits(sizes: list[int], known: bool, lanes: int) -> None:
    texts = ["x" * size for size in sizes]
    batches = plan(texts, even(texts, lanes=lanes) if known else Planner(len, Calibration()))
    assert [index for batch in batches for index in batch.indexes] == list(range(len(texts)))
    for batch in batches:
        assert batch.texts == [texts[index] for index in batch.indexes]
        assert batch.tokens == sum(map(len, batch.texts)) <= MAX_REQUEST_TOKENS
        assert 1 <= len(batch.texts) <= MAX_REQUEST_INPUTS


@given(weights)
def test_batches_of_a_stream_are_full(sizes: list[int]) -> None:
    batches = plan(["x" * size for size in sizes], Planner(len, Calibration()))
    for batch, following in itertools.pairwise(batches):
        full = batch.tokens + len(following.texts[0]) > MAX_REQUEST_TOKENS
        assert full or len(batch.texts) == MAX_REQUEST_INPUTS


def test_more_inputs_than_a_request_takes_are_split_by_number() -> None:
    batches = plan(["x"] * 1_100, Planner(len, Calibration()))
    assert [len(batch.texts) for batch in batches] == [512, 512, 76]


@pytest.mark.parametrize(("count", "lanes"), [(5_000, 16), (5_000, 7), (1_000, 16), (300, 4), (82, 16)])
def test_the_last_round_of_requests_is_as_full_as_the_others(count: int, lanes: int) -> None:
    texts = ["x" * (180 + index % 41) for index in range(count)]
    batches = plan(texts, even(texts, lanes=lanes))
    total = sum(map(len, texts))
    fewest = -(-total // MAX_REQUEST_TOKENS)
    rounds = -(-len(batches) // lanes)
    # One more round can be the price of texts that can't be cut; never more.
    assert rounds <= -(-(fewest + 1) // lanes)
    # Apart from the last one, which gets what is left.
    assert min(batch.tokens for batch in batches[:-1]) >= 0.9 * max(batch.tokens for batch in batches)
    assert total / len(batches) >= 0.95 * min(total, MAX_REQUEST_TOKENS / 2)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_a_little_over_makes_no_further_round(seed: int) -> None:
    """The weight of the texts to come is known by their number of characters alone."""
    draw = random.Random(seed)
    texts = [f"{place}".ljust(draw.randint(150, 250)) for place in range(4_500)]
    # The later texts weigh more than the sample says.
    count = {text: int(len(text) * (1.0 + place / 100_000)) for place, text in enumerate(texts)}
    planner = Planner(
        lambda text: count[text], Calibration(), lanes=16, characters=sum(map(len, texts)), sample=texts[:2_000:100]
    )
    assert len(plan(texts, planner)) <= 64


def test_little_work_is_not_spread_over_many_requests() -> None:
    texts = ["x" * 200] * 30
    assert len(plan(texts, even(texts, lanes=16))) == 1


@given(st.lists(st.integers(1, 8_000), min_size=2, max_size=60))
def test_a_batch_is_split_into_two_halves_of_about_equal_weight(sizes: list[int]) -> None:
    texts = ["x" * size for size in sizes]
    whole = Batch(list(range(len(texts))), texts, sum(sizes))
    left, right = whole.halves(len)
    assert left.texts + right.texts == texts
    assert left.indexes + right.indexes == whole.indexes
    assert left.texts
    assert right.texts
    assert left.tokens + right.tokens == whole.tokens
    assert abs(left.tokens - right.tokens) <= 2 * max(sizes)


def test_the_estimate_learns_from_a_refusal_that_it_was_too_low() -> None:
    calibration = Calibration()
    assert calibration.limit == MAX_REQUEST_TOKENS
    calibration.refused(16_000)
    assert calibration.limit < 16_000
    before = calibration.limit
    calibration.refused(before)
    assert calibration.limit < before


def test_an_answer_never_makes_batches_larger_than_the_upper_estimate_allows() -> None:
    calibration = Calibration()
    for _ in range(50):
        calibration.answered(10_000, 8_000)
    assert calibration.limit == MAX_REQUEST_TOKENS


def test_answers_teach_that_the_count_is_too_low_for_good() -> None:
    calibration = Calibration()
    for _ in range(50):
        calibration.answered(10_000, 11_000)
    assert 0.98 * MAX_REQUEST_TOKENS / 1.1 < calibration.limit <= MAX_REQUEST_TOKENS / 1.1


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0.5, 1.0)), min_size=8, max_size=100))
def test_a_sample_fills_batches_no_further_than_its_densest_part(sample: list[tuple[int, float]]) -> None:
    calibration = Calibration()
    pairs = [(counted, int(counted * share)) for counted, share in sample]
    for counted, exact in pairs:
        calibration.compared(counted, exact)
    whole = pairs[: len(pairs) // 4 * 4][-64:]
    true = sum(exact for _, exact in whole) / sum(counted for counted, _ in whole)
    assert calibration.limit * true <= MAX_REQUEST_TOKENS
    assert calibration.limit >= MAX_REQUEST_TOKENS


def test_many_texts_are_planned_by_the_exact_counts_of_a_sample() -> None:
    """The count is a quarter too high; the sample says so, and few texts are counted twice."""
    draw, twice = random.Random(0), list[str]()
    texts = ["x" * draw.randint(100, 300) for _ in range(3_000)]

    def exact(text: str) -> int:
        twice.append(text)
        return int(len(text) * 0.8 * draw.uniform(0.95, 1.05))

    planner = Planner(
        len,
        Calibration(),
        lanes=4,
        characters=sum(map(len, texts)),
        sample=texts[::100],
        exact=lambda: exact,
    )
    batches = plan(texts, planner)
    fill = [batch.tokens * 0.8 / MAX_REQUEST_TOKENS for batch in batches]
    assert max(fill) <= 1.0
    assert sum(fill) / len(fill) >= 0.9
    assert len(twice) <= 30 + 3_000 / 16


@pytest.mark.parametrize("known", [True, False])
def test_a_tokenizer_that_is_there_later_fills_batches_from_then_on(known: bool) -> None:
    """Until it is, they are made by the count, which is a quarter too high."""
    texts = ["x" * (180 + index % 41) for index in range(4_000)]
    asked = 0

    def exact() -> Callable[[str], int] | None:
        nonlocal asked
        asked += 1
        return (lambda text: int(len(text) * 0.8)) if asked > 10 else None

    settings: dict[str, Any] = {"characters": sum(map(len, texts)), "sample": texts[::100]} if known else {}
    batches = plan(texts, Planner(len, Calibration(), exact=exact, **settings))
    assert asked == 11
    tokens = [batch.tokens for batch in batches[:-1]]
    assert max(tokens[:8]) <= MAX_REQUEST_TOKENS
    assert min(tokens[-3:]) > 1.1 * MAX_REQUEST_TOKENS
    assert max(tokens) * 0.8 <= MAX_REQUEST_TOKENS


def test_little_work_loads_no_tokenizer() -> None:
    def refuse() -> None:
        raise AssertionError

    texts = ["x" * 200] * 200
    assert len(plan(texts, Planner(len, Calibration(), characters=40_000, sample=texts[:9], exact=refuse))) == 3


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 20_000), st.booleans()), max_size=100))
def test_whatever_is_learned_a_batch_can_be_made(lessons: list[tuple[int, int, bool]]) -> None:
    calibration = Calibration()
    for counted, actual, accepted in lessons:
        if accepted:
            calibration.answered(counted, actual)
        else:
            calibration.refused(counted)
        assert 1 <= calibration.limit <= 2 * MAX_REQUEST_TOKENS


@pytest.mark.parametrize("ratio", [1.05, 1.3, 2.0, 4.0])
def test_few_refusals_are_enough_to_learn(ratio: float) -> None:
    calibration, refusals = Calibration(), 0
    while (counted := calibration.limit) * ratio > MAX_REQUEST_TOKENS:
        calibration.refused(counted)
        refusals += 1
    assert refusals <= 12
    assert counted * ratio > 0.5 * MAX_REQUEST_TOKENS


def inspector(*, exact: bool = False, overrated: float = 1.0) -> Inspector:
    return Inspector(lambda text: int(len(text) * overrated), lambda: len if exact else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "input 7 is empty"),
        (None, "input 7 must be text, not NoneType"),
        (b"bytes", "input 7 must be text, not bytes"),
        (3, "input 7 must be text, not int"),
        ("half \ud800 a pair", "input 7 holds half of a surrogate pair at position 5"),
        ("x" * 20_000, "input 7 has about 20,000 tokens"),
    ],
)
def test_a_bad_input_is_named(text: object, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        inspector().check(7, text)
    assert caught.value.origin == "client"
    assert not caught.value.retryable


def test_only_the_exact_count_decides_where_there_is_one() -> None:
    inspector(exact=True, overrated=1.9).check(0, "x" * MAX_INPUT_TOKENS)
    with pytest.raises(InvalidRequestError, match="input 0 has 8,193 tokens"):
        inspector(exact=True).check(0, "x" * (MAX_INPUT_TOKENS + 1))


def test_what_is_far_too_long_is_refused_by_its_beginning() -> None:
    """An exact count of megabytes takes seconds, and holds up everyone else's thread."""
    looked_at = 0

    def estimate(text: str) -> int:
        nonlocal looked_at
        looked_at += len(text)
        return len(text) // 4

    def exact() -> None:
        raise AssertionError

    with pytest.raises(InvalidRequestError, match="input 3 has about 2,500,000 tokens"):
        Inspector(estimate, exact).check(3, "x" * 10_000_000)
    assert looked_at < 500_000
    with pytest.raises(InvalidRequestError, match="input 3 has about 40,000 tokens"):
        Inspector(estimate, exact).check(3, "x" * 160_000)


def test_a_text_of_many_characters_and_few_tokens_is_counted() -> None:
    Inspector(lambda text: len(text) // 100, lambda: None).check(0, " " * 800_000)


@pytest.mark.parametrize(
    ("text", "is_long"),
    [("x" * 8_184, False), ("x" * 8_185, True), ("é" * 4_092, False), ("é" * 4_093, True), (None, False), ("", False)],
)
def test_only_a_text_that_may_have_too_many_tokens_is_long_to_check(text: object, is_long: bool) -> None:
    assert Inspector.is_long(text) is is_long


def test_what_an_estimate_leaves_in_doubt_is_for_mistral_to_judge() -> None:
    inspector(overrated=1.4).check(0, "x" * MAX_INPUT_TOKENS)
    with pytest.raises(InvalidRequestError):
        inspector(overrated=1.6).check(0, "x" * MAX_INPUT_TOKENS)


def test_an_input_in_doubt_travels_alone() -> None:
    texts = ["x" * 100, "x" * 20_000, "x" * 100]
    assert [batch.indexes for batch in plan(texts, Planner(len, Calibration()))] == [[0], [1], [2]]


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
