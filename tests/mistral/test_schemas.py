"""Schemas of tools and answers: an object at the top, definitions kept."""

from __future__ import annotations

import copy
from enum import Enum
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, RootModel, TypeAdapter

from lava_mistral.calls.chat_body import chat_body
from lava_mistral.mistral.tools import json_schema_format, object_schema, wrap_schema


class Node(BaseModel):
    """A tree."""

    name: str
    children: list[Node] = []


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    lives: int


class Nodes(RootModel[list[Node]]):
    pass


TREE = {"name": "a", "children": [{"name": "b", "children": [{"name": "c", "children": []}]}]}


def test_a_recursive_schema_has_an_object_at_its_top_and_keeps_its_definitions() -> None:
    """langchain#30797"""
    schema = Node.model_json_schema()
    assert "type" not in schema
    before = copy.deepcopy(schema)
    whole = object_schema(schema)
    assert schema == before
    assert whole["type"] == "object"
    assert whole["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert whole["$defs"] == schema["$defs"]
    jsonschema.validate(TREE, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "a", "children": [{"name": 5}]}, whole)
    form: Any = json_schema_format("tree", schema)
    assert form["json_schema"]["schema"]["type"] == "object"
    assert form["json_schema"]["schema"]["$defs"]["Node"]["additionalProperties"] is False


@pytest.mark.parametrize("field", ["properties", "$defs"])
def test_a_schema_that_says_null_where_it_has_none_is_sent_without_it(field: str) -> None:
    """As servers of MCP that are written in Go say it."""
    nested = {"type": "object", "properties": {"a": {"type": "object", field: None}}}
    assert json_schema_format("answer", nested)["json_schema"]["schema"]["properties"].keys() == {"a"}
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", field: None}}}
    body = chat_body([{"role": "user", "content": "?"}], "m", {"tools": [tool]}, stream=False)
    assert body["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert object_schema({"const": None}) == {"const": None}


@pytest.mark.parametrize(
    ("parameters", "sent"),
    [
        ({"type": "object", "properties": {}}, ...),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({}, {"type": "object", "properties": {}}),
        (None, {"type": "object", "properties": {}}),
        ({"$ref": "#/$defs/Missing"}, ...),
        ({"$ref": "#"}, ...),
        ({"$ref": 5}, ...),
        ({"$ref": "https://example.com/schema"}, ...),
        ({"type": "array"}, ...),
        ([], ...),
    ],
    ids=str,
)
def test_tools_are_sent_with_an_object_at_the_top(parameters: Any, sent: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = chat_body([{"role": "user", "content": "?"}], "m", {"tools": [tool]}, stream=False)
    assert body["tools"][0]["function"]["parameters"] == (parameters if sent is ... else sent)
    assert tool["function"]["parameters"] is parameters
    if sent is ...:
        assert body["tools"][0] is tool


KINDS: list[Any] = [
    (Colour, "red"),
    (Colour | Cat, {"lives": 7}),
    (list[Node], [TREE]),
    (Nodes, [TREE]),
    (int, 5),
    (str | None, None),
]


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=str)
def test_what_is_no_object_is_wrapped_in_one(kind: Any, value: Any) -> None:
    """langchain#34970"""
    schema = TypeAdapter(kind).json_schema()
    before = copy.deepcopy(schema)
    whole, wrapped = wrap_schema(schema)
    assert schema == before
    assert wrapped
    assert whole["type"] == "object"
    jsonschema.validate({"value": value}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"value": {"odd": 1.5}}, whole)


@pytest.mark.parametrize("kind", [Node, Cat, dict[str, int]])
def test_an_object_is_not_wrapped(kind: Any) -> None:
    whole, wrapped = wrap_schema(TypeAdapter(kind).json_schema())
    assert not wrapped
    assert whole["type"] == "object"
