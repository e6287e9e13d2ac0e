"""The parameters of today's API, what answers say in return, and whose customer a call is for."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph

from langchain_lava_mistral import ChatLavaMistral, ConfigurationError, LavaMistralEmbeddings
from lava_mistral import Billing, billed_to
from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import KEY, USAGE, Caller, Script, answer, chat, chunk, embeddings, events

both = pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
NEW: dict[str, Any] = {
    "top_k": 5,
    "min_tokens": 2,
    "repetition_penalty": 1.1,
    "logprobs": True,
    "top_logprobs": 2,
    "prompt_logprobs": True,
    "top_prompt_logprobs": 1,
    "service_tier": "standard_only",
    "guardrails": [{"block_on_error": True}],
    "reasoning_effort": "xhigh",
    "mistral_metadata": {"team": "red"},
}


@pytest.mark.parametrize(("name", "value"), NEW.items(), ids=NEW)
def test_a_new_parameter_goes_out_from_the_model_and_from_the_call(name: str, value: Any, caller: Caller) -> None:
    asked = Script(answer())
    wire = "metadata" if name == "mistral_metadata" else name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caller.invoke(asked.model(**{name: value}), "Hi")
    assert asked.body[wire] == value
    caller.invoke(asked.model(), "Hi", **{name: value})
    assert asked.body[wire] == value
    caller.invoke(asked.model().bind(model_kwargs={name: value}), "Hi")
    assert asked.body[wire] == value
    assert asked.body.keys() == {"model", "messages", wire}


def test_a_tool_choice_of_the_model_holds_for_calls_with_tools(caller: Caller) -> None:
    asked = Script(answer())
    model = asked.model(tool_choice="required")
    caller.invoke(model, "Hi")
    caller.invoke(model.bind_tools([{"name": "f"}]), "Hi")
    caller.invoke(model.bind_tools([{"name": "f"}], tool_choice="f"), "Hi")
    assert [body.get("tool_choice") for body in asked.bodies] == [
        None,
        "required",
        {"type": "function", "function": {"name": "f"}},
    ]


def test_synonyms_of_other_integrations(caller: Caller) -> None:
    asked = Script(answer())
    plain: Any = asked.model()
    model = ChatLavaMistral(
        api_key=KEY,
        client=plain.http_client,  # type: ignore[call-arg]
        async_client=plain.http_async_client,
        max_completion_tokens=7,
        extra_body={"brand_new": 1},
        stream_usage=True,
    )
    caller.invoke(model, "Hi")
    assert {key: asked.body[key] for key in ("max_tokens", "brand_new")} == {"max_tokens": 7, "brand_new": 1}
    caller.invoke(plain, "Hi", max_completion_tokens=3, extra_body={"brand_new": 2})
    assert {key: asked.body[key] for key in ("max_tokens", "brand_new")} == {"max_tokens": 3, "brand_new": 2}
    assert LavaMistralEmbeddings(max_concurrent_requests=3, model_name="m").max_concurrency == 3  # type: ignore[call-arg]


def test_a_setting_under_two_names_is_refused() -> None:
    with pytest.raises(ValueError, match="same setting"):
        ChatLavaMistral(max_tokens=1, max_completion_tokens=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stream_usage": False}, "last chunk of a stream"),
        ({"default_headers": {"a": "b"}}, "http_client=httpx"),
        ({"wait_time": 3}, "Retry-After"),
    ],
)
def test_what_has_no_meaning_says_what_to_do(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChatLavaMistral(**given)


def test_embeddings_refuse_a_misspelt_name() -> None:
    with pytest.raises(ValueError, match="Did you mean 'max_concurrency'"):
        LavaMistralEmbeddings(max_concurency=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'batchsize' has no meaning"):
        LavaMistralEmbeddings(batchsize=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'wait_time' has no meaning"):
        LavaMistralEmbeddings(wait_time=3)  # type: ignore[call-arg]


SECRETS = ["mistral_api_key", "MISTRAL_API_KEY", "apiKey", "openai_api_key", "hf_token", "client_secret", "password"]


@pytest.mark.parametrize("name", [*SECRETS, "Authorization", "access_token", "bearer", "auth"])
def test_nothing_that_is_called_like_a_credential_goes_anywhere(name: str, caller: Caller) -> None:
    asked, heard = Script(answer()), Heard()
    for given in ({name: "hush"}, {"model_kwargs": {name: "hush"}}, {"extra_body": {name: "hush"}}):
        with pytest.raises(ValueError, match=name) as refused:
            asked.model(**given)
        assert "hush" not in str(refused.value)
        with pytest.raises(ConfigurationError, match=name) as stopped:
            caller.invoke(asked.model(), "Hi", {"callbacks": [heard]}, **given)
        assert "hush" not in str(stopped.value)
        with pytest.raises(ConfigurationError, match=name):
            asked.model().bind(**given)
    with pytest.raises(ValueError, match=name) as refused:
        LavaMistralEmbeddings(**{name: "hush"})
    assert "hush" not in str(refused.value)
    assert asked.requests == []
    assert len(heard.told) == 3
    assert "hush" not in str(heard.told)


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.told.append((args, kwargs))


# What comes back

TOKENS = [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "token_id": 7}, {"token": "!", "logprob": -0.2}]


@both
def test_log_probabilities(streamed: bool, caller: Caller) -> None:
    whole: Any = answer("Hi!")
    whole["choices"][0]["logprobs"] = {"content": TOKENS}
    pieces: list[Any] = [chunk({"content": "Hi"}), chunk({"content": "!"}, finish_reason="stop", usage=USAGE)]
    for piece, token in zip(pieces, TOKENS, strict=True):
        piece["choices"][0]["logprobs"] = {"content": [token]}
    script = Script(pieces) if streamed else Script(whole)
    got = caller.ask(streamed, script.model(logprobs=True), "?")
    assert got.text == "Hi!"
    assert got.response_metadata["logprobs"] == {"content": TOKENS}


@both
def test_reasoning_tokens_and_the_tier_of_service(streamed: bool, caller: Caller) -> None:
    usage = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 3}, "service_tier": "standard_only"}
    script = Script(events("Hi", usage=usage) if streamed else answer("Hi", usage=usage))
    got = caller.ask(streamed, script.model(), "?")
    assert got.usage_metadata is not None
    assert got.usage_metadata["output_token_details"] == {"reasoning": 3}
    assert got.response_metadata["service_tier"] == "standard_only"


@both
def test_usage_without_a_total_adds_up(streamed: bool, caller: Caller) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 5}
    script = Script(events("Hi", usage=usage) if streamed else answer("Hi", usage=usage))
    got = caller.ask(streamed, script.model(), "?")
    assert got.usage_metadata == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}


@both
def test_response_headers_on_request(streamed: bool, gateway: LocalGateway, caller: Caller) -> None:
    quiet, told = chat(gateway), chat(gateway, include_response_headers=True)
    assert "headers" not in caller.ask(streamed, quiet, "Hi").response_metadata
    for got in (
        caller.ask(streamed, told, "Hi"),
        caller.ask(streamed, quiet, "Hi", include_response_headers=True),
    ):
        headers = got.response_metadata["headers"]
        assert headers["x-lava-request-id"] == got.response_metadata["lava_request_id"]
        assert "json" in headers["content-type"] or "event-stream" in headers["content-type"]
        assert gateway.secret_key not in str(headers)
    assert all("include_response_headers" not in request.body for request in gateway.requests)


# The key of Mistral's prompt cache


def keys(script: Script) -> list[str]:
    return [body["prompt_cache_key"] for body in script.bodies]


def test_an_automatic_cache_key_follows_the_system_prompt_and_the_tools(caller: Caller) -> None:
    asked = Script(answer())
    model = asked.model(prompt_cache_key="auto")
    caller.invoke(model, [SystemMessage("a"), HumanMessage("1")])
    caller.invoke(model, [SystemMessage("a"), HumanMessage("2")])
    caller.invoke(model, [SystemMessage("b"), HumanMessage("1")])
    caller.invoke(model.bind_tools([{"name": "f"}]), [SystemMessage("a"), HumanMessage("1")])
    same, again, other, tools = keys(asked)
    assert same == again
    assert len({same, other, tools}) == 3
    caller.invoke(asked.model(), "Hi")
    assert "prompt_cache_key" not in asked.body


@both
def test_an_automatic_cache_key_follows_langgraphs_thread(streamed: bool, caller: Caller) -> None:
    asked = Script(events("Hi") if streamed else answer("Hi"))
    model = asked.model(prompt_cache_key="auto", streaming=streamed)

    def node(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    async def anode(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", RunnableLambda(node, anode))
    builder.add_edge(START, "model")
    graph = builder.compile()
    for thread, text in (("t1", "a"), ("t1", "b"), ("t2", "a")):
        caller.invoke(
            graph, {"messages": [SystemMessage(text), HumanMessage("Hi")]}, {"configurable": {"thread_id": thread}}
        )
    first, again, other = keys(asked)
    assert first == again != other
    if streamed:
        caller.stream(model, "Hi", {"configurable": {"thread_id": "t1"}})
        assert keys(asked)[-1] == first
    # As a node's config tells it where the node calls in a thread of its own, and as LangSmith names a thread.
    caller.invoke(model, "Hi", {"metadata": {"thread_id": "t1"}})
    assert keys(asked)[-1] == first


def test_profiles_say_what_newer_releases_ask() -> None:
    profile = ChatLavaMistral().profile
    assert profile is not None
    assert profile["max_output_tokens"] == profile["max_input_tokens"]
    assert profile["reasoning_effort_levels"] == ["none", "high"]
    assert profile["status"] == "active"
    assert (profile["release_date"], profile["last_updated"], profile["open_weights"]) == (
        "2026-03-16",
        "2026-03-16",
        True,
    )
    # No source says when: then nothing is said.
    assert "release_date" not in (ChatLavaMistral(model="ministral-14b-2512").profile or {})


# Customers


def test_a_call_without_a_customer_is_refused_where_one_is_required(
    gateway: LocalGateway, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: Any, **call: Any) -> None:
        ask = caller.embed if isinstance(model, LavaMistralEmbeddings) else caller.invoke
        with pytest.raises(ConfigurationError, match="No customer is named"):
            ask(model, ["Hi"] if isinstance(model, LavaMistralEmbeddings) else "Hi", **call)

    strict, vectors = chat(gateway, require_customer=True), embeddings(gateway, require_customer=True)
    refused(strict)
    refused(strict, billing=Billing(meter_slug="m"))
    refused(vectors)
    with pytest.raises(ConfigurationError, match="No customer is named"):
        caller.stream(strict, "Hi")
    assert gateway.requests == []
    with billed_to("c_1", "m"):
        caller.invoke(strict, "Hi")
        caller.embed(vectors, ["Hi"])
    caller.stream(strict, "Hi", billing=Billing("c_2", "m"))
    assert [request.customer_id for request in gateway.requests] == ["c_1", "c_1", "c_2"]

    monkeypatch.setenv("LAVA_REQUIRE_CUSTOMER", "1")
    refused(chat(gateway))
    refused(embeddings(gateway))
    monkeypatch.setenv("LAVA_REQUIRE_CUSTOMER", "0")
    caller.invoke(chat(gateway), "Hi")


def test_a_chains_stream_that_starts_outside_of_its_block_warns(gateway: LocalGateway, caller: Caller) -> None:
    chain = chat(gateway) | StrOutputParser()

    def late() -> None:
        with billed_to("c_1", "m"):
            stream = chain.stream("Hi")
        assert list(stream)

    async def alate() -> None:
        with billed_to("c_1", "m"):
            stream = chain.astream("Hi")
        assert [text async for text in stream]

    with pytest.warns(UserWarning, match=r"billed_to\('c_1'.*decorate the generator"):
        asyncio.run(alate()) if caller.is_async else late()
    assert gateway.requests[0].customer_id is None


def test_a_coroutine_that_is_awaited_outside_of_its_block_warns(gateway: LocalGateway) -> None:
    async def late() -> None:
        asked = []
        for customer in ("c_1", "c_2"):
            with billed_to(customer, "m"):
                asked.append(chat(gateway).ainvoke("Hi"))
        await asyncio.gather(*asked)

    with pytest.warns(UserWarning, match=r"billed_to\('c_2'.*awaited"):
        asyncio.run(late())


def test_calls_after_a_block_that_was_used_or_for_a_named_payer_do_not_warn(
    gateway: LocalGateway, caller: Caller
) -> None:
    chain = chat(gateway) | StrOutputParser()
    with billed_to("c_1", "m"):
        caller.stream(chain, "Hi")
    caller.stream(chain, "Hi")
    with billed_to("c_1", "m"):
        pass
    caller.invoke(chat(gateway), "Hi", billing=Billing())
    caller.stream(chain, "Hi")
    # A step of a generator that makes no call, too.
    assert list(billed_to("c_1", "m")(iter)("ab")) == list(billed_to("c_1", "m")(lambda: (each for each in "ab"))())
    caller.invoke(chain, "Hi")
    assert [request.customer_id for request in gateway.requests] == ["c_1", None, None, None, None]
