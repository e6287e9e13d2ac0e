"""Answers as objects: by JSON schema, by tool, in words; whole and growing."""

from __future__ import annotations

import enum
import json
from typing import Any, Literal

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, ConfigDict, Field, RootModel

from lava_mistral import ConfigurationError
from lava_mistral.pricing.catalog import Model, add_model
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import Caller, Scripted, answer, ask, call, stream

PROMPT = PromptTemplate("Describe {thing}.")


class Kind(enum.Enum):
    CITY = "city"
    VILLAGE = "village"


class Person(BaseModel):
    name: str
    age: int | None = None


class Place(BaseModel):
    """A place on a map."""

    name: str = Field(description="What it is called.")
    kind: Kind
    mayor: Person | None = None
    streets: list[str] = Field(default_factory=list)
    twins: dict[str, int] = Field(default_factory=dict)


PARIS = {
    "name": "Paris",
    "kind": "city",
    "mayor": {"name": "Anne", "age": None},
    "streets": ["Rue A", "Rue B"],
    "twins": {"Rome": 1956},
}
EXPECTED = Place.model_validate(PARIS)
TEXT = json.dumps(PARIS)
PIECES = [TEXT[start : start + 7] for start in range(0, len(TEXT), 7)]

BY_TOOL = {"pydantic_program_mode": PydanticProgramMode.FUNCTION}


def by_tool(arguments: str = TEXT, **more: Any) -> dict[str, Any]:
    return answer("", calls=[call("Place", arguments)], finish_reason="tool_calls", **more)


def in_tool_fragments() -> list[Any]:
    first = {"tool_calls": [{"index": 0, "id": "aaaaaaaaa", "function": {"name": "Place", "arguments": ""}}]}
    rest = [{"tool_calls": [{"index": 0, "function": {"name": "", "arguments": piece}}]} for piece in PIECES]
    return stream(first, *rest, finish_reason="tool_calls")


def predict(caller: Caller, llm: ChatLavaMistral, cls: type[BaseModel] = Place, **kwargs: Any) -> Any:
    return caller.one(llm, "structured_predict", cls, PromptTemplate("Describe {thing}."), thing="Paris", **kwargs)


def grow(caller: Caller, llm: ChatLavaMistral, cls: type[BaseModel] = Place, **kwargs: Any) -> list[Any]:
    return caller.all(
        llm, "stream_structured_predict", cls, PromptTemplate("Describe {thing}."), thing="Paris", **kwargs
    )


