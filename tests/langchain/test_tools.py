"""Tools in every form, and structured answers by every method."""

from __future__ import annotations

import json
import typing
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool, Tool, tool
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langchain_lava_mistral import ChatLavaMistral, InvalidRequestError
from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import Caller, Script, answer, call, chat, events


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="its name")


class WeatherV1(BaseModelV1):
    """The weather of a city."""

    city: str


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    """How many there are."""

    count: T


class WeatherDict(TypedDict):
    """The weather of a city."""

    city: Annotated[str, ..., "its name"]


class WeatherOfTyping(typing.TypedDict):  # pydantic refuses it before Python 3.12
    """The weather of a city."""

    city: Annotated[str, ..., "its name"]


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"sunny in {city}"


SCHEMA = {
    "title": "weather",
    "description": "The weather of a city.",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city.", "parameters": PARAMETERS},
}
TOOLS: dict[str, Any] = {
    "pydantic": Weather,
    "pydantic 1": WeatherV1,
    "TypedDict": WeatherDict,
    "TypedDict of typing": WeatherOfTyping,
    "function": weather,
    "tool": tool(weather),
    "structured tool": StructuredTool.from_function(weather),
    "JSON Schema": SCHEMA,
    "OpenAI": OPENAI,
    "OpenAI function": OPENAI["function"],
    "OpenAI responses": {"type": "function", **OPENAI["function"]},  # type: ignore[dict-item]
    "Anthropic": {
        "name": "weather",
        "description": "The weather of a city.",
        "input_schema": PARAMETERS,
        "cache_control": {"type": "ephemeral"},
    },
    "MCP": {"name": "weather", "title": None, "description": "The weather of a city.", "inputSchema": PARAMETERS},
    "Bedrock": {
        "toolSpec": {
            "name": "weather",
            "description": "The weather of a city.",
            "inputSchema": {"json": PARAMETERS},
        }
    },
}


@pytest.mark.parametrize("given", TOOLS.values(), ids=TOOLS)
@pytest.mark.parametrize("strict", [None, True, False])
def test_a_tool_in_any_form(given: Any, strict: bool | None, caller: Caller) -> None:
    asked = Script(answer("", calls=[call("weather", {"city": "Oslo"})], finish_reason="tool_calls"))
    before = json.dumps(given, default=str)

    caller.invoke(asked.model().bind_tools([given], strict=strict), "Oslo?")

    (sent,) = asked.body["tools"]
    function = sent["function"]
    assert sent["type"] == "function"
    assert function["name"].lower().startswith("weather")
    assert function["description"].startswith("The weather of a city.")
    assert function["parameters"]["properties"]["city"]["type"] == "string"
    assert function["parameters"]["required"] == ["city"]
    assert function.get("strict") is strict
    assert function["parameters"].get("additionalProperties") is (False if strict else None)
    assert set(function) <= {"name", "description", "parameters", "strict"}
    assert json.dumps(given, default=str) == before


def test_tools_may_be_bound_or_given_as_they_are(caller: Caller) -> None:
    asked = Script(answer())
    caller.invoke(asked.model().bind(tools=[weather], tool_choice="weather"), "Oslo?")
    caller.invoke(asked.model(), "Oslo?", tools=[Weather], tool_choice="required")
    first, second = asked.bodies
    assert first["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert second["tools"][0]["function"]["name"] == "Weather"
    assert second["tool_choice"] == "required"


NAMED = {"type": "function", "function": {"name": "weather"}}
CHOICES: dict[str, tuple[Any, Any]] = {
    "not said": (None, None),
    "auto": ("auto", "auto"),
    "none": ("none", "none"),
    "any": ("any", "any"),
    "required": ("required", "required"),
    "true": (True, "any"),
    "false": (False, "none"),
    "name": ("weather", NAMED),
    "OpenAI": (NAMED, NAMED),
    "Anthropic": ({"type": "tool", "name": "weather"}, NAMED),
    "Anthropic any": ({"type": "any"}, "any"),
}


@pytest.mark.parametrize(("choice", "sent"), CHOICES.values(), ids=CHOICES)
def test_a_tool_choice_in_any_form(choice: Any, sent: Any) -> None:
    asked = Script(answer())
    asked.model().bind_tools([weather], tool_choice=choice).invoke("Oslo?")
    assert asked.body.get("tool_choice") == sent


def test_a_choice_of_a_tool_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"'rain'.*'weather'"):
        ChatLavaMistral().bind_tools([weather], tool_choice="rain")


def test_no_tools_are_no_list(caller: Caller) -> None:
    asked = Script(answer('{"city": "Oslo"}'))
    model = asked.model()
    caller.invoke(model.bind_tools([], tool_choice="any", parallel_tool_calls=True, response_format=SCHEMA), "Oslo?")
    caller.invoke(model, "Oslo?", tools=[], tool_choice="any")
    assert asked.bodies[0].keys() == {"model", "messages", "response_format"}
    assert asked.bodies[1].keys() == {"model", "messages"}


