"""Writes the JSON of a request. Pure."""

from __future__ import annotations

import json
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
            raise ConfigurationError(f"The request can't be written as JSON: {error}.") from error
