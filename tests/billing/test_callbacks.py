"""What LangChain's and LlamaIndex's own callbacks learn of usage and cost; and requests that lead to their traces."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core.llms.mock import MockLLM
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from rich.console import Console

import llama_index_lava_mistral
from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings, LavaUsageCallbackHandler
from langchain_lava_mistral import get_lava_usage_callback as lava_usage
from lava_mistral import Billing, LavaError, LavaMistral, billed_to, track_usage
from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import LavaCallEvent, LavaUsageHandler
from tests.billing.conftest import Framework


def chat(gateway: LocalGateway, **settings: Any) -> ChatLavaMistral:
    return ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def embeddings(gateway: LocalGateway) -> LavaMistralEmbeddings:
    return LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url)


def ledger(gateway: LocalGateway) -> Decimal:
    return sum((request.cost for request in gateway.requests), Decimal(0))


@pytest.fixture
def counting() -> Iterator[LavaUsageHandler]:
    handler = LavaUsageHandler()
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.mark.parametrize(
    "way", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch", "generate", "events", "aevents"]
)
@pytest.mark.parametrize("given", ["to the call", "to the model"])
@pytest.mark.parametrize("streaming", [None, True], ids=["", "streaming"])
def test_a_handler_counts_what_runs_under_it(
    gateway: LocalGateway, way: str, given: str, streaming: bool | None
) -> None:
    usage = LavaUsageCallbackHandler()
    model = chat(gateway, callbacks=[usage] if given == "to the model" else None, streaming=streaming)
    config: Any = {"callbacks": [usage]} if given == "to the call" else {}

    async def consume(stream: Any) -> None:
        async for _ in stream:
            pass

    match way:
        case "invoke":
            model.invoke("Hello", config)
        case "stream":
            list(model.stream("Hello", config))
        case "batch":
            model.batch(["Hello", "Hi"], config)
        case "ainvoke":
            asyncio.run(model.ainvoke("Hello", config))
        case "astream":
            asyncio.run(consume(model.astream("Hello", config)))
        case "abatch":
            asyncio.run(model.abatch(["Hello", "Hi"], config))
        case "generate":
            model.generate([[HumanMessage("Hello")], [HumanMessage("Hi")]], **config)
        case "events":
            list(model.stream_events("Hello", config, version="v3"))
        case _:
            asyncio.run(consume(model.astream_events("Hello", config, version="v2")))
    other = chat(gateway)
    charged = ledger(gateway)
    other.invoke("This is nobody's")
    list(other.stream("This is nobody's"))
    assert usage.totals.cost == charged > 0
    assert usage.totals.requests == len(gateway.requests) - 2


def test_chains_agents_tools_and_retrievers_are_counted(gateway: LocalGateway) -> None:
    store = InMemoryVectorStore.from_documents([Document("The Rhine is 766 miles long.")], embeddings(gateway))
    gateway.reset()
    retriever = store.as_retriever()
    chain = {"context": retriever} | RunnableLambda(str) | chat(gateway)

    def look_up(river: str) -> str:
        """Look up how many miles long a river is."""
        return str(retriever.invoke(river)) + str(store.similarity_search(river))

    agent: Any = create_agent(chat(gateway), [look_up])
    usage = LavaUsageCallbackHandler()
    config: Any = {"callbacks": [usage]}
    chain.invoke("Rhine", config)
    retriever.invoke("Rhine", config)
    asyncio.run(retriever.ainvoke("Rhine", config))
    asyncio.run(chain.ainvoke("Rhine", config))
    question = {"messages": [("user", "Look up how many miles long the river 'Rhine' is.")]}
    agent.invoke(question, config)
    asyncio.run(agent.ainvoke(question, config))
    charged, requests = ledger(gateway), len(gateway.requests)
    retriever.invoke("nobody's")
    store.similarity_search("nobody's")
    assert (usage.totals.cost, usage.totals.requests) == (charged, requests)
    assert set(usage.totals.by_model) == {"mistral-embed", "mistral-small-2603"}


def test_a_failed_retriever_leaves_nothing_open(gateway: LocalGateway) -> None:
    usage = LavaUsageCallbackHandler()
    broken = InMemoryVectorStore(embeddings(gateway)).as_retriever()
    gateway.queue(403)
    with pytest.raises(LavaError):
        broken.invoke("x", {"callbacks": [usage]})
    embeddings(gateway).embed_query("nobody's")
    assert usage.totals.requests == 0


def test_the_block_counts_everything_and_nothing_twice(gateway: LocalGateway) -> None:
    with lava_usage() as usage, track_usage() as core:
        chat(gateway).invoke("Hello", {"callbacks": [usage]})
        list(chat(gateway, callbacks=[usage]).stream("Hello", {"callbacks": [usage]}))
        embeddings(gateway).embed_documents(["a", "b"])
        RunnableLambda(embeddings(gateway).embed_query).invoke("c", {"callbacks": [usage]})
        asyncio.run(embeddings(gateway).aembed_query("d"))
        list(embeddings(gateway).embed_iter(["e", "f"]))
    assert usage.totals.cost == core.cost == ledger(gateway)
    assert usage.totals.requests == len(gateway.requests) == 6


def test_an_answer_from_the_cache_costs_nothing(gateway: LocalGateway) -> None:
    usage = LavaUsageCallbackHandler()
    model = chat(gateway, cache=InMemoryCache(), callbacks=[usage])
    for _ in range(3):
        model.invoke("Hello")
    assert len(gateway.requests) == usage.totals.requests == 1


def test_streams_that_are_left_and_tries_that_failed_are_counted(gateway: LocalGateway) -> None:
    usage = LavaUsageCallbackHandler()
    model = chat(gateway, max_retries=2)
    stream = model.stream("Tell me a story", {"callbacks": [usage]})
    next(stream)
    stream.close()
    gateway.queue({"id": "x", "choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 0}})
    with contextlib.suppress(LavaError):
        model.invoke("Hello", {"callbacks": [usage]})
    assert usage.totals.requests == 3
    LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).reconcile(usage.totals)
    assert (usage.totals.cost, usage.totals.unknown) == (ledger(gateway), 0)


def test_other_models_are_not_counted(gateway: LocalGateway, counting: LavaUsageHandler) -> None:
    usage = LavaUsageCallbackHandler()
    FakeListChatModel(responses=["a"]).invoke("Hello", {"callbacks": [usage]})
    MockLLM().complete("Hello")
    assert usage.totals.requests == counting.totals.requests == 0


def test_the_handler_shows_itself(gateway: LocalGateway, counting: LavaUsageHandler) -> None:
    usage = LavaUsageCallbackHandler()
    with billed_to("acme", "chat", {"team": "red"}):
        chat(gateway).invoke("Hello", {"callbacks": [usage]})
    assert repr(usage).startswith("<LavaUsageCallbackHandler <UsageTotals: 1 request,")
    assert copy.deepcopy(usage) is usage
    handler: Any
    for handler in (usage, counting):
        if handler is counting:
            with billed_to("acme", "chat", {"team": "red"}):
                Framework("llama_index", asynchronous=False).llm(gateway).complete("Hello")
        console = Console(file=io.StringIO(), width=120)
        console.print(handler)
        console.print(handler.table("meter"))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        for part in ("mistral-small-2603", "acme", "by team", "red", "by meter"):
            assert part in shown
        told = json.loads(json.dumps(handler.as_dict()))
        assert told["by_customer"]["acme"]["cost"] == told["by_metadata"]["team"]["red"]["cost"] == told["cost"]


class Events(BaseEventHandler):
    """Keeps the events of paid requests, and asks for them."""

    lava_events: ClassVar[bool] = True

    seen: list[Any] = []  # noqa: RUF012 - a pydantic field

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, LavaCallEvent):
            self.seen.append(event)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_llama_index_gets_an_event_for_each_paid_request(gateway: LocalGateway, asynchronous: bool) -> None:
    framework = Framework("llama_index", asynchronous=asynchronous)
    events = Events()
    root = get_dispatcher()
    root.add_event_handler(events)
    try:
        llm = framework.llm(gateway, trace_metadata=True)
        await framework.chat(llm, "Hello", billing=Billing(customer_id="c", meter_slug="m"))
        await framework.stream(llm, "Hello")
        await framework.embed(framework.embeddings(gateway, trace_metadata=True), ["a", "b"])
    finally:
        root.event_handlers.remove(events)
    await framework.chat(llm, "Nobody listens")
    told = [event.record.request_id for event in events.seen]
    assert told == [request.request_id for request in gateway.requests[:3]]
    for event, request in zip(events.seen, gateway.requests, strict=False):
        written = json.loads(event.model_dump_json())
        assert Decimal(written["record"]["cost"]) == event.record.cost == request.cost
        assert event.span_id == request.metadata["llama_index_span_id"]
    assert events.seen[0].record.customer_id == "c"
    assert events.seen[0].span_id.startswith("ChatLavaMistral.")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_llama_index_without_any_handler_calls_all_the_same(
    gateway: LocalGateway, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    framework = Framework("llama_index", asynchronous=asynchronous)
    monkeypatch.setattr(get_dispatcher(), "event_handlers", [])
    with track_usage() as usage:
        await framework.chat(framework.llm(gateway), "Hello")
        await framework.embed(framework.embeddings(gateway), ["a"])
    assert usage.requests == len(gateway.requests) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_dispatcher_that_does_not_propagate_keeps_what_calls_cost_to_its_own_handlers(
    gateway: LocalGateway, asynchronous: bool, counting: LavaUsageHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    framework = Framework("llama_index", asynchronous=asynchronous)
    own, dispatcher = LavaUsageHandler(), get_dispatcher("llama_index_lava_mistral.callbacks")
    monkeypatch.setattr(dispatcher, "event_handlers", [own])
    await framework.chat(framework.llm(gateway), "Hello")
    assert (own.totals.requests, counting.totals.requests) == (1, 1)
    monkeypatch.setattr(dispatcher, "propagate", False)
    await framework.chat(framework.llm(gateway), "Hello")
    assert (own.totals.requests, counting.totals.requests) == (2, 1)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_span_id_that_is_too_long_for_lava_is_cut(gateway: LocalGateway, asynchronous: bool) -> None:
    framework = Framework("llama_index", asynchronous=asynchronous)
    access: Any = {"api_key": gateway.secret_key, "base_url": gateway.base_url, "trace_metadata": True}
    # A span is named after the class.
    await framework.chat(type("L" * 300, (llama_index_lava_mistral.ChatLavaMistral,), {})(**access), "Hello")
    await framework.embed(type("L" * 300, (llama_index_lava_mistral.LavaMistralEmbeddings,), {})(**access), ["a"])
    assert [request.metadata for request in gateway.requests] == [{"llama_index_span_id": "L" * 255}] * 2


async def test_a_request_leads_to_its_trace_and_back_on_demand(framework: Framework, gateway: LocalGateway) -> None:
    key = "langchain_run_id" if framework.name == "langchain" else "llama_index_span_id"
    with track_usage(listener=(records := []).append):
        await framework.chat(framework.llm(gateway), "Hello", lava_metadata={"team": "x"})
        await framework.chat(framework.llm(gateway), "Hello", trace_metadata=True, lava_metadata={"team": "x"})
        await framework.stream(framework.llm(gateway, trace_metadata=True), "Hello")
    first, *traced = gateway.requests
    assert first.metadata == {"team": "x"}
    for request, record in zip(traced, records[1:], strict=True):
        assert request.metadata[key] == record.run_id
    assert traced[0].metadata["team"] == "x"
    assert traced[0].metadata[key] != traced[1].metadata[key]


async def test_a_trace_that_the_caller_names_is_kept(framework: Framework, gateway: LocalGateway) -> None:
    key = "langchain_run_id" if framework.name == "langchain" else "llama_index_span_id"
    llm = framework.llm(gateway, trace_metadata=True)
    await framework.chat(llm, "Hello", lava_metadata={key: "mine"})
    await framework.stream(llm, "Hello", lava_metadata={key: "mine"})
    await framework.embed(framework.embeddings(gateway, trace_metadata=True), ["a"], lava_metadata={key: "mine"})
    await framework.chat(llm, "Hello")
    *named, unnamed = (request.metadata[key] for request in gateway.requests)
    assert named == ["mine"] * 3
    assert unnamed != "mine"


def test_the_run_id_is_langchains_own(gateway: LocalGateway) -> None:
    runs: list[Any] = []

    class Keep(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
            runs.append(str(run_id))

    model = chat(gateway, trace_metadata=True)
    own = uuid4()
    model.invoke("Hello", {"callbacks": [Keep()], "run_id": own})
    list(model.stream("Hello", {"callbacks": [Keep()]}))
    (model | RunnableLambda(str)).invoke("Hello", {"callbacks": [Keep()]})
    model.invoke("Hello", {"callbacks": [Keep()]}, streaming=True)
    asyncio.run(model.ainvoke("Hello", {"callbacks": [Keep()]}, streaming=True))
    assert runs[0] == str(own)
    assert [request.metadata["langchain_run_id"] for request in gateway.requests] == runs


def test_an_embedding_leads_to_the_run_that_it_is_part_of(gateway: LocalGateway) -> None:
    runs: dict[str, str] = {}

    class Keep(BaseCallbackHandler):
        def on_chain_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
            runs["chain"] = str(run_id)

        def on_retriever_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
            runs["retriever"] = str(run_id)

    model = LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, trace_metadata=True)
    store = InMemoryVectorStore.from_texts(["The Rhine is 766 miles long."], model)
    named = {"langchain_run_id": "mine"}
    RunnableLambda(lambda text: model.embed_query(text, lava_metadata=named)).invoke("x", {"callbacks": [Keep()]})
    RunnableLambda(model.embed_query).invoke("x", {"callbacks": [Keep()]})
    store.as_retriever().invoke("x", {"callbacks": [Keep(), LavaUsageCallbackHandler()]})
    found = [request.metadata.get("langchain_run_id") for request in gateway.requests]
    assert found == [None, "mine", runs["chain"], runs["retriever"]]
