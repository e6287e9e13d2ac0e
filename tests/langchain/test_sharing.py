"""One model in many hands: threads, event loops, processes, copies, caches, traces, settings changed on the way."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps
from langchain_core.messages import HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tracers.base import BaseTracer

import langchain_lava_mistral
from langchain_lava_mistral import ChatLavaMistral
from lava_mistral import Billing, billed_to
from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import KEY, Caller, Script, answer, chat, embeddings, events

PROVIDER_KEY = "mistral-own-SECRET"


def test_a_pickled_model_calls(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway, temperature=0, billing=Billing(meter_slug="m"), stop=["END"])
    caller.invoke(model, "Hi")

    again = pickle.loads(pickle.dumps(model))

    assert again == model
    assert caller.invoke(again, "Hi").text
    assert gateway.requests[0].body == gateway.requests[1].body
    assert gateway.requests[1].meter_slug == "m"


def test_a_copied_model_calls(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway)
    caller.invoke(model, "Hi")
    for copied in (copy.copy(model), copy.deepcopy(model), model.model_copy(update={"model": "mistral-large-latest"})):
        assert caller.invoke(copied, "Hi").text
    assert [r.model for r in gateway.requests][-1] == "mistral-large-latest"


def test_a_changed_setting_counts_from_the_next_call(gateway: LocalGateway, caller: Caller) -> None:
    with LocalGateway(secret_key="aks_test_other") as other:
        model = chat(gateway)
        caller.invoke(model, "Hi")
        model.base_url, model.api_key, model.billing = other.base_url, other.secret_key, Billing(meter_slug="m")  # type: ignore[assignment]
        caller.invoke(model, "Hi")
        assert len(gateway.requests) == len(other.requests) == 1
        assert other.requests[0].meter_slug == "m"


def test_configurable_fields(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway, temperature=0.5).configurable_fields(
        model=ConfigurableField(id="model"),
        billing=ConfigurableField(id="billing"),
        temperature=ConfigurableField(id="temperature"),
    )
    bound = model.with_config(configurable={"model": "mistral-large-latest", "billing": Billing("c_1", "m")})

    assert caller.invoke(bound, "Hi").text
    assert len(caller.stream(bound, "Hi")) > 2
    caller.invoke(
        model, "Hi", {"configurable": {"temperature": 0.1, "billing": {"customer_id": "c_2", "meter_slug": "m"}}}
    )
    caller.invoke(model, "Hi")

    first, second, third, fourth = gateway.requests
    assert (first.model, first.customer_id, second.customer_id) == ("mistral-large-latest", "c_1", "c_1")
    assert second.body["stream"] is True
    assert (third.body["temperature"], third.customer_id) == (0.1, "c_2")
    assert (fourth.body["temperature"], fourth.customer_id) == (0.5, None)


def test_two_event_loops_in_a_row(gateway: LocalGateway) -> None:
    model, vectors = chat(gateway), embeddings(gateway)

    async def run() -> list[str]:
        streamed = [chunk.text async for chunk in model.astream("Is the sky blue?")]
        await vectors.aembed_documents(["a", "b"])
        return [(await model.ainvoke("Hi")).text, "".join(streamed)]

    assert all(asyncio.run(run()))
    assert all(asyncio.run(run()))


def test_threads_share_a_model(gateway: LocalGateway) -> None:
    model = chat(gateway)
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda i: model.invoke(f"Say 'word{i}'").text, range(48)))
    assert len(got) == len(gateway.requests) == 48
    assert all(got)


def test_a_spawned_process_gets_a_model_by_pickle(gateway: LocalGateway) -> None:
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).invoke('Hi').response_metadata['model_name'])"
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(chat(gateway)), capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode().strip() == "mistral-small-2603"


def test_leaving_a_stream_closes_its_connection(caller: Caller) -> None:
    with LocalGateway(pace=0.05) as gateway:
        model = chat(gateway)
        caller.first(model, "Tell me a long story. " * 20, 2)
        wait_until_idle(gateway)
        assert gateway.requests[0].outcome == "error"


def test_a_cancelled_stream_closes_its_connection() -> None:
    with LocalGateway(pace=0.05) as gateway:

        async def read() -> None:
            async for _ in chat(gateway).astream("Tell me a long story. " * 20):
                began.set()
                await asyncio.sleep(60)

        async def cancel() -> None:
            task = asyncio.create_task(read())
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        began = asyncio.Event()
        asyncio.run(cancel())
        wait_until_idle(gateway)


def wait_until_idle(gateway: LocalGateway) -> None:
    patience = time.monotonic() + 5
    while gateway.in_flight and time.monotonic() < patience:
        time.sleep(0.01)
    assert gateway.in_flight == 0


def test_two_hundred_streams_run_at_once() -> None:
    with LocalGateway(pace=0.01, latency=2.0) as gateway:
        model = chat(gateway)

        async def one() -> int:
            return sum([1 async for _ in model.astream("Is the sky blue? The sky is blue.")])

        async def run() -> list[int]:
            return await asyncio.gather(*[one() for _ in range(200)])

        counts = asyncio.run(run())

        assert min(counts) > 2
        # Each has its own connection at the same moment: none waited for another's.
        assert gateway.max_in_flight == 200
        assert gateway.max_connections >= 200


def test_billed_to_holds_around_a_model(gateway: LocalGateway, caller: Caller) -> None:
    chain = RunnableLambda(lambda text: text) | chat(gateway)
    with billed_to("c_1", "m", metadata={"team": "red"}):
        caller.invoke(chain, "Hi")
        caller.stream(chain, "Hi")
    caller.invoke(chain, "Hi")
    assert [r.customer_id for r in gateway.requests] == ["c_1", "c_1", None]
    assert [r.metadata for r in gateway.requests] == [{"team": "red"}, {"team": "red"}, {}]


def test_many_customers_share_one_model(gateway: LocalGateway) -> None:
    model = chat(gateway)

    def run(name: str) -> None:
        with billed_to(name, "m"):
            model.invoke(f"I am '{name}'")

    async def arun(name: str) -> None:
        with billed_to(name, "m"):
            await model.ainvoke(f"I am '{name}'")

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(contextvars.copy_context().run, run, f"t{i}") for i in range(40)]
        for job in jobs:
            job.result()

    async def all_of_them() -> None:
        await asyncio.gather(*[arun(f"a{i}") for i in range(40)])

    asyncio.run(all_of_them())
    assert len(gateway.requests) == 80
    for request in gateway.requests:
        assert request.body["messages"][0]["content"] == f"I am '{request.customer_id}'"


@pytest.mark.parametrize("kind", [chat, embeddings])
def test_idle_models_cost_a_few_kilobytes_each(kind: Any, gateway: LocalGateway) -> None:
    keep = [kind(gateway)]
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))
    tracemalloc.start()
    try:
        keep += [kind(gateway) for _ in range(300)]
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / 300 < 15_000
    finally:
        tracemalloc.stop()
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == (threads, files)


# Caches


def test_the_cache_knows_one_model_and_question_from_another(gateway: LocalGateway, caller: Caller) -> None:
    cache = InMemoryCache()
    models = [
        chat(gateway, cache=cache),
        chat(gateway, cache=cache, model="mistral-large-latest"),
        chat(gateway, cache=cache, temperature=0.1),
        chat(gateway, cache=cache, safe_prompt=True),
    ]
    for model in models * 2:
        caller.invoke(model, "Hi")
    assert len(gateway.requests) == len(models)

    caller.invoke(models[0], "Hi", temperature=0.9)
    caller.invoke(models[0].bind_tools([{"name": "f"}]), "Hi")
    caller.invoke(models[0], "Hi", stop=["x"])
    models[0].temperature = 0.7
    caller.invoke(models[0], "Hi")
    assert len(gateway.requests) == len(models) + 4


def test_a_cached_answer_is_the_same_and_costs_nothing(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway, cache=InMemoryCache())
    first = caller.invoke(model, "Hi")
    second = caller.invoke(model, "Hi", billing=Billing(meter_slug="m"), lava_metadata={"a": "b"})
    third = caller.invoke(model, "Hi")

    assert len(gateway.requests) == 1
    assert first.text == second.text == third.text
    assert first.response_metadata["cost"] != "0"
    assert (second.response_metadata["cost"], third.response_metadata["cost"]) == ("0", "0")
    assert second.response_metadata["lava_request_id"] == first.response_metadata["lava_request_id"]


@pytest.mark.parametrize("streaming", [None, True])
@pytest.mark.parametrize("named_by", ["block", "call", "model", "token", "function"])
def test_the_cache_gives_no_answer_of_one_customer_to_another(
    named_by: str, streaming: bool | None, gateway: LocalGateway, caller: Caller
) -> None:
    cache = InMemoryCache()

    def ask(customer: str, **settings: Any) -> None:
        billing = Billing(customer, "m")
        if named_by in ("token", "function"):
            token = billing.forward_token(gateway.secret_key)
            settings["api_key"] = token if named_by == "token" else lambda: token
        if named_by == "model":
            settings["billing"] = billing
        model = chat(gateway, cache=cache, streaming=streaming, **settings)
        call = {"billing": billing} if named_by == "call" else {}
        if named_by == "block":
            with billed_to(customer, "m"):
                caller.invoke(model, "Hi", **call)
        else:
            caller.invoke(model, "Hi", **call)

    for customer in ("c_1", "c_2", "c_1", "c_2"):
        ask(customer)
    assert [request.customer_id for request in gateway.requests] == ["c_1", "c_2"]
    ask("c_1", cache_by_customer=False)
    ask("c_2", cache_by_customer=False)
    assert [request.customer_id for request in gateway.requests] == ["c_1", "c_2", "c_1"]


def test_an_answer_without_a_price_is_cached_too(caller: Caller) -> None:
    script = Script(answer())
    model = script.model(model="my-own", cache=InMemoryCache())
    assert caller.invoke(model, "Hi").text == caller.invoke(model, "Hi").text
    assert len(script.requests) == 1


def test_an_answer_can_be_written_down(gateway: LocalGateway, caller: Caller) -> None:
    assert '"cost"' in dumps(caller.invoke(chat(gateway), "Hi"))


def test_a_rate_limiter_is_asked(gateway: LocalGateway, caller: Caller) -> None:
    limiter = InMemoryRateLimiter(requests_per_second=20, check_every_n_seconds=0.01, max_bucket_size=1)
    model = chat(gateway, rate_limiter=limiter)
    began = time.monotonic()
    for _ in range(3):
        caller.invoke(model, "Hi")
    assert time.monotonic() - began > 0.1


# Traces


class Everything(BaseCallbackHandler):
    """Keeps all that a tracer is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.told += [serialized, messages, kwargs]

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.told += [response.model_dump(), kwargs]

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.told += [repr(error), str(error), kwargs]


