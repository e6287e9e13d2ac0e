"""LlamaIndex's agents on the embedded gateway: what users build on the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from lava_mistral import billed_to
from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import answer, call, chunk, stream
from tests.llama_index.test_blocks import PNG

pytestmark = [
    # LlamaIndex's workflows look at pydantic's deprecated attributes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:workflows"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index"),
]


def run(start: Callable[[], Awaitable[Any]]) -> Any:
    """What comes of work that must be started in a running event loop."""

    async def inner() -> Any:
        return await start()

    return asyncio.run(asyncio.wait_for(inner(), 30))


def model(gateway: LocalGateway, **settings: Any) -> ChatLavaMistral:
    return ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def memory() -> ChatMemoryBuffer:
    """LlamaIndex's default keeps a database connection open."""
    return ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=str.split)


def weather(city: str) -> str:
    """Get the weather of a city."""
    return f"The weather of {city} is sunny."


def population(city: str) -> str:
    """Get the population of a city."""
    return f"{city} has two million people."


@pytest.mark.parametrize("streaming", [True, False])
def test_a_function_agent(gateway: LocalGateway, streaming: bool) -> None:
    agent = FunctionAgent(
        tools=[weather, population], llm=model(gateway), system_prompt="You help.", streaming=streaming
    )

    async def ask() -> tuple[AgentOutput, list[Any]]:
        handler = agent.run("What is the weather in 'Paris'?", memory=memory())
        events = [event async for event in handler.stream_events()]
        return await handler, events

    output, events = run(ask)
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert (result.tool_name, result.tool_kwargs) == ("weather", {"city": "Paris"})
    assert "sunny" in str(output)
    streamed = "".join(event.delta for event in events if isinstance(event, AgentStream))
    assert streamed == (str(output) if streaming else "")
    # Each step says what it cost.
    steps = [event for event in events if isinstance(event, AgentOutput)]
    assert [Decimal(step.raw["cost"]) for step in steps] == [request.cost for request in gateway.requests]
    last = gateway.requests[-1].body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "tool"]
    assert last[2]["tool_calls"][0]["id"] == last[3]["tool_call_id"]


def test_a_function_agent_calls_tools_in_parallel(gateway: LocalGateway) -> None:
    calls = [
        call("weather", {"city": "Paris"}, id="aaaaaaaaa", index=0),
        call("population", {"city": "Paris"}, id="bbbbbbbbb", index=1),
    ]
    gateway.queue(events(stream({"tool_calls": calls}, finish_reason="tool_calls")))
    agent = FunctionAgent(tools=[weather, population], llm=model(gateway))
    output = run(lambda: agent.run("Tell me of Paris.", memory=memory()))
    assert [result.tool_name for result in output.tool_calls] == ["weather", "population"]
    assert gateway.requests[0].body["parallel_tool_calls"] is True
    last = gateway.requests[-1].body["messages"]
    assert [message.get("tool_call_id") for message in last if message["role"] == "tool"] == [
        "aaaaaaaaa",
        "bbbbbbbbb",
    ]


def events(chunks: list[Any]) -> Any:
    """A queued stream."""
    return "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"


def test_the_first_tool_can_be_forced(gateway: LocalGateway) -> None:
    agent = FunctionAgent(tools=[weather, population], llm=model(gateway), initial_tool_choice="population")
    output = run(lambda: agent.run("What is the weather in 'Paris'?", memory=memory()))
    assert output.tool_calls[0].tool_name == "population"
    choices = [request.body["tool_choice"] for request in gateway.requests]
    assert choices[0] == {"type": "function", "function": {"name": "population"}}
    assert choices[-1] == "auto"


def test_thinking_reaches_the_listeners_of_an_agent(gateway: LocalGateway) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}], "closed": True}
    gateway.queue(events(stream({"content": [thinking]}, "Done.")))
    agent = FunctionAgent(tools=[weather], llm=model(gateway))

    async def ask() -> list[Any]:
        handler = agent.run("Think.", memory=memory())
        return [event async for event in handler.stream_events() if isinstance(event, AgentStream)]

    deltas = run(ask)
    assert [event.thinking_delta for event in deltas] == ["Hm.", None, None]
    assert "".join(event.delta for event in deltas) == "Done."


