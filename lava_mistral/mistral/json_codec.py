"""Write and read JSON. Pure."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

from lava_mistral._text import whole_characters
from lava_mistral.errors import ConfigurationError

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_FENCE = re.compile(r"\s*```[\w-]*\s*")


def to_json(value: Any) -> bytes:
    """Return the JSON of a value; raises ConfigurationError for what JSON has not. Half surrogate pairs become U+FFFD.

    Dates, decimals, UUIDs, sets, numbers of numpy and integers of any length are written as pydantic writes them.
    """
    try:
        return orjson.dumps(value, _plain, _OPTIONS)
    except TypeError as error:
        why = str(error)
    try:
        # It writes integers beyond 64 bits, and half surrogate pairs.
        return whole_characters(
            json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        ).encode()
    except (TypeError, ValueError, RecursionError) as failure:
        why = "it holds itself" if isinstance(failure, RecursionError) or "Circular" in str(failure) else why
    raise ConfigurationError(f"The request can't be written as JSON: {why}.")


def to_text(value: Any) -> str:
    """Return the JSON text of data that a model reads; what neither JSON nor pydantic can write, as its text."""
    try:
        text = _TEXT.encode(value)
    except TypeError:
        # A key that is no text; one that JSON has not in any form, such as a pair.
        with suppress(TypeError):
            return orjson.dumps(value, _readable, _OPTIONS | orjson.OPT_NON_STR_KEYS).decode()
        return str(value)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError("Data can't be written as JSON: it holds itself.") from error
    # Half of a surrogate pair, as models write it: only its escape can be sent.
    return json.dumps(value, default=_readable) if _HALF_PAIR.search(text) else text


def unfenced(text: str) -> str:
    """Return a text, or the beginning of one, without the Markdown fence that some models put around JSON."""
    fence = _FENCE.match(text)
    return text if fence is None else text[fence.end() :].rstrip().removesuffix("```").rstrip()


def from_json(data: bytes | str) -> Any:
    """Return the value of a JSON text, or raise ValueError; half a surrogate pair, which is no text, becomes U+FFFD."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            text = json.dumps(json.loads(data), ensure_ascii=False)
        except RecursionError:
            raise error from None
        if text.isascii():
            raise
        return orjson.loads(whole_characters(text))


def _plain(value: Any) -> Any:
    """Return a value that JSON has not as pydantic writes it."""
    match value:
        case datetime() | date() | time():
            text = value.isoformat()
            return f"{text[:-6]}Z" if text.endswith("+00:00") else text
        case Decimal() | UUID():
            return str(value)
        case set() | frozenset():
            return list(value)
        case bytes():
            return value.decode("utf-8", "replace")
        case Enum():
            return value.value
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def _readable(value: Any) -> Any:
    try:
        return _plain(value)
    except (TypeError, ValueError):
        return str(value)


# Made once: `json.dumps` makes one for each call that is not of the plainest kind.
_TEXT = json.JSONEncoder(ensure_ascii=False, default=_readable)
