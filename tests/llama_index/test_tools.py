"""Tools: what is asked of the model, which calls come back, whole and in fragments."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any, Generic, TypeVar

import pytest
from llama_index.core.agent.react import ReActChatFormatter, ReActOutputParser
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool, FunctionTool
from pydantic import BaseModel

from lava_mistral import InvalidRequestError
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import Caller, Scripted, answer, ask, call, chunk, stream


def weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"sunny in {city} for {days}"


def clock() -> str:
    """The time."""
    return "noon"


TOOLS: list[BaseTool] = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(clock)]
CALLS = [call("weather", {"city": "Paris"}, id="aaaaaaaaa"), call("clock", {}, id="bbbbbbbbb")]


def calling(*calls: Any, text: str = "") -> dict[str, Any]:
    return answer(text, calls=calls, finish_reason="tool_calls")


def test_a_chat_with_tools(caller: Caller) -> None:
    mistral = Scripted(calling(CALLS[0]))
    llm = mistral.llm()
    response = caller.one(llm, "chat_with_tools", TOOLS, user_msg="Weather in Paris?", allow_parallel_tool_calls=True)
    assert response.message.blocks == [
        TextBlock(text=""),
        ToolCallBlock(tool_call_id="aaaaaaaaa", tool_name="weather", tool_kwargs='{"city": "Paris"}'),
    ]
    assert response.message.additional_kwargs["tool_calls"] == [CALLS[0]]
    assert llm.get_tool_calls_from_response(response) == [
        ToolSelection(tool_id="aaaaaaaaa", tool_name="weather", tool_kwargs={"city": "Paris"})
    ]
    body = mistral.body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["weather", "clock"]
    assert body["tools"][0]["type"] == "function"
    assert body["tools"][0]["function"]["parameters"]["required"] == ["city"]
    assert "The weather of a city." in body["tools"][0]["function"]["description"]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", True)


NAMED = {"type": "function", "function": {"name": "clock"}}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, "auto"),
        ({"tool_required": True}, "any"),
        ({"tool_required": True, "tool_choice": None}, "any"),
        ({"tool_choice": None}, "auto"),
        ({"tool_choice": "auto"}, "auto"),
        ({"tool_choice": "none"}, "none"),
        ({"tool_choice": "any"}, "any"),
        ({"tool_choice": "required"}, "required"),
        ({"tool_choice": "clock"}, NAMED),
        ({"tool_choice": NAMED}, NAMED),
        ({"tool_choice": {"type": "tool", "name": "clock"}}, NAMED),
        ({"tool_choice": {"type": "any"}}, "any"),
        ({"tool_choice": True}, "any"),
        ({"tool_choice": False}, "none"),
        ({"tool_choice": "clock", "tool_required": True}, NAMED),
    ],
    ids=str,
)
def test_tool_choices(given: dict[str, Any], sent: Any) -> None:
    mistral = Scripted(calling(CALLS[1]))
    mistral.llm().chat_with_tools(TOOLS, user_msg="?", **given)
    assert mistral.body["tool_choice"] == sent


@pytest.mark.parametrize("choice", ["teleport", {"function": {"name": "teleport"}}])
def test_a_choice_of_a_tool_that_is_not_there_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"'teleport'.*'weather', 'clock'"):
        Scripted().llm().chat_with_tools(TOOLS, user_msg="?", tool_choice=choice)


def test_a_choice_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="tool choice"):
        Scripted().llm().chat_with_tools(TOOLS, user_msg="?", tool_choice={"kind": 3})


@pytest.mark.parametrize("method", ["chat_with_tools", "stream_chat_with_tools"])
def test_all_four_siblings_ask_the_same(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    mistral = Scripted(stream({"tool_calls": [CALLS[1]]}) if streamed else calling(CALLS[1]))
    history = [ChatMessage(role="system", content="Be brief."), *ask("Before")]
    before = copy.deepcopy(history)
    run = caller.all if streamed else caller.one
    run(
        mistral.llm(),
        method,
        TOOLS,
        user_msg=ChatMessage(role="user", content="Now"),
        chat_history=history,
        tool_required=True,
        temperature=0.1,
    )
    assert history == before
    assert [m["content"] for m in mistral.body["messages"]] == ["Be brief.", "Before", "Now"]
    assert mistral.body["tool_choice"] == "any"
    assert mistral.body["parallel_tool_calls"] is False
    assert mistral.body["temperature"] == 0.1
    assert mistral.body.get("stream", False) is streamed


def test_without_tools_nothing_is_said_of_them(caller: Caller) -> None:
    mistral = Scripted()
    caller.one(mistral.llm(), "chat_with_tools", [], user_msg="?", tool_required=True)
    assert mistral.body.keys() == {"model", "messages"}


def test_one_call_alone_unless_several_are_allowed(caller: Caller) -> None:
    llm = Scripted(calling(*CALLS)).llm()
    one = caller.one(llm, "chat_with_tools", TOOLS, user_msg="?")
    assert [c.tool_name for c in llm.get_tool_calls_from_response(one)] == ["weather"]
    assert one.message.additional_kwargs["tool_calls"] == [CALLS[0]]
    both = caller.one(llm, "chat_with_tools", TOOLS, user_msg="?", allow_parallel_tool_calls=True)
    assert [c.tool_name for c in llm.get_tool_calls_from_response(both)] == ["weather", "clock"]
    assert both.message.additional_kwargs["tool_calls"] == CALLS


@pytest.mark.parametrize("method", ["chat_with_tools", "stream_chat_with_tools"])
@pytest.mark.parametrize(
    ("on_the_model", "by_the_agent", "sent"),
    [(None, True, True), (None, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_several_calls_where_the_model_and_the_agent_allow_them(
    caller: Caller, method: str, on_the_model: bool | None, by_the_agent: bool, sent: bool
) -> None:
    streamed = method.startswith("stream")
    mistral = Scripted(stream({"tool_calls": [CALLS[1]]}) if streamed else calling(*CALLS))
    llm = mistral.llm(parallel_tool_calls=on_the_model)
    run = caller.all if streamed else caller.one
    response = run(llm, method, TOOLS, user_msg="?", allow_parallel_tool_calls=by_the_agent)
    assert mistral.body["parallel_tool_calls"] is sent
    if not streamed:
        assert len(llm.get_tool_calls_from_response(response)) == (2 if sent else 1)


def test_calls_in_fragments(caller: Caller) -> None:
    """As servers send them that stream the arguments; the id and the name come once."""
    fragments = [
        {"tool_calls": [{"index": 0, "id": "aaaaaaaaa", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "id": "null", "function": {"name": "", "arguments": '{"city": "Par'}}]},
        {"tool_calls": [{"index": 0, "id": None, "function": {"name": "", "arguments": 'is", "days": 3}'}}]},
        {"tool_calls": [{"index": 1, "id": "bbbbbbbbb", "function": {"name": "clock", "arguments": "{}"}}]},
    ]
    llm = Scripted(stream(*fragments, finish_reason="tool_calls")).llm()
    responses: list[ChatResponse] = caller.all(llm, "stream_chat_with_tools", TOOLS, user_msg="?")
    seen = [[(c.tool_id, c.tool_name, c.tool_kwargs) for c in llm.get_tool_calls_from_response(r)] for r in responses]
    first = ("aaaaaaaaa", "weather", {"city": "Paris", "days": 3})
    assert seen == [
        [("aaaaaaaaa", "weather", {})],
        [("aaaaaaaaa", "weather", {"city": "Par"})],
        [first],
        [first, ("bbbbbbbbb", "clock", {})],
        [first, ("bbbbbbbbb", "clock", {})],
    ]
    assert all(isinstance(r.message.additional_kwargs["tool_calls"], list) for r in responses)
    assert [len(r.message.additional_kwargs["tool_calls"]) for r in responses] == [1, 1, 1, 2, 2]
    assert responses[1].raw["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": None, "function": {"name": None, "arguments": '{"city": "Par'}}
    ]


def ends(debug: LlamaDebugHandler) -> int:
    return len(debug.get_event_pairs(CBEventType.LLM)[0]) - 1


def test_a_stream_that_is_left_is_over(caller: Caller) -> None:
    mistral = Scripted(stream("a", "b", "c"))
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = mistral.llm(callback_manager=CallbackManager([debug]))

    def leave() -> None:
        responses = llm.stream_chat_with_tools(TOOLS, "?")
        next(responses)
        responses.close()
        assert ends(debug) == 1

    async def aleave() -> None:
        responses: Any = await llm.astream_chat_with_tools(TOOLS, "?")
        await anext(responses)
        await responses.aclose()
        # Before the event loop has a turn to clean up in.
        assert ends(debug) == 1

    asyncio.run(aleave()) if caller.asynchronous else leave()
    # The handler keeps the exception that a left generator sees, and with it the generator.
    debug.flush_event_logs()
    assert mistral.streams[0].closed


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        ('{"a": [1, {"b": "x', {"a": [1, {"b": "x"}]}),
        ('{"a": 1, "b', {"a": 1}),
        ("", {}),
        ("[1]", {}),
        ("not json", {}),
    ],
)
def test_arguments_as_far_as_they_have_come(arguments: str, parsed: dict[str, Any]) -> None:
    block = ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs=arguments)
    response = ChatResponse(message=ChatMessage(role="assistant", blocks=[block]))
    (selection,) = ChatLavaMistral().get_tool_calls_from_response(response, unknown_option=1)
    assert selection.tool_kwargs == parsed


def test_calls_of_an_older_history_and_without_an_id() -> None:
    message = ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{"function": {"name": "f"}}]})
    (selection,) = ChatLavaMistral().get_tool_calls_from_response(ChatResponse(message=message))
    assert selection == ToolSelection(tool_id="", tool_name="f", tool_kwargs={})


def test_no_call_is_an_error_or_nothing() -> None:
    llm = ChatLavaMistral()
    response = ChatResponse(message=ChatMessage(role="assistant", content="I'd rather not."))
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="I'd rather not"):
        llm.get_tool_calls_from_response(response)


def test_predict_and_call(caller: Caller) -> None:
    llm = Scripted(calling(*CALLS)).llm()
    one = caller.one(llm, "predict_and_call", TOOLS, user_msg="?")
    assert one.response == "sunny in Paris for 1"
    both = caller.one(llm, "predict_and_call", TOOLS, user_msg="?", allow_parallel_tool_calls=True)
    assert [s.content for s in both.sources] == ["sunny in Paris for 1", "noon"]


def test_a_conversation_with_results_of_calls(caller: Caller) -> None:
    """Ids of another provider's form are mapped alike on both sides; the answer's own stay."""
    mistral = Scripted(calling(CALLS[0]), answer("Sunny."))
    llm = mistral.llm()
    foreign = [
        ChatMessage(
            role="assistant", blocks=[ToolCallBlock(tool_call_id="call_abcdef123", tool_name="clock", tool_kwargs={})]
        ),
        ChatMessage(role="tool", content="noon", additional_kwargs={"tool_call_id": "call_abcdef123"}),
        ChatMessage(role="assistant", content="It is noon."),
    ]
    history = [*ask("Time?"), *foreign, *ask("Weather?")]
    first = caller.one(llm, "chat_with_tools", TOOLS, chat_history=history)
    result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": "aaaaaaaaa"})
    caller.one(llm, "chat_with_tools", TOOLS, chat_history=[*history, first.message, result])
    messages = mistral.body["messages"]
    ids = [c["id"] for m in messages for c in m.get("tool_calls") or ()]
    results = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    assert ids == results
    assert all(len(id) == 9 and id.isalnum() for id in ids)
    assert ids[1] == "aaaaaaaaa"


T = TypeVar("T")


class Pair(BaseModel, Generic[T]):
    """Two of a kind."""

    left: T
    right: T


def test_a_tool_whose_name_mistral_does_not_take_is_called_all_the_same(caller: Caller) -> None:
    def make(**kwargs: Any) -> str:
        return json.dumps(kwargs)

    tool = FunctionTool.from_defaults(make, name="Pair[int]", fn_schema=Pair[int])
    mistral = Scripted(calling(call("Pair_int_", {"left": 1, "right": 2})))
    answered = caller.one(mistral.llm(), "predict_and_call", [tool], user_msg="?")
    assert mistral.body["tools"][0]["function"]["name"] == "Pair_int_"
    assert json.loads(answered.response) == {"left": 1, "right": 2}


def test_tools_given_to_a_plain_chat_in_any_form(caller: Caller) -> None:
    mistral = Scripted(calling(CALLS[1]))
    spec = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    caller.chat(mistral.llm(), ask(), tools=[spec, clock, TOOLS[0]], tool_choice="weather")
    assert [tool["function"]["name"] for tool in mistral.body["tools"]] == ["f", "clock", "weather"]
    assert mistral.body["tool_choice"]["function"]["name"] == "weather"


MISTRALS_OWN = [{"type": "web_search"}, {"type": "document_library", "library_ids": ["l_1"]}]


@pytest.mark.parametrize("method", ["chat_with_tools", "stream_chat_with_tools"])
def test_mistrals_own_tools_pass_through(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    mistral = Scripted(stream("Hi") if streamed else answer())
    (caller.all if streamed else caller.one)(mistral.llm(), method, [*TOOLS, *MISTRALS_OWN], user_msg="?")
    assert mistral.body["tools"][2:] == MISTRALS_OWN
    assert mistral.body["tool_choice"] == "auto"


def test_mistrals_own_tools_of_the_model_go_with_those_of_an_agent(caller: Caller) -> None:
    mistral = Scripted()
    llm = mistral.llm(additional_kwargs={"tools": MISTRALS_OWN})
    caller.one(llm, "chat_with_tools", TOOLS, user_msg="?")
    caller.chat(llm, ask())
    first, second = mistral.bodies
    assert [tool["type"] for tool in first["tools"]] == ["function", "function", "web_search", "document_library"]
    assert second["tools"] == MISTRALS_OWN


def test_a_tool_choice_of_the_model_is_that_of_its_calls(caller: Caller) -> None:
    mistral = Scripted()
    llm = mistral.llm(tool_choice="clock")
    caller.one(llm, "chat_with_tools", TOOLS, user_msg="?")
    caller.chat(llm, ask(), tools=TOOLS)
    caller.chat(llm, ask(), tools=TOOLS, tool_choice="none")
    caller.chat(llm, ask())
    assert [body.get("tool_choice") for body in mistral.bodies] == [NAMED, NAMED, "none", None]


class Node(BaseModel):
    """A node of a tree."""

    name: str
    children: list[Node] = []


def test_a_tool_with_recursive_arguments_keeps_their_definitions(caller: Caller) -> None:
    """langchain-ai/langchain#30797"""

    def grow(**kwargs: Any) -> str:
        """Grow a tree."""
        return "grown"

    made = calling(call("grow", {"name": "a", "children": [{"name": "b"}]}))
    mistral = Scripted(made)
    tool = FunctionTool.from_defaults(grow, fn_schema=Node)
    response = caller.one(mistral.llm(), "chat_with_tools", [tool], user_msg="?")
    (selection,) = mistral.llm().get_tool_calls_from_response(response)
    assert Node(**selection.tool_kwargs).children[0].name == "b"
    parameters = mistral.body["tools"][0]["function"]["parameters"]
    assert parameters["type"] == "object"
    assert parameters["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert "children" in parameters["$defs"]["Node"]["properties"]


def test_a_long_description_is_sent_whole() -> None:
    tool = FunctionTool.from_defaults(clock, description="x" * 3000)
    mistral = Scripted(calling(CALLS[1]))
    mistral.llm().chat_with_tools([tool], user_msg="?")
    assert len(mistral.body["tools"][0]["function"]["description"]) == 3000


@pytest.mark.filterwarnings("ignore::DeprecationWarning:workflows", "ignore::DeprecationWarning:inspect")
@pytest.mark.usefixtures("idle_loop")
def test_a_model_without_tools_is_asked_in_words(caller: Caller) -> None:
    """LlamaIndex falls back to its ReAct prompt where `is_function_calling_model` is false."""
    text = 'Thought: I need it.\nAction: weather\nAction Input: {"city": "Rome"}'
    mistral = Scripted([chunk({"content": text}, finish_reason="stop")])
    llm = mistral.llm(is_function_calling_model=False)
    answered = caller.one(
        llm,
        "predict_and_call",
        TOOLS,
        user_msg="Weather in Rome?",
        react_chat_formatter=ReActChatFormatter(),
        output_parser=ReActOutputParser(),
    )
    assert answered.response == "sunny in Rome for 1"
    assert "tools" not in mistral.body


def test_a_stream_that_nobody_reads_is_closed_with_its_responses(caller: Caller) -> None:
    mistral = Scripted(stream("a", "b", "c"))
    llm = mistral.llm()

    def leave() -> None:
        llm.stream_chat_with_tools(TOOLS, "?").close()

    async def aleave() -> None:
        responses: Any = await llm.astream_chat_with_tools(TOOLS, "?")
        await responses.aclose()
        assert mistral.streams[0].closed

    asyncio.run(aleave()) if caller.asynchronous else leave()
    assert mistral.streams[0].closed
