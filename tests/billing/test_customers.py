"""One shared model object, hundreds of customers at once: no call on the wrong wallet."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.output_parsers import StrOutputParser

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral import Billing, billed_to, track_usage
from lava_mistral.gateway import LocalGateway
from tests.billing.conftest import Framework, run_now

CUSTOMERS = 200
THREADS = 32


async def serve(framework: Framework, llm: Any, embeddings: Any, number: int) -> None:
    """What one customer's request does; who pays comes from the block, or from the call itself."""
    customer = f"c_{number}"
    block = billed_to(customer, "chat", {"customer": customer})
    options = {"billing": Billing(customer_id=customer, meter_slug="chat"), "lava_metadata": {"customer": customer}}
    match number % 6:
        case 0:
            with block:
                await framework.chat(llm, f"I am {customer}")
        case 1:
            await framework.chat(llm, f"I am {customer}", **options)
        case 2:
            with block:
                await framework.stream(llm, f"I am {customer}")
        case 3:
            await framework.stream(llm, f"I am {customer}", **options)
        case 4:
            with block:
                await framework.embed(embeddings, [f"I am {customer}"])
        case _:
            await framework.embed(embeddings, [f"I am {customer}"], **options)


def test_hundreds_of_customers_at_once_through_one_model(framework: Framework) -> None:
    # In async code every request waits long enough that all are under way together; threads take turns.
    with (
        LocalGateway(latency=1.0 if framework.asynchronous else 0.05, customer_balance="5") as gateway,
        track_usage() as usage,
    ):
        llm = framework.llm(gateway)
        embeddings = framework.embeddings(gateway, max_concurrency=CUSTOMERS)
        if framework.asynchronous:

            async def all_at_once() -> None:
                await asyncio.gather(*(serve(framework, llm, embeddings, n) for n in range(CUSTOMERS)))

            asyncio.run(all_at_once())
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                jobs = [
                    pool.submit(contextvars.copy_context().run, run_now, serve(framework, llm, embeddings, n))
                    for n in range(CUSTOMERS)
                ]
                for job in jobs:
                    job.result()
        ledger = gateway.requests
        wallets, merchant = gateway.wallet.customers, gateway.wallet.merchant
        at_once = gateway.max_in_flight
    assert at_once > (CUSTOMERS if framework.asynchronous else THREADS) // 4
    assert len(ledger) == CUSTOMERS
    for request in ledger:
        said = str(request.body)
        assert f"I am {request.customer_id}'" in said, "this request was put down to somebody else"
        assert request.metadata["customer"] == request.customer_id
        assert request.meter_slug == "chat"
    assert len({request.customer_id for request in ledger}) == CUSTOMERS
    assert {name: 5 - balance for name, balance in wallets.items()} == {r.customer_id: r.cost for r in ledger}
    assert merchant == 1000
    costs = {name: tally.cost for name, tally in usage.by_customer.items()}
    assert costs == {request.customer_id: request.cost for request in ledger}
    assert min(costs.values()) > Decimal(0)


@pytest.mark.filterwarnings("ignore:A `with billed_to:UserWarning")
@pytest.mark.parametrize("kind", ["chat", "embed"])
@pytest.mark.parametrize("name", ["langchain", "llama_index"])
async def test_a_block_of_a_generator_that_is_closed_during_a_call_ends_there(name: str, kind: str) -> None:
    # In async code the frameworks make calls in tasks, which have contexts of their own.
    framework = Framework(name, asynchronous=False)

    def hold() -> Iterator[None]:
        with billed_to("gone", "m"):
            yield

    held = hold()
    with LocalGateway() as gateway:

        def key() -> str:
            # As the garbage collector may, while the call is made.
            held.close()
            return gateway.secret_key

        model = framework.llm(gateway, api_key=key) if kind == "chat" else framework.embeddings(gateway, api_key=key)
        next(held)
        for text in ("Hi", "Ho"):
            await (framework.chat(model, text) if kind == "chat" else framework.embed(model, [text]))
        assert gateway.requests[-1].customer_id is None


@pytest.mark.filterwarnings("ignore:A `with billed_to:UserWarning")
def test_a_stream_is_billed_to_the_block_of_a_generator_that_is_closed_before_it_is_read() -> None:
    with LocalGateway() as gateway:
        llm = Framework("langchain", asynchronous=False).llm(gateway)

        def streams() -> Iterator[Iterator[Any]]:
            with billed_to("c", "m"):
                yield llm.stream("Hi")

        held = streams()
        stream = contextvars.copy_context().run(next, held)
        # As a web server's worker or the garbage collector does, in a context of its own.
        contextvars.copy_context().run(held.close)
        assert list(stream)
        assert [request.customer_id for request in gateway.requests] == ["c"]


async def asynchronous(customer: str) -> AsyncIterator[None]:
    with billed_to(customer, "m"):
        yield


def synchronous(customer: str) -> Iterator[None]:
    with billed_to(customer, "m"):
        yield


async def ask_a_web_app(dependency: Any) -> list[str | None]:
    with LocalGateway() as gateway:
        model = ChatLavaMistral(base_url=gateway.base_url, api_key=gateway.secret_key)
        app = FastAPI(dependencies=[Depends(dependency)])

        @app.get("/")
        def answer(later: BackgroundTasks) -> StreamingResponse:
            later.add_task(model.invoke, "Hi")
            return StreamingResponse((model | StrOutputParser()).stream(model.invoke("Hi").text))

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as browser:
            await asyncio.gather(*(browser.get("/", params={"customer": name}) for name in ("a", "b")))
        return sorted(str(request.customer_id) for request in gateway.requests)


async def test_an_async_dependency_of_fastapi_holds_for_a_request_its_stream_and_its_background_tasks() -> None:
    assert await ask_a_web_app(asynchronous) == ["a"] * 3 + ["b"] * 3


async def test_a_dependency_of_fastapi_in_threads_holds_for_nothing_and_warns() -> None:
    with pytest.warns(UserWarning, match="a context of its own, as web servers do"):
        assert await ask_a_web_app(synchronous) == ["None"] * 6
