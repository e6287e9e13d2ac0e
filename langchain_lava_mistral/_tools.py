"""Convert tools and answer schemas, in every form that LangChain's users write them, to Mistral's wire. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeAlias, cast

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.tools import close_objects, json_schema_format, to_tool_choice, tool_name
from lava_mistral.mistral.types import ResponseFormat, Tool

ToolLike: TypeAlias = Mapping[str, Any] | type | Callable[..., Any] | BaseTool

_FUNCTION = ("name", "description", "strict", "parameters")


def to_tool(tool: ToolLike, *, strict: bool | None = None) -> Tool:
    """Return a tool as Mistral takes it.

    Args:
        tool: a pydantic class (of version 1 too), `TypedDict`, function, `BaseTool`, JSON Schema with a title, or the
            dictionary of OpenAI, Anthropic or Bedrock.
        strict: whether the arguments must follow the schema to the letter; `None` leaves it unsaid.

    Raises:
        InvalidRequestError: it is a tool that runs at another provider, or no tool at all.
        ValueError: it is a schema without a name, or says of `strict` the contrary.
    """
    if isinstance(tool, dict) and tool.get("type") == "function":
        # LangChain takes these as they are, without a look at `strict`.
        function = dict(tool.get("function", tool))
        if strict is not None and function.setdefault("strict", strict) != strict:
            raise ValueError(
                f"The tool {function.get('name')!r} says strict={function['strict']}, the call strict={strict}."
            )
    else:
        # Its `strict=True` needs parameters, which a tool without arguments lacks.
        converted = convert_to_openai_tool(cast("Any", tool))
        if "function" not in converted:
            raise InvalidRequestError(
                f"A tool of type {converted.get('type')!r} runs at its own provider; "
                "Mistral's chat takes functions only."
            )
        function = converted["function"]
        if strict is not None:
            function = {**function, "strict": strict}
    function = {key: function[key] for key in _FUNCTION if function.get(key) is not None}
    if "name" not in function:
        raise InvalidRequestError(f"A tool needs a name, which {tool!r} has not.")
    function.setdefault("parameters", {"type": "object", "properties": {}})
    if function.get("strict"):
        function["parameters"] = deepcopy(function["parameters"])
        close_objects(function["parameters"])
    return {"type": "function", "function": cast("Any", function)}


def to_tools(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[Tool]:
    """Return the tools as Mistral takes them; see `to_tool`."""
    return [to_tool(tool, strict=strict) for tool in tools]


def answer_function(schema: Any) -> dict[str, Any]:
    """Return a schema in any form as a function: its name, parameters and, where it says so, description and strict.

    Args:
        schema: a json_schema response format; `{"name": …, "schema": …}`; a JSON Schema; whatever `to_tool` takes.

    Raises:
        InvalidRequestError: it is no schema.
    """
    if not isinstance(schema, dict):
        if not (callable(schema) or isinstance(schema, BaseTool)):
            raise InvalidRequestError(
                "A response format is a dictionary, a pydantic class, a TypedDict, a function or a tool, not "
                f"{type(schema).__name__}."
            )
        return cast("dict[str, Any]", to_tool(schema)["function"])
    for form in ("json_schema", "function"):
        if schema.get("type") == form and isinstance(schema.get(form), dict):
            schema = schema[form]
            if form == "json_schema" and "schema" not in schema:
                raise InvalidRequestError("A json_schema response format needs its 'schema'.")
    if "toolSpec" in schema or ("name" in schema and not schema.keys() & {"schema", "parameters", "properties"}):
        # Anthropic's tool, or Bedrock's, or one without arguments.
        return cast("dict[str, Any]", to_tool(schema)["function"])
    parameters = schema.get("schema") or schema.get("parameters")
    if "name" in schema and isinstance(parameters, dict):
        return {**{key: schema[key] for key in _FUNCTION if key in schema}, "parameters": parameters}
    # A JSON Schema. Its title and description stay where they are, too.
    return {
        "name": schema.get("title") or "answer",
        "description": schema.get("description"),
        "parameters": schema,
    }


def to_response_format(schema: Any, *, strict: bool | None = None) -> ResponseFormat:
    """Return the response format for a schema in any form.

    Args:
        schema: a response format as it is, or whatever `answer_function` takes.
        strict: whether the answer must follow the schema to the letter. `None`: what the schema says, else true.

    Raises:
        ValueError: the schema says of `strict` the contrary.
        InvalidRequestError: it is no schema.
    """
    if isinstance(schema, dict) and schema.get("type") in ("text", "json_object"):
        return cast("ResponseFormat", schema)
    function = answer_function(schema)
    said = function.get("strict")
    if said is not None and strict is not None and said != strict:
        raise ValueError(f"The schema says strict={said}, the call strict={strict}: say it in one place.")
    strict = strict if said is None else said
    return json_schema_format(
        function["name"],
        function["parameters"],
        strict=True if strict is None else strict,
        description=function.get("description"),
    )


def answer_tool(schema: Any, *, strict: bool | None = None) -> Tool:
    """Return the tool whose arguments are the answer to a schema in any form, under a name that Mistral takes.

    Nobody looks for it by its name, as the tools of an agent are looked for, so that the name may change.
    """
    function = answer_function(schema)
    return to_tool({"type": "function", "function": {**function, "name": tool_name(function["name"])}}, strict=strict)


def normalize(parameters: dict[str, Any]) -> None:
    """Put what users bind in their own forms into Mistral's."""
    if not parameters.get("stop"):
        parameters.pop("stop", None)
    tools = parameters.get("tools")
    if tools:
        parameters["tools"] = wire = to_tools(tools)
        choice = parameters.get("tool_choice")
        parameters["tool_choice"] = to_tool_choice(choice, [tool["function"]["name"] for tool in wire])
    else:
        parameters.pop("tool_choice", None)
    if parameters.get("response_format") is not None:
        parameters["response_format"] = to_response_format(parameters["response_format"])
    if isinstance(parameters.get("prediction"), str):
        parameters["prediction"] = {"type": "content", "content": parameters["prediction"]}
