"""Schemas of tools and answers: those that nothing can fill are refused, the others are filled."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest

from lava_mistral.gateway.model.fill import Evidence, fill
from tests.fakes.waiting import PATIENCE

TEXT: dict[str, Any] = {"type": "string"}


def tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "parameters": parameters}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "properties": []}, "$.properties: [] is not of type"),
        ({"type": "object", "properties": {"a": 1}}, "$.properties.a: 1 is not of type"),
        ({"type": "object", "required": "a"}, "$.required: 'a' is not of type"),
        ({"type": "object", "required": True}, "$.required: True is not of type"),
        ({"type": {"a": 1}}, "$.type: "),
        ({"properties": {"a": {"type": "array", "minItems": "x"}}}, "$.properties.a.minItems: 'x' is not of type"),
        ({"type": "array", "minItems": 10**9}, "steps to fill it"),
        ({"type": "string", "minLength": 10**9}, "minLength is more than 50000"),
        ({"type": "string", "minLength": -1}, "$.minLength: -1 is less than"),
        ({"type": "number", "multipleOf": 0}, "$.multipleOf: 0 is less than"),
        ({"type": "integer", "minimum": "3"}, "$.minimum: '3' is not of type"),
        ({"type": "string", "pattern": 3}, "$.pattern: 3 is not of type"),
        ({"anyOf": {"type": "string"}}, "$.anyOf: "),
        ({"anyOf": [TEXT, 3]}, "$.anyOf[1]: 3 is not of type"),
        ({"enum": "ab"}, "$.enum: 'ab' is not of type"),
        ({"$ref": "#/x", "x": {"type": "object", "properties": "y"}}, "it is malformed: "),
        ({"$ref": "#"}, "contains itself without an end"),
        ({"allOf": [{"$ref": "#"}]}, "contains itself without an end"),
        ({"properties": {"next": {"$ref": "#"}}, "required": ["next"]}, "contains itself without an end"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "contains itself without an end"),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/a"}},
                "$defs": {
                    "a": {"properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
                    "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]},
                },
            },
            "contains itself without an end",
        ),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(forward, schema, said):
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    for parameters in ({"tools": [tool(schema)], "tool_choice": "any"}, {"response_format": wanted}):
        response = forward.chat("Give me 3 things", **parameters)
        assert response.status_code == 400
        body = response.json()
        assert (body["type"], body["code"]) == ("invalid_request_invalid_args", "3051")
        assert said in body["message"]


def test_a_schema_may_be_deep_but_not_endlessly(forward):
    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "properties": {"x": TEXT}, "required": ["x"]}
        for _ in range(levels):
            schema = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
        return schema

    response = forward.chat("Hello", tools=[tool(nested(50))], tool_choice="any")
    [call] = response.json()["choices"][0]["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), nested(50))
    response = forward.chat("Hello", tools=[tool(nested(400))], tool_choice="any")
    assert response.status_code == 400
    assert "levels deep" in response.json()["message"]


OPERATION = {
    "type": "object",
    "properties": {"left": {"$ref": "#/$defs/expression"}, "right": {"$ref": "#/$defs/expression"}},
    "required": ["left", "right"],
}


@pytest.mark.parametrize(
    "schema",
    [
        # The member that comes first in the union never ends; another does, at once or a step further on.
        {
            "$ref": "#/$defs/expression",
            "$defs": {
                "operation": OPERATION,
                "expression": {"anyOf": [{"$ref": "#/$defs/operation"}, {"type": "integer"}]},
            },
        },
        {
            "$ref": "#/$defs/expression",
            "$defs": {
                "operation": OPERATION,
                "leaf": {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
                "expression": {"oneOf": [{"$ref": "#/$defs/operation"}, {"$ref": "#/$defs/leaf"}]},
            },
        },
        {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
        {"type": "integer", "minimum": 3, "exclusiveMinimum": 4},
    ],
)
def test_a_schema_that_ends_somewhere_is_filled(schema):
    jsonschema.validate(fill(schema, Evidence("x y z")), schema)


def levels(number: int, *, optional: bool = False) -> dict[str, Any]:
    """A schema whose levels each refer to the next one twice: few lines, and 2 to the power of `number` values."""
    definitions: dict[str, Any] = {f"l{number}": {"type": "integer"}}
    for at in range(number):
        both = {name: {"$ref": f"#/$defs/l{at + 1}"} for name in ("left", "right")}
        definitions[f"l{at}"] = {"type": "object", "properties": both, "required": [] if optional else list(both)}
    return {"$ref": "#/$defs/l0", "$defs": definitions}


@pytest.mark.parametrize("kind", ["object", "allOf", "anyOf"])
def test_a_schema_that_grows_with_each_level_is_refused_at_once(forward, kind):
    schema = levels(24)
    if kind != "object":
        for at in range(24):
            schema["$defs"][f"l{at}"] = {kind: [{"$ref": f"#/$defs/l{at + 1}"}] * 2}
    begun = time.monotonic()
    response = forward.chat("Give me 3", tools=[tool(schema)], tool_choice="any")
    assert time.monotonic() - begun < PATIENCE
    if kind == "anyOf":
        assert response.status_code == 200
    else:
        assert response.status_code == 400
        assert "steps to fill it" in response.json()["message"]


def test_levels_that_may_be_left_out_are(forward):
    [choice] = forward.chat("Give me 3", tools=[tool(levels(24, optional=True))], tool_choice="any").json()["choices"]
    assert choice["message"]["tool_calls"]


def test_a_pattern_that_backtracks_takes_no_time(forward):
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "required": ["a"]}
    begun = time.monotonic()
    assert forward.chat("a" * 60 + "!", tools=[tool(schema)], tool_choice="any").status_code == 200
    assert time.monotonic() - begun < PATIENCE


def test_a_reference_may_lead_nowhere():
    schema = {"type": "object", "properties": {"a": {"$ref": "#/required"}}, "required": ["a"]}
    assert fill(schema, Evidence("hello")) == {"a": "hello"}


def test_numbers_that_json_can_not_hold_are_not_taken(forward):
    numbers = f"{'9' * 25}, {'9' * 5_000}, 1e999 and 7"
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    response = forward.chat(f"Look at {numbers}", tools=[tool(schema)], tool_choice="any")
    [call] = response.json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"n": 7}


def test_a_result_may_be_deep(forward):
    call = {"id": "abcdefgh1", "function": {"name": "look", "arguments": "{}"}}
    deep = '{"a": ' * 900 + "1" + "}" * 900
    messages = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": deep, "tool_call_id": "abcdefgh1"},
    ]
    assert forward.chat(messages).json()["choices"][0]["message"]["content"] == "a: " * 20 + "…"


def test_what_two_tools_say_of_one_thing_is_one_record(forward):
    fields = {"name": {"type": "string"}, "license": {"type": "string"}}
    fields["needs"] = {"type": "array", "items": {"type": "string"}}
    package = {"type": "object", "properties": fields, "required": list(fields)}
    schema = {
        "type": "object",
        "properties": {"packages": {"type": "array", "items": package}},
        "required": ["packages"],
    }
    told = [{"name": "x", "license": "MIT"}, {"name": "y", "license": "BSD"}]
    told += [{"name": "x", "needs": ["a", "b"]}, {"name": "y", "needs": []}]
    calls = [{"id": f"abcdefgh{at}", "function": {"name": "look", "arguments": "{}"}} for at in range(len(told))]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}
        for call, result in zip(calls, told, strict=True)
    ]
    asked = {"role": "user", "content": "Licenses and needs of X and Y?"}
    messages = [asked, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    form = {"type": "json_schema", "json_schema": {"name": "Review", "schema": schema}}
    answer = forward.chat(messages, response_format=form).json()["choices"][0]["message"]["content"]
    assert json.loads(answer)["packages"] == [told[0] | told[2], told[1] | told[3]]