@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
def test_no_trace_holds_a_secret(streamed: bool, caller: Caller) -> None:
    secret = Billing("c_1", "m", provider_key=PROVIDER_KEY)
    heard = Everything()
    refused = httpx.Response(401, json={"error": f"bad key {KEY}"})
    for told in (events("Hi") if streamed else answer("Hi"), refused):
        model = Script(told).model(billing=secret, temperature=0.3, callbacks=[heard], max_tokens=9)
        try:
            caller.ask(streamed, model, "Hi", billing=secret, lava_metadata={"team": "red"})
        except langchain_lava_mistral.AuthenticationError as error:
            heard.told += [repr(error), pickle.dumps(error)]

    text = str(heard.told) + repr(model) + str(dumpd(model)) + str(model.asdict()) + str(model.model_dump())
    assert KEY not in text
    assert PROVIDER_KEY not in text
    params = heard.told[2]["invocation_params"]
    assert params["model"] == "mistral-small-2603"
    assert params["temperature"] == 0.3
    assert "billing" not in params
    assert "lava_metadata" not in params
    assert heard.told[2]["metadata"]["ls_provider"] == "lava_mistral"


def test_what_a_trace_says_of_the_call() -> None:
    model = ChatLavaMistral(temperature=0.3, max_tokens=9, stop="END")
    assert model._get_ls_params() == {
        "ls_provider": "lava_mistral",
        "ls_model_name": "mistral-small-2603",
        "ls_model_type": "chat",
        "ls_temperature": 0.3,
        "ls_max_tokens": 9,
        "ls_stop": ["END"],
    }
    called = model._get_ls_params(stop=["X"], model="other", temperature=0.1)
    assert (called["ls_model_name"], called["ls_temperature"], called["ls_stop"]) == ("other", 0.1, ["X"])
    assert ChatLavaMistral(stop=["A"])._get_ls_params()["ls_stop"] == ["A"]
    assert model._get_invocation_params(stop=["Y"], seed=3) | {"_type": ""} == {
        "model": "mistral-small-2603",
        "base_url": None,
        "temperature": 0.3,
        "max_tokens": 9,
        "seed": 3,
        "stop": ["Y"],
        "_type": "",
    }