def test_parallel_calls_can_be_forbidden() -> None:
    asked = Script(answer())
    asked.model().bind_tools([weather], parallel_tool_calls=False, temperature=0).invoke("Oslo?")
    assert (asked.body["parallel_tool_calls"], asked.body["temperature"]) == (False, 0)


def test_a_tool_without_arguments(caller: Caller) -> None:
    asked = Script(answer())
    bare: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
    caller.invoke(asked.model().bind_tools([{"name": "now"}], strict=True), "?")
    assert asked.body["tools"][0]["function"]["parameters"]["type"] == "object"
    for given in (bare, {"title": "now", "description": "", "type": "object"}):
        caller.invoke(asked.model().bind_tools([given]), "?")
        (sent,) = asked.body["tools"]
        assert sent["function"].pop("description", "") == ""
        assert sent["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_a_typeddict_without_a_docstring_is_not_described_as_a_dict(method: Any) -> None:
    class Silent(TypedDict):
        city: str

    asked = Script(answer('{"city": "Oslo"}', calls=[call("Silent", {"city": "Oslo"})]))
    assert asked.model().with_structured_output(Silent, method=method).invoke("?") == {"city": "Oslo"}
    assert "dictionary" not in json.dumps(asked.body)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "web_search_preview"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "function", "function": {}},
        Tool(name="t", description="d", func=print, metadata={"type": "custom_tool"}),
    ],
    ids=["another provider's", "Anthropic's", "nameless", "custom"],
)
def test_what_is_no_function_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"takes functions and|needs a name"):
        ChatLavaMistral().bind_tools([given])


def test_strict_said_twice_and_differently_is_refused() -> None:
    strict = {"type": "function", "function": {"name": "f", "strict": True}}
    with pytest.raises(ValueError, match="strict"):
        ChatLavaMistral().bind_tools([strict], strict=False)
    with pytest.raises(ValueError, match="one place"):
        ChatLavaMistral().with_structured_output(
            {"name": "w", "schema": PARAMETERS, "strict": False}, method="json_schema", strict=True
        )


def test_a_nested_schema_is_closed_at_every_level_under_strict() -> None:
    class Day(BaseModel):
        weather: list[Weather]

    asked = Script(answer())
    asked.model().bind_tools([Day], strict=True).invoke("?")
    parameters = asked.body["tools"][0]["function"]["parameters"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["weather"]["items"]["additionalProperties"] is False


# Structured answers

INNER = {"name": "weather", "schema": PARAMETERS}
SCHEMAS: dict[str, Any] = {
    "pydantic": Weather,
    "pydantic 1": WeatherV1,
    "TypedDict": WeatherDict,
    "TypedDict of typing": WeatherOfTyping,
    "JSON Schema": SCHEMA,
    "function": OPENAI["function"],
    "tool": OPENAI,
    "Anthropic": TOOLS["Anthropic"],
    "MCP": TOOLS["MCP"],
    "Bedrock": TOOLS["Bedrock"],
    "callable": weather,
    "BaseTool": tool(weather),
    "name and schema": INNER,
    "response format": {"type": "json_schema", "json_schema": INNER},
}
Method = Literal["function_calling", "json_schema"]


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("method", ["function_calling", "json_schema", None])
@pytest.mark.parametrize("strict", [None, True, False])
def test_a_schema_in_any_form(
    schema: Any, method: Method | None, strict: bool | None, gateway: LocalGateway, caller: Caller
) -> None:
    model = chat(gateway).with_structured_output(schema, method=method, strict=strict)

    got = caller.invoke(model, "What is the weather in 'Oslo'?")

    if isinstance(schema, type) and schema not in (WeatherDict, WeatherOfTyping):
        assert isinstance(got, schema)
        got = got.dict() if isinstance(got, BaseModelV1) else got.model_dump()
    assert got == {"city": "Oslo"}
    body = gateway.requests[0].body
    if method == "function_calling":
        assert body["tool_choice"] == "any"
        assert body["tools"][0]["function"].get("strict") is strict
    else:
        assert body["response_format"]["json_schema"].get("strict") is (strict is not False)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("include_raw", [False, True])
def test_a_name_that_mistral_refuses_is_changed(
    method: Any, include_raw: bool, gateway: LocalGateway, caller: Caller
) -> None:
    """The name of a generic class has brackets."""
    model = chat(gateway).with_structured_output(Box[int], method=method, include_raw=include_raw)
    got = caller.invoke(model, "How many is 3?")
    *_, last = caller.stream(model, "How many is 3?")
    assert [type(each["parsed"] if include_raw else each) for each in (got, last)] == [Box[int], Box[int]]
    body = gateway.requests[0].body
    sent = body["tools"][0]["function"] if method == "function_calling" else body["response_format"]["json_schema"]
    assert sent["name"] == "Box_int_"


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_structured_answers_stream(method: Any, gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway).with_structured_output(SCHEMA, method=method)
    *_, last = caller.stream(model, "What is the weather in 'Oslo'? Answer with JSON with the key 'city'.")
    assert "city" in last


def test_json_mode(gateway: LocalGateway, caller: Caller) -> None:
    prompt = "Answer with JSON that has the key 'city'."
    assert "city" in caller.invoke(chat(gateway).with_structured_output(method="json_mode"), prompt)
    assert "city" in caller.invoke(chat(gateway).with_structured_output(), prompt)
    assert isinstance(caller.invoke(chat(gateway).with_structured_output(Weather, method="json_mode"), prompt), Weather)
    assert {request.body["response_format"]["type"] for request in gateway.requests} == {"json_object"}


def test_the_default_method_is_what_the_model_has() -> None:
    asked = Script(answer("", calls=[call("Weather", {"city": "Oslo"})]))
    model = asked.model(profile={"structured_output": False})
    assert model.with_structured_output(Weather).invoke("?") == Weather(city="Oslo")
    assert "tools" in asked.body


@pytest.mark.parametrize("kwargs", [{"method": "function_calling"}, {"method": "json_schema"}, {"method": "guess"}])
def test_a_method_without_its_schema_or_an_unknown_one_is_refused(kwargs: Any) -> None:
    schema = Weather if kwargs["method"] == "guess" else None
    with pytest.raises(ValueError, match=r"needs a schema|not 'guess'"):
        ChatLavaMistral().with_structured_output(schema, **kwargs)


@pytest.mark.parametrize("given", [3, {"type": "json_schema", "json_schema": {"name": "x"}}])
def test_what_is_no_schema_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"response format|'schema'"):
        ChatLavaMistral().with_structured_output(given, method="json_schema")


