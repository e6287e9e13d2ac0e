"""Reads a JSON schema as far as the simulated model fills one, within a bound on the work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

MOST_LEVELS: Final = 100
"""Schemas within schemas; a deeper one is refused."""
MOST_STEPS: Final = 50_000
"""Parts of a schema that are looked at to check and to fill it; one that needs more is refused."""

_Named, _Listed = "dict[str, JsonSchema | bool]", "list[JsonSchema | bool]"
_Size, _Least = Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0, le=10_000)]
_KEYWORDS: dict[str, Any] = {
    **dict.fromkeys(("properties", "$defs", "definitions"), _Named),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _Listed),
    **dict.fromkeys(("items", "additionalProperties"), "JsonSchema | bool"),
    **dict.fromkeys(("$ref", "pattern"), str),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), int | float),
    **dict.fromkeys(("maxItems", "maxLength"), _Size),
    **dict.fromkeys(("minItems", "minLength"), _Least),
    "multipleOf": Annotated[float, Field(gt=0)],
    "enum": list[Any],
    "required": list[str],
    "type": str | list[str],
}
JsonSchema = TypedDict("JsonSchema", _KEYWORDS, total=False)  # type: ignore[misc]
"""The keywords that are understood; others are ignored."""
JsonSchema.__pydantic_config__ = ConfigDict(strict=True)  # type: ignore[attr-defined]
_ADAPTER: Final[TypeAdapter[Any]] = TypeAdapter(JsonSchema)


class SchemaProblem(ValueError):
    """A schema is malformed, nothing finite fits it, or filling it is too much work."""


class Document:
    """A whole schema, to which its parts refer.

    Args:
        schema: any JSON object.

    Raises:
        SchemaProblem: nothing can fit it.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.root = schema
        self._steps = 0
        references = self._references()
        _check("#", schema)
        for reference in references:
            _check(reference, self._target(reference))
        # A reference is as high as what it refers to; those that only lead to themselves stay without an end.
        self._heights = dict.fromkeys(references, math.inf)
        for _ in range(MOST_LEVELS):
            found = {reference: self.height(self._target(reference)) for reference in references}
            if found == self._heights:
                break
            self._heights = found
        for reference, height in self._heights.items():
            if height == math.inf:
                raise SchemaProblem(f"{reference} contains itself without an end")

    def height(self, schema: Any) -> float:
        """Count how many references the smallest value of a part goes through, one within the other."""
        self._step()
        if not isinstance(schema, Mapping) or "const" in schema or schema.get("enum"):
            return 0
        parts = [self._heights[schema["$ref"]] + 1] if schema.get("$ref") in self._heights else []
        parts += [min(map(self.height, schema[union])) for union in ("anyOf", "oneOf") if schema.get(union)]
        fields = schema.get("properties", {})
        parts += [self.height(fields[name]) for name in schema.get("required", ()) if name in fields]
        parts += map(self.height, [*schema.get("allOf", ()), *schema.get("prefixItems", ())])
        if schema.get("minItems", 0) > 0:
            parts.append(self.height(schema.get("items")))
        return max(parts, default=0)

    def resolve(self, schema: Any) -> Mapping[str, Any]:
        """Return the schema behind references, with the parts of `allOf` put together."""
        self._step()
        if not isinstance(schema, Mapping):
            return {}
        if isinstance(schema.get("$ref"), str):
            own = {key: value for key, value in schema.items() if key != "$ref"}
            return {**self.resolve(self._target(schema["$ref"])), **own}
        if not schema.get("allOf"):
            return schema
        own = {key: value for key, value in schema.items() if key != "allOf"}
        parts = [*map(self.resolve, schema["allOf"]), own]
        merged = {key: value for part in parts for key, value in part.items()}
        properties = {name: field for part in parts for name, field in part.get("properties", {}).items()}
        required = [name for part in parts for name in part.get("required", ())]
        return {**merged, **({"properties": properties, "required": required} if properties else {})}

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise SchemaProblem(f"it takes more than {MOST_STEPS} steps to fill it")

    def _references(self) -> list[str]:
        waiting: list[tuple[Any, int]] = [(self.root, 0)]
        found: dict[str, None] = {}
        while waiting:
            part, depth = waiting.pop()
            self._step()
            if depth > 2 * MOST_LEVELS:
                raise SchemaProblem(f"it is nested more than {MOST_LEVELS} levels deep")
            if isinstance(part, Mapping):
                if isinstance(part.get("$ref"), str):
                    found[part["$ref"]] = None
                waiting += [(member, depth + 1) for member in part.values()]
            elif isinstance(part, list):
                waiting += [(member, depth + 1) for member in part]
        return list(found)

    def _target(self, reference: str) -> Mapping[str, Any]:
        """What a reference stands for; anything at all where it leads nowhere, or out of the document."""
        target: Any = self.root if reference.startswith("#") else None
        for step in reference[1:].split("/")[1:]:
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        return target if isinstance(target, Mapping) else {}


def _check(where: str, schema: Any) -> None:
    try:
        _ADAPTER.validate_python(schema)
    except ValidationError as error:
        [first, *_] = error.errors()
        names = [str(name) for name in first["loc"] if name not in ("JsonSchema", "bool", "str", "int", "float")]
        raise SchemaProblem(f"{'/'.join([where, *names])}: {first['msg']}") from None
