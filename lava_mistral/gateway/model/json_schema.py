"""Reads a JSON schema as far as the simulated model fills one: what it refers to, and whether anything can fit it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

MOST_LEVELS: Final = 100
"""Schemas within schemas; a deeper one is refused."""
LARGEST_MINIMUM: Final = 10_000
"""Items or characters that a schema may ask for at least."""


class Document:
    """A whole schema, to which its parts refer.

    Args:
        schema: one in which `problem` finds nothing, unless the problem is what is looked for.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        references = {part["$ref"] for _, part in schemas(schema) if isinstance(part.get("$ref"), str)}
        self._heights = dict.fromkeys(references, math.inf)
        # A reference is as high as what it refers to; those that only lead to themselves stay without an end.
        lower = bool(references)
        while lower:
            found = {reference: self.height(_target(reference, schema)) for reference in references}
            lower = found != self._heights
            self._heights = found

    def endless(self) -> str | None:
        """A reference that nothing finite fits."""
        return next((reference for reference, height in self._heights.items() if height == math.inf), None)

    def height(self, schema: Any) -> float:
        """How many references the smallest value of a part of the schema goes through, one within the other."""
        if not isinstance(schema, Mapping) or "const" in schema or schema.get("enum"):
            return 0
        parts = [self._heights[schema["$ref"]] + 1] if schema.get("$ref") in self._heights else []
        parts += [min(map(self.height, schema[union])) for union in ("anyOf", "oneOf") if schema.get(union)]
        parts += map(self.height, schema.get("allOf", ()))
        fields = schema.get("properties", {})
        parts += [self.height(fields[name]) for name in schema.get("required", ()) if name in fields]
        parts += map(self.height, schema.get("prefixItems", ()))
        if schema.get("minItems", 0) > 0:
            parts.append(self.height(schema.get("items")))
        return max(parts, default=0)

    def resolve(self, schema: Any) -> Mapping[str, Any]:
        """The schema behind references, with the parts of `allOf` put together."""
        if not isinstance(schema, Mapping):
            return {}
        while isinstance(schema.get("$ref"), str) and schema["$ref"].startswith("#"):
            own = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**_target(schema["$ref"], self._schema), **own}
        if schema.get("allOf"):
            merged: dict[str, Any] = {}
            for part in map(self.resolve, schema["allOf"]):
                merged = {
                    **merged,
                    **part,
                    "properties": {**merged.get("properties", {}), **part.get("properties", {})},
                    "required": [*merged.get("required", ()), *part.get("required", ())],
                }
            if not merged["properties"]:
                del merged["properties"], merged["required"]
            return {**merged, **{key: value for key, value in schema.items() if key != "allOf"}}
        resolved: Mapping[str, Any] = schema
        return resolved


def _target(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference within the document stands for; anything at all where it leads nowhere."""
    if not reference.startswith("#"):
        return {}
    target: Any = root
    for step in reference[1:].split("/")[1:]:
        target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else {}


def problem(schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a schema, in words; `None` if it can be filled."""
    try:
        orjson.dumps(schema)
    except TypeError:
        # It reads what it won't write: its own limit is 254 levels, of whatever keyword.
        return f"it is nested more than {MOST_LEVELS} levels deep"
    for where, part in schemas(schema):
        if where.count("/") > 2 * MOST_LEVELS:
            return f"it is nested more than {MOST_LEVELS} levels deep"
        for keyword, (fits, expected) in _KEYWORDS.items():
            if keyword in part and not fits(part[keyword]):
                return f"{where}/{keyword} must be {expected}"
    endless = Document(schema).endless()
    return None if endless is None else f"{endless} contains itself without an end"


def schemas(root: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema in a schema, itself and those referred to included, each with the place where it stands."""
    waiting: list[tuple[str, Any]] = [("#", root)]
    seen: set[str] = set()
    while waiting:
        where, schema = waiting.pop()
        if not isinstance(schema, Mapping):
            continue
        yield where, schema
        if where.count("/") > 2 * MOST_LEVELS:
            continue
        for keyword, value in schema.items():
            at = f"{where}/{keyword}"
            if keyword in _NAMED and isinstance(value, Mapping):
                waiting += [(f"{at}/{name.replace('/', '~1')}", member) for name, member in value.items()]
            elif keyword in _LISTED and isinstance(value, list):
                waiting += [(f"{at}/{number}", member) for number, member in enumerate(value)]
            elif keyword in ("items", "additionalProperties"):
                waiting.append((f"{at}/", value))
            elif keyword == "$ref" and isinstance(value, str) and value not in seen:
                seen.add(value)
                waiting.append((value, _target(value, root)))


_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_schema(value: Any) -> bool:
    return isinstance(value, Mapping | bool)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "text")
_SIZE: tuple[Callable[[Any], bool], str] = (_is_size, "a whole number, zero or more")
_LEAST: tuple[Callable[[Any], bool], str] = (
    lambda value: _is_size(value) and value <= LARGEST_MINIMUM,
    f"a whole number from zero to {LARGEST_MINIMUM}",
)
# In older drafts an exclusive bound is a flag beside the bound.
_BOUND: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, int | float), "a number")
_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        _NAMED,
        (lambda value: isinstance(value, Mapping) and all(map(_is_schema, value.values())), "an object of schemas"),
    ),
    **dict.fromkeys(
        _LISTED, (lambda value: isinstance(value, list) and all(map(_is_schema, value)), "a list of schemas")
    ),
    **dict.fromkeys(("$ref", "pattern"), _TEXT),
    **dict.fromkeys(("maxItems", "maxLength"), _SIZE),
    **dict.fromkeys(("minItems", "minLength"), _LEAST),
    **dict.fromkeys(("minimum", "maximum"), (_is_number, "a number")),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _BOUND),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above zero"),
    "enum": (lambda value: isinstance(value, list), "a list"),
    "required": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
    "type": (
        lambda value: (
            isinstance(value, str) or (isinstance(value, list) and all(isinstance(kind, str) for kind in value))
        ),
        "a name, or a list of names",
    ),
}
