"""Schemas as users have them: recursive ones, enumerations, unions and lists, answers in fences or in words."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from langchain_lava_mistral import ChatLavaMistral, InvalidRequestError
from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import Caller, Script, answer, call, chat, events


class Node(BaseModel):
    """A node of a tree."""

    name: str
    children: list[Node] = []


class Tree(BaseModel):
    """A tree."""

    root: Node


class NodeDict(TypedDict):
    """A node of a tree."""

    name: str
    children: list[NodeDict]


def plant(tree: Tree) -> str:
    """Plant a tree."""
    return tree.root.name


MCP = StructuredTool(
    name="plant", description="Plant a tree.", args_schema=Tree.model_json_schema(), func=lambda **_: ""
)
RECURSIVE: dict[str, Any] = {
    "pydantic": Node,
    "pydantic, further in": Tree,
    "TypedDict": NodeDict,
    "function": plant,
    "tool": tool(plant),
    "JSON Schema": Tree.model_json_schema(),
    "JSON Schema, a reference at its top": Node.model_json_schema(),
    "MCP": MCP,
}


@pytest.mark.parametrize("given", RECURSIVE.values(), ids=RECURSIVE)
@pytest.mark.parametrize("strict", [None, True])
def test_a_recursive_tool_keeps_its_definitions(given: Any, strict: bool | None, caller: Caller) -> None:
    """langchain-ai/langchain#30797"""
    asked = Script(answer())
    caller.invoke(asked.model().bind_tools([given], strict=strict), "?")
    function = asked.body["tools"][0]["function"]
    parameters = function["parameters"]
    assert parameters["type"] == "object"
    assert "$ref" not in parameters
    assert function["name"]
    assert function["description"]
    node = next(value for name, value in parameters["$defs"].items() if name.startswith("Node"))
    assert node["properties"]["children"]["items"]["$ref"] in {f"#/$defs/{name}" for name in parameters["$defs"]}
    assert node.get("additionalProperties") is (False if strict else None)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(
    "schema", [Node, NodeDict, Node.model_json_schema()], ids=["class", "TypedDict", "JSON Schema"]
)
def test_a_recursive_answer_is_whole(method: Any, schema: Any, caller: Caller) -> None:
    said = {"name": "a", "children": [{"name": "b", "children": []}]}
    name = "NodeDict" if schema is NodeDict else "Node"
    calls = [call(name, said)] if method == "function_calling" else []
    asked = Script(answer("" if calls else json.dumps(said), calls=calls))
    got = caller.invoke(asked.model().with_structured_output(schema, method=method), "?")
    assert (got.model_dump() if isinstance(got, Node) else got) == said
    body = asked.body
    sent = body["tools"][0]["function"]["parameters"] if calls else body["response_format"]["json_schema"]["schema"]
    assert (sent["type"], "$defs" in sent) == ("object", True)


class Mood(Enum):
    """How somebody feels."""

    GOOD = "good"
    BAD = "bad"


class Cat(BaseModel):
    """A cat."""

    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    """A dog."""

    kind: Literal["dog"]
    tricks: list[str]


class Cats(RootModel[list[Cat]]):
    """Several cats."""


CAT = {"kind": "cat", "lives": 7}
PLAIN: dict[str, tuple[Any, Any, Any]] = {
    "enumeration": (Mood, "good", Mood.GOOD),
    "union": (Cat | Dog, CAT, Cat(kind="cat", lives=7)),
    "discriminated union": (Annotated[Cat | Dog, Field(discriminator="kind")], CAT, Cat(kind="cat", lives=7)),
    "list": (list[Cat], [CAT, CAT], [Cat(kind="cat", lives=7)] * 2),
    "root model": (Cats, [CAT], Cats([Cat(kind="cat", lives=7)])),
    "literal": (Literal["a", "b"], "a", "a"),
    "number": (int, 3, 3),
    "JSON Schema of a list": ({"title": "words", "type": "array", "items": {"type": "string"}}, ["a"], ["a"]),
}


@pytest.mark.parametrize(("schema", "said", "expected"), PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("include_raw", [False, True], ids=["parsed", "raw"])
def test_an_answer_that_is_no_object(
    schema: Any, said: Any, expected: Any, method: Any, include_raw: bool, caller: Caller
) -> None:
    """langchain-ai/langchain#34970: Mistral wants an object, so the answer is the field of one."""
    probe = Script(answer("{}"))
    with pytest.raises(OutputParserException):
        caller.invoke(probe.model().with_structured_output(schema, method=method), "?")
    if method == "json_schema":
        sent = probe.body["response_format"]["json_schema"]["schema"]
        whole: Any = answer(json.dumps({"value": said}))
        streamed = events(*[json.dumps({"value": said})[at : at + 7] for at in range(0, 200, 7)])
    else:
        function = probe.body["tools"][0]["function"]
        sent = function["parameters"]
        whole = answer("", calls=[call(function["name"], {"value": said})])
        streamed = events({"tool_calls": [call(function["name"], {"value": said}, index=0)]})
    assert sent["type"] == "object"
    assert sent["required"] == ["value"]
    model = Script(whole).model().with_structured_output(schema, method=method, include_raw=include_raw)
    got = caller.invoke(model, "?")
    assert (got["parsed"] if include_raw else got) == expected
    *_, last = caller.stream(
        Script(streamed).model().with_structured_output(schema, method=method, include_raw=include_raw), "?"
    )
    assert (last["parsed"] if include_raw else last) == expected


def test_a_simulated_model_fills_a_list(gateway: LocalGateway, caller: Caller) -> None:
    for method in ("json_schema", "function_calling"):
        got = caller.invoke(chat(gateway).with_structured_output(list[Cat], method=method), "A cat with 9 lives")  # type: ignore[arg-type]
        assert all(isinstance(cat, Cat) for cat in got)


def test_what_pydantic_has_no_schema_for_is_refused_in_a_sentence() -> None:
    class Handle:
        pass

    with pytest.raises(InvalidRequestError, match=r"There is no JSON Schema for list.*Handle.*pydantic class"):
        ChatLavaMistral().with_structured_output(list[Handle])
    with pytest.raises(ValueError, match="is of an object, 'json_mode'"):
        ChatLavaMistral().with_structured_output(list[Cat], method="json_mode")


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "  ```json\n{}\n```  \n", "{}"])
@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
def test_json_in_a_fence_is_taken(fence: str, streamed: bool, caller: Caller) -> None:
    text = fence.replace("{}", '{"kind": "cat", "lives": 7}')
    script = Script(events(text[:9], text[9:])) if streamed else Script(answer(text))
    model = script.model().with_structured_output(Cat)
    got = caller.stream(model, "?")[-1] if streamed else caller.invoke(model, "?")
    assert got == Cat(kind="cat", lives=7)


