"""Checks a request body: Mistral's published schema (422), then what it refuses beyond that, in its words."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from json import JSONDecodeError
from typing import Annotated, Any, Final, Literal, NotRequired, Union, get_args, get_origin

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from lava_mistral.gateway.faults import error_body
from lava_mistral.gateway.model.fill import SchemaProblem, check_schema
from lava_mistral.gateway.model.text import count
from lava_mistral.mistral import types
from lava_mistral.mistral.limits import MAX_INPUT_TOKENS, MAX_REQUEST_INPUTS, MAX_REQUEST_TOKENS, MAX_TOOLS
from lava_mistral.pricing.catalog import Model

MOST_CHOICES = 128  # The schema names no largest `n`; a server that answers for ever to one serves nobody else.
# What the types can't say: bounds, and what is narrower than the type that the rest of the project uses.
_BOUNDS: dict[str, Any] = {
    "temperature": Field(ge=0, le=1.5),
    "top_p": Field(ge=0, le=1),
    "n": Field(ge=1, le=MOST_CHOICES),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), Field(ge=-2, le=2)),
    **dict.fromkeys(("repetition_penalty", "output_dimension"), Field(gt=0)),
    **dict.fromkeys(("top_logprobs", "top_prompt_logprobs"), Field(ge=0, le=20)),
    **dict.fromkeys(("top_k", "max_tokens", "min_tokens", "random_seed"), Field(ge=0)),
}
_NARROWER: dict[tuple[str, str], Any] = {
    ("SystemMessage", "content"): str | list[types.TextPart | types.ThinkingPart],
    ("ThinkingPart", "thinking"): list[types.TextPart | types.ReferencePart | types.ToolReferencePart],
    ("Tool", "type"): NotRequired[Literal["function"]],
    ("NamedToolChoice", "type"): NotRequired[Literal["function"]],
}
DIMENSIONS = 1024
CALL_MARKERS = 3  # Tokens that mark a tool call as one.
# Mistral counts these by their size, which is not looked at here; this is the share of small ones.
_MEDIA_TOKENS = {"image_url": 256, "document_url": 256, "input_audio": 64}
_ID = ("[a-zA-Z0-9]{9}", "Tool call id was {} but must be a-z, A-Z, 0-9, with a length of 9.")
_NAME = (
    "[a-zA-Z0-9_-]{1,64}",
    "Function name was {} but must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64.",
)
# Mistral's types of errors, and the code of each.
_ORDER, _CALL = "invalid_request_message_order", "invalid_function_call"
_CODES = {
    "invalid_request_invalid_args": "3051",
    "invalid_request_prompt": "3210",
    _ORDER: "3230",
    "invalid_request_assistant_message": "3240",
    _CALL: "3280",
    "invalid_request_file": "3310",
    "invalid_model": "1500",
}
_UNEQUAL = "Not the same number of function calls and responses"
_NO_URL = """Value error, Image content must be a URL (starting with 'https') or base64 encoded image \
(starting with 'data:image/<format>;base64,<image-base64>')."""


class Rejection(Exception):
    """Mistral refuses the request, with its type of the error (kind); `wait` is in seconds."""

    def __init__(
        self, message: Any, kind: str | None = "invalid_request_invalid_args", *, status: int = 400, wait: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status, self.wait = status, wait
        self.body = error_body(status, message, kind, _CODES.get(kind or ""))


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    if not messages:
        raise Rejection("Conversation must have at least one message", _ORDER)
    waiting: list[str] = []
    previous = "start"
    for message in messages:
        role, call_id = message["role"], message.get("tool_call_id")
        if (role == "tool" and previous not in ("assistant", "tool")) or (
            previous == "tool" and role not in ("tool", "assistant")
        ):
            raise Rejection(f"Unexpected role '{role}' after role '{previous}'", _ORDER)
        if role == "tool" and waiting:
            _check_each([] if call_id is None else [call_id], *_ID)
            if call_id is not None and call_id not in waiting:
                raise Rejection(f"Unexpected tool call id {call_id} in tool results", _ORDER)
            waiting.remove(waiting[0] if call_id is None else call_id)
        elif role == "tool" or waiting:
            raise Rejection(_UNEQUAL, _ORDER)
        if role == "assistant":
            calls = message.get("tool_calls") or []
            if not calls and not message.get("content"):
                said = "Assistant message must have either content or tool_calls, but not none."
                raise Rejection(said, "invalid_request_assistant_message")
            waiting = [call.get("id") or "null" for call in calls]
            _check_each(waiting, *_ID)
            _check_each((call["function"]["name"] for call in calls), *_NAME)
        previous = role
    # By its words a last system message is refused too; by mistral-common's check, whose words these are, it is not.
    if previous == "assistant" and not messages[-1].get("prefix"):
        said = "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
        raise Rejection(said, _ORDER)
    if waiting:
        raise Rejection(_UNEQUAL, _ORDER)


def _check_each(texts: Iterable[str], pattern: str, said: str) -> None:
    for text in texts:
        if not re.fullmatch(pattern, text):
            raise Rejection(said.format(text), _CALL)


def check_tools(body: Mapping[str, Any]) -> None:
    tools, choice, wanted = body.get("tools") or [], body.get("tool_choice"), body.get("response_format") or {}
    if len(tools) > MAX_TOOLS:
        raise Rejection(f"Too many tools: {len(tools)}, a request may have at most {MAX_TOOLS}")
    functions = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools if "function" in tool}
    _check_each(functions, *_NAME)
    if isinstance(choice, dict) and (name := choice["function"]["name"]) not in functions:
        raise Rejection(f"Tool choice {name} is not among the tools of the request")
    schemas = {f"tool {name}": schema for name, schema in functions.items()}
    if wanted.get("json_schema"):
        schemas[f"json_schema {wanted['json_schema']['name']}"] = wanted["json_schema"]["schema"]
    elif wanted.get("type") == "json_schema":
        raise Rejection("response_format of type json_schema needs a json_schema")
    for name, schema in schemas.items():
        try:
            check_schema(schema)
        except SchemaProblem as problem:
            raise Rejection(f"Invalid JSON schema of {name}: {problem}") from None


def check_media(messages: Sequence[Mapping[str, Any]], model: Model) -> None:
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    for part in (part for content in contents for part in content):
        if part["type"] == "input_audio" and not model.can("audio"):
            raise Rejection("Audio input is not enabled for this model")
        if part["type"] != "image_url":
            continue
        if not model.can("vision"):
            raise Rejection("Image input is not enabled for this model")
        url = part["image_url"] if isinstance(part["image_url"], str) else part["image_url"]["url"]
        kind, _, content = url.partition(";base64,")
        if kind.startswith("data:image/"):
            try:
                start = base64.b64decode(content, validate=True)[:8]
            except binascii.Error:
                start = b""
            # The code and its words are assumed; that such a picture is refused is not.
            if not start.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF")):
                raise Rejection("Image could not be loaded as base64 encoded image", "invalid_request_file")
        elif not url.startswith("https"):
            detail = [{"type": "value_error", "loc": ["body"], "msg": _NO_URL, "input": url[:200]}]
            raise Rejection({"detail": detail}, "invalid_request_error", status=422)


def check_inputs(counts: Sequence[int], dimensions: int) -> None:
    """Check the number and sizes (in tokens) of the texts to embed, and of a vector's dimensions."""
    if not counts:
        raise Rejection("Input can't be empty")
    if len(counts) > MAX_REQUEST_INPUTS:
        raise Rejection("Too many inputs in request, split into more batches.", "invalid_request_prompt")
    if dimensions > DIMENSIONS:
        raise Rejection(f"output_dimension must be at most {DIMENSIONS}")
    for at, tokens in enumerate(counts):
        if tokens > MAX_INPUT_TOKENS:
            raise Rejection(f"Input id {at} has {tokens} tokens, exceeding max {MAX_INPUT_TOKENS} tokens.", None)
    if sum(counts) > MAX_REQUEST_TOKENS:
        raise Rejection("Too many tokens overall, split into more batches.", "invalid_request_prompt")


