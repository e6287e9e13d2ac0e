"""Bring tool choices, tools and the schemas of answers into Mistral's form. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.tool_names import tool_name as tool_name  # also imported from here
from lava_mistral.mistral.types import JsonSchema, ResponseFormat, ToolChoice


def to_tool_choice(choice: str | bool | Mapping[str, Any] | None, names: Collection[str]) -> ToolChoice | None:
    """Return the wire's form of a tool choice, which may have any of the forms that are in use.

    These are a keyword; a tool's name, its own or Mistral's form; OpenAI's or Anthropic's dictionary; true (some tool),
    false (no tool) or `None`. `names` are those of the tools that are sent along; another one raises
    InvalidRequestError.
    """
    match choice:
        case None:
            return None
        case True:
            return "any"
        case False:
            return "none"
        case "auto" | "none" | "any" | "required":
            return choice
        case str():
            name: Any = choice
        case {"function": {"name": name}} | {"name": name}:
            pass
        case {"type": ("auto" | "none" | "any" | "required") as kind}:
            return kind  # type: ignore[no-any-return]
        case _:
            raise InvalidRequestError(
                f"A tool choice is 'auto', 'none', 'any', 'required', a tool's name or "
                f"{{'type': 'function', 'function': {{'name': …}}}}, not {choice!r}."
            )
    # Either form of a name is understood.
    wire = tool_name(str(name))
    sent = next((form for form in (name, ToolNames(names).from_wire(wire), wire) if form in names), None)
    if sent is None:
        known = ", ".join(map(repr, names)) or "none at all"
        raise InvalidRequestError(f"The tool choice names {name!r}, but the tools are {known}.")
    return {"type": "function", "function": {"name": sent}}


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema with "type": "object" at its top where it is one of an object; any other as it is.

    A reference at the top, as recursive pydantic models have one, is put in the place of what it refers to.
    """
    whole = dict(schema)
    if isinstance(reference := whole.get("$ref"), str) and reference.startswith("#/"):
        target: Any = schema
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        if isinstance(target, Mapping) and target is not schema:
            whole = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    if "type" not in whole and ("properties" in whole or not whole):
        return {"type": "object", "properties": {}, **whole}
    return whole


def wrap_schema(schema: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the schema of an object, and whether it was made for an answer that is none: it has that as its "value".

    Mistral's tools and answers are objects; enums, unions and lists are not.
    """
    inner = object_schema(schema)
    if inner.get("type") == "object":
        return inner, False
    shared: dict[str, Any] = {key: inner.pop(key) for key in ("$defs", "definitions") if key in inner}
    named: dict[str, Any] = {key: inner[key] for key in ("title", "description") if key in inner}
    return {**named, "type": "object", "properties": {"value": inner}, "required": ["value"], **shared}, True


def with_object_schema(tool: Any) -> Any:
    """Return a tool of a request with a schema of an object for its function's arguments."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return tool
    given = function.get("parameters")
    parameters = object_schema(given or {}) if given is None or isinstance(given, Mapping) else given
    return tool if parameters == given else {**tool, "function": {**function, "parameters": parameters}}


def json_schema_format(
    name: str, schema: Mapping[str, Any], *, strict: bool | None = True, description: str | None = None
) -> ResponseFormat:
    """Return the response format of answers in JSON of a schema, which is copied; to the letter where it is strict."""
    inner = deepcopy(object_schema(schema))
    if strict:
        close_objects(inner)
    json_schema: JsonSchema = {"name": tool_name(name), "schema": inner}
    if description:
        json_schema["description"] = description
    if strict is not None:
        json_schema["strict"] = strict
    return {"type": "json_schema", "json_schema": json_schema}


def close_objects(schema: Any) -> None:
    """Forbid, in place, further properties in each object of a schema that says nothing of them.

    Strict mode asks for it, as the functions of Mistral's own SDK for pydantic models do.
    """
    if isinstance(schema, list):
        for item in schema:
            close_objects(item)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for key, value in schema.items():
            # The members of "properties" are names, not keywords; a default or an example is no schema.
            if key in ("properties", "$defs", "definitions"):
                for inner in value.values():
                    close_objects(inner)
            elif key not in ("default", "examples", "const", "enum"):
                close_objects(value)