def test_an_agent_with_memory_goes_on_where_it_was(gateway: LocalGateway) -> None:
    agent = FunctionAgent(tools=[weather], llm=model(gateway))

    async def talk() -> Any:
        kept = memory()
        await agent.run("What is the weather in 'Paris'?", memory=kept)
        return await agent.run("Was it sunny in Paris?", memory=kept)

    run(talk)
    roles = [message["role"] for message in gateway.requests[-1].body["messages"]]
    assert roles[:5] == ["user", "assistant", "tool", "assistant", "user"]


def test_a_tool_that_returns_a_picture(gateway: LocalGateway) -> None:
    def chart() -> list[Any]:
        """Draw a chart."""
        return [TextBlock(text="Here it is."), ImageBlock(image=PNG)]

    agent = FunctionAgent(tools=[chart], llm=model(gateway))
    run(lambda: agent.run("Draw a chart.", memory=memory()))
    (result,) = [m for m in gateway.requests[-1].body["messages"] if m["role"] == "tool"]
    assert "image_url" in [part["type"] for part in result["content"]]


class Report(BaseModel):
    """A report on the weather of a city."""

    city: str


def test_an_agent_that_answers_with_an_object(gateway: LocalGateway) -> None:
    agent = FunctionAgent(tools=[weather], llm=model(gateway), output_cls=Report)
    output = run(lambda: agent.run("What is the weather in 'Paris'?", memory=memory()))
    assert output.get_pydantic_model(Report) is not None
    assert gateway.requests[-1].body["response_format"]["json_schema"]["name"] == "Report"


def test_agents_hand_over(gateway: LocalGateway) -> None:
    for made in (
        call("handoff", {"to_agent": "Counter", "reason": "It counts."}, id="aaaaaaaaa"),
        call("population", {"city": "Rome"}, id="bbbbbbbbb"),
    ):
        gateway.queue(events(stream({"tool_calls": [made]}, finish_reason="tool_calls")))
    llm = model(gateway)
    workflow = AgentWorkflow(
        agents=[
            FunctionAgent(name="Greeter", description="Greets.", tools=[weather], llm=llm, can_handoff_to=["Counter"]),
            FunctionAgent(name="Counter", description="Counts people.", tools=[population], llm=llm),
        ],
        root_agent="Greeter",
    )
    output = run(lambda: workflow.run("What is the population of 'Rome'?", memory=memory()))
    assert output.current_agent_name == "Counter"
    assert "two million" in str(output)


def test_a_workflow_of_tools_goes_on_where_it_was(gateway: LocalGateway) -> None:
    workflow = AgentWorkflow.from_tools_or_functions([weather], llm=model(gateway))

    async def talk() -> Any:
        kept = memory()
        await workflow.run("What is the weather in 'Paris'?", memory=kept)
        return await workflow.run("What is the weather in 'Rome'?", memory=kept)

    assert "Rome is sunny" in str(run(talk))
    assert len(gateway.requests[-1].body["messages"]) == 7


REACT = [
    'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Oslo"}',
    "Thought: I can answer.\nAnswer: It is sunny in Oslo.",
]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_react_agent(gateway: LocalGateway, streaming: bool) -> None:
    for text in REACT:
        pieces = [text[start : start + 9] for start in range(0, len(text), 9)]
        gateway.queue(events(stream(*pieces)) if streaming else answer(text))
    agent = ReActAgent(tools=[weather], llm=model(gateway), streaming=streaming)
    output = run(lambda: agent.run("What is the weather in Oslo?", memory=memory()))
    assert str(output) == "It is sunny in Oslo."
    assert "Observation: The weather of Oslo is sunny." in gateway.requests[-1].body["messages"][-1]["content"]
    assert "tools" not in gateway.requests[-1].body


