"""Answers that were cut off: no tool runs with half its arguments, no half object is handed on, however they came."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from lava_mistral.gateway import LocalGateway
from lava_mistral.mistral.turn import ToolCall
from tests.langchain.scenario import USAGE, Caller, Script, answer, call, chat, events

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")
CUT = '{"path": "/home/me/pro'


class Person(BaseModel):
    """Somebody."""

    name: str
    items: list[int] = []


def cut_call(*pieces: str) -> list[dict[str, Any]]:
    """The events of a call whose arguments come in pieces and end too early."""
    first, *rest = pieces or (CUT,)
    deltas: list[Any] = [{"content": "", "tool_calls": [call("delete_path", first, index=0)]}]
    for piece in rest:
        fragment = {"id": "null", "index": 0, "function": {"name": "", "arguments": piece}}
        deltas.append({"content": "", "tool_calls": [fragment]})
    return events(*deltas, finish_reason="length")


# Tools


@pytest.mark.parametrize("way", ["invoke", "messages", "events"])
def test_an_agent_runs_no_tool_with_half_its_arguments(way: str, caller: Caller) -> None:
    deleted: list[str] = []

    def delete_path(path: str) -> str:
        """Delete a path."""
        deleted.append(path)
        return "done"

    # Before CPython 3.11 LangGraph can't tell the model of an async agent that somebody listens.
    model = Script(cut_call(CUT[:10], CUT[10:]), events("Done.")).model(streaming=True)
    agent = create_agent(model, [delete_path])
    asked: Any = {"messages": [HumanMessage("Delete it.")]}

    async def follow() -> list[Any]:
        return [event async for event in agent.astream_events(asked, version="v2")]

    if way == "invoke":
        last = caller.invoke(agent, asked)["messages"][-1]
    elif way == "messages":
        last, _ = caller.stream(agent, asked, stream_mode="messages")[-1]
    else:
        last = asyncio.run(follow())[-1]["data"]["output"]["messages"][-1]

    assert isinstance(last, AIMessage)
    assert deleted == []


@pytest.mark.parametrize("version", [None, "v1"])
@pytest.mark.parametrize("pieces", [(CUT,), (CUT[:10], CUT[10:])], ids=["whole", "fragments"])
def test_a_cut_call_is_invalid_where_chunks_are_put_together(pieces: Any, version: Any, caller: Caller) -> None:
    asked = Script(cut_call(*pieces))
    for streaming in (None, True):
        model = asked.model(output_version=version, streaming=streaming)
        got = caller.invoke(model, "?") if streaming else caller.whole(model, "?")
        assert got.tool_calls == []
        (broken,) = got.invalid_tool_calls
        assert (broken["name"], broken["id"]) == ("delete_path", "a1B2c3D4e")
        assert (broken["args"] or "").startswith(CUT)
        assert got.response_metadata["finish_reason"] == "length"
    at_once = Script(answer("", calls=[call("delete_path", CUT)], finish_reason="length")).model()
    assert caller.invoke(at_once, "?").invalid_tool_calls[0]["args"] == CUT


def test_calls_that_are_whole_stay_beside_a_cut_one(caller: Caller) -> None:
    calls = [call("add", {"a": 1}, id="aaaaaaaa1", index=0), call("sub", '{"b": [2', id="aaaaaaaa2", index=1)]
    got = caller.whole(Script(events({"tool_calls": calls}, finish_reason="length")).model(), "?")
    assert [(c["name"], c["args"]) for c in got.tool_calls] == [("add", {"a": 1})]
    assert [c["name"] for c in got.invalid_tool_calls] == ["sub"]


WHOLE = json.dumps({"path": 'a "b" \\ c\n{]}', "list": [1, 2, {"a": [[]], "b": None, "c": True}], "x": "\\u12é"})


@pytest.mark.parametrize(
    "text", [WHOLE, '{"a": 1} {"b": 2}', "   ", "[1, {", '{"x": "\\\\\\"y', "nonsense", '"text', "1"]
)
def test_wherever_a_call_is_cut_its_chunks_say_what_the_whole_call_says(text: str) -> None:
    """The sum of a stream's chunks against the same answer that is not streamed."""
    caller = Caller(False)
    for cut in (text[:end] for end in range(1, len(text) + 1)):
        made = call("f", cut, index=0)
        streamed = caller.whole(Script(events({"tool_calls": [made]}, finish_reason="length")).model(), "?")
        whole = caller.invoke(Script(answer("", calls=[made], finish_reason="length")).model(), "?")
        assert [c["args"] for c in streamed.tool_calls] == [c["args"] for c in whole.tool_calls], cut
        assert len(streamed.invalid_tool_calls) == len(whole.invalid_tool_calls), cut


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"x": 123456789012345678901234567890}', {"x": 123456789012345678901234567890}),
        ('{"code": "a\nb"}', {"code": "a\nb"}),
        ('{"x": Infinity}', {"x": float("inf")}),
        ('{"x": "\\ud83d"}', {"x": "\ud83d"}),
    ],
    ids=["big", "line break", "infinite", "half a pair"],
)
def test_what_models_write_beyond_json_is_the_same_streamed_or_not_and_goes_back(
    text: str, arguments: Any, caller: Caller
) -> None:
    made = call("f", text, index=0)
    streamed = caller.whole(Script(events({"tool_calls": [made]}, finish_reason="tool_calls")).model(), "?")
    whole = caller.invoke(Script(answer("", calls=[made], finish_reason="tool_calls")).model(), "?")
    assert streamed.tool_calls == whole.tool_calls
    assert whole.tool_calls[0]["args"] == arguments
    again = Script(answer())
    history = [HumanMessage("?"), whole, {"role": "tool", "content": "r", "tool_call_id": whole.tool_calls[0]["id"]}]
    caller.invoke(again.model(), history)
    (sent,) = again.body["messages"][1]["tool_calls"]
    assert ToolCall("", "", sent["function"]["arguments"]).parsed() == arguments