def message_tokens(message: Mapping[str, Any]) -> int:
    content = message.get("content") or ()
    parts: Sequence[Mapping[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    tokens = 2 if message["role"] == "user" else 1
    for part in parts:
        pieces = part["thinking"] if part["type"] == "thinking" else [part]
        tokens += _MEDIA_TOKENS.get(part["type"], 0) + sum(count(piece.get("text", "")) for piece in pieces)
    for call in message.get("tool_calls") or ():
        tokens += CALL_MARKERS + count(call["function"]["name"]) + count(str(call["function"]["arguments"]))
    return tokens


def check_body(body: Any, adapter: TypeAdapter[Any]) -> None:
    """Check a body (or the error of the JSON that is none) against the schema."""
    wrong: list[Any] = []
    try:
        if not isinstance(body, JSONDecodeError):
            adapter.validate_python(body)
            return
        wrong = [{"type": "json_invalid", "loc": ["body", body.pos], "msg": "JSON decode error", "input": {}}]
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            # Mistral's models hold enumerations where the types hold literals.
            kind = "enum" if entry["type"] == "literal_error" else entry["type"]
            wrong.append({**entry, "type": kind, "loc": ["body", *entry["loc"]]})
    raise Rejection({"detail": wrong}, "invalid_request_error", status=422)


@cache
def _strict(annotation: Any) -> Any:
    """The type with every TypedDict in it closed, and unions of them told apart by their tag."""
    if is_typeddict(annotation):
        return _closed(annotation)
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is list:
        return Annotated[list[_strict(members[0])], Tag("list")]  # type: ignore[misc]
    if origin is NotRequired:
        return NotRequired[_strict(members[0])]
    if origin in (dict, Literal) or not members:
        return annotation
    if types.Tool in members:
        tagged = [(_strict(one), get_args(get_type_hints(one)["type"])) for one in members]
        members = tuple(Annotated[one, Tag(name)] for one, names in tagged for name in names)
        return Annotated[Union[members], Discriminator(_tool_type)]  # noqa: UP007 - made of a tuple
    union: Any = Union[tuple(map(_strict, members))]  # noqa: UP007 - made of a tuple
    if not all(map(is_typeddict, members)):
        return union
    return Annotated[union, Discriminator("role" if "role" in members[0].__annotations__ else "type")]


def _closed(source: Any) -> Any:
    fields = {}
    for name, hint in get_type_hints(source, include_extras=True).items():
        hint = _strict(_NARROWER.get((source.__name__, name), hint))
        if name in _BOUNDS and source in (types.ChatRequest, types.EmbeddingRequest):
            hint = NotRequired[Annotated[get_args(hint)[0], _BOUNDS[name]]]
        fields[name] = hint
    closed = TypedDict(source.__name__, fields)  # type: ignore[misc]
    closed.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
    return closed


def _tool_type(tool: Any) -> Any:
    # A tool without a type is a function.
    return tool.get("type", "function") if isinstance(tool, dict) else None


# What `POST` takes at each path.
BODIES: Final[dict[str, TypeAdapter[Any]]] = {
    "/v1/chat/completions": TypeAdapter(_strict(types.ChatRequest)),
    "/v1/embeddings": TypeAdapter(_strict(types.EmbeddingRequest)),
}