def test_a_code_act_agent(gateway: LocalGateway) -> None:
    def execute(code: str) -> str:
        names: dict[str, Any] = {}
        exec(code, names)
        return str(names["result"])

    for text in ("Let me compute.\n<execute>\nresult = 6 * 7\n</execute>", "It is 42."):
        gateway.queue(events([chunk({"content": text}, finish_reason="stop")]))
    agent = CodeActAgent(code_execute_fn=execute, llm=model(gateway))
    output = run(lambda: agent.run("What is 6 * 7?", memory=memory()))
    assert str(output) == "It is 42."
    assert "42" in gateway.requests[-1].body["messages"][-1]["content"]


def test_an_agent_is_billed_to_its_customer(gateway: LocalGateway) -> None:
    agent = FunctionAgent(tools=[weather], llm=model(gateway))

    async def ask() -> None:
        with billed_to(customer_id="c_7", meter_slug="agents", metadata={"agent": "w"}):
            handler = agent.run("What is the weather in 'Paris'?", memory=memory())
        await handler

    run(ask)
    assert len(gateway.requests) == 2
    assert {request.customer_id for request in gateway.requests} == {"c_7"}
    assert all(request.metadata == {"agent": "w"} for request in gateway.requests)


@pytest.mark.usefixtures("idle_loop")
def test_a_chat_engine(gateway: LocalGateway) -> None:
    engine = SimpleChatEngine.from_defaults(llm=model(gateway), system_prompt="Be brief.", memory=memory())
    engine.chat("The capital of France is Paris.")
    streamed = engine.stream_chat("What is the capital of France?")
    assert "Paris" in "".join(streamed.response_gen)
    roles = [message["role"] for message in gateway.requests[-1].body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("streaming", [True, False])
def test_the_model_goes_on_after_a_return_direct_tool_that_failed(gateway: LocalGateway, streaming: bool) -> None:
    """langchain-ai/langchain#36411: the tool's error text is no new turn, and can't be the last message."""

    def search(city: str) -> str:
        """Search a city."""
        raise ValueError("the index is down")

    made = [call("search", {"city": "Rome"}, id="aaaaaaaaa")]
    for said in (made, made):
        gateway.queue(
            events(stream({"tool_calls": said}, finish_reason="tool_calls"))
            if streaming
            else answer("", calls=said, finish_reason="tool_calls")
        )
    gateway.queue(events(stream("I could ", "not.")) if streaming else answer("I could not."))
    tool = FunctionTool.from_defaults(search, return_direct=True)
    agent = FunctionAgent(tools=[tool], llm=model(gateway, repair_messages=False), streaming=streaming)
    kept = memory()
    assert str(run(lambda: agent.run("Search Rome.", memory=kept))) == "I could not."
    roles = [message["role"] for message in gateway.requests[-1].body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]
    gateway.queue(events(stream("Bye.")) if streaming else answer("Bye."))
    assert str(run(lambda: agent.run("Never mind.", memory=kept))) == "Bye."


def test_the_answer_of_a_return_direct_tool_stays_a_turn(gateway: LocalGateway) -> None:
    made = [call("weather", {"city": "Rome"}, id="aaaaaaaaa")]
    gateway.queue(events(stream({"tool_calls": made}, finish_reason="tool_calls")))
    tool = FunctionTool.from_defaults(weather, return_direct=True)
    agent = FunctionAgent(tools=[tool], llm=model(gateway, repair_messages=False))
    kept = memory()
    assert "sunny" in str(run(lambda: agent.run("Rome?", memory=kept)))
    gateway.queue(events(stream("Yes.")))
    run(lambda: agent.run("Really?", memory=kept))
    messages = gateway.requests[-1].body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert messages[3]["content"] == "The weather of Rome is sunny."


def test_the_key_of_the_prompt_cache_is_that_of_the_run(gateway: LocalGateway) -> None:
    llm = model(gateway, prompt_cache_key="auto")
    for _ in range(2):
        agent = FunctionAgent(tools=[weather], llm=llm, initial_tool_choice="weather")
        run(lambda agent=agent: agent.run("What is the weather in 'Paris'?", memory=memory()))
    keys = [request.body["prompt_cache_key"] for request in gateway.requests]
    assert len(keys) == 4
    assert keys[0] == keys[1] != keys[2] == keys[3]