def test_by_schema(caller: Caller) -> None:
    mistral = Scripted(answer(TEXT))
    assert predict(caller, mistral.llm(system_prompt="Be exact."), llm_kwargs={"temperature": 0.1}) == EXPECTED
    body = mistral.body
    assert [(m["role"], m["content"]) for m in body["messages"]] == [
        ("system", "Be exact."),
        ("user", "Describe Paris."),
    ]
    assert body["temperature"] == 0.1
    assert "tools" not in body
    format = body["response_format"]
    assert format["type"] == "json_schema"
    assert (format["json_schema"]["name"], format["json_schema"]["strict"]) == ("Place", True)
    schema = format["json_schema"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Person"]["additionalProperties"] is False
    assert schema["properties"]["twins"]["additionalProperties"] == {"type": "integer"}


def test_by_tool(caller: Caller) -> None:
    mistral = Scripted(by_tool())
    assert predict(caller, mistral.llm(system_prompt="Be exact.", **BY_TOOL)) == EXPECTED
    body = mistral.body
    assert body["messages"][0] == {"role": "system", "content": "Be exact."}
    assert "response_format" not in body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["Place"]
    assert body["tools"][0]["function"]["description"] == "A place on a map."
    assert body["tool_choice"] == {"type": "function", "function": {"name": "Place"}}
    assert body["parallel_tool_calls"] is False


def test_a_model_that_has_no_schemas_is_asked_by_tool(caller: Caller) -> None:
    add_model(Model("old-mistral", capabilities=frozenset({"chat", "tools"})))
    mistral = Scripted(by_tool())
    assert predict(caller, mistral.llm(model="old-mistral")) == EXPECTED
    assert predict(caller, mistral.llm(), llm_kwargs={"model": "old-mistral"}) == EXPECTED
    assert all("tools" in body and body["model"] == "old-mistral" for body in mistral.bodies)


def test_other_ways_of_llama_index_are_refused_before_anything_is_sent(caller: Caller) -> None:
    mistral = Scripted(answer(TEXT))
    for ask_for in (predict, grow):
        with pytest.raises(ConfigurationError, match=r"pydantic_program_mode='llm'.*'function'"):
            ask_for(caller, mistral.llm(pydantic_program_mode=PydanticProgramMode.LLM))
    assert not mistral.requests


@pytest.mark.parametrize("mode", ["schema", "tool"])
def test_objects_grow(caller: Caller, mode: str) -> None:
    mistral = Scripted(in_tool_fragments() if mode == "tool" else stream(*PIECES))
    objects = grow(caller, mistral.llm(**(BY_TOOL if mode == "tool" else {})))
    assert isinstance(objects[-1], Place)
    assert objects[-1] == EXPECTED
    names = [each.name for each in objects]
    assert names == sorted(names, key=len)
    assert {"Paris", None} != set(names)
    streets = [list(each.streets or ()) for each in objects]
    assert [] in streets
    assert any(0 < len(each) < 2 for each in streets)
    assert len(objects) == len({repr(each) for each in objects})
    body = mistral.body
    if mode == "tool":
        assert body["tool_choice"] == {"type": "function", "function": {"name": "Place"}}
    else:
        assert body["response_format"]["type"] == "json_schema"


class Strict(BaseModel):
    """Takes its kind as an object in Python, and as text in JSON."""

    model_config = ConfigDict(strict=True)
    kind: Kind


def test_a_growing_object_ends_as_the_class_itself(caller: Caller) -> None:
    objects = grow(caller, Scripted(stream('{"kind": "ci', 'ty"}')).llm(), Strict)
    assert [type(each).__name__ for each in objects] == ["FlexibleStrict", "FlexibleStrict", "Strict"]
    assert objects[-1] == Strict(kind=Kind.CITY)


@pytest.mark.parametrize("mode", ["schema", "tool"])
def test_an_answer_that_is_no_such_object_is_an_error(caller: Caller, mode: str) -> None:
    wrong = '{"name": 1}'
    tool = mode == "tool"
    settings = BY_TOOL if tool else {}
    with pytest.raises(ValueError, match="Expected a Place as JSON"):
        predict(caller, Scripted(by_tool(wrong) if tool else answer(wrong)).llm(**settings))
    delta = {"tool_calls": [call("Place", wrong)]} if tool else wrong
    with pytest.raises(ValueError, match="Expected a Place as JSON"):
        grow(caller, Scripted(stream(delta)).llm(**settings))


@pytest.mark.parametrize("reason", ["length", "model_length"])
def test_an_answer_that_was_cut_off_says_so(caller: Caller, reason: str) -> None:
    with pytest.raises(ValueError, match="larger max_tokens"):
        predict(caller, Scripted(answer(TEXT[:20], finish_reason=reason)).llm())


def test_words_in_the_place_of_a_call_are_in_the_error(caller: Caller) -> None:
    with pytest.raises(ValueError, match=r"Expected a Place.*I can't do that"):
        predict(caller, Scripted(answer("I can't do that")).llm(**BY_TOOL))
    with pytest.raises(ValueError, match=r"Expected a Place.*I can't do that"):
        grow(caller, Scripted(stream("I can't ", "do that")).llm(**BY_TOOL))


def test_what_the_call_says_of_tools_does_not_get_in_the_way(caller: Caller) -> None:
    mistral = Scripted(by_tool())
    kwargs = {"tool_required": False, "tool_choice": "none", "allow_parallel_tool_calls": True, "top_p": 0.5}
    before = dict(kwargs)
    assert predict(caller, mistral.llm(**BY_TOOL), llm_kwargs=kwargs) == EXPECTED
    assert kwargs == before
    assert mistral.body["tool_choice"]["type"] == "function"
    assert mistral.body["top_p"] == 0.5


def test_a_structured_model(caller: Caller) -> None:
    mistral = Scripted(answer(TEXT))
    response = caller.one(mistral.llm().as_structured_llm(Place), "chat", ask("Paris?"), temperature=0.3)
    assert response.raw == EXPECTED
    assert json.loads(response.message.content) == PARIS
    assert mistral.body["temperature"] == 0.3
    assert caller.one(mistral.llm().as_structured_llm(Place), "complete", "Paris?").raw == EXPECTED


@pytest.mark.filterwarnings("ignore:The `json` method is deprecated")
def test_a_structured_model_streams(caller: Caller) -> None:
    llm = Scripted(stream(*PIECES)).llm().as_structured_llm(Place)
    responses = caller.all(llm, "stream_chat", ask("Paris?"))
    assert responses[-1].raw == EXPECTED
    assert len(responses) > 5


def test_the_conversation_of_a_structured_model_is_sent_whole(caller: Caller) -> None:
    mistral = Scripted(answer(TEXT))
    messages = [ChatMessage(role="system", content="Be exact."), *ask("Paris?")]
    caller.one(mistral.llm().as_structured_llm(Place), "chat", messages)
    assert [m["content"] for m in mistral.body["messages"]] == ["Be exact.", "Paris?"]


def test_llama_indexs_own_program_works_too(caller: Caller) -> None:
    llm = Scripted(by_tool()).llm()
    program = FunctionCallingProgram.from_defaults(output_cls=Place, prompt=PROMPT, llm=llm)
    result = program(thing="Paris") if not caller.asynchronous else caller.one(Aprogram(program), "call")
    assert result == EXPECTED
    growing = Scripted(in_tool_fragments()).llm()
    program = FunctionCallingProgram.from_defaults(output_cls=Place, prompt=PROMPT, llm=growing)
    objects = caller.all(program, "stream_call", thing="Paris")
    assert objects[-1] == EXPECTED
    assert any(getattr(each, "name", None) == "Par" or each.name == "Paris" for each in objects[:-1])


class Aprogram:
    """A program, whose async call has no sync twin of the same name."""

    def __init__(self, program: FunctionCallingProgram[Place]) -> None:
        self._program = program

    async def acall(self) -> Any:
        return await self._program.acall(thing="Paris")


class Animal(BaseModel):
    legs: int


class Places(RootModel[list[Person]]):
    """People in a list."""


OTHER_TYPES: list[tuple[Any, Any, Any]] = [
    (Kind, "city", Kind.CITY),
    (Person | Animal, {"legs": 4}, Animal(legs=4)),
    (list[Person], [{"name": "Anne"}], [Person(name="Anne")]),
    (Places, [{"name": "Anne"}], Places([Person(name="Anne")])),
    (Literal["a", "b"], "b", "b"),
]


@pytest.mark.parametrize("settings", [{}, BY_TOOL], ids=["schema", "tool"])
@pytest.mark.parametrize(("cls", "value", "expected"), OTHER_TYPES, ids=lambda value: getattr(value, "__name__", ""))
def test_an_enumeration_a_union_or_a_list_is_asked_for_in_an_object(
    caller: Caller, settings: dict[str, Any], cls: Any, value: Any, expected: Any
) -> None:
    text = json.dumps({"value": value})
    said = answer("", calls=[call("Answer", text)], finish_reason="tool_calls") if settings else answer(text)
    mistral = Scripted(said)
    assert predict(caller, mistral.llm(**settings), cls) == expected
    body = mistral.body
    schema = (
        body["tools"][0]["function"]["parameters"] if settings else body["response_format"]["json_schema"]["schema"]
    )
    assert (schema["type"], list(schema["properties"])) == ("object", ["value"])


def test_a_type_without_a_schema_is_refused_before_it_is_sent(caller: Caller) -> None:
    mistral = Scripted()
    with pytest.raises(ConfigurationError, match="no JSON schema"):
        predict(caller, mistral.llm(), type("Odd", (), {}))
    assert not mistral.requests


@pytest.mark.parametrize(("cls", "value", "expected"), OTHER_TYPES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_llama_index_cannot_stream_is_refused_before_it_is_sent(
    caller: Caller, cls: Any, value: Any, expected: Any
) -> None:
    mistral = Scripted(stream("{}"))
    with pytest.raises(ConfigurationError, match="make it a field of a class"):
        grow(caller, mistral.llm(), cls)
    assert not mistral.requests


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}```", "\n ```json {} ``` \n"])
def test_json_in_a_fence_is_read(caller: Caller, fence: str) -> None:
    text = fence.replace("{}", TEXT)
    assert predict(caller, Scripted(answer(text)).llm()) == EXPECTED
    pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
    assert grow(caller, Scripted(stream(*pieces)).llm())[-1] == EXPECTED


class Node(BaseModel):
    """A node of a tree."""

    name: str
    children: list[Node] = Field(default_factory=list)


@pytest.mark.parametrize("settings", [{}, BY_TOOL], ids=["schema", "tool"])
def test_a_recursive_class_keeps_its_definitions(caller: Caller, settings: dict[str, Any]) -> None:
    tree = {"name": "a", "children": [{"name": "b", "children": []}]}
    text = json.dumps(tree)
    said = answer("", calls=[call("Node", text)], finish_reason="tool_calls") if settings else answer(text)
    mistral = Scripted(said)
    assert predict(caller, mistral.llm(**settings), Node) == Node.model_validate(tree)
    body = mistral.body
    schema = (
        body["tools"][0]["function"]["parameters"] if settings else body["response_format"]["json_schema"]["schema"]
    )
    assert schema["type"] == "object"
    assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert "children" in schema["$defs"]["Node"]["properties"]
