"""Define the settings of both models, and resolve the arguments of one chat call to one request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any, ClassVar, Final, Self

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from llama_index_instrumentation.dispatcher import active_instrument_tags
from pydantic import AfterValidator, BeforeValidator, InstanceOf
from pydantic.json_schema import SkipJsonSchema

from lava_mistral.billing.identity import Billing, check_base_url, check_metadata, to_billing
from lava_mistral.billing.scope import carried_fields
from lava_mistral.billing.spend_limit import SpendLimit, to_limit
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.calls.defaults import DEFAULT_CHAT_MODEL, DEFAULT_TIMEOUT
from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.tools import to_tool_choice
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES
from llama_index_lava_mistral._redaction import billing_of
from llama_index_lava_mistral._to_wire import to_wire
from llama_index_lava_mistral._tools import named_choice, response_format_of, tool_spec
from llama_index_lava_mistral.callbacks import traced

OF_CLIENTS: Final = ("api_key", "base_url", "billing", "require_customer", "timeout", "max_retries", "spend_limit")


def _http_client(kind: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if value is not None:
            from lava_mistral.transport.clients import library_of

            library_of(value, kind)
        return value

    return AfterValidator(check)


def setting(default: Any, description: str, **more: Any) -> Any:
    """Return a field that is no part of `to_dict` and of events."""
    return Field(default, description=description, exclude=True, **more)


class LavaSettings(BaseModel):
    """How a model reaches Lava. None of these settings is part of `to_dict`, of events or of the repr of secrets."""

    # A mistyped or misplaced key must be refused, and not be quoted in the refusal.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    api_key: SecretStr | SkipJsonSchema[Callable[[], str]] | None = setting(
        None, "Lava's key or a function returning it; else LAVA_FORWARD_TOKEN, then LAVA_SECRET_KEY.", repr=False
    )
    base_url: Annotated[str, AfterValidator(check_base_url)] | None = setting(
        None, "Else LAVA_BASE_URL, else what the key's prefix says: sandbox or production."
    )
    billing: SkipJsonSchema[Annotated[InstanceOf[Billing], BeforeValidator(to_billing)]] | None = setting(
        None, "Who pays."
    )
    require_customer: bool = setting(False, "Refuse calls that name no customer; also LAVA_REQUIRE_CUSTOMER=1.")
    lava_metadata: Annotated[dict[str, str], AfterValidator(check_metadata)] | None = setting(
        None, "Text pairs that Lava stores with each request."
    )
    trace_metadata: bool = setting(False, "Add the id of the call's span to them, as llama_index_span_id.")
    spend_limit: SkipJsonSchema[Annotated[InstanceOf[SpendLimit], BeforeValidator(to_limit)]] | None = setting(
        None, "USD that all calls may cost together, or a SpendLimit to share."
    )
    timeout: float | None = setting(DEFAULT_TIMEOUT, "Seconds for an answer, or for a stream to begin.", gt=0)
    max_retries: int = setting(DEFAULT_MAX_RETRIES, "How often a failed call is tried again.", ge=0)
    http_client: SkipJsonSchema[Annotated[Any, _http_client("Client")]] = setting(
        None, "A client of httpx or httpx2 for sync code; stays yours to close.", repr=False
    )
    async_http_client: SkipJsonSchema[Annotated[Any, _http_client("AsyncClient")]] = setting(
        None, "Its async twin.", repr=False
    )

    _synonyms: ClassVar[Mapping[str, str]] = {
        "http_async_client": "async_http_client",
        "client": "http_client",
        "async_client": "async_http_client",
        "request_timeout": "timeout",
    }
    # Settings of other integrations that have no meaning here, and what to do.
    _hints: ClassVar[Mapping[str, str]] = {
        "wait_time": "A retry waits as long as the server asks, else longer each time; max_retries= says how often.",
        "stream_usage": "The usage always comes with the end of a stream. Leave it out.",
        "show_thinking": "Thinking always comes in a ThinkingBlock and, streamed, as thinking_delta. Leave it out.",
    }

    def __init__(self, model: str | None = None, /, **settings: Any) -> None:
        """Make a model by its name and its settings."""
        named = {} if model is None else {"model": model}
        super().__init__(**named, **settings)
        # Now, since the first call would hold up its event loop with it.
        import_module("lava_mistral.client.clients")

    @model_validator(mode="before")
    @classmethod
    def _rename_synonyms(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        renamed = cls._renamed(values)
        unknown = [name for name in renamed if name not in cls.model_fields]
        refuse_keys([*unknown, *(renamed.get("additional_kwargs") or ())])
        cls._refuse_misspelt(unknown, cls.model_fields, cutoff=0.6)
        return renamed

    @classmethod
    def _renamed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values, each under the name of its field."""
        renamed = dict(values)
        for synonym, name in cls._synonyms.items():
            if synonym in renamed:
                if name in renamed:
                    raise ConfigurationError(f"{synonym} is another name of {name}: give one of them.")
                renamed[name] = renamed.pop(synonym)
        return renamed

    @classmethod
    def _refuse_misspelt(cls, unknown: Sequence[str], known: Collection[str], cutoff: float) -> None:
        for name in unknown:
            if name in cls._hints:
                raise ConfigurationError(f"{cls.__name__} has no setting {name}. {cls._hints[name]}")
            if near := get_close_matches(name, known, 1, cutoff):
                raise ConfigurationError(f"{cls.__name__} has no setting {name}; did you mean {near[0]}?")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        # Connections can't be copied, and a limit is shared by all who keep it.
        shared = (getattr(self, name, None) for name in ("http_client", "async_http_client", "rate_limiter"))
        memo.update((id(each), each) for each in shared)
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        # LlamaIndex leaves out what can't be pickled; the copy would call with another key, or have others pay.
        if lost := {"api_key", "billing", "spend_limit"} - state["__dict__"].keys():
            raise ConfigurationError(
                f"{lost.pop()}= can't be sent to another process (a function must be a module's own, no lambda)."
            )
        return {**state, "__dict__": carried_fields(state["__dict__"])}

    def __repr_name__(self) -> str:
        # The LangChain package has classes of the same names.
        return f"llama_index_lava_mistral.{type(self).__name__}"

    def _client(self, asynchronous: bool, **changed: Any) -> Any:
        """Return a client with these settings, which costs less to make than to keep."""
        from lava_mistral.client import clients

        cls = clients.AsyncLavaMistral if asynchronous else clients.LavaMistral
        settings = {name: getattr(self, name) for name in OF_CLIENTS} | changed
        http_client = self.async_http_client if asynchronous else self.http_client
        return cls(**settings, metadata=self.lava_metadata, http_client=http_client)