class Runs(BaseTracer):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.kept.append(run)


def test_a_tracer_keeps_new_tries(caller: Caller) -> None:
    failed = httpx.Response(503, headers={"retry-after": "0"}, json={"error": "no"})
    for streamed in (False, True):
        traced = Runs()
        caller.ask(streamed, Script(failed, events("Hi") if streamed else answer("Hi")).model(callbacks=[traced]), "Hi")
        (run,) = traced.kept
        (event,) = [event for event in run.events if event["name"] == "retry"]
        assert event["kwargs"]["exception_type"] == "ServerError"
        assert event["kwargs"]["attempt"] == 1


# Settings


def test_keys_that_rotate(gateway: LocalGateway, caller: Caller) -> None:
    keys: Iterator[str] = iter([gateway.secret_key, "aks_test_old"])
    model = chat(gateway, api_key=lambda: next(keys))
    assert caller.invoke(model, "Hi").text
    with pytest.raises(langchain_lava_mistral.AuthenticationError):
        caller.invoke(model, "Hi")
    assert dumpd(model)["kwargs"]["api_key"]["id"] == ["LAVA_SECRET_KEY"]


def test_the_environment(gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    late = ChatLavaMistral()
    monkeypatch.setenv("LAVA_BASE_URL", gateway.base_url)
    monkeypatch.setenv("LAVA_SECRET_KEY", gateway.secret_key)
    assert late.invoke("Hi").text
    token = Billing(meter_slug="m").forward_token(gateway.secret_key)
    monkeypatch.setenv("LAVA_FORWARD_TOKEN", token)
    model = ChatLavaMistral()
    assert model.invoke("Hi").text
    assert gateway.requests[1].meter_slug == "m"
    assert model.lc_secrets == {"api_key": "LAVA_FORWARD_TOKEN"}
    assert token not in str(dumpd(model))


def test_a_clients_own_headers_go_along(gateway: LocalGateway) -> None:
    with httpx.Client(headers={"x-team": "red"}) as client:
        assert chat(gateway, http_client=client).invoke("Hi").text
        assert not client.is_closed
    assert gateway.requests[0].headers["x-team"] == "red"


def test_profiles() -> None:
    known = ChatLavaMistral().profile
    assert known is not None
    assert known["structured_output"] is True
    assert known["max_input_tokens"] == 256_000
    assert known["image_inputs"] is True
    unknown = ChatLavaMistral(model="my-own").profile
    assert unknown is not None
    assert unknown["tool_calling"] is True
    assert unknown["image_inputs"] is False
    assert ChatLavaMistral(profile={"max_input_tokens": 3}).profile == {"max_input_tokens": 3}


def test_tokens_are_counted_without_a_download() -> None:
    model = ChatLavaMistral()
    assert 2 <= model.get_num_tokens("Hello there") <= 6
    few = model.get_num_tokens_from_messages([HumanMessage("Hello")])
    assert few < model.get_num_tokens_from_messages([HumanMessage("Hello"), HumanMessage("there, you")])
    # LangChain gives the tools by position.
    assert few < model.get_num_tokens_from_messages([HumanMessage("Hello")], [{"name": "f", "description": "d" * 40}])


def test_the_tokens_of_a_text() -> None:
    model = ChatLavaMistral()
    ids = model.get_token_ids("Hello there")
    assert len(ids) == model.get_num_tokens("Hello there")
    assert all(type(number) is int for number in ids)
    with pytest.raises(langchain_lava_mistral.ConfigurationError, match="tokenizer"):
        ChatLavaMistral(model="my-own").get_token_ids("Hello")
    own = ChatLavaMistral(custom_get_token_ids=lambda text: [1] * len(text))
    assert own.get_token_ids("abc") == [1, 1, 1]
    assert own.get_num_tokens("abcd") == 4


def test_a_call_under_one_loop_leaves_other_contexts_alone(gateway: LocalGateway) -> None:
    async def run() -> None:
        stream = chat(gateway).astream("Is the sky blue?")
        first = await anext(stream)
        rest = await asyncio.create_task(drain(stream))
        assert first.text + rest

    async def drain(stream: Any) -> str:
        return "".join([chunk.text async for chunk in stream])

    asyncio.run(run())
