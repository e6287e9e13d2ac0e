"""Writes the JSON of a request. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import orjson

from lava_mistral.errors import ConfigurationError


def to_json(value: Any) -> bytes:
    """The JSON of a value: numbers of numpy and integers of any length included, as a tool's schema may hold them.

    Raises:
        ConfigurationError: it holds what JSON has not.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        try:
            # It writes integers beyond 64 bits.
            return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError):
            where = _half_pair(value)
            if where is None:
                raise ConfigurationError(f"The request can't be written as JSON: {error}.") from error
            raise ConfigurationError(
                f"The request can't be written as JSON: {where} holds half of a surrogate pair, which is no character. "
                'Repair the text with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
            ) from None


def _half_pair(value: Any, where: str = "") -> str | None:
    """Where in a JSON value a text stands that can't be encoded."""
    if isinstance(value, str):
        return None if value.isascii() or not re.search("[\ud800-\udfff]", value) else where or "the text"
    steps: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        steps = ((f"{where}.{name}" if where else str(name), member) for name, member in value.items())
    elif isinstance(value, list | tuple):
        steps = ((f"{where}[{place}]", member) for place, member in enumerate(value))
    return next(filter(None, (_half_pair(member, name) for name, member in steps)), None)
