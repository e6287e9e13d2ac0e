"""Checks a request body as Mistral does, by its published schema, and words what is wrong in its way (422)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

MOST_CHOICES = 128
Location: TypeAlias = tuple[str | int, ...]
Errors: TypeAlias = list[dict[str, Any]]
Check: TypeAlias = Callable[[Any, Location, Errors], None]


def problems(body: Any, check: Check) -> Errors:
    """What is wrong with a body: one entry a field, with `type`, `loc`, `msg` and `input`; empty if nothing is."""
    errors: Errors = []
    check(body, ("body",), errors)
    return errors


def _add(errors: Errors, kind: str, where: Location, message: str, value: Any, **context: Any) -> None:
    error = {"type": kind, "loc": list(where), "msg": message, "input": value}
    errors.append(error | {"ctx": context} if context else error)


def text(value: Any, where: Location, errors: Errors) -> None:
    if not isinstance(value, str):
        _add(errors, "string_type", where, "Input should be a valid string", value)


def boolean(value: Any, where: Location, errors: Errors) -> None:
    if not isinstance(value, bool):
        _add(errors, "bool_type", where, "Input should be a valid boolean", value)


def mapping(value: Any, where: Location, errors: Errors) -> None:
    if not isinstance(value, dict):
        _add(errors, "dict_type", where, "Input should be a valid dictionary", value)


def number(
    *, least: float | None = None, most: float | None = None, above: float | None = None, whole: bool = False
) -> Check:
    """A number within bounds; `whole` for an integer."""

    def check(value: Any, where: Location, errors: Errors) -> None:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            name = "integer" if whole else "number"
            _add(errors, "int_type" if whole else "float_type", where, f"Input should be a valid {name}", value)
        elif least is not None and value < least:
            _add(
                errors,
                "greater_than_equal",
                where,
                f"Input should be greater than or equal to {least:g}",
                value,
                ge=least,
            )
        elif above is not None and value <= above:
            _add(errors, "greater_than", where, f"Input should be greater than {above:g}", value, gt=above)
        elif most is not None and value > most:
            _add(errors, "less_than_equal", where, f"Input should be less than or equal to {most:g}", value, le=most)

    return check


def one_of(*allowed: str) -> Check:
    """One of some words."""
    names = [repr(word) for word in allowed]
    expected = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"

    def check(value: Any, where: Location, errors: Errors) -> None:
        if value not in allowed:
            _add(errors, "enum", where, f"Input should be {expected}", value, expected=expected)

    return check


def array(item: Check) -> Check:
    """A list, each item checked."""

    def check(value: Any, where: Location, errors: Errors) -> None:
        if not isinstance(value, list):
            _add(errors, "list_type", where, "Input should be a valid list", value)
            return
        # The common case by far is thousands of strings: one pass in C finds that nothing is wrong.
        if item is text and set(map(type, value)) <= {str}:
            return
        for at, member in enumerate(value):
            item(member, (*where, at), errors)

    return check


def nullable(inner: Check) -> Check:
    """The same, or null."""

    def check(value: Any, where: Location, errors: Errors) -> None:
        if value is not None:
            inner(value, where, errors)

    return check


def by_type(choices: Mapping[type, Check], expected: str) -> Check:
    """A union whose members are told apart by their JSON type."""

    def check(value: Any, where: Location, errors: Errors) -> None:
        inner = choices.get(type(value))
        if inner is None:
            _add(errors, "union_type", where, f"Input should be a valid {expected}", value)
        else:
            inner(value, where, errors)

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """An object with no other fields than these."""
    fields = {**required, **optional}

    def check(value: Any, where: Location, errors: Errors) -> None:
        if not isinstance(value, dict):
            _add(errors, "model_attributes_type", where, "Input should be a valid dictionary or object", value)
            return
        for name in required:
            if name not in value:
                _add(errors, "missing", (*where, name), "Field required", value)
        for name, member in value.items():
            inner = fields.get(name)
            if inner is None:
                _add(errors, "extra_forbidden", (*where, name), "Extra inputs are not permitted", member)
            else:
                inner(member, (*where, name), errors)

    return check


def tagged(tag: str, choices: Mapping[str, Check]) -> Check:
    """A union of objects that are told apart by one field."""
    names = ", ".join(repr(name) for name in choices)

    def check(value: Any, where: Location, errors: Errors) -> None:
        if not isinstance(value, dict):
            _add(errors, "model_attributes_type", where, "Input should be a valid dictionary or object", value)
            return
        name = value.get(tag)
        inner = choices.get(name) if isinstance(name, str) else None
        if inner is not None:
            inner(value, (*where, str(name)), errors)
        elif tag not in value:
            _add(
                errors,
                "union_tag_not_found",
                where,
                f"Unable to extract tag using discriminator '{tag}'",
                value,
                discriminator=f"'{tag}'",
            )
        else:
            _add(
                errors,
                "union_tag_invalid",
                where,
                f"Input tag '{name}' found using '{tag}' does not match any of the expected tags: {names}",
                value,
                discriminator=f"'{tag}'",
                tag=str(name),
                expected_tags=names,
            )

    return check


def _any(value: Any, where: Location, errors: Errors) -> None:
    """Anything at all."""


_tag = {"type": text}
_text_part = record({"text": text}, _tag)
_reference = record(
    # The schema has integers; Mistral itself sends text as well, and its own SDK takes both.
    {"reference_ids": array(by_type({int: _any, str: _any}, "integer or string"))},
    _tag,
)
_tool_reference = record(
    {"tool": text, "title": text},
    {**_tag, "url": nullable(text), "favicon": nullable(text), "description": nullable(text)},
)
_thinking = record(
    {
        "thinking": array(
            tagged("type", {"text": _text_part, "reference": _reference, "tool_reference": _tool_reference})
        )
    },
    # `signature` is newer than the published schema; Mistral's own SDK sends it when it replays an answer.
    {**_tag, "closed": boolean, "signature": nullable(text)},
)
_image_url = record({"url": text}, {"detail": nullable(one_of("low", "auto", "high"))})
_part = tagged(
    "type",
    {
        "text": _text_part,
        "image_url": record({"image_url": by_type({str: _any, dict: _image_url}, "string or object")}, _tag),
        "document_url": record({"document_url": text}, {**_tag, "document_name": nullable(text)}),
        "reference": _reference,
        "file": record({"file_id": text}, _tag),
        "thinking": _thinking,
        "input_audio": record({"input_audio": text}, _tag),
    },
)
_system_part = tagged("type", {"text": _text_part, "thinking": _thinking})
_content = nullable(by_type({str: _any, list: array(_part)}, "string or list"))
_function_type = one_of("function")
_call = record(
    {"function": record({"name": text, "arguments": by_type({str: _any, dict: _any}, "string or dictionary")}, {})},
    {"id": text, "type": _function_type, "index": number(whole=True)},
)
_message = tagged(
    "role",
    {
        "system": record(
            {"content": by_type({str: _any, list: array(_system_part)}, "string or list")}, {"role": text}
        ),
        "user": record({"content": _content}, {"role": text}),
        "assistant": record(
            {}, {"role": text, "content": _content, "tool_calls": nullable(array(_call)), "prefix": boolean}
        ),
        "tool": record({"content": _content}, {"role": text, "tool_call_id": nullable(text), "name": nullable(text)}),
    },
)
_tool = record(
    {"function": record({"name": text, "parameters": mapping}, {"description": text, "strict": boolean})},
    {"type": _function_type},
)
_json_schema = record({"name": text, "schema": mapping}, {"description": nullable(text), "strict": boolean})
_share = number(least=-2, most=2)

CHAT: Check = record(
    {"model": text, "messages": array(_message)},
    {
        "temperature": nullable(number(least=0, most=1.5)),
        "top_p": number(least=0, most=1),
        "max_tokens": nullable(number(least=0, whole=True)),
        "stream": boolean,
        "stop": by_type({str: _any, list: array(text)}, "string or list"),
        "random_seed": nullable(number(least=0, whole=True)),
        "metadata": nullable(mapping),
        "response_format": record(
            {}, {"type": one_of("text", "json_object", "json_schema"), "json_schema": nullable(_json_schema)}
        ),
        "tools": nullable(array(_tool)),
        "tool_choice": by_type(
            {
                str: one_of("auto", "none", "any", "required"),
                dict: record({"function": record({"name": text}, {})}, {"type": _function_type}),
            },
            "string or object",
        ),
        "presence_penalty": _share,
        "frequency_penalty": _share,
        # The schema names no most; a server that answers for ever to one request serves nobody else.
        "n": nullable(number(least=1, most=MOST_CHOICES, whole=True)),
        "prediction": record({}, {"type": one_of("content"), "content": text}),
        "parallel_tool_calls": boolean,
        "prompt_mode": nullable(one_of("reasoning")),
        "reasoning_effort": one_of("high", "none"),
        "guardrails": nullable(array(mapping)),
        "prompt_cache_key": nullable(text),
        "safe_prompt": boolean,
    },
)
"""The body of `POST /v1/chat/completions`."""

EMBEDDINGS: Check = record(
    {"model": text, "input": by_type({str: _any, list: array(text)}, "string or list")},
    {
        "metadata": nullable(mapping),
        "output_dimension": nullable(number(above=0, whole=True)),
        "output_dtype": one_of("float", "int8", "uint8", "binary", "ubinary"),
        "encoding_format": one_of("float", "base64"),
    },
)
"""The body of `POST /v1/embeddings`."""
