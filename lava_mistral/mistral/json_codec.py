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
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
            return text.encode()
        except RecursionError:
            raise ConfigurationError("The request can't be written as JSON: it holds itself.") from error
        except (TypeError, ValueError) as failure:
            if "Circular" in str(failure):
                raise ConfigurationError("The request can't be written as JSON: it holds itself.") from error
            where = _half_pair(value)
            if where is None:
                raise ConfigurationError(f"The request can't be written as JSON: {error}.") from error
            raise ConfigurationError(
                f"The request can't be written as JSON: {where} holds half of a surrogate pair, which is no character. "
                'Repair the text with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
            ) from None


def from_json(data: bytes | str) -> Any:
    """The value of a JSON text; half a surrogate pair in it, which is valid JSON but no text, becomes U+FFFD.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            text = json.dumps(json.loads(data), ensure_ascii=False)
        except RecursionError:
            raise error from None
        if text.isascii():
            raise
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _plain(value: Any) -> Any:
    """A number of numpy as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


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
