"""`create_agent` with this package's model: tools, memory, both strategies for structured answers, its middleware."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware, SummarizationMiddleware
from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
from langchain.chat_models import init_chat_model
from langchain.embeddings import init_embeddings
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

import langchain_lava_mistral
from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings, PermissionDeniedError
from lava_mistral.gateway import LocalGateway, Status
from tests.langchain.scenario import Caller, Script, answer, call, chat


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is sunny in {city}."


class Report(BaseModel):
    """The weather report."""

    city: str


def ask(agent: Any, caller: Caller, text: str, **config: Any) -> Any:
    return caller.invoke(agent, {"messages": [HumanMessage(text)]}, config or None)


def test_an_agent_calls_its_tool_and_answers(gateway: LocalGateway, caller: Caller) -> None:
    agent = create_agent(chat(gateway), [get_weather])

    messages = ask(agent, caller, "What is the weather in 'Oslo'?")["messages"]

    assert [type(m).__name__ for m in messages] == ["HumanMessage", "AIMessage", "ToolMessage", "AIMessage"]
    assert messages[2].content == "It is sunny in Oslo."
    assert "sunny in Oslo" in messages[3].text


def test_an_agent_remembers(gateway: LocalGateway, caller: Caller) -> None:
    agent = create_agent(chat(gateway), [get_weather], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    ask(agent, caller, "What is the weather in 'Oslo'?", **thread)
    messages = ask(agent, caller, "And in 'Rome'?", **thread)["messages"]
    assert sum(isinstance(m, HumanMessage) for m in messages) == 2
    assert len(gateway.requests[-1].body["messages"]) >= 5


@pytest.mark.parametrize(
    ("strategy", "native"),
    [
        (ToolStrategy(Report), False),
        (ProviderStrategy(Report), True),
        (ProviderStrategy(Report, strict=True), True),
        (AutoStrategy(Report), True),
        (Report, True),
    ],
    ids=["tool", "provider", "provider strict", "auto", "class"],
)
def test_an_agent_answers_in_a_form(strategy: Any, native: bool, gateway: LocalGateway, caller: Caller) -> None:
    agent = create_agent(chat(gateway), [get_weather], response_format=strategy)

    got = ask(agent, caller, "What is the weather in 'Oslo'?")

    assert got["structured_response"] == Report(city="Oslo")
    formats = ["response_format" in request.body for request in gateway.requests]
    assert all(formats) if native else not any(formats)


def test_an_agent_without_tools_answers_in_a_form(gateway: LocalGateway, caller: Caller) -> None:
    agent = create_agent(chat(gateway), [], response_format=ProviderStrategy(Report))
    assert ask(agent, caller, "What about 'Oslo'?")["structured_response"] == Report(city="Oslo")
    assert "tools" not in gateway.requests[0].body


def test_a_model_that_has_no_schemas_answers_by_a_tool(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway, profile={"structured_output": False})
    agent = create_agent(model, [], response_format=AutoStrategy(Report))
    assert ask(agent, caller, "What about 'Oslo'?")["structured_response"] == Report(city="Oslo")
    assert "response_format" not in gateway.requests[0].body


def test_broken_arguments_are_answered_with_an_error(caller: Caller) -> None:
    good, broken = call("get_weather", {"city": "Oslo"}, id="aaaaaaaa1"), call("get_weather", "{oops", id="aaaaaaaa2")
    script = Script(answer("", calls=[good, broken], finish_reason="tool_calls"), answer("Sunny."))

    messages = ask(create_agent(script.model(), [get_weather]), caller, "Oslo and?")["messages"]

    assert messages[-1].text == "Sunny."
    replayed = script.bodies[1]["messages"]
    assert replayed[1]["tool_calls"] == [good, broken]
    results = {m["tool_call_id"]: m["content"] for m in replayed if m["role"] == "tool"}
    assert results["aaaaaaaa1"] == "It is sunny in Oslo."
    assert "aaaaaaaa2" in results


def test_an_agent_streams_tokens(gateway: LocalGateway) -> None:
    agent = create_agent(chat(gateway), [get_weather])
    start: Any = {"messages": [HumanMessage("What is the weather in 'Oslo'?")]}
    said = [
        message.text for message, _ in agent.stream(start, stream_mode="messages") if isinstance(message, AIMessage)
    ]
    assert len(said) > 5
    assert "sunny in Oslo" in "".join(said)

    async def collect() -> list[str]:
        return [
            message.text
            async for message, _ in agent.astream(start, stream_mode="messages")
            if isinstance(message, AIMessage)
        ]

    assert "sunny in Oslo" in "".join(asyncio.run(collect()))


def test_retry_middleware_tries_what_may_help_and_nothing_else(gateway: LocalGateway, caller: Caller) -> None:
    again = ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False, on_failure="error")
    agent = create_agent(chat(gateway, max_retries=0), [], middleware=[again])

    gateway.queue(Status(503))
    assert ask(agent, caller, "Hi")["messages"][-1].text
    assert len(gateway.requests) == 2

    gateway.reset()
    gateway.queue(Status(403), Status(403), Status(403))
    with pytest.raises(PermissionDeniedError):
        ask(agent, caller, "Hi")
    assert len(gateway.requests) == 1


def test_fallback_middleware(gateway: LocalGateway, caller: Caller) -> None:
    agent = create_agent(
        chat(gateway, max_retries=0),
        [],
        middleware=[ModelFallbackMiddleware(chat(gateway, model="mistral-large-latest"))],
    )
    gateway.queue(Status(500))
    assert ask(agent, caller, "Hi")["messages"][-1].text
    assert [r.model for r in gateway.requests] == ["mistral-small-2603", "mistral-large-latest"]


def test_summarization_by_a_share_of_the_window(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway)
    middleware = SummarizationMiddleware(model, trigger=("fraction", 0.8), keep=("messages", 1))
    agent = create_agent(model, [], middleware=[middleware])
    assert ask(agent, caller, "Hi")["messages"][-1].text


def test_models_by_name_once_registered(gateway: LocalGateway) -> None:
    langchain_lava_mistral.register()
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    model = init_chat_model("lava_mistral:mistral-small-2603", **access)
    assert isinstance(model, ChatLavaMistral)
    assert model.invoke("Hi").text
    vectors = init_embeddings("lava_mistral:mistral-embed", **access)
    assert isinstance(vectors, LavaMistralEmbeddings)
    assert len(vectors.embed_query("Hi")) == 1024
    configurable = init_chat_model(configurable_fields="any", **access)
    config: Any = {"configurable": {"model": "mistral-large-latest", "model_provider": "lava_mistral"}}
    assert configurable.invoke("Hi", config).response_metadata["model_name"] == "mistral-large-latest"


def test_a_langchain_without_its_list_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import langchain.chat_models.base as base

    monkeypatch.setattr(base, "_BUILTIN_PROVIDERS", None)
    with pytest.raises(RuntimeError, match="instance of ChatLavaMistral"):
        langchain_lava_mistral.register()
