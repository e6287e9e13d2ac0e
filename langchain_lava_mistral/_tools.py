"""Convert tools and answer schemas, in every form that LangChain's users write them, to Mistral's wire. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from types import FunctionType
from typing import Any, TypeAlias, cast

from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, PydanticUserError, TypeAdapter
from typing_extensions import is_typeddict

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.tools import close_objects, json_schema_format, object_schema, to_tool_choice
from lava_mistral.mistral.types import ResponseFormat, Tool

# A `BaseTool` is a `Runnable`; its module is not loaded for its name.
ToolLike: TypeAlias = Mapping[str, Any] | type | Callable[..., Any] | Runnable[Any, Any]

_FUNCTION = ("name", "description", "strict", "parameters")
# Tools that Mistral runs itself; they go out as they are.
BUILT_IN = frozenset(
    ("web_search", "web_search_premium", "code_interpreter", "image_generation", "document_library", "connector")
)


def to_tool(tool: ToolLike, *, strict: bool | None = None) -> Tool:
    """Return a tool as Mistral takes it."""
    if isinstance(tool, dict) and tool.get("type") in BUILT_IN:
        return cast("Tool", tool)
    if isinstance(tool, dict) and tool.get("type") == "function":
        # LangChain takes these as they are, without a look at `strict`.
        function = dict(tool.get("function", tool))
        if strict is not None and function.setdefault("strict", strict) != strict:
            own = f"The tool {function.get('name')!r} says strict={function['strict']}"
            raise ValueError(f"{own}, the call strict={strict}.")
    else:
        function = _converted(tool)
        if strict is not None:
            function["strict"] = strict
    function = {key: function[key] for key in _FUNCTION if function.get(key) is not None}
    if "name" not in function:
        raise InvalidRequestError(f"A tool needs a name, which {tool!r} has not.")
    function.setdefault("parameters", {"type": "object", "properties": {}})
    if function.get("strict"):
        function["parameters"] = deepcopy(function["parameters"])
        close_objects(function["parameters"])
    return {"type": "function", "function": cast("Any", function)}


def _converted(tool: Any) -> dict[str, Any]:
    """Return what LangChain makes of a tool; where it would cut a recursive schema, that schema itself."""
    # Loaded here: nobody has a tool before they are.
    from langchain_core.tools import BaseTool, StructuredTool

    if isinstance(tool, dict) and "inputSchema" in tool:
        # As MCP lists it.
        tool = {**tool, "input_schema": tool["inputSchema"]}
    described: Any = tool
    if isinstance(tool, FunctionType):
        described = StructuredTool.from_function(tool, description=tool.__doc__ or tool.__name__)
    if isinstance(described, BaseTool):
        described = described.tool_call_schema
    schema: dict[str, Any] = {}
    if isinstance(described, dict):
        schema = {} if "name" in described else described
    elif isinstance(described, type) and issubclass(described, BaseModel):
        schema = described.model_json_schema()
    elif is_typeddict(described):
        # Before Python 3.12 pydantic refuses the TypedDict of `typing`, which LangChain takes.
        with suppress(PydanticUserError):
            schema = TypeAdapter(described).json_schema()
    definitions = json.dumps([schema.get("$defs"), schema.get("definitions")], default=str)
    if "$ref" in schema or '"$ref"' in definitions:
        schema = object_schema(schema)
        of_tool = isinstance(tool, BaseTool)
        return {
            "name": tool.name if of_tool else getattr(tool, "__name__", schema.get("title")),
            "description": tool.description if of_tool else schema.get("description") or getattr(tool, "__doc__", ""),
            "parameters": {key: value for key, value in schema.items() if key not in ("title", "description")},
        }
    # Its `strict=True` needs parameters, which a tool without arguments lacks.
    converted = convert_to_openai_tool(tool)
    function, kind = converted.get("function"), (tool if isinstance(tool, dict) else converted).get("type")
    # Anthropic's own tools have a name, which LangChain takes for a function's.
    if function is None or (kind not in (None, "function", "object") and "parameters" not in function):
        taken = f"Mistral's chat takes functions and Mistral's own tools: {', '.join(sorted(BUILT_IN))}"
        raise InvalidRequestError(f"A tool of type {kind!r} runs at its own provider; {taken}.")
    # LangChain describes a TypedDict that says nothing of itself as the class `dict`.
    return {**function, "description": ""} if is_typeddict(tool) and not tool.__doc__ else {**function}


def to_tools(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[Tool]:
    """Return the tools as Mistral takes them; see `to_tool`."""
    return [to_tool(tool, strict=strict) for tool in tools]


def answer_function(schema: Any) -> dict[str, Any]:
    """Return a schema in any form as a function: its name, parameters and, where it says so, description and strict."""
    if not isinstance(schema, dict):
        if not (callable(schema) or isinstance(schema, Runnable)):
            known = "a dictionary, a pydantic class, a TypedDict, a function or a tool"
            raise InvalidRequestError(f"A response format is {known}, not {type(schema).__name__}.")
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
    schema = object_schema(schema) if "$ref" in schema else schema
    return {"name": schema.get("title") or "answer", "description": schema.get("description"), "parameters": schema}


def to_response_format(schema: Any, *, strict: bool | None = None) -> ResponseFormat:
    """Return the response format for a schema in any form."""
    if isinstance(schema, dict) and schema.get("type") in ("text", "json_object"):
        return cast("ResponseFormat", schema)
    function = answer_function(schema)
    said = [each for each in (function.get("strict"), strict) if each is not None]
    if len({*said}) > 1:
        raise ValueError(f"The schema says strict={said[0]}, the call strict={strict}: say it in one place.")
    name, parameters, about = function["name"], function["parameters"], function.get("description")
    return json_schema_format(name, parameters, strict=said[0] if said else True, description=about)


def normalize(parameters: dict[str, Any]) -> None:
    """Put what users bind in their own forms into Mistral's."""
    if not parameters.get("stop"):
        parameters.pop("stop", None)
    if tools := parameters.get("tools"):
        parameters["tools"] = wire = to_tools(tools)
        names = [tool["function"]["name"] for tool in wire if "function" in tool]
        parameters["tool_choice"] = to_tool_choice(parameters.get("tool_choice"), names)
    else:
        parameters.pop("tool_choice", None)
    if parameters.get("response_format") is not None:
        parameters["response_format"] = to_response_format(parameters["response_format"])
    if isinstance(parameters.get("prediction"), str):
        parameters["prediction"] = {"type": "content", "content": parameters["prediction"]}
