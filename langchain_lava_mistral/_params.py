"""The settings of both models, and the names that their constructors and calls understand."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from lava_mistral.calls.arguments import refuse_keys, refuse_misspelt, renamed
from lava_mistral.frameworks import settings
from lava_mistral.frameworks.settings import WIRE_NAMES

SYNONYMS = {
    "model_name": "model",
    "request_timeout": "timeout",
    "client": "http_client",
    "async_client": "http_async_client",
}
CHAT_SYNONYMS = SYNONYMS | settings.CHAT_SYNONYMS
INNER = ("model_kwargs", "extra_body")


def inner(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the request's body that no argument is for."""
    return {**(values.get("model_kwargs") or {}), **(values.get("extra_body") or {})}


class LavaSettings(settings.ModelSettings):
    """The settings of either model."""

    http_async_client: Any = Field(default=None, exclude=True, repr=False)

    _synonyms: ClassVar[Mapping[str, str]] = SYNONYMS
    _async_client: ClassVar[str] = "http_async_client"

    @model_validator(mode="before")
    @classmethod
    def _by_field(cls, values: Any) -> Any:
        """Put the arguments under the fields' own names; what is no field moves to `model_kwargs`, with a warning."""
        if not isinstance(values, dict):
            return values
        inside = inner(values)
        # Usage is always streamed, so that only its refusal has no meaning.
        known = (*INNER, "stream_usage") if values.get("stream_usage") else INNER
        outside = (each for each in values.items() if each[0] not in known)
        given = renamed((*inside.items(), *outside), cls._synonyms)
        extra = {name: given.pop(name) for name in given.keys() - cls.model_fields.keys()}
        refuse_keys(extra)
        unknown = extra.keys() - inside.keys()
        refuse_misspelt(unknown, (*cls.model_fields, *cls._synonyms))
        if "model_kwargs" not in cls.model_fields:
            return given | extra
        if unknown:
            warnings.warn(
                f"{sorted(unknown)} are no parameters of {cls.__name__}; they go to Mistral as they are, through "
                "model_kwargs. Mistral refuses fields that it does not know.",
                stacklevel=6,
            )
        return {**given, "model_kwargs": extra}


# Arguments of a call that say how it is made, and LangChain's own: no parts of the request's body.
OUTSIDE = settings.PER_CALL_SETTINGS | {
    *("billing", "lava_metadata", "trace_metadata", "repair_messages", "include_response_headers"),
    *("stream", "streaming", "ls_structured_output_format", "structured_output_format", "_run"),
}
SHOWN = frozenset((*WIRE_NAMES, *WIRE_NAMES.values(), "model", "messages", "tools"))
"""What a call understands as parts of the request's body, without synonyms."""
KNOWN = SHOWN | OUTSIDE


def named(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments under the fields' own names, those in `model_kwargs` or `extra_body` among them."""
    given = {**inner(kwargs), **kwargs}
    return {CHAT_SYNONYMS.get(name, name): value for name, value in given.items() if name not in INNER}


def check_names(kwargs: Mapping[str, Any]) -> None:
    """Refuse the arguments of a call that are keys, misspelt, or fields that Mistral does not have."""
    unknown = named(kwargs).keys() - KNOWN
    refuse_keys(unknown)
    # A name that nobody knows yet may stand in `model_kwargs`.
    refuse_misspelt(unknown - inner(kwargs).keys(), (*KNOWN, *CHAT_SYNONYMS))
