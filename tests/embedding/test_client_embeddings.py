"""What the clients' `embed` and `embed_iter` send, refuse, hand out and leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from lava_mistral import InvalidRequestError, partial_of
from tests.fakes.vector_service import MODES, Mode, VectorService, error, vector_of

STREAMS = ("iter", "async iter")


def embed(mode: Mode, service: VectorService, texts: Sequence[str], **options: Any) -> list[Any]:
    """The vectors of the texts by one of the four methods of the clients."""

    async def collect() -> list[Any]:
        return [vector async for _, vector in service.async_client().embed_iter(texts, **options)]

    match mode:
        case "sync":
            return list(service.client().embed(texts, **options).vectors)
        case "async":
            return list(asyncio.run(service.async_client().embed(texts, **options)).vectors)
        case "iter":
            return [vector for _, vector in service.client().embed_iter(texts, **options)]
        case "async iter":
            return asyncio.run(collect())


@pytest.mark.parametrize("mode", MODES)
def test_a_text_with_few_characters_and_too_many_bytes_is_refused_unsent(mode: Mode) -> None:
    service = VectorService()
    with pytest.raises(InvalidRequestError, match=r"input 0 has (about )?\d+,\d+ tokens"):
        embed(mode, service, ["鱻龘靐" * 1_666])
    assert service.bodies == []


@pytest.mark.parametrize("mode", MODES)
def test_an_input_that_mistral_finds_too_long_is_named_with_the_request_that_was_refused(mode: Mode) -> None:
    refusal = error(400, "Input id 1 has 9000 tokens, exceeding max 8192 tokens.", **{"x-lava-request-id": "req_42"})
    with pytest.raises(InvalidRequestError, match="input 1 has 9,000 tokens") as caught:
        embed(mode, VectorService([refusal]), ["a", "b"])
    assert (caught.value.status_code, caught.value.request_id, caught.value.origin) == (400, "req_42", "mistral")


@pytest.mark.parametrize("mode", STREAMS)
def test_a_resumed_stream_that_fails_again_keeps_the_vector_that_was_next(mode: Mode) -> None:
    texts = [f"text {place}" for place in range(600)]
    stream = VectorService().client().embed_iter(texts[:512])
    for _ in range(10):
        next(stream)
    stream.close()
    given = stream.partial()
    assert given.next_index == 10

    def broken() -> Any:
        yield from texts[:10]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk") as caught:
        embed(mode, VectorService(), broken(), resume_from=given)
    again = partial_of(caught.value)
    assert again is not None
    rest = VectorService()
    assert embed(mode, rest, texts, resume_from=again) == [vector_of(text) for text in texts[10:]]
    assert rest.sent == texts[512:]


@pytest.mark.parametrize("mode", STREAMS)
def test_an_array_of_a_stream_holds_its_own_numbers_alone(mode: Mode) -> None:
    arrays = embed(mode, VectorService(), [f"text {place}" for place in range(600)], as_numpy=True)
    assert {(array.base is None, array.nbytes) for array in arrays} == {(True, 4 * 1024)}


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("before", [[*map(str, range(4_200))], ["same"] * 4_200], ids=["others", "equal ones"])
def test_repeated_texts_are_recognised_however_many_came_before(mode: Mode, before: list[str]) -> None:
    service = VectorService()
    vectors = embed(mode, service, [*before, "twice", "other", "twice"])
    assert vectors[-1] == vectors[-3] == vector_of("twice")
    assert service.sent.count("twice") == 1
