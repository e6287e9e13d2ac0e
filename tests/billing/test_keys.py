"""Every way to pay, and every refusal, on the wire and in both frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import langchain_lava_mistral
from lava_mistral import (
    Billing,
    BillingError,
    CallRecord,
    InsufficientBalanceError,
    LavaError,
    PermissionDeniedError,
    billed_to,
    track_usage,
)
from lava_mistral.gateway import Customer, LocalGateway, Status
from tests.billing.conftest import Framework


async def every_call(framework: Framework, gateway: LocalGateway, options: Any = None, **settings: Any) -> None:
    """A chat, a stream and an embedding."""
    options = options or {}
    await framework.chat(framework.llm(gateway, **settings), "Hello", **options)
    await framework.stream(framework.llm(gateway, **settings), "Hello", **options)
    await framework.embed(framework.embeddings(gateway, **settings), ["Hello"], **options)


WAYS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, "merchant"),
    ({"meter_slug": "chat"}, {"meter_slug": "chat"}, "merchant"),
    ({"customer_id": "c", "meter_slug": "m"}, {"customer_id": "c", "meter_slug": "m"}, "customer"),
    (
        {"customer_id": "c", "meter_slug": "m", "disable_billing": True},
        {"customer_id": "c", "meter_slug": "m", "disable_billing": True},
        "merchant",
    ),
    ({"provider_key": "own"}, {"provider_key": "own"}, "nobody"),
    ({"provider_key": SecretStr("own")}, {"provider_key": "own"}, "nobody"),
    ({"provider_key": lambda: "own"}, {"provider_key": "own"}, "nobody"),
    (
        {"customer_id": "c", "meter_slug": "m", "provider_key": "own"},
        {"customer_id": "c", "meter_slug": "m", "provider_key": "own"},
        "customer",
    ),
]


@pytest.mark.parametrize(("fields", "credential", "payer"), WAYS, ids=lambda value: None if value else "plain")
@pytest.mark.parametrize("where", ["model", "call", "block"])
async def test_every_way_to_pay(
    framework: Framework, fields: dict[str, Any], credential: dict[str, Any], payer: str, where: str
) -> None:
    with LocalGateway(provider_keys=["own"]) as gateway:
        match where:
            case "model":
                await every_call(framework, gateway, billing=Billing(**fields))
            case "call":
                await every_call(framework, gateway, {"billing": Billing(**fields)})
            case _:
                with billed_to(**fields):
                    await every_call(framework, gateway)
        assert [request.kind for request in gateway.requests] == ["chat", "chat", "embeddings"]
        for request in gateway.requests:
            assert request.credential == {"secret_key": gateway.secret_key, **credential}
            assert request.payer == payer
            assert request.status == 200


async def test_keys_that_rotate_are_asked_for_each_request(framework: Framework) -> None:
    keys = [f"aks_test_{number}" for number in range(6)]
    with LocalGateway(secret_keys=keys) as gateway:
        rotation: Iterator[str] = iter(keys)
        provider = iter(f"own-{number}" for number in range(6))
        await every_call(framework, gateway, api_key=lambda: next(rotation))
        await every_call(
            framework,
            gateway,
            api_key=lambda: next(rotation),
            billing=Billing(meter_slug="m", provider_key=lambda: next(provider)),
        )
        used = [request.credential for request in gateway.requests]
    assert [credential["secret_key"] for credential in used] == keys
    assert [credential.get("provider_key") for credential in used] == [None] * 3 + ["own-0", "own-1", "own-2"]


async def test_usage_is_told_under_the_payer_that_a_rotating_token_names(
    framework: Framework, gateway: LocalGateway
) -> None:
    payers = (Billing(customer_id=f"c_{number}", meter_slug="chat") for number in count())
    with track_usage(listener=(told := []).append), billed_to(meter_slug="search"):
        await every_call(framework, gateway, api_key=lambda: next(payers).forward_token(gateway.secret_key))
    paid = [(request.customer_id, request.meter_slug) for request in gateway.requests]
    assert paid == [(f"c_{number}", "search") for number in range(3)]
    assert [(record.customer_id, record.meter_slug) for record in told] == paid


async def test_the_prefix_of_the_key_says_sandbox_or_production(framework: Framework) -> None:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.url.host}{request.url.path}")
        return httpx.Response(401, json={"error": "no"})

    transport = httpx.MockTransport(handle)
    clients = {"http_client": httpx.Client(transport=transport)}
    clients["http_async_client"] = httpx.AsyncClient(transport=transport)  # type: ignore[assignment]
    token = Billing(customer_id="c", meter_slug="m").forward_token("aks_test_x")
    for key in ("aks_live_x", "aks_test_x", token):
        llm = framework.package.ChatLavaMistral(api_key=key, **clients)
        embeddings = framework.package.LavaMistralEmbeddings(api_key=key, **clients)
        with pytest.raises(LavaError):
            await framework.chat(llm, "Hello")
        with pytest.raises(LavaError):
            await framework.embed(embeddings, ["Hello"])
    sandbox = "sandbox-api.lava.so/v1/forward"
    assert seen == ["api.lava.so/v1/forward"] * 2 + [sandbox] * 4


REFUSALS: list[tuple[dict[str, Any], type[BillingError], list[str]]] = [
    ({"customer_id": "broke", "meter_slug": "chat"}, InsufficientBalanceError, ["broke", "chat", "top up"]),
    ({"customer_id": "limited", "meter_slug": "chat"}, PermissionDeniedError, ["limited", "chat", "meter"]),
    ({"customer_id": "stranger", "meter_slug": "chat"}, PermissionDeniedError, ["stranger"]),
    ({}, InsufficientBalanceError, ["merchant's wallet", "top up"]),
]


@pytest.mark.parametrize(("fields", "kind", "words"), REFUSALS)
async def test_refusals_say_who_and_are_never_retried(
    framework: Framework, fields: dict[str, Any], kind: type[BillingError], words: list[str]
) -> None:
    customers = {"broke": "0", "limited": Customer(meters=["search"])}
    with LocalGateway(customers=customers, balance="0") as gateway:
        llm = framework.llm(gateway, max_retries=5)
        embeddings = framework.embeddings(gateway, max_retries=5)
        options = {"billing": Billing(**fields)}
        for call in (
            lambda: framework.chat(llm, "Hello", **options),
            lambda: framework.stream(llm, "Hello", **options),
            lambda: framework.embed(embeddings, ["Hello"], **options),
        ):
            with pytest.raises(BillingError) as caught:
                await call()
            error = caught.value
            assert isinstance(error, kind)
            assert (error.origin, error.retryable) == ("lava", False)
            assert error.request_id == gateway.requests[-1].request_id
            for word in words:
                assert word in str(error)
            assert gateway.secret_key not in str(error)
            if framework.name == "langchain":
                assert isinstance(error, langchain_lava_mistral.BillingError)
        assert len(gateway.requests) == 3


async def test_every_answer_says_its_request_id_and_cost(framework: Framework, gateway: LocalGateway) -> None:
    message = await framework.chat(framework.llm(gateway), "Hello")
    chunks = await framework.stream(framework.llm(gateway), "Hello")
    facts = []
    if framework.name == "langchain":
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole = whole + chunk
        facts = [message.response_metadata, whole.response_metadata]
    else:
        facts = [message.additional_kwargs, chunks[-1].additional_kwargs]
    for told, request in zip(facts, gateway.requests, strict=True):
        assert told["lava_request_id"] == request.request_id
        assert type(request.cost)(told["cost"]) == request.cost


async def test_a_new_try_is_told_under_the_payer_of_its_own_token(framework: Framework, gateway: LocalGateway) -> None:
    key = gateway.secret_key
    named = [Billing(customer_id=f"c_{at}", meter_slug=f"m_{at}").forward_token(key) for at in range(2)]
    for then, payer in ((named[1], ("c_1", "m_1")), (key, (None, None))):
        for call in ("chat", "embed"):
            keys = iter([named[0], then])
            gateway.queue(Status(503, retry_after=0))
            with track_usage(listener=(told := list[CallRecord]()).append):
                if call == "chat":
                    await framework.chat(framework.llm(gateway, api_key=keys.__next__), "Hello")
                else:
                    await framework.embed(framework.embeddings(gateway, api_key=keys.__next__), ["Hello"])
            request = gateway.requests[-1]
            assert [(request.customer_id, request.meter_slug)] == [payer]
            assert [(record.customer_id, record.meter_slug) for record in told] == [payer]