@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
@pytest.mark.parametrize("schema", [Cat, Cat.model_json_schema()], ids=["class", "dictionary"])
def test_an_answer_in_words_instead_of_a_call_is_an_error(schema: Any, streamed: bool, caller: Caller) -> None:
    """langchain-ai/langchain#36349"""
    script = Script(events("I can't ", "say.")) if streamed else Script(answer("I can't say."))
    ask = caller.stream if streamed else caller.invoke
    with pytest.raises(OutputParserException, match="in words instead of calling 'Cat'") as caught:
        ask(script.model().with_structured_output(schema, method="function_calling"), "?")
    assert caught.value.llm_output == "I can't say."
    got = ask(script.model().with_structured_output(schema, method="function_calling", include_raw=True), "?")
    last = got[-1] if streamed else got
    assert last["parsed"] is None
    assert isinstance(last["parsing_error"], OutputParserException)


@pytest.mark.parametrize("arguments", ["null", "", "{}", "  "])
@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
def test_a_call_without_arguments_is_one(arguments: str, streamed: bool, caller: Caller) -> None:
    made = call("now", arguments, index=0)
    script = (
        Script(events({"tool_calls": [made]}, finish_reason="tool_calls"))
        if streamed
        else Script(answer("", calls=[made], finish_reason="tool_calls"))
    )
    got = caller.ask(streamed, script.model().bind_tools([{"name": "now"}]), "?")
    assert [(c["name"], c["args"]) for c in got.tool_calls] == [("now", {})]
    assert got.invalid_tool_calls == []


@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
def test_arguments_that_are_encoded_twice_are_decoded(streamed: bool, caller: Caller) -> None:
    made = call("f", json.dumps(json.dumps({"a": 1})), index=0)
    script = Script(events({"tool_calls": [made]}) if streamed else answer("", calls=[made]))
    got = caller.ask(streamed, script.model(), "?")
    assert [c["args"] for c in got.tool_calls] == [{"a": 1}]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (json.dumps(json.dumps({"a": 'déjà "vu"', "b": [1]})), {"a": 'déjà "vu"', "b": [1]}),
        ("  " + json.dumps(json.dumps(json.dumps({"a": 1}))), {"a": 1}),
        ("null", {}),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_arguments_that_are_encoded_twice_and_come_in_pieces_are_decoded(
    arguments: str, read: Any, size: int, caller: Caller
) -> None:
    pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    deltas = [{"tool_calls": [call("f", pieces[0], index=0), call("g", '{"x":', id="b2c3d4e5f", index=1)]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"name": "", "arguments": piece}}]} for piece in pieces[1:]]
    deltas.append({"tool_calls": [{"index": 1, "function": {"name": "", "arguments": " 2}"}}]})
    got = caller.whole(Script(events(*deltas, finish_reason="tool_calls")).model(), "?")
    assert [(each["name"], each["args"]) for each in got.tool_calls] == [("f", read), ("g", {"x": 2})]
    assert got.invalid_tool_calls == []


def test_arguments_that_are_a_text_in_pieces_are_no_call(caller: Caller) -> None:
    pieces = [{"tool_calls": [{"index": 0, "function": {"name": "", "arguments": piece}}]} for piece in ('lo"', "")]
    first = {"tool_calls": [call("f", '"hel', index=0)]}
    got = caller.whole(Script(events(first, *pieces, finish_reason="tool_calls")).model(), "?")
    assert got.tool_calls == []
    assert [bad["args"] for bad in got.invalid_tool_calls] == ['"hello"']


@pytest.mark.parametrize("include_raw", [False, True])
def test_the_parser_of_an_answer_takes_a_text_too(include_raw: bool) -> None:
    """As any parser of LangChain's: a fallback of the model may be a function that gives one."""
    chain: Any = ChatLavaMistral().with_structured_output({"title": "T", "type": "object"}, include_raw=include_raw)
    made = chain.last.invoke('{"a": 1}')
    assert (made["parsed"] if include_raw else made) == {"a": 1}
