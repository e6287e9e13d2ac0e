"""Who pays reaches every call, through whatever the frameworks put around it."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document as LangChainDocument
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral import Billing, ConfigurationError, LavaMistral, SpendLimitError, billed_to, track_usage
from lava_mistral.gateway import LocalGateway
from tests.billing.conftest import Framework

pytestmark = [
    # LlamaIndex's workflows look at pydantic's deprecated attributes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:workflows"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index"),
]

ALICE = {"customer_id": "alice", "meter_slug": "chat"}
TEXTS = [f"Fact {number}: the river number {number} is {number} miles long." for number in range(6)]


def lang_llm(gateway: LocalGateway, **settings: Any) -> Any:
    return langchain_lava_mistral.ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def lang_embeddings(gateway: LocalGateway, **settings: Any) -> Any:
    return langchain_lava_mistral.LavaMistralEmbeddings(
        api_key=gateway.secret_key, base_url=gateway.base_url, **settings
    )


def llama_llm(gateway: LocalGateway, **settings: Any) -> Any:
    return llama_index_lava_mistral.ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def llama_embeddings(gateway: LocalGateway, **settings: Any) -> Any:
    return llama_index_lava_mistral.LavaMistralEmbeddings(
        api_key=gateway.secret_key, base_url=gateway.base_url, **settings
    )


def payers(gateway: LocalGateway) -> set[str | None]:
    assert gateway.requests
    return {request.customer_id for request in gateway.requests}


def all_for_alice(gateway: LocalGateway, at_least: int = 1) -> None:
    assert len(gateway.requests) >= at_least
    assert {(r.customer_id, r.meter_slug, r.metadata.get("app")) for r in gateway.requests} == {
        ("alice", "chat", "tests")
    }
    assert gateway.wallet.merchant == 1000


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def invoke(way: str, runnable: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    if way == "sync":
        return runnable.invoke(value, *args, **kwargs)
    return asyncio.run(runnable.ainvoke(value, *args, **kwargs))


def test_billing_is_a_configurable_field(gateway: LocalGateway, way: str) -> None:
    model = lang_llm(gateway, billing=Billing(meter_slug="default")).configurable_fields(
        billing=ConfigurableField(id="billing"), lava_metadata=ConfigurableField(id="lava_metadata")
    )
    invoke(way, model, "Hello")
    configured = {"billing": Billing(**ALICE), "lava_metadata": {"app": "tests"}}
    invoke(way, model, "Hello", {"configurable": configured})
    invoke(way, model.with_config(configurable={"billing": ALICE}), "Hello")
    invoke(way, ChatPromptTemplate.from_messages(["{x}"]) | model, {"x": "Hello"}, {"configurable": configured})
    assert [(r.customer_id, r.meter_slug, r.metadata) for r in gateway.requests] == [
        (None, "default", {}),
        ("alice", "chat", {"app": "tests"}),
        ("alice", "chat", {}),
        ("alice", "chat", {"app": "tests"}),
    ]


def test_bound_and_given_billing(gateway: LocalGateway, way: str) -> None:
    model = lang_llm(gateway, billing=Billing(customer_id="bob", meter_slug="chat"))
    invoke(way, model.bind(billing=Billing(**ALICE)), "Hello")
    invoke(way, model, "Hello", billing=Billing(customer_id="carol", meter_slug="search"))
    with billed_to(customer_id="dave"):
        invoke(way, model, "Hello")
        invoke(way, model, "Hello", billing=Billing(**ALICE))
    assert [(r.customer_id, r.meter_slug) for r in gateway.requests] == [
        ("alice", "chat"),
        ("carol", "search"),
        ("dave", "chat"),
        ("alice", "chat"),
    ]


def test_chains_parallel_steps_and_batches(gateway: LocalGateway, way: str) -> None:
    model = lang_llm(gateway)
    chain = RunnableParallel(one=model, two=model | (lambda message: message.text), three=RunnablePassthrough())
    with billed_to(**ALICE, metadata={"app": "tests"}):
        invoke(way, chain, "Hello there")
        if way == "sync":
            model.batch(["a", "b", "c", "d"])
            list(model.batch_as_completed(["e", "f"]))
        else:
            asyncio.run(model.abatch(["a", "b", "c", "d"]))
    all_for_alice(gateway, at_least=6)


def test_agents_their_tools_and_models_inside_tools(gateway: LocalGateway, way: str) -> None:
    inner = lang_llm(gateway)
    embeddings = lang_embeddings(gateway)

    @tool
    def river_length(river: str) -> str:
        """Look up how many miles long a river is."""
        embeddings.embed_query(river)
        return str(inner.invoke(f"How long is {river}?").text)

    agent: Any = create_agent(lang_llm(gateway), [river_length])
    with billed_to(**ALICE, metadata={"app": "tests"}):
        result = invoke(way, agent, {"messages": [("user", "How many miles long is the river 'Rhine'? Look it up.")]})
    assert len(result["messages"]) > 2
    all_for_alice(gateway, at_least=4)
    assert {request.kind for request in gateway.requests} == {"chat", "embeddings"}


def test_retrievers_and_embeddings(gateway: LocalGateway, way: str) -> None:
    embeddings = lang_embeddings(gateway, max_concurrency=4)
    with billed_to(**ALICE, metadata={"app": "tests"}):
        documents = [LangChainDocument(text * 300) for text in TEXTS]
        if way == "sync":
            store = InMemoryVectorStore.from_documents(documents, embeddings)
        else:
            store = asyncio.run(InMemoryVectorStore.afrom_documents(documents, embeddings))
        retriever = store.as_retriever()
        chain = {"context": retriever, "question": RunnablePassthrough()} | RunnableLambda(str) | lang_llm(gateway)
        invoke(way, retriever, "Which river is long?")
        invoke(way, chain, "Which river is long?")
    all_for_alice(gateway, at_least=5)


@pytest.mark.parametrize("streaming", [None, False], ids=["streamed", "not streamed"])
def test_a_stream_is_billed_to_and_counted_where_it_was_asked_for(
    gateway: LocalGateway, way: str, streaming: bool | None
) -> None:
    llm = lang_llm(gateway, streaming=streaming)

    async def alater(chunks: Any, responses: Any) -> None:
        assert [chunk async for chunk in chunks]
        assert [response async for response in await responses]

    with billed_to(**ALICE, metadata={"app": "tests"}), track_usage() as usage:
        if way == "sync":
            chunks, responses = llm.stream("Hello"), llama_llm(gateway).stream_complete("Hello")
        else:
            chunks, responses = llm.astream("Hello"), llama_llm(gateway).astream_complete("Hello")
    # A stream that is read in another block is not that one's.
    with billed_to("bob", "search"), track_usage() as elsewhere:
        if way == "sync":
            assert list(chunks)
            assert list(responses)
        else:
            asyncio.run(alater(chunks, responses))
    if way == "sync":
        all_for_alice(gateway, at_least=2)
        assert (usage.requests, elsewhere.requests) == (2, 0)
    else:
        # LlamaIndex's coroutine asks when it is awaited.
        assert [request.customer_id for request in gateway.requests] == ["alice", "bob"]
        assert (usage.requests, elsewhere.requests) == (1, 1)


@pytest.fixture
def index(gateway: LocalGateway) -> Any:
    made = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        embed_model=llama_embeddings(gateway),
        transformations=[TokenTextSplitter(tokenizer=str.split)],
    )
    gateway.reset()
    return made


def test_query_engines(gateway: LocalGateway, way: str, index: Any) -> None:
    balance = gateway.wallet.merchant
    gateway.wallet.merchant = 1000
    for options in ({}, {"streaming": True}, {"response_mode": "tree_summarize", "use_async": True}):
        engine = index.as_query_engine(llm=llama_llm(gateway), **options)
        with billed_to(**ALICE, metadata={"app": "tests"}):
            if way == "sync":
                str(engine.query("Which river is long?"))
            else:
                asyncio.run(consume(engine))
    assert balance < 1000
    all_for_alice(gateway, at_least=6)
    assert {request.kind for request in gateway.requests} == {"chat", "embeddings"}


async def consume(engine: Any) -> None:
    response = await engine.aquery("Which river is long?")
    if hasattr(response, "async_response_gen"):
        async for _ in response.async_response_gen():
            pass


def test_chat_engines_with_their_threads(gateway: LocalGateway, way: str) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=str.split)
    engine = SimpleChatEngine.from_defaults(llm=llama_llm(gateway), memory=memory)

    async def talk() -> None:
        response = await engine.astream_chat("Hello")
        async for _ in response.async_response_gen():
            pass

    with billed_to(**ALICE, metadata={"app": "tests"}):
        if way == "sync":
            engine.chat("Hello")
            "".join(engine.stream_chat("Hello").response_gen)
        else:
            asyncio.run(talk())
    all_for_alice(gateway)


def test_indexes_that_embed_in_parallel(gateway: LocalGateway) -> None:
    with billed_to(**ALICE, metadata={"app": "tests"}):
        VectorStoreIndex.from_documents(
            [Document(text=text * 300) for text in TEXTS],
            embed_model=llama_embeddings(gateway, num_workers=4, embed_batch_size=2),
            transformations=[TokenTextSplitter(tokenizer=str.split)],
            use_async=True,
        )
        pipeline = IngestionPipeline(transformations=[llama_embeddings(gateway)])
        pipeline.run(documents=[Document(text="Hello")])
        asyncio.run(pipeline.arun(documents=[Document(text="Hello")]))
    all_for_alice(gateway, at_least=3)


def look_up(river: str) -> str:
    """Look up how many miles long a river is."""
    return f"The {river} is 766 miles long."


def test_function_agents(gateway: LocalGateway) -> None:
    agent = FunctionAgent(tools=[look_up], llm=llama_llm(gateway), streaming=True)

    async def ask() -> Any:
        memory = ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=str.split)
        with billed_to(**ALICE, metadata={"app": "tests"}):
            handler = agent.run("Look up how many miles long the river 'Rhine' is.", memory=memory)
        return await handler

    asyncio.run(ask())
    all_for_alice(gateway, at_least=2)


def test_workflows(gateway: LocalGateway) -> None:
    llm = llama_llm(gateway)

    class Ask(Workflow):
        @step
        async def ask(self, event: StartEvent) -> StopEvent:
            await llm.acomplete("Hello")
            await asyncio.to_thread(llm.complete, "Hello")
            return StopEvent(result="done")

    async def run() -> None:
        with billed_to(**ALICE, metadata={"app": "tests"}):
            await Ask(timeout=30).run()

    asyncio.run(run())
    all_for_alice(gateway, at_least=2)


def test_concurrent_blocks_do_not_meet(gateway: LocalGateway) -> None:
    llms = [lang_llm(gateway), llama_llm(gateway)]

    async def serve(number: int) -> None:
        with billed_to(f"c_{number}", "chat"):
            await asyncio.sleep(0.001 * (number % 3))
            if number % 2:
                await llms[0].ainvoke(f"I am c_{number}")
            else:
                await llms[1].acomplete(f"I am c_{number}")

    async def all_of_them() -> None:
        await asyncio.gather(*map(serve, range(20)))

    asyncio.run(all_of_them())
    for request in gateway.requests:
        assert request.body["messages"][0]["content"] == f"I am {request.customer_id}"


def test_a_limit_of_a_block_does_not_reach_another_process(gateway: LocalGateway) -> None:
    for model in (lang_llm(gateway), llama_llm(gateway), LavaMistral(api_key=gateway.secret_key)):
        with billed_to(spend_limit="1"), pytest.raises(ConfigurationError, match="another process"):
            pickle.dumps(model)


def test_a_key_that_cannot_be_sent_is_not_left_out(gateway: LocalGateway) -> None:
    for settings in ({"billing": Billing(provider_key=lambda: "own")}, {"api_key": lambda: gateway.secret_key}):
        for make in (llama_llm, llama_embeddings):
            model = getattr(llama_index_lava_mistral, type(make(gateway)).__name__)(**settings)
            with pytest.raises(ConfigurationError, match="another process"):
                pickle.dumps(model)


async def test_spend_limits_hold_in_both_frameworks(framework: Framework, gateway: LocalGateway) -> None:
    llm = framework.llm(gateway, spend_limit="0.00001", max_tokens=500)
    embeddings = framework.embeddings(gateway, spend_limit="0.0000001")
    free = framework.llm(gateway, max_tokens=500)
    for call in (
        lambda: framework.chat(llm, "Hello"),
        lambda: framework.stream(llm, "Hello"),
        lambda: framework.embed(embeddings, ["Hello"]),
    ):
        with pytest.raises(SpendLimitError) as caught:
            await call()
        assert caught.value.needed > caught.value.left
    with billed_to("c", "m", spend_limit="0.00001"), pytest.raises(SpendLimitError):
        await framework.chat(free, "Hello")
    with pytest.raises(Exception, match="billed_to"):
        await framework.chat(free, "Hello", spend_limit="1")
    assert not gateway.requests
    block = billed_to("c", "m", spend_limit="0.01")
    with block:
        await framework.chat(free, "Hello")
        await framework.stream(free, "Hello")
        await framework.embed(framework.embeddings(gateway), ["Hello"])
    assert block.spend_limit is not None
    assert block.spend_limit.spent == sum(request.cost for request in gateway.requests)
    assert block.spend_limit.reserved == block.spend_limit.held == 0
