"""How one batch is asked for: pure, by answers that are given to its steps."""

from __future__ import annotations

from typing import Any

import pytest

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.batch_request import BatchRequest, Endpoint, Send, Sleep
from lava_mistral.embedding.batching import Batch
from lava_mistral.errors import InvalidRequestError, LavaError, ServerError
from lava_mistral.transport.retry import RetryPolicy


def endpoint() -> Endpoint:
    return Endpoint("mistral-embed", 2, RetryPolicy(max_retries=1, initial=0.0), len)


def batch(*indexes: int) -> Batch:
    return Batch(list(indexes), ["x"] * len(indexes), len(indexes))


def answer(count: int) -> EmbeddingAnswer:
    data = [{"index": place, "embedding": [float(place), 1.0]} for place in range(count)]
    response: Any = {"data": data, "usage": {"prompt_tokens": count}}
    return EmbeddingAnswer(response=response, headers={}, request_id=None)


def refusal(message: str, code: str | None = None) -> LavaError:
    return InvalidRequestError(message, status_code=422, code=code, origin="mistral")


def test_a_batch_that_was_sent_as_base64_before_another_turned_that_off_is_sent_again_as_numbers() -> None:
    asked = endpoint()
    first, second = BatchRequest(batch(0), asked), BatchRequest(batch(1), asked)
    one, two = first.steps(), second.steps()
    assert [next(one), next(two)] == [Send(batch(0), "base64"), Send(batch(1), "base64")]
    refused = "body.encoding_format: Input should be 'float'"
    assert one.send(refusal(refused)) == Send(batch(0), "float")
    with pytest.raises(StopIteration):
        one.send(answer(1))
    assert two.send(refusal(refused)) == Send(batch(1), "float")
    with pytest.raises(StopIteration):
        two.send(answer(1))
    assert [len(result.pieces) for result in (first.result, second.result)] == [1, 1]
    assert next(BatchRequest(batch(2), asked).steps()) == Send(batch(2), "float")


def test_a_refusal_of_numbers_is_final() -> None:
    asked = endpoint()
    asked.base64 = False
    steps = BatchRequest(batch(0), asked).steps()
    next(steps)
    with pytest.raises(InvalidRequestError, match=r"no \[input 0\]"):
        steps.send(refusal("no"))


def test_a_batch_that_is_too_full_is_asked_for_in_halves_in_their_order() -> None:
    request = BatchRequest(batch(4, 5, 6, 7), endpoint())
    steps = request.steps()
    next(steps)
    asked = steps.send(refusal("Too many tokens overall, split into more batches.", "3210"))
    assert asked == Send(batch(4, 5), "base64")
    assert steps.send(answer(2)) == Send(batch(6, 7), "base64")
    with pytest.raises(StopIteration):
        steps.send(answer(2))
    assert [indexes for indexes, _ in request.result.pieces] == [[4, 5], [6, 7]]


def test_an_error_that_lasts_names_its_inputs() -> None:
    steps = BatchRequest(batch(8, 9), endpoint()).steps()
    next(steps)
    assert isinstance(steps.send(ServerError("no", status_code=500)), Sleep)
    assert next(steps) == Send(batch(8, 9), "base64")
    with pytest.raises(ServerError, match=r"no \[inputs 8 to 9\]") as caught:
        steps.send(ServerError("no", status_code=500))
    assert caught.value.inputs == (8, 9)


def test_a_wrong_vector_names_its_input_alone() -> None:
    steps = BatchRequest(batch(8, 9), endpoint()).steps()
    next(steps)
    wrong = answer(2)
    wrong.response["data"][1]["embedding"] = [float("nan"), 1.0]
    assert isinstance(steps.send(wrong), Sleep)
    next(steps)
    with pytest.raises(ServerError, match="the answer for input 9 can't be used") as caught:
        steps.send(wrong)
    assert caught.value.inputs == (9,)
