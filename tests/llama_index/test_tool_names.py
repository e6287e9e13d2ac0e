"""Tools whose names Mistral does not take: sent in its form, called and replayed by their own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool

from lava_mistral import InvalidRequestError
from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import Caller, Scripted, answer, ask, call, stream

pytestmark = [
    # LlamaIndex's workflows look at pydantic's deprecated attributes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:workflows"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index"),
]

NAMES = {"math.add": "math_add", "mcp/server add": "mcp_server_add", "add" * 30: ("add" * 30)[:64]}


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"The sum is {a + b}."


def tool(name: str) -> FunctionTool:
    return FunctionTool.from_defaults(add, name=name)


def calling(name: str, *, streamed: bool) -> Any:
    made = call(name, {"a": 1, "b": 2})
    if streamed:
        return stream({"tool_calls": [made]}, finish_reason="tool_calls")
    return answer("", calls=[made], finish_reason="tool_calls")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("streaming", [True, False])
def test_an_agent_calls_it_and_goes_on(gateway: LocalGateway, name: str, streaming: bool) -> None:
    queued = calling(NAMES[name], streamed=streaming)
    if streaming:
        queued = "".join(f"data: {json.dumps(each)}\n\n" for each in queued) + "data: [DONE]\n\n"
    gateway.queue(queued)
    llm = ChatLavaMistral(base_url=gateway.base_url, api_key=gateway.secret_key)
    agent = FunctionAgent(tools=[tool(name)], llm=llm, streaming=streaming, initial_tool_choice=name)

    async def run() -> tuple[Any, list[Any]]:
        memory = ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=str.split)
        handler = agent.run("Add one and two.", memory=memory)
        events = [event async for event in handler.stream_events()]
        return await handler, events

    output, events = asyncio.run(asyncio.wait_for(run(), 60))
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert (result.tool_name, result.tool_output.content) == (name, "The sum is 3.")
    assert "sum is 3" in str(output)
    first, second = (request.body for request in gateway.requests)
    assert first["tools"][0]["function"]["name"] == NAMES[name]
    assert first["tool_choice"]["function"]["name"] == NAMES[name]
    assert second["messages"][1]["tool_calls"][0]["function"]["name"] == NAMES[name]


@pytest.mark.parametrize("method", ["chat_with_tools", "stream_chat_with_tools"])
def test_responses_hold_its_own_name(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    llm = Scripted(calling("math_add", streamed=streamed)).llm()
    run = caller.all if streamed else caller.one
    responses = run(llm, method, [tool("math.add")], user_msg="?")
    response = responses[-1] if streamed else responses
    (block,) = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    assert block.tool_name == "math.add"
    assert response.message.additional_kwargs["tool_calls"][0]["function"]["name"] == "math.add"
    assert llm.get_tool_calls_from_response(response)[0].tool_name == "math.add"


def test_a_history_of_another_provider_is_sent_in_mistrals_form(caller: Caller) -> None:
    mistral = Scripted()
    block = ToolCallBlock(tool_call_id="aaaaaaaaa", tool_name="math.add", tool_kwargs={"a": 1})
    older = {"tool_calls": [{"id": "bbbbbbbbb", "function": {"name": "mcp/add", "arguments": "{}"}}]}
    history = [
        *ask("?"),
        ChatMessage(role="assistant", blocks=[block]),
        ChatMessage(role="tool", content="1", additional_kwargs={"tool_call_id": "aaaaaaaaa", "name": "math.add"}),
        ChatMessage(role="assistant", additional_kwargs=older),
        ChatMessage(role="tool", content="2", additional_kwargs={"tool_call_id": "bbbbbbbbb"}),
    ]
    caller.chat(mistral.llm(), history)
    messages = mistral.body["messages"]
    assert [m["tool_calls"][0]["function"]["name"] for m in messages if m["role"] == "assistant"] == [
        "math_add",
        "mcp_add",
    ]
    assert messages[2]["name"] == "math_add"
    assert block.tool_name == "math.add"


@pytest.mark.parametrize("choice", ["math.add", "math_add", {"function": {"name": "math.add"}}, tool("math.add")])
def test_it_can_be_chosen(caller: Caller, choice: Any) -> None:
    mistral = Scripted(calling("math_add", streamed=False))
    caller.one(mistral.llm(), "chat_with_tools", [tool("math.add")], user_msg="?", tool_choice=choice)
    assert mistral.body["tool_choice"] == {"type": "function", "function": {"name": "math_add"}}
    caller.chat(mistral.llm(), ask(), tools=[tool("math.add")], tool_choice=choice)
    assert mistral.body["tool_choice"] == {"type": "function", "function": {"name": "math_add"}}


def test_a_choice_that_is_not_there_is_named_as_it_was_given(caller: Caller) -> None:
    with pytest.raises(InvalidRequestError, match=r"'math\.sub'.*'math\.add'"):
        caller.one(Scripted().llm(), "chat_with_tools", [tool("math.add")], user_msg="?", tool_choice="math.sub")


@pytest.mark.parametrize("method", ["chat_with_tools", "stream_chat_with_tools"])
def test_two_tools_whose_names_would_be_the_same_stay_apart(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    run = caller.all if streamed else caller.one
    first = Scripted(calling("math_add", streamed=streamed))
    run(first.llm(), method, [tool("math.add"), tool("math_add")], user_msg="?")
    wire, plain = (each["function"]["name"] for each in first.body["tools"])
    assert plain == "math_add" != wire
    second = Scripted(calling(wire, streamed=streamed))
    responses = run(second.llm(), method, [tool("math.add"), tool("math_add")], user_msg="?")
    message = (responses[-1] if streamed else responses).message
    assert [block.tool_name for block in message.blocks if isinstance(block, ToolCallBlock)] == ["math.add"]
