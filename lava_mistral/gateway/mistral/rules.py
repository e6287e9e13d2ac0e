"""What Mistral refuses beyond its schema: the order of messages, tool ids, models, sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lava_mistral.gateway.faults import error_body
from lava_mistral.gateway.model import tokens as pieces
from lava_mistral.gateway.model.json_schema import problem
from lava_mistral.pricing.catalog import Model

MOST_TOOLS = 128
MOST_INPUTS = 512
MOST_INPUT_TOKENS = 8_192
MOST_BATCH_TOKENS = 16_384

# An image costs tokens by its size, which is not looked at here; this is a small picture's share.
IMAGE_TOKENS = 256

_TOOL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Rejection(Exception):
    """Mistral refuses the request.

    Args:
        message: what is wrong; a dict for the detail list of a 422.
        kind: Mistral's type of the error.
        code: Mistral's code of it.
        status: the HTTP status.
    """

    def __init__(self, message: Any, kind: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, kind, code)


def _order(message: str) -> Rejection:
    return Rejection(message, "invalid_request_message_order", "3230")


def _arguments(message: str) -> Rejection:
    return Rejection(message, "invalid_request_invalid_args", "3051")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check the order of roles, that calls and results belong together, and the ids of tool calls.

    Raises:
        Rejection: with 3230, 3240 or 3280.
    """
    if not messages:
        raise _order("Conversation must have at least one message")
    waiting: list[str] = []
    previous = ""
    for message in messages:
        role = message["role"]
        if role == "tool":
            if previous not in ("assistant", "tool"):
                raise _order(f"Unexpected role 'tool' after role '{previous or 'start'}'")
            _take(waiting, message.get("tool_call_id"))
        else:
            if previous == "tool" and role != "assistant":
                raise _order(f"Unexpected role '{role}' after role 'tool'")
            if waiting:
                raise _order("Not the same number of function calls and responses")
        if role == "assistant":
            calls = message.get("tool_calls") or []
            if not calls and not message.get("content"):
                raise Rejection(
                    "Assistant message must have either content or tool_calls, but not none.",
                    "invalid_request_assistant_message",
                    "3240",
                )
            waiting = [_checked_id(call.get("id", "null")) for call in calls]
            for call in calls:
                _check_name(call["function"]["name"])
        previous = role
    last = messages[-1]
    # By its words a last system message is refused too; by mistral-common's check, whose words these are, it is not.
    if last["role"] == "assistant" and not last.get("prefix"):
        raise _order(
            f"Expected last role User or Tool (or Assistant with prefix True) for serving but got {last['role']}"
        )
    if waiting:
        raise _order("Not the same number of function calls and responses")


def _take(waiting: list[str], call_id: str | None) -> None:
    if call_id is not None:
        _checked_id(call_id)
    if not waiting:
        raise _order("Not the same number of function calls and responses")
    if call_id is None:
        waiting.pop(0)
    elif call_id in waiting:
        waiting.remove(call_id)
    else:
        raise _order(f"Unexpected tool call id {call_id} in tool results")


def _checked_id(call_id: str) -> str:
    if not _TOOL_ID.fullmatch(call_id):
        raise Rejection(
            f"Tool call id was {call_id} but must be a-z, A-Z, 0-9, with a length of 9.",
            "invalid_function_call",
            "3280",
        )
    return call_id


def _check_name(name: str) -> None:
    if not _TOOL_NAME.fullmatch(name):
        raise Rejection(
            f"Function name was {name} but must be a-z, A-Z, 0-9, or contain underscores and dashes, "
            "with a maximum length of 64.",
            "invalid_function_call",
            "3280",
        )


def check_tools(body: Mapping[str, Any]) -> None:
    """Check the number of tools, their names, and that a chosen one is among them."""
    tools = body.get("tools") or []
    if len(tools) > MOST_TOOLS:
        raise _arguments(f"Too many tools: {len(tools)}, a request may have at most {MOST_TOOLS}")
    names = [tool["function"]["name"] for tool in tools]
    for name in names:
        _check_name(name)
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice["function"]["name"] not in names:
        raise _arguments(f"Tool choice {choice['function']['name']} is not among the tools of the request")


def check_format(body: Mapping[str, Any]) -> None:
    """Check that a JSON schema is given where one is asked for."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema" and not wanted.get("json_schema"):
        raise _arguments("response_format of type json_schema needs a json_schema")


def check_schemas(body: Mapping[str, Any]) -> None:
    """Check that the schemas of tools and of the answer are well formed and that a value can fit them."""
    given = [(f"tool {tool['function']['name']}", tool["function"]["parameters"]) for tool in body.get("tools") or ()]
    wanted = (body.get("response_format") or {}).get("json_schema")
    if wanted:
        given.append((f"json_schema {wanted['name']}", wanted["schema"]))
    for name, schema in given:
        wrong = problem(schema)
        if wrong is not None:
            raise _arguments(f"Invalid JSON schema of {name}: {wrong}")


def check_images(messages: Sequence[Mapping[str, Any]], model: Model) -> None:
    """Check that a model which sees no images gets none."""
    if not model.can("vision") and any(part["type"] == "image_url" for part in parts(messages)):
        raise _arguments("Image input is not enabled for this model")


def check_window(prompt_tokens: int, model: Model) -> None:
    """Check that the prompt fits into the model's context window."""
    if prompt_tokens > model.context_window:
        raise _arguments(
            f"Prompt contains {prompt_tokens} tokens and 0 draft tokens, "
            f"too large for model with {model.context_window} maximum context length"
        )


def check_inputs(number: int) -> None:
    """Check the number of texts to embed."""
    if number == 0:
        raise _arguments("Input can't be empty")
    if number > MOST_INPUTS:
        raise Rejection("Too many inputs in request, split into more batches.", "invalid_request_prompt", "3210")


def check_input_tokens(counts: Sequence[int]) -> None:
    """Check the sizes of the texts to embed, one by one and together."""
    for at, tokens in enumerate(counts):
        if tokens > MOST_INPUT_TOKENS:
            raise Rejection(f"Input id {at} has {tokens} tokens, exceeding max {MOST_INPUT_TOKENS} tokens.")
    if sum(counts) > MOST_BATCH_TOKENS:
        raise Rejection("Too many tokens overall, split into more batches.", "invalid_request_prompt", "3210")


def parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Every content part of a conversation, in order; plain text is none."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from content


def part_tokens(part: Mapping[str, Any]) -> int:
    """How many tokens one content part counts for."""
    match part["type"]:
        case "text":
            return pieces.count(part["text"])
        case "thinking":
            return sum(pieces.count(piece.get("text", "")) for piece in part["thinking"])
        case "image_url":
            return IMAGE_TOKENS
        case "document_url":
            # By the size of a document that comes along; a remote one is not fetched.
            return max(64, len(part["document_url"]) // 256)
        case "input_audio":
            return max(64, len(part["input_audio"]) // 512)
        case _:
            return 1


def message_tokens(message: Mapping[str, Any]) -> int:
    """How many tokens one message counts for, its markers included."""
    content = message.get("content")
    tokens = 2 if message["role"] == "user" else 1
    if isinstance(content, str):
        tokens += pieces.count(content)
    else:
        tokens += sum(map(part_tokens, content or ()))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = function["arguments"]
        tokens += 3 + pieces.count(function["name"])
        tokens += pieces.count(arguments if isinstance(arguments, str) else str(arguments))
    return tokens
