"""Schemas as users write them: recursive ones arrive whole, and answers that are no object come back as they are."""

from __future__ import annotations

import asyncio
import json
from enum import Enum
from typing import Any

import jsonschema
import pytest
from langchain_core.tools import StructuredTool
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, RootModel
from typing_extensions import TypedDict

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral.gateway import LocalGateway
from tests.fakes.frameworks import choice_answer


class Node(BaseModel):
    """A tree."""

    name: str
    children: list[Node] = []


class Knot(TypedDict):
    """A tree."""

    name: str
    children: list[Knot]


class Forest(BaseModel):
    """Some trees."""

    trees: list[Node]


class Colour(Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    """A cat."""

    lives: int


class Nodes(RootModel[list[Node]]):
    """Trees."""


TREE = {"name": "a", "children": [{"name": "b", "children": [{"name": "c", "children": []}]}]}
BAD = {"name": "a", "children": [{"name": "b", "children": [{"name": 5, "children": []}]}]}


def model(gateway: LocalGateway, **settings: Any) -> Any:
    return langchain_lava_mistral.ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def llm(gateway: LocalGateway, **settings: Any) -> Any:
    return llama_index_lava_mistral.ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def check(schema: Any, good: Any, bad: Any) -> None:
    assert schema["type"] == "object"
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)


def plant(tree: Node) -> str:
    """Plant a tree."""
    return tree.name


MCP_TOOL = {"title": "plant", "description": "Plant a tree.", **Node.model_json_schema()}
LANGCHAIN_TOOLS: list[Any] = [Node, Knot, MCP_TOOL]


@pytest.mark.parametrize("tool", LANGCHAIN_TOOLS, ids=["pydantic", "TypedDict", "JSON Schema"])
def test_langchain_sends_recursive_arguments_whole(gateway: LocalGateway, tool: Any) -> None:
    """langchain#30797"""
    model(gateway).bind_tools([tool]).invoke("Plant one")
    check(gateway.requests[-1].body["tools"][0]["function"]["parameters"], TREE, BAD)


@pytest.mark.parametrize("tool", [plant, StructuredTool.from_function(plant)], ids=["function", "tool"])
def test_langchain_sends_a_function_with_a_recursive_argument_whole(gateway: LocalGateway, tool: Any) -> None:
    model(gateway).bind_tools([tool]).invoke("Plant one")
    check(gateway.requests[-1].body["tools"][0]["function"]["parameters"], {"tree": TREE}, {"tree": BAD})


def test_llama_index_sends_a_function_with_a_recursive_argument_whole(gateway: LocalGateway) -> None:
    tools = [FunctionTool.from_defaults(plant, fn_schema=cls) for cls in (Node, Forest)]
    llm(gateway).chat_with_tools(tools, user_msg="Plant one")
    node, forest = (tool["function"]["parameters"] for tool in gateway.requests[-1].body["tools"])
    check(node, TREE, BAD)
    check(forest, {"trees": [TREE]}, {"trees": [BAD]})


@pytest.mark.parametrize("cls", [Node, Forest])
def test_recursive_answers(gateway: LocalGateway, cls: Any) -> None:
    tree = TREE if cls is Node else {"trees": [TREE]}
    bad = BAD if cls is Node else {"trees": [BAD]}
    for _ in range(2):
        gateway.queue(choice_answer({"message": {"role": "assistant", "content": json.dumps(tree)}}))
    assert model(gateway).with_structured_output(cls).invoke("A tree") == cls.model_validate(tree)
    assert llm(gateway).structured_predict(cls, PromptTemplate("A tree")) == cls.model_validate(tree)
    for request in gateway.requests:
        check(request.body["response_format"]["json_schema"]["schema"], tree, bad)


def is_right(kind: Any, answer: Any) -> bool:
    if kind == list[Cat]:
        return isinstance(answer, list) and all(isinstance(each, Cat) for each in answer)
    return isinstance(answer, kind)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("kind", [Colour, Cat | Node, list[Cat], Nodes], ids=["enum", "union", "list", "root"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_langchain_gives_an_answer_that_is_no_object(
    gateway: LocalGateway, kind: Any, method: Any, streamed: bool
) -> None:
    """langchain#34970"""
    structured = model(gateway).with_structured_output(kind, method=method)
    answer = list(structured.stream("A cat"))[-1] if streamed else structured.invoke("A cat")
    assert is_right(kind, answer)


@pytest.mark.parametrize("kind", [Colour, Cat | Node, list[Cat], Nodes], ids=["enum", "union", "list", "root"])
def test_llama_index_gives_an_answer_that_is_no_object(gateway: LocalGateway, kind: Any) -> None:
    assert is_right(kind, llm(gateway).structured_predict(kind, PromptTemplate("A cat")))
    assert is_right(kind, asyncio.run(llm(gateway).astructured_predict(kind, PromptTemplate("A cat"))))


@pytest.mark.parametrize("fenced", ["```json\n{}\n```", "```\n{}\n```", "{}"])
def test_fenced_json_is_read(gateway: LocalGateway, fenced: str) -> None:
    text = fenced.replace("{}", '{"lives": 7}')
    for _ in range(3):
        gateway.queue(choice_answer({"message": {"role": "assistant", "content": text}}))
    assert model(gateway).with_structured_output(Cat).invoke("A cat") == Cat(lives=7)
    assert llm(gateway).structured_predict(Cat, PromptTemplate("A cat")) == Cat(lives=7)
    assert asyncio.run(llm(gateway).astructured_predict(Cat, PromptTemplate("A cat"))) == Cat(lives=7)


def test_an_answer_in_words_is_an_error(gateway: LocalGateway) -> None:
    """langchain#36349"""
    for _ in range(2):
        gateway.queue(choice_answer({"message": {"role": "assistant", "content": "I would rather not."}}))
    structured = model(gateway).with_structured_output(Cat, method="function_calling")
    with pytest.raises(Exception, match="words"):
        structured.invoke("A cat")
    raw = model(gateway).with_structured_output(Cat, method="function_calling", include_raw=True).invoke("A cat")
    assert raw["parsed"] is None
    assert raw["parsing_error"] is not None
