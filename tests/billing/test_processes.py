"""Who pays for what pools of processes do: what the model says, or nobody before somebody has said it."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral import Billing, ConfigurationError, LavaMistral, UsageTotals, billed_to, track_usage
from lava_mistral.billing.scope import resolve_billing
from lava_mistral.gateway import LocalGateway
from tests.fakes.processes import load_and_work, work, work_in_a_block

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


Run = Callable[..., Any]


def through_a_pool(stack: ExitStack) -> Run:
    pool = stack.enter_context(multiprocessing.get_context("fork").Pool(1))
    return lambda function, *arguments: pool.starmap(function, [arguments])[0]


def through_an_executor(stack: ExitStack) -> Run:
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")))
    return lambda function, *arguments: pool.submit(function, *arguments).result()


def payers(gateway: LocalGateway) -> list[str | None]:
    return [request.customer_id for request in gateway.requests]


@contextmanager
def open_elsewhere(**block: Any) -> Iterator[None]:
    """While a thread of its own is in a block, as of a server."""
    entered, done = threading.Event(), threading.Event()

    def serve() -> None:
        with billed_to(**block):
            entered.set()
            done.wait(300)

    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve)
        entered.wait(30)
        try:
            yield
        finally:
            done.set()
        serving.result()


MakePool = Callable[[ExitStack], Run]


UNSAID = "Say on the model who pays: billing="


@pytest.mark.parametrize("kind", ["forked pool", "spawned executor"])
def test_a_pool_used_inside_a_block_needs_billing_on_the_model(
    gateway: LocalGateway, spawned: Executor, kind: str
) -> None:
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    with ExitStack() as stack:
        if kind == "forked pool":
            run = through_a_pool(stack)
            run(os.getpid)
        else:
            run = lambda function, *arguments: spawned.submit(function, *arguments).result()  # noqa: E731
        with billed_to(**ALICE, metadata={"app": "tests"}):
            for make in MODELS:
                with pytest.raises(ConfigurationError, match=UNSAID):
                    run(work, make(**access))
            assert not gateway.requests
            for make in MODELS:
                assert run(work, make(**access, billing=Billing(**BOB))) != "MainProcess"
            run(work, client(**access, billing=Billing()))
            # Pickled inside the block itself, the model takes the block along.
            run(load_and_work, pickle.dumps(client(**access)))
        run(work, client(**access))
    assert payers(gateway) == [*["bob"] * len(MODELS), None, "alice", None]
    assert gateway.requests[-2].metadata == {"app": "tests"}


def test_models_sent_to_another_process_are_billed_to_the_block_they_were_sent_from(
    gateway: LocalGateway, spawned: Executor
) -> None:
    own = {"app": "overridden"}
    models = [make(api_key=gateway.secret_key, base_url=gateway.base_url, lava_metadata=own) for make in MODELS]
    with billed_to(**ALICE, metadata={"app": "tests"}):
        pickled = [pickle.dumps(model) for model in models]
    for each in pickled:
        spawned.submit(load_and_work, each).result()
    assert payers(gateway) == ["alice"] * len(MODELS)
    assert [(r.meter_slug, r.metadata["app"]) for r in gateway.requests] == [("chat", "tests")] * len(MODELS)
    # The models themselves are as they were, and so are copies of them that stay here.
    for model in models[:-1]:
        assert model.billing is None
        assert pickle.loads(pickle.dumps(model)).lava_metadata == own


def test_a_block_of_another_thread_or_task_cannot_be_seen_either(gateway: LocalGateway, spawned: Executor) -> None:
    model = client(api_key=gateway.secret_key, base_url=gateway.base_url)
    with open_elsewhere(**ALICE):
        for make in MODELS:
            with pytest.raises(ConfigurationError, match=UNSAID):
                pickle.dumps(make(api_key="aks_test_0123456789"))

    async def serve() -> None:
        with billed_to(**ALICE), pytest.raises(ConfigurationError, match=UNSAID):
            await asyncio.get_running_loop().run_in_executor(spawned, work, model)

    asyncio.run(serve())
    assert not gateway.requests
    spawned.submit(work, model).result()
    assert payers(gateway) == [None]


def test_a_block_that_was_left_hinders_no_pickling() -> None:
    with billed_to(**ALICE):
        kept = contextvars.copy_context()
    for make in MODELS:
        pickle.loads(pickle.dumps(make(api_key="aks_test_0123456789")))
    del kept
    with track_usage():
        for make in MODELS:
            contextvars.Context().run(pickle.dumps, make(api_key="aks_test_0123456789"))


@pytest.mark.parametrize("make_pool", [through_a_pool, through_an_executor])
def test_a_process_forked_in_a_block_must_be_told_who_pays(gateway: LocalGateway, make_pool: MakePool) -> None:
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    with ExitStack() as stack:
        with billed_to(**ALICE, metadata={"app": "tests"}):
            run = make_pool(stack)
            run(os.getpid)
        with pytest.raises(ConfigurationError, match="forked inside a billed_to block"):
            run(work, llama_index_chat(**access))
        run(work, langchain_embeddings(**access, billing=Billing(**BOB)))
        with billed_to(**BOB):
            run(load_and_work, pickle.dumps(client(**access)))
    assert payers(gateway) == ["bob", "bob"]
    assert [request.metadata for request in gateway.requests] == [{}, {}]


def in_a_forked_process(model: Any) -> None:
    try:
        work(model)
    except ConfigurationError:
        with billed_to(**BOB):
            work(model)


def exit_code_of_a_fork(act: Callable[[], None]) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=act)
    child.start()
    child.join(20)
    return child.exitcode


def test_totals_count_in_a_forked_process_and_a_block_is_unseen_in_its_children_too() -> None:
    def grandchild() -> None:
        with pytest.raises(ConfigurationError, match="forked inside a billed_to block"):
            resolve_billing(None, None)

    def child(totals: UsageTotals) -> None:
        assert resolve_billing(Billing(**BOB), None).listeners == (totals,)
        assert exit_code_of_a_fork(grandchild) == 0

    with track_usage() as totals, billed_to(**ALICE):
        assert exit_code_of_a_fork(partial(child, totals)) == 0


def test_a_process_spawned_in_a_block_is_in_it(gateway: LocalGateway) -> None:
    model = client(api_key=gateway.secret_key, base_url=gateway.base_url)
    with billed_to(**ALICE):
        process = multiprocessing.get_context("spawn").Process(target=work_in_a_block, args=(model,))
        process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [(r.customer_id, r.meter_slug) for r in gateway.requests] == [("alice", "chat"), ("alice", "inner")]


def test_a_forked_process_opens_a_block_of_its_own(gateway: LocalGateway) -> None:
    model = llama_index_chat(api_key=gateway.secret_key, base_url=gateway.base_url)
    with billed_to(**ALICE, metadata={"app": "tests"}, spend_limit="1"):
        process = multiprocessing.get_context("fork").Process(target=in_a_forked_process, args=(model,))
        process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [(r.customer_id, r.metadata) for r in gateway.requests] == [("bob", {})]


def test_a_spend_limit_of_an_open_block_is_not_lost_in_a_pool(gateway: LocalGateway, spawned: Executor) -> None:
    settings = {"api_key": gateway.secret_key, "base_url": gateway.base_url, "billing": Billing(**ALICE)}
    with open_elsewhere(**ALICE, spend_limit="1"):
        for make in MODELS:
            with pytest.raises(ConfigurationError, match="spend_limit="):
                spawned.submit(work, make(**settings)).result()
        spawned.submit(work, client(**settings, spend_limit="0.5")).result()
    with billed_to(**ALICE, spend_limit="1"), pytest.raises(ConfigurationError, match="spend_limit="):
        pickle.dumps(llama_index_chat(**settings, spend_limit="0.5"))
    assert payers(gateway) == ["alice"]


def test_a_pipeline_with_processes(gateway: LocalGateway) -> None:
    """LlamaIndex's own pools: a spawned one in sync code, an executor's in async code."""
    settings = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    how: dict[str, Any] = {"documents": [Document(text=f"Fact {number}") for number in range(4)], "num_workers": 2}

    def pipeline(embeddings: Any) -> IngestionPipeline:
        return IngestionPipeline(transformations=[embeddings], disable_cache=True)

    with billed_to(**ALICE):
        unsaid = pipeline(llama_index_embeddings(**settings))
        with pytest.raises(ConfigurationError, match=UNSAID):
            unsaid.run(**how)
        with pytest.raises(ConfigurationError, match=UNSAID):
            asyncio.run(unsaid.arun(**how))
    said = pipeline(llama_index_embeddings(**settings, billing=Billing(**ALICE)))
    # In sync code that is a test of the LlamaIndex package's: its processes take seconds to begin.
    assert len(asyncio.run(said.arun(**how))) == 4
    assert set(payers(gateway)) == {"alice"}


@pytest.mark.parametrize("make", MODELS)
def test_a_pickle_holds_nothing_of_a_token_that_is_not_the_models(
    gateway: LocalGateway, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = Billing(customer_id="environment", meter_slug="m", provider_key="own-mistral-key")
    monkeypatch.setenv("LAVA_FORWARD_TOKEN", token.forward_token(gateway.secret_key))
    model = make(api_key=gateway.secret_key, base_url=gateway.base_url)
    with billed_to(metadata={"app": "tests"}):
        pickled = pickle.dumps(model)
    assert b"own-mistral-key" not in pickled
    load_and_work(pickled)
    assert [(r.customer_id, r.metadata) for r in gateway.requests] == [(None, {"app": "tests"})]