# Structured answers


def person(method: str, text: str, finish_reason: str) -> list[dict[str, Any]]:
    """The events of an answer by a method, in four pieces."""
    ends = [0, 9, 20, 30, len(text)]
    pieces = [text[start:end] for start, end in pairwise(ends)]
    if method != "function_calling":
        return events(*pieces, finish_reason=finish_reason)
    deltas = [
        {"tool_calls": [call("Person", piece, id=None if place else "a1B2c3D4e", index=0)]}
        for place, piece in enumerate(pieces)
    ]
    return events(*deltas, finish_reason=finish_reason)


METHODS = pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
DICTIONARY = Person.model_json_schema()
SCHEMAS = pytest.mark.parametrize("schema", [Person, DICTIONARY], ids=["class", "dictionary"])
HALF = '{"name": "Ada", "items": [1, 2, 3'


@METHODS
@SCHEMAS
@pytest.mark.parametrize("reason", ["length", "model_length"])
def test_a_stream_that_was_cut_off_ends_with_an_error(reason: str, schema: Any, method: Any, caller: Caller) -> None:
    model = Script(person(method, HALF, reason)).model()
    with pytest.raises(OutputParserException, match="cut off"):
        caller.stream(model.with_structured_output(schema, method=method), "JSON?")


@METHODS
@SCHEMAS
@pytest.mark.parametrize("reason", ["length", "model_length"])
def test_an_answer_that_was_cut_off_is_an_error(reason: str, schema: Any, method: Any, caller: Caller) -> None:
    said: Any = answer(HALF + "]}", finish_reason=reason)
    if method == "function_calling":
        said = answer("", calls=[call("Person", HALF + "]}")], finish_reason=reason)
    with pytest.raises(OutputParserException, match=f"cut off .finish_reason '{reason}'"):
        caller.invoke(Script(said).model().with_structured_output(schema, method=method), "JSON?")


@METHODS
def test_a_stream_whose_answer_turns_out_wrong_ends_with_an_error(method: Any, caller: Caller) -> None:
    model = Script(person(method, '{"name": "Ada", "items": [1, 2, "three"]}', "stop")).model()
    with pytest.raises(OutputParserException):
        caller.stream(model.with_structured_output(Person, method=method), "JSON?")


@METHODS
def test_callbacks_hear_of_the_end_of_a_stream_whose_answer_turns_out_wrong(method: Any, caller: Caller) -> None:
    ends: list[Any] = []

    class Listener(BaseCallbackHandler):
        def on_llm_end(self, response: Any, **_: Any) -> None:
            ends.append(response.generations[0][0].message.usage_metadata["total_tokens"])

        def on_llm_error(self, error: BaseException, **_: Any) -> None:
            ends.append(error)

    model = Script(person(method, '{"name": "Ada", "items": [1, 2, "three"]}', "stop")).model()
    asked = model.with_structured_output(Person, method=method)
    with pytest.raises(OutputParserException):
        caller.stream(asked, "JSON?", {"callbacks": [Listener()]})
    assert ends == [USAGE["total_tokens"]]


@METHODS
@SCHEMAS
def test_a_good_stream_says_each_state_once(schema: Any, method: Any, caller: Caller) -> None:
    model = Script(person(method, HALF + "]}", "stop")).model()
    got = caller.stream(model.with_structured_output(schema, method=method), "JSON?")
    dumped = [each if isinstance(each, dict) else each.model_dump() for each in got]
    assert dumped[-1] == {"name": "Ada", "items": [1, 2, 3]}
    assert all(before != after for before, after in pairwise(dumped))


@METHODS
@pytest.mark.parametrize(("text", "reason"), [(HALF, "length"), ('{"name": "Ada", "items": [1, "x"]}', "stop")])
def test_a_stream_with_its_raw_answer_says_what_was_wrong(text: str, reason: str, method: Any, caller: Caller) -> None:
    model = (
        Script(person(method, text, reason))
        .model(streaming=True)
        .with_structured_output(Person, method=method, include_raw=True)
    )
    chunks = caller.stream(model, "JSON?")
    assert len([chunk for chunk in chunks if "raw" in chunk]) > 3
    assert chunks[-1]["parsed"] is None
    assert isinstance(chunks[-1]["parsing_error"], OutputParserException)
    got = caller.invoke(model, "JSON?")
    assert got["parsed"] is None
    assert isinstance(got["parsing_error"], OutputParserException)


@METHODS
def test_a_good_stream_with_its_raw_answer(method: Any, caller: Caller) -> None:
    model = Script(person(method, HALF + "]}", "stop")).model()
    *_, last = caller.stream(model.with_structured_output(Person, method=method, include_raw=True), "JSON?")
    assert last == {"parsed": Person(name="Ada", items=[1, 2, 3]), "parsing_error": None}


def test_an_answer_by_another_tool_is_no_answer(caller: Caller) -> None:
    model = Script(answer("", calls=[call("guess", {"name": "Ada"})], finish_reason="tool_calls")).model()
    for schema in (Person, DICTIONARY):
        with pytest.raises(OutputParserException, match="calls 'guess', not 'Person'"):
            caller.invoke(model.with_structured_output(schema, method="function_calling"), "?")


def test_a_model_that_does_not_stream_gives_its_structured_answer(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway, streaming=False)
    for method in ("json_schema", "function_calling"):
        got = caller.stream(model.with_structured_output(Person, method=method), "Who is 'Ada'?")  # type: ignore[arg-type]
        assert [type(each) for each in got] == [Person]
