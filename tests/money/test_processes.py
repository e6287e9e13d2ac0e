"""Who pays for what pools of processes do: what the model says, or nobody before somebody has said it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral import Billing, ConfigurationError, LavaMistral, billed_to
from lava_mistral.gateway import LocalGateway

pytestmark = [
    # Python 3.12 and later warn of each fork in a process with threads.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

ALICE = {"customer_id": "alice", "meter_slug": "chat"}
BOB = {"customer_id": "bob", "meter_slug": "chat"}


def langchain_chat(**settings: Any) -> Any:
    return langchain_lava_mistral.ChatLavaMistral(**settings)


def langchain_embeddings(**settings: Any) -> Any:
    return langchain_lava_mistral.LavaMistralEmbeddings(**settings)


def llama_index_chat(**settings: Any) -> Any:
    return llama_index_lava_mistral.ChatLavaMistral(**settings)


def llama_index_embeddings(**settings: Any) -> Any:
    return llama_index_lava_mistral.LavaMistralEmbeddings(**settings)


def client(**settings: Any) -> Any:
    metadata = settings.pop("lava_metadata", None)
    return LavaMistral(metadata=metadata, **settings)


MODELS = [langchain_chat, langchain_embeddings, llama_index_chat, llama_index_embeddings, client]


def work(model: Any) -> str:
    """What a process of a pool does: one paid call."""
    if hasattr(model, "invoke"):
        model.invoke("Hello")
    elif hasattr(model, "complete"):
        model.complete("Hello")
    elif hasattr(model, "embed_query"):
        model.embed_query("Hello")
    elif hasattr(model, "get_query_embedding"):
        model.get_query_embedding("Hello")
    else:
        model.chat([{"role": "user", "content": "Hello"}])
    return multiprocessing.current_process().name


def load_and_work(pickled: bytes) -> str:
    return work(pickle.loads(pickled))


Run = Callable[..., Any]


def through_a_pool(start_method: str, stack: ExitStack) -> Run:
    pool = stack.enter_context(multiprocessing.get_context(start_method).Pool(1))
    return lambda function, *arguments: pool.starmap(function, [arguments])[0]


def through_an_executor(start_method: str, stack: ExitStack) -> Run:
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start_method)))
    return lambda function, *arguments: pool.submit(function, *arguments).result()


def payers(gateway: LocalGateway) -> list[str | None]:
    return [request.customer_id for request in gateway.requests]


@pytest.mark.parametrize(("make_pool", "start_method"), [(through_a_pool, "spawn"), (through_an_executor, "fork")])
def test_a_pool_in_a_block_is_told_by_the_model_who_pays(
    gateway: LocalGateway, make_pool: Callable[[str, ExitStack], Run], start_method: str
) -> None:
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    with ExitStack() as stack, billed_to(**ALICE, metadata={"app": "tests"}):
        run = make_pool(start_method, stack)
        for make in MODELS:
            for unsaid in ({}, {"billing": Billing(meter_slug="chat")}):
                with pytest.raises(ConfigurationError, match=r"pool of processes.*billing="):
                    run(work, make(**access, **unsaid))
        assert not gateway.requests
        for make in MODELS:
            assert run(work, make(**access, billing=Billing(**ALICE))) != "MainProcess"
        run(work, make(**access, billing=Billing()))
        # Pickled by the sender itself, it takes the block along.
        run(load_and_work, pickle.dumps(make(**access)))
    assert payers(gateway) == ["alice"] * len(MODELS) + [None, "alice"]
    assert gateway.requests[-1].metadata == {"app": "tests"}


@pytest.mark.parametrize("make_pool", [through_a_pool, through_an_executor])
def test_a_pool_that_was_forked_in_a_block_is_not_in_it(
    gateway: LocalGateway, make_pool: Callable[[str, ExitStack], Run]
) -> None:
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    with ExitStack() as stack:
        with billed_to(**ALICE, metadata={"app": "tests"}):
            run = make_pool("fork", stack)
            run(os.getpid)
        run(work, llama_index_chat(**access))
        run(work, langchain_embeddings(**access, billing=Billing(**BOB)))
        with billed_to(**BOB):
            run(load_and_work, pickle.dumps(client(**access)))
    assert payers(gateway) == [None, "bob", "bob"]
    assert [request.metadata for request in gateway.requests] == [{}, {}, {}]


def in_a_process(model: Any) -> None:
    work(model)
    with billed_to(meter_slug="inner"):
        work(model)


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_a_process_started_in_a_block_is_in_it(gateway: LocalGateway, start_method: str) -> None:
    model = llama_index_chat(api_key=gateway.secret_key, base_url=gateway.base_url)
    with billed_to(**ALICE):
        process = multiprocessing.get_context(start_method).Process(target=in_a_process, args=(model,))
        process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [(r.customer_id, r.meter_slug) for r in gateway.requests] == [("alice", "chat"), ("alice", "inner")]


def test_a_spend_limit_of_an_open_block_is_not_lost_in_a_pool(gateway: LocalGateway) -> None:
    settings = {"api_key": gateway.secret_key, "base_url": gateway.base_url, "billing": Billing(**ALICE)}
    with ExitStack() as stack, billed_to(**ALICE, spend_limit="1"):
        run = through_a_pool("spawn", stack)
        for make in MODELS:
            with pytest.raises(ConfigurationError, match="spend_limit="):
                run(work, make(**settings))
        run(work, llama_index_chat(**settings, spend_limit="0.5"))
    assert payers(gateway) == ["alice"]


def test_blocks_that_are_open_elsewhere_hinder_no_other_pickling(gateway: LocalGateway) -> None:
    """A server pickles for its caches while other threads are in blocks."""
    model = llama_index_chat(api_key=gateway.secret_key, base_url=gateway.base_url)
    entered, done = threading.Event(), threading.Event()

    def serve() -> None:
        with billed_to(**ALICE, spend_limit="1"):
            entered.set()
            done.wait(30)

    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve)
        entered.wait(30)
        try:
            assert pickle.loads(pickle.dumps(model)).billing is None
        finally:
            done.set()
        serving.result()


def test_a_task_that_outlives_its_block_is_still_in_it_and_nobody_else_is(gateway: LocalGateway) -> None:
    model = llama_index_chat(api_key=gateway.secret_key, base_url=gateway.base_url)

    async def outlive() -> None:
        loop = asyncio.get_running_loop()
        release = asyncio.Event()

        async def wait() -> None:
            await release.wait()

        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            with billed_to(**ALICE):
                task = loop.create_task(wait())
            with pytest.raises(ConfigurationError, match="pool of processes"):
                await loop.run_in_executor(pool, work, model)
            release.set()
            await task
            del task
            await asyncio.sleep(0)
            await loop.run_in_executor(pool, work, model)

    asyncio.run(outlive())
    assert payers(gateway) == [None]


@pytest.mark.parametrize("way", ["run", "arun"])
def test_a_pipeline_with_processes(gateway: LocalGateway, way: str) -> None:
    """LlamaIndex's own pools: a spawned one in sync code, an executor's in async code."""
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    documents = [Document(text=f"Fact {number}") for number in range(4)]

    def run(pipeline: IngestionPipeline) -> Any:
        if way == "run":
            return pipeline.run(documents=documents, num_workers=2)

        async def inner() -> Any:
            return await pipeline.arun(documents=documents, num_workers=2)

        return asyncio.run(inner())

    with billed_to(**ALICE):
        with pytest.raises(ConfigurationError, match="billing="):
            run(IngestionPipeline(transformations=[llama_index_embeddings(**access)], disable_cache=True))
        assert not gateway.requests
        said = llama_index_embeddings(**access, billing=Billing(**ALICE))
        assert len(run(IngestionPipeline(transformations=[said], disable_cache=True))) == 4
    assert set(payers(gateway)) == {"alice"}
