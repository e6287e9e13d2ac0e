"""Bring the names of tools, tool choices, tools and the schemas of answers into Mistral's form. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from functools import lru_cache
from hashlib import sha256
from typing import Any, Self

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.limits import MAX_TOOL_NAME_LENGTH
from lava_mistral.mistral.types import JsonSchema, ResponseFormat, ToolChoice

_REFUSED = re.compile(r"[^a-zA-Z0-9_-]")


@lru_cache(maxsize=4096)
def tool_name(name: str) -> str:
    """Return the name with "_" for each character that Mistral refuses in a name, cut to 64 characters."""
    return _REFUSED.sub("_", name)[:MAX_TOOL_NAME_LENGTH] or "tool"


class ToolNames:
    """Map the names of the tools of one request, each to a form of its own that Mistral takes.

    A name that Mistral takes stays. In another one "_" replaces what it refuses; where two names would be the same, a
    hash of the own name ends it. `built_in` says whether the request has tools that run on Mistral's side too.
    """

    __slots__ = ("_own", "_wire", "built_in")

    def __init__(self, names: Iterable[str] = (), *, built_in: bool = False) -> None:
        self.built_in = built_in
        self._wire = {name: tool_name(name) for name in names}
        forms = Counter(self._wire.values())
        for name, wire in self._wire.items():
            if wire != name and forms[wire] > 1:
                digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
                self._wire[name] = f"{wire[: MAX_TOOL_NAME_LENGTH - 9]}_{digest}"
        self._own = {wire: name for name, wire in self._wire.items()}

    @classmethod
    def of_tools(cls, tools: Iterable[Any] | None) -> Self:
        """Return the names of the functions in a request's tools."""
        functions = [tool.get("function") for tool in tools or () if isinstance(tool, Mapping)]
        named = (function.get("name") for function in functions if isinstance(function, Mapping))
        return cls((name for name in named if isinstance(name, str)), built_in=None in functions)

    def to_wire(self, name: str) -> str:
        """Return the form of a tool's own name; of a name that is none of these, what `tool_name` says."""
        return self._wire.get(name) or tool_name(name)

    def from_wire(self, name: str) -> str:
        """Return the own name of a tool by the form that was sent; any other name as it is."""
        return self._own.get(name, name)

    def runs_here(self, name: str) -> bool:
        """Return whether a call of this name is one to run here, and not one that ran on Mistral's side."""
        return not self.built_in or name in self._wire

    def applied(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a request with the names in tools, tool choice and messages as Mistral takes them."""
        named = {**body, "messages": [self._message(message) for message in body["messages"]]}
        if body.get("tools"):
            named["tools"] = [self._named(tool) for tool in body["tools"]]
        if "tool_choice" in body:
            named["tool_choice"] = self._named(body["tool_choice"])
        return named

    def _message(self, message: Any) -> Any:
        """Return the message with names of Mistral's form; the message itself where it has no others."""
        if not (calls := message.get("tool_calls")):
            return self._named(message) if message["role"] == "tool" else message
        new = [self._named(call) for call in calls]
        return message if new == calls else message | {"tool_calls": new}

    def _named(self, holder: Any) -> Any:
        """Return a tool, call, choice or result with a name of Mistral's form; the same object where it has one."""
        if not isinstance(holder, Mapping):
            return holder
        field = "function" if "function" in holder else "name"
        given = holder.get(field)
        wire = self.to_wire(given) if field == "name" and isinstance(given, str) else self._named(given)
        return holder if wire == given else {**holder, field: wire}


NO_TOOLS = ToolNames()


def to_tool_choice(choice: str | bool | Mapping[str, Any] | None, names: Collection[str]) -> ToolChoice | None:
    """Return the wire's form of a tool choice: a keyword, a tool's name, a dictionary, true (some tool) or false.

    `names` are those of the tools that are sent along; another one raises InvalidRequestError.
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
    """Return a JSON Schema with "type": "object" at its top where it is one of an object; any other as it is."""
    # Servers of MCP that are written in Go say null where they have nothing.
    whole = {key: value for key, value in schema.items() if value is not None or key == "const"}
    if isinstance(reference := whole.get("$ref"), str) and reference.startswith("#/"):
        # Recursive pydantic models have a reference at the top.
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
    """Forbid, in place, further properties in each object of a schema that says nothing of them, for strict mode."""
    if isinstance(schema, list):
        for item in schema:
            close_objects(item)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for key, value in schema.items():
            # The members of "properties" are names, not keywords; a default or an example is no schema.
            if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
                for inner in value.values():
                    close_objects(inner)
            elif key not in ("default", "examples", "const", "enum"):
                close_objects(value)