class ChatParameters(BaseModel):
    """The fields of Mistral's request that a model and each of its calls may set; `WIRE_NAMES` is made of them."""

    temperature: float | None = Field(None, description="Randomness of the answer.", ge=0.0, le=1.5)
    max_tokens: int | None = Field(None, description="The longest answer, in tokens.", gt=0)
    min_tokens: int | None = Field(None, description="The shortest answer, in tokens.", ge=0)
    top_p: float | None = Field(None, description="Nucleus sampling.", gt=0.0, le=1.0)
    top_k: int | None = Field(None, description="Sample among so many tokens.", ge=0)
    stop: str | list[str] | None = Field(None, description="Texts that end the answer.")
    seed: int | None = Field(None, description="Makes the answer repeatable; random_seed on the wire.")
    presence_penalty: float | None = Field(None, description="Against words that were used.")
    frequency_penalty: float | None = Field(None, description="Against words that were used often.")
    repetition_penalty: float | None = Field(None, description="Against repeated tokens.")
    n: int | None = Field(None, description="1: LlamaIndex has one answer a call.", ge=1)
    logprobs: bool | None = Field(None, description="Give the log probabilities of the answer's tokens.")
    top_logprobs: int | None = Field(None, description="And of so many likely tokens at each place.", ge=0)
    prompt_logprobs: bool | None = Field(None, description="The same for the prompt's tokens.")
    top_prompt_logprobs: int | None = Field(None, description="And of so many likely tokens there.", ge=0)
    safe_prompt: bool | None = Field(None, description="Put Mistral's safety prompt first.")
    guardrails: list[dict[str, Any]] | None = Field(None, description="Mistral's moderation of the call.")
    tool_choice: str | dict[str, Any] | None = Field(None, description="'auto', 'any', 'none' or a tool.")
    parallel_tool_calls: bool | None = Field(None, description="May one turn call several tools?")
    prompt_mode: str | None = Field(None, description="'reasoning' for magistral models.")
    reasoning_effort: str | None = Field(None, description="How much to think, from 'none' to 'high'.")
    prediction: dict[str, Any] | None = Field(None, description="What is expected of the answer.")
    response_format: Annotated[dict[str, Any], BeforeValidator(response_format_of)] | None = Field(
        None, description="Text, JSON or a JSON schema, also as a pydantic class."
    )
    prompt_cache_key: str | None = Field(None, description="Groups prompts for Mistral's cache, or 'auto'.")
    service_tier: str | None = Field(None, description="Mistral's service tier.")
    mistral_metadata: dict[str, Any] | None = Field(None, description="Mistral's own metadata of the request.")


