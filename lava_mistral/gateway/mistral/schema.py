"""Checks a request body against Mistral's published schema and words what is wrong as Mistral does (422)."""

from functools import cache
from json import JSONDecodeError
from typing import Annotated, Any, Final, Literal, NotRequired, Union, get_args, get_origin

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from lava_mistral.mistral import types

MOST_CHOICES: Final = 128
"""The schema names no largest `n`; a server that answers for ever to one request serves nobody else."""

_penalty = Field(ge=-2, le=2)
# What the types can't say: bounds, and what is narrower than the type that the rest of the project uses.
_BOUNDS: dict[str, Any] = {
    "temperature": Field(ge=0, le=1.5),
    "top_p": Field(ge=0, le=1),
    "presence_penalty": _penalty,
    "frequency_penalty": _penalty,
    "repetition_penalty": Field(gt=0),
    "n": Field(ge=1, le=MOST_CHOICES),
    "output_dimension": Field(gt=0),
    "top_logprobs": Field(ge=0, le=20),
    "top_prompt_logprobs": Field(ge=0, le=20),
    **dict.fromkeys(("top_k", "max_tokens", "min_tokens", "random_seed"), Field(ge=0)),
}
_NARROWER: dict[tuple[str, str], Any] = {
    ("SystemMessage", "content"): str | list[types.TextPart | types.ThinkingPart],
    ("ThinkingPart", "thinking"): list[types.TextPart | types.ReferencePart | types.ToolReferencePart],
    ("Tool", "type"): NotRequired[Literal["function"]],
    ("NamedToolChoice", "type"): NotRequired[Literal["function"]],
}


def problems(body: Any, adapter: TypeAdapter[Any]) -> list[dict[str, Any]]:
    """List what is wrong with a body (or with the JSON that gave this error): `type`, `loc`, `msg`, `input` each."""
    if isinstance(body, JSONDecodeError):
        return [{"type": "json_invalid", "loc": ["body", body.pos], "msg": "JSON decode error", "input": {}}]
    try:
        adapter.validate_python(body)
    except ValidationError as error:
        found: list[dict[str, Any]] = [dict(entry) for entry in error.errors(include_url=False)]
        for entry in found:
            entry["loc"] = ["body", *entry["loc"]]
            # Mistral's models hold enumerations where the types hold literals.
            entry["type"] = "enum" if entry["type"] == "literal_error" else entry["type"]
        return found
    return []


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
    """A tool without a type is a function."""
    return tool.get("type", "function") if isinstance(tool, dict) else None


BODIES: Final[dict[str, TypeAdapter[Any]]] = {
    "/v1/chat/completions": TypeAdapter(_strict(types.ChatRequest)),
    "/v1/embeddings": TypeAdapter(_strict(types.EmbeddingRequest)),
}
"""What `POST` takes at each path."""
