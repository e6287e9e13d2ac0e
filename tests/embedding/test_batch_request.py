"""How one batch is asked for: pure, by answers that are given to its steps."""

from __future__ import annotations

from typing import Any

import pytest

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.batch_packing import Batch
from lava_mistral.embedding.batch_request import BatchRequest, Encoding, Endpoint
from lava_mistral.errors import InvalidRequestError, LavaError, ServerError
from lava_mistral.transport.flow import Flow
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


class Told:
    """Sends nothing: yields what a request asks for, and takes the answers that are sent in."""

    def ask(self, request: BatchRequest, part: Batch, encoding: Encoding) -> Flow[Any]:
        answer = yield part, encoding
        return answer

    def sleep(self, seconds: float) -> float:
        return seconds

    def turn(self) -> str:
        return "turn"


def request(batch: Batch, asked: Endpoint) -> BatchRequest:
    return BatchRequest(batch, asked, Told())


def send(steps: Flow[None], answer: EmbeddingAnswer | LavaError) -> Any:
    """Give an answer; what is done next."""
    assert steps.send(answer) == "turn"
    return next(steps)


def test_a_batch_that_was_sent_as_base64_before_another_turned_that_off_is_sent_again_as_numbers() -> None:
    asked = endpoint()
    first, second = request(batch(0), asked), request(batch(1), asked)
    one, two = first.steps(), second.steps()
    assert [next(one), next(two)] == [(batch(0), "base64"), (batch(1), "base64")]
    refused = "body.encoding_format: Input should be 'float'"
    assert send(one, refusal(refused)) == (batch(0), "float")
    with pytest.raises(StopIteration):
        send(one, answer(1))
    assert send(two, refusal(refused)) == (batch(1), "float")
    with pytest.raises(StopIteration):
        send(two, answer(1))
    assert [len(result.pieces) for result in (first.result, second.result)] == [1, 1]
    assert next(request(batch(2), asked).steps()) == (batch(2), "float")


def test_a_refusal_of_numbers_is_final() -> None:
    asked = endpoint()
    asked.base64 = False
    steps = request(batch(0), asked).steps()
    next(steps)
    with pytest.raises(InvalidRequestError, match=r"no \[input 0\]"):
        send(steps, refusal("no"))


def test_a_batch_that_is_too_full_is_asked_for_in_halves_in_their_order() -> None:
    whole = request(batch(4, 5, 6, 7), endpoint())
    steps = whole.steps()
    next(steps)
    asked = send(steps, refusal("Too many tokens overall, split into more batches.", "3210"))
    assert asked == (batch(4, 5), "base64")
    assert send(steps, answer(2)) == (batch(6, 7), "base64")
    with pytest.raises(StopIteration):
        send(steps, answer(2))
    assert [indexes for indexes, _ in whole.result.pieces] == [[4, 5], [6, 7]]


def test_an_error_that_lasts_names_its_inputs() -> None:
    steps = request(batch(8, 9), endpoint()).steps()
    next(steps)
    assert isinstance(send(steps, ServerError("no", status_code=500)), float)
    assert next(steps) == (batch(8, 9), "base64")
    with pytest.raises(ServerError, match=r"no \[inputs 8 to 9\]") as caught:
        send(steps, ServerError("no", status_code=500))
    assert caught.value.inputs == (8, 9)


def test_a_wrong_vector_names_its_input_alone() -> None:
    steps = request(batch(8, 9), endpoint()).steps()
    next(steps)
    wrong = answer(2)
    wrong.response["data"][1]["embedding"] = [float("nan"), 1.0]
    assert isinstance(send(steps, wrong), float)
    next(steps)
    with pytest.raises(ServerError, match="the answer for input 9 can't be used") as caught:
        send(steps, wrong)
    assert caught.value.inputs == (9,)
