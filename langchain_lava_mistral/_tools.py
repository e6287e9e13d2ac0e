"""Tools and answer schemas, in every form that LangChain's users write them, on Mistral's wire. Pure."""

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
Schema: TypeAlias = ToolLike

_FUNCTION = ("name", "description", "strict", "parameters")


def to_tool(tool: ToolLike, *, strict: bool | None = None) -> Tool:
    """A tool as Mistral takes it.

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
        function["parameters"] = _closed(function["parameters"])
    return {"type": "function", "function": cast("Any", function)}


def _closed(schema: Any) -> Any:
    schema = deepcopy(schema)
    close_objects(schema)
    return schema


def to_tools(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[Tool]:
    """The tools as Mistral takes them; see `to_tool`."""
    return [to_tool(tool, strict=strict) for tool in tools]


def to_response_format(schema: Any, *, strict: bool | None = None) -> ResponseFormat:
    """The response format for a schema in any form.

    Args:
        schema: a response format as it is; `{"name": …, "schema": …}`; a JSON Schema; whatever `to_tool` takes, for
            its parameters.
        strict: whether the answer must follow the schema to the letter. `None`: what the schema says, else true.

    Raises:
        ValueError: the schema says of `strict` the contrary.
        InvalidRequestError: it is no schema.
    """
    if isinstance(schema, dict):
        if schema.get("type") in ("text", "json_object"):
            return cast("ResponseFormat", schema)
        if schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), dict):
            schema = schema["json_schema"]
            if "schema" not in schema:
                raise InvalidRequestError("A json_schema response format needs its 'schema'.")
        elif schema.get("type") == "function" and isinstance(schema.get("function"), dict):
            schema = schema["function"]
        elif schema.keys() >= {"name", "input_schema"} or "toolSpec" in schema:
            # Anthropic's tool, or Bedrock's.
            schema = to_tool(schema)["function"]
        if isinstance(schema.get("schema"), dict) and "name" in schema:
            inner = schema["schema"]
        elif "name" in schema and isinstance(schema.get("parameters"), dict):
            inner = schema["parameters"]
        else:
            # A JSON Schema. Its description stays where it is, too.
            inner = schema
        name = schema.get("name") if inner is not schema else None
        said = schema.get("strict") if inner is not schema else None
        return json_schema_format(
            name or inner.get("title") or "answer",
            inner,
            strict=_agreed(said, strict),
            description=schema.get("description"),
        )
    if not (callable(schema) or isinstance(schema, BaseTool)):
        raise InvalidRequestError(
            "A response format is a dictionary, a pydantic class, a TypedDict, a function or a tool, not "
            f"{type(schema).__name__}."
        )
    function = to_tool(schema)["function"]
    return json_schema_format(
        function["name"],
        function["parameters"],
        strict=_agreed(None, strict),
        description=function.get("description"),
    )


def _agreed(said: bool | None, asked: bool | None) -> bool:
    if said is not None and asked is not None and said != asked:
        raise ValueError(f"The schema says strict={said}, the call strict={asked}: say it in one place.")
    if said is not None:
        return said
    return True if asked is None else asked


def answer_tool(schema: Any, *, strict: bool | None = None) -> Tool:
    """The tool whose arguments are the answer to a schema in any form, under a name that Mistral takes.

    Nobody looks for it by its name, as the tools of an agent are looked for, so that the name may change.
    """
    if isinstance(schema, dict):
        if schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), dict):
            schema = schema["json_schema"]
        if "name" in schema and isinstance(schema.get("schema"), dict):
            schema = {**{key: schema[key] for key in schema if key != "schema"}, "parameters": schema["schema"]}
    tool = to_tool(schema, strict=strict)
    tool["function"]["name"] = tool_name(tool["function"]["name"])
    return tool


def normalize(parameters: dict[str, Any]) -> None:
    """Put what users bind in their own forms into Mistral's."""
    if not parameters.get("stop"):
        parameters.pop("stop", None)
    tools = parameters.get("tools")
    if tools:
        parameters["tools"] = wire = to_tools(tools)
        choice = parameters.get("tool_choice")
        parameters["tool_choice"] = to_tool_choice(choice, [tool["function"]["name"] for tool in wire])
    if parameters.get("response_format") is not None:
        parameters["response_format"] = to_response_format(parameters["response_format"])
    if isinstance(parameters.get("prediction"), str):
        parameters["prediction"] = {"type": "content", "content": parameters["prediction"]}
