"""`ChatLavaMistral` for LangChain: Mistral's chat models through Lava."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any, Literal, Self, cast

import httpx
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, InstanceOf, SecretStr, model_validator

from langchain_lava_mistral._chunks import ChunkMaker
from langchain_lava_mistral._convert import PROVIDER, to_wire
from langchain_lava_mistral._fields import (
    BillingField,
    Key,
    SpendLimitField,
    aliases_of,
    environment_key,
    environment_url,
    shared_in,
)
from langchain_lava_mistral._parsers import (
    WholeJsonParser,
    WholePydanticParser,
    WholePydanticToolParser,
    WholeToolParser,
    with_outcome,
)
from langchain_lava_mistral._profiles import profile_of
from langchain_lava_mistral._results import added, first_metadata, last_metadata, to_result
from langchain_lava_mistral._retries import CallRun
from langchain_lava_mistral._tools import (
    Schema,
    ToolLike,
    answer_tool,
    normalize,
    to_response_format,
    to_tools,
)
from langchain_lava_mistral.callbacks import counted, traced
from langchain_lava_mistral.errors import translated
from lava_mistral.billing.pickling import carried_fields
from lava_mistral.calls.chat_body import NO_FIELDS, refuse_keys
from lava_mistral.client._base import DEFAULT_CHAT_MODEL, DEFAULT_TIMEOUT
from lava_mistral.client.async_client import AsyncLavaMistral
from lava_mistral.client.sync_client import LavaMistral
from lava_mistral.errors import ConfigurationError, InvalidRequestError
from lava_mistral.mistral.tools import to_tool_choice
from lava_mistral.pricing.tokenizers import token_ids
from lava_mistral.pricing.tokens import count_tokens
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES

# Field → Mistral's name for it.
_PARAMETERS = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "top_p": "top_p",
    "stop": "stop",
    "seed": "random_seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "n": "n",
    "safe_prompt": "safe_prompt",
    "parallel_tool_calls": "parallel_tool_calls",
    "prompt_mode": "prompt_mode",
    "reasoning_effort": "reasoning_effort",
    "prediction": "prediction",
    "response_format": "response_format",
    "prompt_cache_key": "prompt_cache_key",
}
# Arguments of a call that say how it is made; they are no part of the request's body.
_SETTINGS = frozenset(
    (
        "billing",
        "lava_metadata",
        "trace_metadata",
        "timeout",
        "max_retries",
        "stream_chunk_timeout",
        "repair_messages",
    )
)
# LangChain's own, which reach the model on some ways.
_FRAMEWORK = frozenset(("stream", "streaming", "ls_structured_output_format", "structured_output_format", "_run"))
_RUN = "_run"


class ChatLavaMistral(BaseChatModel):
    """Mistral's chat models through Lava, for LangChain (`langchain_lava_mistral`).

    Everything that `BaseChatModel` does works: invoke, stream, batch, their async forms, tools, structured output,
    `create_agent`, events, caches, tracing. A parameter that is not set is not sent, since Mistral's defaults differ
    by model.

        model = ChatLavaMistral(model="mistral-small-2603")
        model.invoke("Why is the sky blue?").text

    Whatever says what is asked and how can be given to `invoke`, `bind` and their like too, under every name that is
    understood here, `billing=` and `lava_metadata=` included:
    `model.invoke(…, billing=Billing(customer_id="c_1", meter_slug="chat"))`.

    A tool call whose arguments were cut off stands in `invalid_tool_calls`, streamed or not: no agent runs it.

    A message's `response_metadata` holds `model_name`, `model_provider`, `finish_reason`, `id`, `created`,
    `lava_request_id` and, where the model's prices are known, `cost`: USD as text with every digit, for `Decimal`.
    With `n` above 1, and while streaming, usage and cost stand on one message or chunk only, so that sums are right.

    Args:
        model: the model's name; `model_name` is understood too.
        api_key: Lava's secret key or a forward token, or a function returning it. By default `LAVA_FORWARD_TOKEN`,
            then `LAVA_SECRET_KEY`. A missing key is reported by the first call.
        base_url: by default `LAVA_BASE_URL`, else by the key: production or sandbox.
        billing: who pays. It is not serialized.
        lava_metadata: text pairs that Lava stores with each request (`metadata` is LangChain's, for traces).
        trace_metadata: add LangChain's run id to them, as `langchain_run_id`, so that a request in Lava's dashboard
            leads to its trace.
        spend_limit: USD that all calls of this model object may cost together, or a `SpendLimit` to share. A call that
            could pass it is refused before it is sent (`SpendLimitError`). It is not serialized.
        temperature: 0 to 1.5.
        max_tokens: of the answer.
        top_p: nucleus sampling, 0 to 1.
        stop: texts that end the answer.
        seed: makes answers repeatable (`random_seed` on the wire).
        presence_penalty: -2 to 2.
        frequency_penalty: -2 to 2.
        n: how many answers; `generate` gives them all. More than one is not streamed.
        safe_prompt: Mistral's safety prompt in front of the conversation.
        parallel_tool_calls: whether the model may call several tools in one turn.
        prompt_mode: `"reasoning"` for magistral models.
        reasoning_effort: `"high"` or `"none"`.
        prediction: the expected answer, as text or in Mistral's form.
        response_format: JSON mode or a schema, in any form that `with_structured_output` takes.
        prompt_cache_key: groups prompts for Mistral's cache.
        model_kwargs: further fields of the request's body.
        streaming: `True` streams under `invoke` too; `False` never streams.
        timeout: seconds for an answer, or for a stream to begin; `None` for no limit.
        max_retries: how often a call is tried again after 408, 429, 5xx, connection errors and timeouts. Nothing is
            tried again once a stream's first chunk is there.
        stream_chunk_timeout: seconds between two chunks of a stream; `None` for no limit.
        http_client: an `httpx.Client` to send with; it stays yours to close.
        http_async_client: an `httpx.AsyncClient` for async calls.
        repair_messages: repair what Mistral would refuse in a conversation, losing no word; false refuses it.

    Raises:
        pydantic.ValidationError: a setting is wrong (it is a `ValueError`).
    """

    model: str = Field(default=DEFAULT_CHAT_MODEL, validation_alias=AliasChoices("model", "model_name"))
    api_key: Key | None = Field(default_factory=environment_key, exclude=True, repr=False)
    base_url: str | None = Field(default_factory=environment_url)
    billing: BillingField | None = Field(default=None, exclude=True)
    lava_metadata: dict[str, str] | None = None
    trace_metadata: bool = False
    spend_limit: SpendLimitField | None = Field(default=None, exclude=True)
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: list[str] | str | None = Field(default=None, validation_alias=AliasChoices("stop", "stop_sequences"))
    seed: int | None = Field(default=None, validation_alias=AliasChoices("seed", "random_seed"))
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    n: int | None = Field(default=None, ge=1)
    safe_prompt: bool | None = Field(default=None, validation_alias=AliasChoices("safe_prompt", "safe_mode"))
    parallel_tool_calls: bool | None = None
    prompt_mode: str | None = None
    reasoning_effort: str | None = None
    prediction: str | dict[str, Any] | None = None
    response_format: Any = None
    prompt_cache_key: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    # `None` beside false: LangChain takes a false that was ever set for "never stream", and sets every field anew
    # where it configures a model.
    streaming: bool | None = None
    timeout: float | None = Field(default=DEFAULT_TIMEOUT, validation_alias=AliasChoices("timeout", "request_timeout"))
    max_retries: int = DEFAULT_MAX_RETRIES
    stream_chunk_timeout: float | None = DEFAULT_TIMEOUT
    http_client: InstanceOf[httpx.Client] | None = Field(default=None, exclude=True, repr=False)
    http_async_client: InstanceOf[httpx.AsyncClient] | None = Field(default=None, exclude=True, repr=False)
    repair_messages: bool = True

    # An error must not show the key that was given beside the wrong setting.
    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _gather_unknown(cls, values: Any) -> Any:
        """Move what is no field to `model_kwargs` with a warning, as LangChain's users know it."""
        if not isinstance(values, dict):
            return values
        known = {*cls.model_fields, *aliases_of(cls)}
        extra = {name: value for name, value in values.items() if name not in known}
        body = dict(values.get("model_kwargs") or {})
        if twice := body.keys() & values.keys():
            raise ValueError(f"{sorted(twice)} stand in model_kwargs and beside it: give them once.")
        refuse_keys([*extra, *body.keys() - known])
        if extra:
            warnings.warn(
                f"{sorted(extra)} are no parameters of {cls.__name__}; they go to Mistral as they are, through "
                "model_kwargs. Mistral refuses fields that it does not know.",
                stacklevel=6,
            )
        named = {name: body.pop(name) for name in list(body) if name in known}
        kept = {name: value for name, value in values.items() if name not in extra}
        return {**kept, **named, "model_kwargs": {**body, **extra}}

    @model_validator(mode="after")
    def _check_settings(self) -> ChatLavaMistral:
        with translated():
            self._client()
        return self

    # What LangChain asks of a model

    @property
    def model_name(self) -> str:
        """The model's name, as many of LangChain's tools ask for it."""
        return self.model

    @property
    def _llm_type(self) -> str:
        return "lava-mistral-chat"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether LangChain can write the model down; the key is left out and named, `billing` is left out."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where the key comes from when a model is read back."""
        key = self.api_key.get_secret_value() if isinstance(self.api_key, SecretStr) else "aks_"
        return {"api_key": "LAVA_SECRET_KEY" if key.startswith("aks_") else "LAVA_FORWARD_TOKEN"}

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": carried_fields(state["__dict__"])}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(shared_in(self, memo))

    def __repr_name__(self) -> str:
        return f"langchain_lava_mistral.{type(self).__name__}"

    def __repr_args__(self) -> Any:
        # LangChain shows what differs from the defaults, and a profile of twenty lines.
        yield "model", self.model
        yield from ((name, value) for name, value in super().__repr_args__() if name not in ("model", "profile"))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url, **self._defaults()}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # What may hold a secret is refused when the call is made; its trace is written before that.
        hidden = _SETTINGS | _FRAMEWORK | NO_FIELDS
        given = {name: value for name, value in self._named(kwargs).items() if name not in hidden}
        params = {**self._identifying_params, "_type": self._llm_type, **given}
        return params if stop is None else {**params, "stop": stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        named = self._named(kwargs)
        stop = named.pop("stop", None) if stop is None else stop
        params = super()._get_ls_params(stop=[stop] if isinstance(stop, str) else stop, **named)
        params["ls_provider"] = PROVIDER
        if not stop and self.stop:
            params["ls_stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # The key of a cache: what is asked, whoever pays for it. LangChain's own is made of a serialization that it
        # keeps from the first call on, whatever is changed in the model.
        params = self._get_invocation_params(stop=stop, **kwargs)
        return str(sorted(params.items(), key=itemgetter(0)))

    def _resolve_model_profile(self) -> ModelProfile:
        return profile_of(self.model)

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        combined: dict[str, Any] = {}
        for output in llm_outputs:
            if output:
                added(combined, output)
        return combined

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        generations = super()._convert_cached_generations([each.model_copy() for each in cache_val])
        for generation in generations:
            metadata = generation.message.response_metadata
            if "cost" in metadata:
                # LangChain counts a hit as free, and so it was.
                generation.message = generation.message.model_copy(
                    update={"response_metadata": {**metadata, "cost": "0"}}
                )
        return generations

    def _should_stream(self, **kwargs: Any) -> bool:
        asked = kwargs.pop("streaming", None)
        if asked is not None:
            return self.model_copy(update={"streaming": asked})._should_stream(**kwargs)
        return super()._should_stream(**kwargs)

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        asked = kwargs.pop("streaming", None)
        if asked is not None:
            return self.model_copy(update={"streaming": asked})._streaming_disabled(**kwargs)
        # A stream is one message; several answers at once would run into each other.
        return (self._named(kwargs).get("n") or self.n or 1) > 1 or super()._streaming_disabled(**kwargs)

    # Calls

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = kwargs.get(_RUN) or CallRun(run_manager)
        with translated(), counted(run):
            answer = self._client(kwargs).chat(**self._request(messages, stop, kwargs), on_retry=run.on_retry)
        return to_result(answer)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = kwargs.get(_RUN) or CallRun(run_manager)
        with translated():
            client = self._async_client(kwargs)
            try:
                with counted(run):
                    request = self._request(messages, stop, kwargs)
                    answer = await client.chat(**request, on_retry=run.on_retry_soon)
            finally:
                await run.told()
        return to_result(answer)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = kwargs.get(_RUN) or CallRun(run_manager)
        maker = ChunkMaker()
        first: Mapping[str, Any] | None = None
        with translated():
            with counted(run):
                request = self._request(messages, stop, kwargs, stream=True)
                opened = self._client(kwargs).stream(**request, on_retry=run.on_retry)
            with opened as stream:
                run.opened = stream
                first = first_metadata(stream)
                for delta in stream:
                    chunk = maker.chunk(delta, first) if delta.index == 0 else None
                    if chunk is not None:
                        first = None
                        if run_manager is not None:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                chunk = maker.last(*last_metadata(stream, first), stream.turn.tool_calls)
                if run_manager is not None:
                    run_manager.on_llm_new_token("", chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run = kwargs.get(_RUN) or CallRun(run_manager)
        maker = ChunkMaker()
        first: Mapping[str, Any] | None = None
        with translated():
            try:
                with counted(run):
                    request = self._request(messages, stop, kwargs, stream=True)
                    opened = await self._async_client(kwargs).stream(**request, on_retry=run.on_retry_soon)
            finally:
                await run.told()
            async with opened as stream:
                run.opened = stream
                first = first_metadata(stream)
                async for delta in stream:
                    chunk = maker.chunk(delta, first) if delta.index == 0 else None
                    if chunk is not None:
                        first = None
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                chunk = maker.last(*last_metadata(stream, first), stream.turn.tool_calls)
                if run_manager is not None:
                    await run_manager.on_llm_new_token("", chunk=chunk)
                yield chunk

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """The answer, chunk by chunk. The request is sent when the first is asked for, and billed to whom this call is.

        Closing the iterator closes the connection.

        Raises:
            LavaError: while iterating, when the call failed or the stream ended early (`StreamInterruptedError`, with
                what had come).
        """
        run = CallRun()
        config = run.begin(config, self.callbacks)
        return self._closed_with(run, super().stream(input, config, stop=stop, **{**kwargs, _RUN: run}))

    @staticmethod
    def _closed_with(run: CallRun, chunks: Iterator[AIMessageChunk]) -> Iterator[AIMessageChunk]:
        try:
            yield from chunks
        finally:
            run.close()

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """The answer, chunk by chunk; see `stream`."""
        run = CallRun()
        config = run.begin(config, self.callbacks)
        chunks = super().astream(input, config, stop=stop, **{**kwargs, _RUN: run})
        return self._aclosed_with(run, cast("Any", chunks))

    @staticmethod
    async def _aclosed_with(run: CallRun, chunks: Any) -> AsyncIterator[AIMessageChunk]:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        finally:
            await run.aclose()

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        kwargs[_RUN] = CallRun(run_manager, kwargs.get(_RUN))
        return super()._generate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        kwargs[_RUN] = CallRun(run_manager, kwargs.get(_RUN))
        return await super()._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)

    # The request

    def _named(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call under the names of the fields, those in `model_kwargs` among them."""
        aliases = aliases_of(type(self))
        given = {**(kwargs.get("model_kwargs") or {}), **kwargs}
        given.pop("model_kwargs", None)
        return {aliases.get(name, name): value for name, value in given.items()}

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        kwargs = self._named(kwargs)
        return {
            "api_key": self.api_key,
            "base_url": self.base_url,
            "billing": self.billing,
            "metadata": self.lava_metadata,
            "timeout": kwargs.get("timeout", self.timeout),
            "max_retries": kwargs.get("max_retries", self.max_retries),
            "stream_chunk_timeout": kwargs.get("stream_chunk_timeout", self.stream_chunk_timeout),
            "spend_limit": self.spend_limit,
        }

    # A client holds no connection and costs a few microseconds: made for each call, it can't be a stale one.

    def _client(self, kwargs: Mapping[str, Any] = {}) -> LavaMistral:
        return LavaMistral(**self._settings(kwargs), http_client=self.http_client)

    def _async_client(self, kwargs: Mapping[str, Any] = {}) -> AsyncLavaMistral:
        return AsyncLavaMistral(**self._settings(kwargs), http_client=self.http_async_client)

    def _defaults(self) -> dict[str, Any]:
        given = {wire: value for name, wire in _PARAMETERS.items() if (value := getattr(self, name)) is not None}
        return {**given, **self.model_kwargs}

    def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        *,
        stream: bool = False,
    ) -> dict[str, Any]:
        """The arguments of the core's `chat` or `stream`."""
        kwargs = self._named(kwargs)
        parameters = self._defaults()
        for name, value in kwargs.items():
            if name not in _SETTINGS and name not in _FRAMEWORK:
                parameters[_PARAMETERS.get(name, name)] = value
        if stop is not None:
            parameters["stop"] = stop
        if stream and (parameters.get("n") or 1) > 1:
            raise InvalidRequestError("A stream is one message: ask for n > 1 with generate() or invoke().")
        normalize(parameters)
        parameters.setdefault("model", self.model)
        metadata = kwargs.get("lava_metadata")
        if kwargs.get("trace_metadata", self.trace_metadata):
            metadata = traced(metadata)
        return {
            **parameters,
            "messages": to_wire(messages),
            "billing": kwargs.get("billing"),
            "lava_metadata": metadata,
            "repair_messages": kwargs.get("repair_messages", self.repair_messages),
        }

    # Tools and schemas

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that it may call.

        Args:
            tools: pydantic classes, `TypedDict`s, functions, `BaseTool`s, JSON Schemas with a title, or dictionaries
                of OpenAI's, Anthropic's or Bedrock's form.
            tool_choice: `"auto"`, `"none"`, `"any"` or `"required"`, a tool's name, a dictionary that names one, true
                (some tool) or false (none).
            strict: whether arguments must follow the schemas to the letter.
            parallel_tool_calls: whether several tools may be called in one turn.
            response_format: the form of an answer that calls no tool, as in `with_structured_output`.
            **kwargs: bound as they are.

        Raises:
            InvalidRequestError: a tool or the choice is not one.
        """
        with translated():
            wire = to_tools(tools, strict=strict)
            bound: dict[str, Any] = {**kwargs}
            if wire:
                bound["tools"] = wire
                choice = to_tool_choice(tool_choice, [tool["function"]["name"] for tool in wire])
                if choice is not None:
                    bound["tool_choice"] = choice
                if parallel_tool_calls is not None:
                    bound["parallel_tool_calls"] = parallel_tool_calls
            if response_format is not None:
                bound["response_format"] = to_response_format(response_format)
        return cast("Runnable[LanguageModelInput, AIMessage]", self.bind(**bound))

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Literal["function_calling", "json_schema", "json_mode"] | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """The model with answers of a schema's form: objects of a pydantic class, dictionaries otherwise.

        Args:
            schema: a pydantic class, `TypedDict`, JSON Schema, function, `BaseTool`, the dictionary of a tool in
                OpenAI's, Anthropic's or Bedrock's form, `{"name": …, "schema": …}` or a json_schema response format.
                `None` for any JSON (method `json_mode`).
            method: `json_schema` (Mistral enforces the schema), `function_calling`, or `json_mode` (the prompt says
                what the JSON shall hold, and holds the word JSON). By default `json_schema` where the model is known to
                have it, else `function_calling`.
            include_raw: give `{"raw": message, "parsed": …, "parsing_error": …}` and raise no parsing error.
            strict: whether the answer must follow the schema to the letter: by default what the schema says, else true
                for `json_schema` and unsaid for `function_calling`.
            **kwargs: bound as they are.

        Raises:
            ValueError: the method needs a schema, there is no such method, or `strict` is said twice and differently.
            OutputParserException: on a call, when the answer was cut off or does not parse; on a stream at its end.
        """
        if method is None:
            method = "json_schema" if (self.profile or {}).get("structured_output") else "function_calling"
            if schema is None:
                method = "json_mode"
        if schema is None and method != "json_mode":
            raise ValueError(f"with_structured_output needs a schema for the method {method!r}.")
        pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
        trace = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        bound: dict[str, Any] = {**kwargs, "ls_structured_output_format": trace}
        parser: OutputParserLike[Any]
        with translated():
            match method:
                case "function_calling":
                    tool = answer_tool(schema, strict=strict)
                    name = tool["function"]["name"]
                    llm: Any = self.bind_tools([tool], tool_choice="any", **bound)
                    parser = (
                        WholePydanticToolParser(key_name=name, pydantic_object=schema)
                        if pydantic
                        else WholeToolParser(key_name=name)
                    )
                case "json_schema" | "json_mode":
                    form: Any = {"type": "json_object"}
                    if method == "json_schema":
                        form = to_response_format(schema, strict=strict)
                    llm = self.bind(response_format=form, **bound)
                    parser = WholePydanticParser(pydantic_object=cast("Any", schema)) if pydantic else WholeJsonParser()
                case _:
                    raise ValueError(f"The method is 'function_calling', 'json_schema' or 'json_mode', not {method!r}.")
        if not include_raw:
            return cast("Runnable[LanguageModelInput, dict[str, Any] | BaseModel]", llm | parser)
        answered: Any = RunnableMap(raw=llm) | with_outcome(parser)
        return cast("Runnable[LanguageModelInput, dict[str, Any] | BaseModel]", answered)

    # Tokens

    def get_num_tokens(self, text: str) -> int:
        """How many tokens a text has: exact with the extra `tokenizer`, else an estimate that is not too low."""
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return count_tokens(text, self.model).tokens

    def get_token_ids(self, text: str) -> list[int]:
        """The tokens of a text in the model's vocabulary.

        Raises:
            ConfigurationError: the extra `tokenizer` is not installed, or does not hold the model's vocabulary.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        ids = token_ids(text, self.model)
        if ids is None:
            with translated():
                raise ConfigurationError(
                    f"The vocabulary of {self.model!r} is not at hand. "
                    'It may come with pip install "lava-mistral[tokenizer]"; get_num_tokens() works without it.'
                )
        return ids

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[ToolLike] | None = None
    ) -> int:
        """How many tokens a conversation has, with its tools; see `get_num_tokens`."""
        with translated():
            return count_tokens(to_wire(messages), self.model, tools=to_tools(tools or ())).tokens
