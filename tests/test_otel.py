"""Usage as OpenTelemetry metrics, by the semantic conventions for generative AI."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from lava_mistral import LavaMistral, billed_to
from lava_mistral.gateway import LocalGateway
from lava_mistral.otel import instrument, uninstrument
from tests.billing.conftest import Framework, frameworks


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    made = InMemoryMetricReader()
    instrument(MeterProvider([made]))
    yield made
    uninstrument()


def points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    data = reader.get_metrics_data()
    if data is None:
        return []
    return [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


@pytest.mark.parametrize("framework", frameworks(), ids=repr)
def test_each_request_is_measured_once(
    framework: Framework, gateway: LocalGateway, reader: InMemoryMetricReader
) -> None:
    async def use() -> None:
        llm = framework.llm(gateway)
        with billed_to("cus_1", "chat"):
            await framework.chat(llm, "Hello")
            await framework.stream(llm, "Hello")
        await framework.embed(framework.embeddings(gateway), ["Hello"])

    asyncio.run(use())
    tokens = {
        (p.attributes["gen_ai.operation.name"], p.attributes["gen_ai.token.type"]): (p.count, p.sum)
        for p in points(reader, "gen_ai.client.token.usage")
    }
    chats = [request.usage for request in gateway.requests if request.kind == "chat"]
    assert tokens["chat", "input"] == (2, sum(usage["prompt_tokens"] for usage in chats))
    assert tokens["chat", "output"] == (2, sum(usage["completion_tokens"] for usage in chats))
    assert tokens["embeddings", "input"][0] == 1
    assert ("embeddings", "output") not in tokens
    durations = points(reader, "gen_ai.client.operation.duration")
    assert sum(point.count for point in durations) == 3
    assert {point.attributes["gen_ai.provider.name"] for point in durations} == {"mistral_ai"}
    costs = {point.attributes.get("lava.customer_id"): point.value for point in points(reader, "lava.client.cost")}
    charged = {c: float(sum(r.cost for r in gateway.requests if r.customer_id == c)) for c in ("cus_1", None)}
    assert costs == pytest.approx(charged)


def test_an_answer_that_was_left_early_is_no_whole_one(reader: InMemoryMetricReader) -> None:
    with LocalGateway(pace=0.2) as gateway:
        client = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        with client.stream([{"role": "user", "content": "Hello"}]) as stream:
            next(stream)
    [duration] = points(reader, "gen_ai.client.operation.duration")
    assert duration.attributes["error.type"] == "incomplete"
    assert points(reader, "gen_ai.client.token.usage") == []


def test_customers_can_be_left_out(gateway: LocalGateway) -> None:
    reader = InMemoryMetricReader()
    instrument(MeterProvider([reader]), customers=False)
    try:
        with billed_to("cus_1", "chat"):
            LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).chat([{"role": "user", "content": "Hi"}])
    finally:
        uninstrument()
    LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).chat([{"role": "user", "content": "Hi"}])
    [cost] = points(reader, "lava.client.cost")
    assert "lava.customer_id" not in cost.attributes
    [duration] = points(reader, "gen_ai.client.operation.duration")
    assert duration.count == 1
