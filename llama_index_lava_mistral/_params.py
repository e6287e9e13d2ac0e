"""Define the settings of both models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from llama_index.core.bridge.pydantic import ConfigDict, Field, model_validator
from pydantic import AfterValidator, BeforeValidator
from pydantic.json_schema import SkipJsonSchema

from lava_mistral.billing.credentials import check_base_url
from lava_mistral.calls.arguments import refuse_keys, refuse_misspelt, renamed
from lava_mistral.defaults import (
    DEFAULT_CHAT_MODEL,
    DEFAULT_MAX_RETRIES,
    DEFAULT_STREAM_CHUNK_TIMEOUT,
    DEFAULT_TIMEOUT,
)
from lava_mistral.frameworks import settings
from lava_mistral.frameworks.settings import ChatParameters, setting


class LavaSettings(settings.ModelSettings):
    """How a model reaches Lava. None of these settings is part of `to_dict`, of events or of the repr of secrets."""

    model_config = ConfigDict(extra="forbid")

    base_url: Annotated[str, AfterValidator(check_base_url)] | None = setting(
        None, "Else LAVA_BASE_URL, else what the key's prefix says: sandbox or production."
    )
    require_customer: bool = setting(False, "Refuse calls that name no customer; also LAVA_REQUIRE_CUSTOMER=1.")
    lava_metadata: dict[str, str] | None = setting(None, "Text pairs that Lava stores with each request.")
    trace_metadata: bool = setting(False, "Add the id of the call's span to them, as llama_index_span_id.")
    timeout: float | None = setting(DEFAULT_TIMEOUT, "Seconds for an answer, or for a stream to begin.", gt=0)
    max_retries: int = setting(DEFAULT_MAX_RETRIES, "How often a failed call is tried again.", ge=0)
    async_http_client: SkipJsonSchema[Any] = setting(None, "The async twin of http_client.", repr=False)

    _async_client: ClassVar[str] = "async_http_client"
    _synonyms: ClassVar[Mapping[str, str]] = {
        "http_async_client": "async_http_client",
        "client": "http_client",
        "async_client": "async_http_client",
        "request_timeout": "timeout",
    }

    def __init__(self, model: str | None = None, /, **settings: Any) -> None:
        """Make a model by its name and its settings."""
        named: dict[str, Any] = {} if model is None else {"model": model}
        super().__init__(**named, **settings)

    @model_validator(mode="before")
    @classmethod
    def _rename_synonyms(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = renamed(values.items(), cls._synonyms)
        unknown = given.keys() - cls.model_fields.keys()
        refuse_keys([*unknown, *(given.get("additional_kwargs") or ())])
        refuse_misspelt(unknown, cls.model_fields)
        return given


SYNONYMS: Final[Mapping[str, str]] = {
    **LavaSettings._synonyms,
    **settings.CHAT_SYNONYMS,
    **dict.fromkeys(("model_kwargs", "extra_body"), "additional_kwargs"),
}


def _response_format(form: Any) -> Any:
    from llama_index_lava_mistral._tools import response_format_of

    return response_format_of(form)


class ChatSettings(LavaSettings, ChatParameters):
    """The settings of the chat model."""

    model: str = Field(DEFAULT_CHAT_MODEL, description="The model's name.")
    additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="Further fields of the request.")
    streaming: bool | None = setting(None, "Without effect: stream_chat and its like stream.")
    stream_chunk_timeout: float | None = setting(
        DEFAULT_STREAM_CHUNK_TIMEOUT, "Seconds between two chunks of a stream.", gt=0
    )
    repair_messages: bool = Field(True, description="Repair what Mistral would refuse in conversations, or refuse it.")
    include_response_headers: bool = setting(False, "Give each response the headers of Lava's answer.")
    # Narrower than in LangChain.
    tool_choice: str | dict[str, Any] | None = Field(None, description="'auto', 'any', 'none' or a tool.")
    prediction: dict[str, Any] | None = Field(None, description="What is expected of the answer.")
    response_format: Annotated[dict[str, Any], BeforeValidator(_response_format)] | None = Field(
        None, description="Text, JSON or a JSON schema, also as a pydantic class."
    )

    _synonyms: ClassVar[Mapping[str, str]] = SYNONYMS