WIRE_NAMES: Final[Mapping[str, str]] = {name: name for name in ChatParameters.model_fields} | {"seed": "random_seed"}
"""The fields of Mistral's request: this package's names of them, and those on the wire."""
_SYNONYMS: Final[Mapping[str, str]] = {
    "safe_mode": "safe_prompt",
    "random_seed": "seed",
    "stop_sequences": "stop",
    "max_completion_tokens": "max_tokens",
    "model_name": "model",
    "model_kwargs": "additional_kwargs",
    "extra_body": "additional_kwargs",
}
_CLIENT_SETTINGS: Final[tuple[str, ...]] = ("timeout", "max_retries", "stream_chunk_timeout")
_CALL_ARGUMENTS: Final = frozenset(
    {*WIRE_NAMES, *_SYNONYMS, *_CLIENT_SETTINGS, "model", "tools", "billing", "lava_metadata", "trace_metadata"}
    | {"repair_messages", "include_response_headers", "streaming", "additional_kwargs", "request_timeout"}
)


class ChatSettings(LavaSettings, ChatParameters):
    """The settings of the chat model."""

    model: str = Field(DEFAULT_CHAT_MODEL, description="The model's name.")
    additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="Further fields of the request.")
    streaming: bool | None = setting(None, "Without effect: stream_chat and its like stream.")
    stream_chunk_timeout: float | None = setting(DEFAULT_TIMEOUT, "Seconds between two chunks of a stream.", gt=0)
    repair_messages: bool = Field(True, description="Repair what Mistral would refuse in conversations, or refuse it.")
    include_response_headers: bool = setting(False, "Give each response the headers of Lava's answer.")

    _synonyms: ClassVar[Mapping[str, str]] = {**LavaSettings._synonyms, **_SYNONYMS}

    def _set_parameters(self) -> dict[str, Any]:
        """Return the fields of the request that are set, by their name on the wire."""
        fields = self.__dict__
        return {wire: value for name, wire in WIRE_NAMES.items() if (value := fields[name]) is not None}

    def _call_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by their name on the wire, and the further fields of the model."""
        said = self._renamed(kwargs)
        self._refuse_misspelt([name for name in said if name not in _CALL_ARGUMENTS], _CALL_ARGUMENTS, cutoff=0.8)
        own = self._renamed(self.additional_kwargs)
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
        arguments: dict[str, Any] = {"model": self.model, **self._set_parameters()}
        if kwargs or self.additional_kwargs:
            arguments |= self._call_arguments(kwargs)
        if arguments.get("n", 1) != 1:
            raise ConfigurationError(
                f"LlamaIndex has one answer a call; n={arguments['n']} would pay for more, which nobody gets to see. "
                "Use langchain_lava_mistral or lava_mistral.LavaMistral."
            )
        arguments.setdefault("stream_chunk_timeout", self.stream_chunk_timeout)
        client = self._client(
            asynchronous, **{name: arguments.pop(name) for name in _CLIENT_SETTINGS if name in arguments}
        )
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
