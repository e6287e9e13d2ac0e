"""Define the settings of both models, and resolve the arguments of one chat call to one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import ConfigDict, Field, model_validator
from llama_index_instrumentation.dispatcher import active_instrument_tags
from pydantic import AfterValidator, BeforeValidator
from pydantic.json_schema import SkipJsonSchema

from lava_mistral.billing.identity import check_base_url
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.calls.defaults import DEFAULT_CHAT_MODEL, DEFAULT_TIMEOUT
from lava_mistral.client import settings
from lava_mistral.client.settings import WIRE_NAMES, ChatParameters, refuse_misspelt, renamed, setting
from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.tools import to_tool_choice
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES
from llama_index_lava_mistral._redaction import billing_of
from llama_index_lava_mistral._to_wire import to_wire
from llama_index_lava_mistral._tools import named_choice, response_format_of, tool_spec
from llama_index_lava_mistral.callbacks import traced


class LavaSettings(settings.LavaSettings):
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


_SYNONYMS: Final[Mapping[str, str]] = {
    **LavaSettings._synonyms,
    **settings.CHAT_SYNONYMS,
    **dict.fromkeys(("model_kwargs", "extra_body"), "additional_kwargs"),
}
_CALL_ARGUMENTS: Final = frozenset(
    {*WIRE_NAMES, *_SYNONYMS, *settings.OF_CALLS, "model", "tools", "billing", "lava_metadata", "trace_metadata"}
    | {"repair_messages", "include_response_headers", "streaming", "additional_kwargs"}
)


class ChatSettings(LavaSettings, ChatParameters):
    """The settings of the chat model."""

    model: str = Field(DEFAULT_CHAT_MODEL, description="The model's name.")
    additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="Further fields of the request.")
    streaming: bool | None = setting(None, "Without effect: stream_chat and its like stream.")
    stream_chunk_timeout: float | None = setting(DEFAULT_TIMEOUT, "Seconds between two chunks of a stream.", gt=0)
    repair_messages: bool = Field(True, description="Repair what Mistral would refuse in conversations, or refuse it.")
    include_response_headers: bool = setting(False, "Give each response the headers of Lava's answer.")
    # Narrower than in LangChain.
    tool_choice: str | dict[str, Any] | None = Field(None, description="'auto', 'any', 'none' or a tool.")
    prediction: dict[str, Any] | None = Field(None, description="What is expected of the answer.")
    response_format: Annotated[dict[str, Any], BeforeValidator(response_format_of)] | None = Field(
        None, description="Text, JSON or a JSON schema, also as a pydantic class."
    )

    _synonyms: ClassVar[Mapping[str, str]] = _SYNONYMS

    def _call_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by their name on the wire, and the further fields of the model."""
        said = renamed(kwargs.items(), _SYNONYMS)
        refuse_misspelt(said.keys() - _CALL_ARGUMENTS, _CALL_ARGUMENTS)
        own = renamed(self.additional_kwargs.items(), _SYNONYMS)
        if said.get("tools") and own.get("tools"):
            # Mistral's own tools, such as web search, beside those of an agent.
            said["tools"] = [*said["tools"], *own["tools"]]
        said = {**own, **(said.pop("additional_kwargs", None) or {}), **said}
        said.pop("streaming", None)
        return {WIRE_NAMES.get(name, name): value for name, value in said.items()}

    def _request(
        self, asynchronous: bool, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], bool]:
        """Return a client, the arguments of its `chat` or `stream`, and whether the response has headers."""
        arguments: dict[str, Any] = {"model": self.model, **self._parameters()}
        if kwargs or self.additional_kwargs:
            arguments |= self._call_arguments(kwargs)
        if arguments.get("n", 1) != 1:
            raise ConfigurationError(
                f"LlamaIndex has one answer a call; n={arguments['n']} would pay for more, which nobody gets to see. "
                "Use langchain_lava_mistral or lava_mistral.LavaMistral."
            )
        client = self._present(arguments)[asynchronous]
        for name in settings.OF_CALLS:
            arguments.pop(name, None)
        with_headers = arguments.pop("include_response_headers", self.include_response_headers)
        arguments.setdefault("repair_messages", self.repair_messages)
        if arguments.get("response_format") is not None:
            arguments["response_format"] = response_format_of(arguments["response_format"])
        arguments["billing"] = billing_of(arguments.get("billing"))
        if arguments.pop("trace_metadata", self.trace_metadata):
            arguments["lava_metadata"] = traced(arguments.get("lava_metadata"))
        run = active_instrument_tags.get().get("llamaindex.run_id")
        if arguments.get("prompt_cache_key") == "auto" and run is not None:
            arguments["prompt_cache_key"] = str(run)
        arguments["messages"] = to_wire(messages)
        choice = named_choice(arguments.pop("tool_choice", None))
        if tools := [tool_spec(tool) for tool in arguments.pop("tools", None) or ()]:
            names = [tool["function"]["name"] for tool in tools if "function" in tool]
            arguments |= {"tools": tools, "tool_choice": to_tool_choice(choice, names)}
        else:
            arguments.pop("parallel_tool_calls", None)
        return client, arguments, with_headers
