"""What goes wrong with embeddings in other integrations, and not here: in both frameworks, sync and async."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

import pytest

from lava_mistral import LavaError
from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.faults import WrongVectors

Vectors = list[list[float]]


class LangChain:
    """Embeddings of the LangChain package."""

    def __init__(self, gateway: LocalGateway, **settings: Any) -> None:
        from langchain_lava_mistral import LavaMistralEmbeddings

        self.model = LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)

    def embed(self, texts: list[str]) -> Vectors:
        return self.model.embed_documents(texts)

    def aembed(self, texts: list[str]) -> Vectors:
        return asyncio.run(self.model.aembed_documents(texts))


class LlamaIndex:
    """Embeddings of the LlamaIndex package."""

    def __init__(self, gateway: LocalGateway, **settings: Any) -> None:
        from llama_index_lava_mistral import LavaMistralEmbeddings

        self.model = LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)

    def embed(self, texts: list[str]) -> Vectors:
        return self.model.get_text_embedding_batch(texts)

    def aembed(self, texts: list[str]) -> Vectors:
        return asyncio.run(self.model.aget_text_embedding_batch(texts))


@pytest.fixture(params=[LangChain, LlamaIndex])
def framework(request: pytest.FixtureRequest) -> type[LangChain] | type[LlamaIndex]:
    chosen: type[LangChain] | type[LlamaIndex] = request.param
    return chosen


@pytest.fixture(params=["embed", "aembed"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Make = Callable[..., Any]


def passages(count: int, words: int = 60) -> list[str]:
    draw = random.Random(0)
    return [
        f"{place} " + " ".join(draw.choices(["harbour", "invoice", "of", "the"], k=words)) for place in range(count)
    ]


def test_defect_22_requests_stay_within_the_limits(gateway: LocalGateway, framework: Make, method: str) -> None:
    assert len(getattr(framework(gateway), method)([str(number) for number in range(2_000)])) == 2_000
    assert len(getattr(framework(gateway), method)(passages(1_000))) == 1_000
    for request in gateway.requests:
        assert request.status == 200
        assert len(request.body["input"]) <= 512
        assert request.usage is not None
        assert request.usage["prompt_tokens"] <= 16_384


def test_defect_23_the_limit_of_requests_in_flight_holds(framework: Make, method: str) -> None:
    with LocalGateway(latency=0.05) as gateway:
        getattr(framework(gateway, max_concurrency=2), method)(passages(1_500))
        assert len(gateway.requests) >= 6
        assert gateway.max_in_flight == 2


def test_defect_24_sync_ingestion_has_many_requests_in_flight(framework: Make) -> None:
    with LocalGateway(latency=0.5) as gateway:
        framework(gateway).embed(passages(2_000))
        assert gateway.max_in_flight >= 8


def test_defect_25_construction_downloads_nothing(
    gateway: LocalGateway, framework: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    framework(gateway)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection is made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    framework(gateway)


@pytest.mark.parametrize("how", ["short", "shuffled", "duplicated", "empty"])
def test_defect_26_every_vector_is_on_its_text(gateway: LocalGateway, framework: Make, method: str, how: Any) -> None:
    texts = ["the harbour at night", "an invoice for copper", "the engine needs oil"]
    embed = getattr(framework(gateway), method)
    right = embed(texts)
    gateway.queue(WrongVectors(how))
    assert embed(texts) == right


def test_defect_27_the_cause_is_the_error(gateway: LocalGateway, framework: Make, method: str) -> None:
    gateway.queue(500, 500)
    with pytest.raises(LavaError) as caught:
        getattr(framework(gateway, max_retries=1), method)(["a text"])
    assert caught.value.status_code == 500
    assert caught.value.request_id == gateway.requests[-1].request_id
    assert "Internal server error" in str(caught.value)


def test_defect_29_usage_and_cost_of_embeddings_are_known(gateway: LocalGateway) -> None:
    from lava_mistral import LavaMistral

    result = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).embed(passages(100))
    assert result.tokens == sum(request.usage["prompt_tokens"] for request in gateway.requests if request.usage)
    assert result.cost == gateway.requests[0].cost > Decimal(0)


@pytest.mark.parametrize(("dtype", "length"), [("int8", 1024), ("uint8", 1024), ("binary", 128), ("ubinary", 128)])
def test_vectors_of_rounded_numbers(
    gateway: LocalGateway, framework: Make, method: str, dtype: str, length: int
) -> None:
    [vector] = getattr(framework(gateway, output_dtype=dtype), method)(["a"])
    assert len(vector) == length
    assert all(number == int(number) and -128 <= number <= 255 for number in vector)
    assert [request.body["output_dtype"] for request in gateway.requests] == [dtype]
    with pytest.raises(ValueError, match="output_dtype"):
        framework(gateway, output_dtype="float16")