def test_a_schema_without_a_name_gets_one() -> None:
    asked = Script(answer("{}"))
    asked.model().with_structured_output(PARAMETERS, method="json_schema").invoke("?")
    assert asked.body["response_format"]["json_schema"]["name"] == "answer"


def test_the_raw_answer_on_request(gateway: LocalGateway, caller: Caller) -> None:
    got = caller.invoke(chat(gateway).with_structured_output(Weather, include_raw=True), "What about 'Oslo'?")
    assert isinstance(got["raw"], AIMessage)
    assert (got["parsed"], got["parsing_error"]) == (Weather(city="Oslo"), None)

    broken = Script(answer("no JSON")).model()
    got = caller.invoke(broken.with_structured_output(Weather, include_raw=True), "?")
    assert got["parsed"] is None
    assert isinstance(got["parsing_error"], OutputParserException)
    assert got["raw"].text == "no JSON"


def test_an_answer_that_was_cut_off_is_no_structured_answer(caller: Caller) -> None:
    half = Script(answer('{"city": "Os', finish_reason="length")).model()
    for method in ("json_schema", "json_mode"):
        with pytest.raises(OutputParserException, match="max_tokens"):
            caller.invoke(half.with_structured_output(SCHEMA, method=method), "JSON?")  # type: ignore[arg-type]


def test_broken_arguments_are_no_silent_nothing(caller: Caller) -> None:
    broken = Script(answer("", calls=[call("Weather", '{"city": ')], finish_reason="tool_calls")).model()
    model = broken.with_structured_output(Weather, method="function_calling")
    with pytest.raises(OutputParserException, match="'Weather' are not a JSON object"):
        caller.invoke(model, "?")


def test_a_partial_schema_streams_as_it_grows(caller: Caller) -> None:
    model = Script(events('{"city": "Os', 'lo"', ', "sun": true}')).model()
    grown = caller.stream(model.with_structured_output(SCHEMA, method="json_schema"), "?")
    assert grown == [{"city": "Os"}, {"city": "Oslo"}, {"city": "Oslo", "sun": True}]


def test_a_fragmented_call_is_put_together(caller: Caller) -> None:
    first, *pieces = '{"ci', 'ty": ', '"Oslo', '"}'
    parts = [{"id": "abcdefgh1", "index": 0, "function": {"name": "weather", "arguments": first}}]
    # The further ones have the id "null" and no name, as seen in the wild.
    parts += [{"id": "null", "index": 0, "function": {"name": "", "arguments": piece}} for piece in pieces]
    stream = events(*({"content": "", "tool_calls": [part]} for part in parts), finish_reason="tool_calls")
    chunks = caller.stream(Script(stream).model().bind_tools([weather]), "What is the weather in 'Oslo'?")
    fragments = [f for c in chunks for f in c.tool_call_chunks]
    assert len(fragments) > 3
    assert {f["index"] for f in fragments} == {0}
    whole = chunks[0].__add__(chunks[1:])
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [("weather", {"city": "Oslo"})]


def test_a_conversation_with_tools(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway).bind_tools([weather])
    asked = HumanMessage("What is the weather in 'Oslo'?")
    called = caller.invoke(model, [asked])
    result = tool(weather).invoke(called.tool_calls[0])

    got = caller.invoke(model, [asked, called, result])

    assert result.tool_call_id == called.tool_calls[0]["id"]
    assert "sunny in Oslo" in got.text
