"""Map LlamaIndex's tools, tool choices, tool calls and response formats to Mistral's, and read calls back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool, FunctionTool
from pydantic import BaseModel
from pydantic_core import from_json

from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.json_codec import to_text
from lava_mistral.mistral.tools import json_schema_format, tool_name
from lava_mistral.mistral.turn import CUT_OFF, ToolCall
from lava_mistral.mistral.types import Function, Tool, ToolCallPart

_log = logging.getLogger("lava_mistral")


def tool_spec(tool: Any) -> Tool:
    """Return the definition of LlamaIndex's tool, a plain function, or a dictionary in Mistral's form."""
    if isinstance(tool, dict):
        return tool  # type: ignore[return-value]  # Mistral checks it
    metadata = (tool if isinstance(tool, BaseTool) else FunctionTool.from_defaults(tool)).metadata
    # Not `to_openai_tool`: OpenAI's limit on descriptions is not Mistral's, and it changes names.
    parameters = metadata.get_parameters_dict()
    if "properties" not in parameters and metadata.fn_schema is not None:
        # LlamaIndex leaves out the reference at the top of a recursive class's schema.
        parameters = metadata.fn_schema.model_json_schema()
    function: Function = {"name": metadata.get_name(), "description": metadata.description, "parameters": parameters}
    return {"type": "function", "function": function}


def named_choice(choice: Any) -> Any:
    """Return a tool choice with the name of a tool in the place of the tool."""
    return choice.metadata.get_name() if isinstance(choice, BaseTool) else choice


def function_of(cls: type[BaseModel]) -> Function:
    """Return the definition of a function whose arguments are the fields of a pydantic class."""
    schema = cls.model_json_schema()
    name = tool_name(str(schema.get("title", cls.__name__)))
    return {"name": name, "description": str(schema.get("description", "")), "parameters": schema}


def response_format_of(form: Any) -> Any:
    """Return the response format for a pydantic class; one in Mistral's form stays as it is."""
    if isinstance(form, type) and issubclass(form, BaseModel):
        function = function_of(form)
        return json_schema_format(function["name"], function["parameters"], description=function.get("description"))
    if not isinstance(form, Mapping):
        raise ConfigurationError(
            "response_format= takes a pydantic class, or Mistral's form of it in a dictionary, such as "
            f"{{'type': 'json_object'}}, not {form!r}."
        )
    return form


def calls_of(message: ChatMessage) -> list[ToolCall]:
    """Return the tool calls of a message: its blocks, else the older `additional_kwargs["tool_calls"]`."""

    def get(source: Any, name: str) -> Any:
        # A wire dictionary, or the object of another provider's SDK that has the same attributes.
        return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)

    calls = [(b.tool_call_id, b.tool_name, b.tool_kwargs) for b in message.blocks if isinstance(b, ToolCallBlock)]
    if not calls:
        for call in message.additional_kwargs.get("tool_calls") or ():
            function = get(call, "function") or call
            calls.append((get(call, "id"), get(function, "name"), get(function, "arguments") or {}))
    return [
        ToolCall(str(id or ""), str(name or ""), given if isinstance(given, str) else to_text(given))
        for id, name, given in calls
    ]


def call_parts(calls: Iterable[ToolCall]) -> list[ToolCallPart]:
    """Return tool calls in Mistral's form."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def partial_json(text: str) -> dict[str, Any]:
    """Return the JSON object that a text begins, as far as it has come; empty where there is none yet."""
    try:
        value = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def selection_of(call: ToolCall, finish_reason: str | None, *, strict: bool) -> ToolSelection:
    """Return the selection of a tool for a call, with its arguments as far as they have come while the answer grows.

    What is malformed at the end must not run: it raises ValueError, or, if not `strict`, selects a tool that does not
    exist, by a name that says why, which an agent tells the model.
    """
    whole = partial_json(call.arguments) if finish_reason is None else call.parsed()
    if whole is not None:
        return ToolSelection(tool_id=call.id, tool_name=call.name, tool_kwargs=whole)
    cut_off = finish_reason in CUT_OFF
    why = "the answer was cut off in them: give a larger max_tokens" if cut_off else "the model made a mistake"
    expected = f"Expected the arguments of {call.name!r} as a JSON object; got {call.arguments[:200]!r} ({why})"
    if strict:
        raise ValueError(f"{expected}. The tool is not called.")
    _log.warning("%s. The tool is not called.", expected)
    why = "were cut off; make them shorter" if cut_off else "are not a JSON object"
    name = f"{call.name} (not called, since its arguments {why})"
    return ToolSelection(tool_id=call.id, tool_name=name, tool_kwargs=partial_json(call.arguments))
