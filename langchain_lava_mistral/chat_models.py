"""`ChatLavaMistral` for LangChain: Mistral's chat models through Lava."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from hashlib import sha256
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel, SecretStr, model_validator

from langchain_lava_mistral._content_blocks import PROVIDER
from langchain_lava_mistral._from_wire import added, head_metadata, tail_metadata, to_result
from langchain_lava_mistral._params import (
    FRAMEWORK,
    KNOWN,
    PARAMETERS,
    SETTINGS,
    ChatParameters,
    ChatRequest,
    check_call,
    named,
)
from langchain_lava_mistral._profiles import profile_of
from langchain_lava_mistral._settings import Made, new_clients, shared_settings
from langchain_lava_mistral._stream_chunks import ChunkBuilder
from langchain_lava_mistral._structured import structured
from langchain_lava_mistral._to_wire import to_wire
from langchain_lava_mistral._tools import (
    ToolLike,
    names_of,
    normalize,
    to_response_format,
    to_tools,
    without_authorization,
)
from langchain_lava_mistral.callbacks import CallRun, traced
from langchain_lava_mistral.errors import translated
from lava_mistral.billing.scope import note_call
from lava_mistral.errors import ConfigurationError, InvalidRequestError
from lava_mistral.mistral.tools import to_tool_choice
from lava_mistral.pricing.tokenizers import token_ids
from lava_mistral.pricing.tokens import count_tokens

if TYPE_CHECKING:
    from lava_mistral.client.async_client import AsyncLavaMistral
    from lava_mistral.client.sync_client import LavaMistral

_RUN = "_run"
# The settings of the model's clients that a call may change.
_OF_A_CALL = frozenset(("timeout", "max_retries", "stream_chunk_timeout"))
_IN_USERS_FORMS = frozenset(("stop", "tools", "tool_choice", "response_format", "prediction"))


class ChatLavaMistral(ChatParameters, BaseChatModel):
    """Mistral's chat models through Lava, for LangChain (`langchain_lava_mistral`).

    Everything that `BaseChatModel` does works: invoke, stream, batch, their async forms, tools, structured output,
    `create_agent`, events, caches, tracing. A parameter that is not set is not sent, since Mistral's defaults differ
    by model.

        model = ChatLavaMistral(model="mistral-small-2603")
        model.invoke("Why is the sky blue?").text

    Whatever says what is asked and how can be given to `invoke`, `bind` and their like too, `billing=` and
    `lava_metadata=` included: `model.invoke(…, billing=Billing(customer_id="c_1", meter_slug="chat"))`. The names that
    other integrations use (`model_name`, `random_seed`, `max_completion_tokens`, `stop_sequences`, `request_timeout`,
    `extra_body`, …) are understood.

    A tool call whose arguments were cut off stands in `invalid_tool_calls`, streamed or not: no agent runs it.

    A message's `response_metadata` holds `model_name`, `model_provider`, `finish_reason`, `id`, `created`,
    `lava_request_id` and, where the model's prices are known, `cost`: USD as text with every digit, for `Decimal`.
    With `n` above 1, and while streaming, usage and cost stand on one message or chunk only, so that sums are right.

    Args:
        model: the model's name.
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
        min_tokens: of the answer.
        top_p: nucleus sampling, 0 to 1.
        top_k: how many tokens to choose from.
        stop: texts that end the answer.
        seed: makes answers repeatable (`random_seed` on the wire).
        presence_penalty: -2 to 2.
        frequency_penalty: -2 to 2.
        repetition_penalty: above 0.
        n: how many answers; `generate` gives them all. More than one is not streamed.
        safe_prompt: Mistral's safety prompt in front of the conversation.
        tool_choice: for calls with tools, in any form that `bind_tools` takes.
        parallel_tool_calls: whether the model may call several tools in one turn.
        prompt_mode: `"reasoning"` for magistral models.
        reasoning_effort: how long the model thinks, from `"none"` to `"high"`.
        prediction: the expected answer, as text or in Mistral's form.
        response_format: JSON mode or a schema, in any form that `with_structured_output` takes.
        prompt_cache_key: groups prompts for Mistral's cache; `"auto"` takes LangGraph's `thread_id`, else the system
            prompt and the tools: agents then pay a tenth for what they send again.
        logprobs: give the probabilities of the answer's tokens.
        top_logprobs: of how many other tokens at each place.
        prompt_logprobs: of the prompt's tokens.
        service_tier: Mistral's tier of service.
        guardrails: Mistral's own guardrails, in its form.
        mistral_metadata: Mistral's own `metadata`, stored with the request there.
        model_kwargs: further fields of the request's body.
        streaming: `True` streams under `invoke` too; `False` never streams.
        timeout: seconds for an answer, or for a stream to begin; `None` for no limit.
        max_retries: how often a call is tried again after 408, 429, 5xx, connection errors and timeouts. Nothing is
            tried again once a stream's first chunk is there.
        stream_chunk_timeout: seconds between two chunks of a stream; `None` for no limit.
        http_client: an `httpx.Client` or `httpx2.Client` to send with; it stays yours to close.
        http_async_client: an `httpx.AsyncClient` or `httpx2.AsyncClient` for async calls.
        repair_messages: repair what Mistral would refuse in a conversation, losing no word; false refuses it.

    Raises:
        pydantic.ValidationError: a setting is wrong, misspelt or has no meaning here (it is a `ValueError`).
    """

    @model_validator(mode="after")
    def _check_settings(self) -> ChatLavaMistral:
        with translated():
            self._clients({})
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
        """Return true: LangChain can write the model down; the key is left out and named, `billing` is left out."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where the key comes from when a model is read back."""
        if isinstance(self.api_key, SecretStr):
            forwards = not self.api_key.get_secret_value().startswith("aks_")
        else:
            forwards = self.api_key is None and "LAVA_FORWARD_TOKEN" in os.environ
        return {"api_key": "LAVA_FORWARD_TOKEN" if forwards else "LAVA_SECRET_KEY"}

    def __repr_args__(self) -> Any:
        # LangChain shows what differs from the defaults, and a profile of twenty lines.
        yield "model", self.model
        yield from ((name, value) for name, value in super().__repr_args__() if name not in ("model", "profile"))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url, **self.parameters()}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # What may hold a secret is refused when the call is made; its trace is written before that.
        params = {"model": self.model, "base_url": self.base_url, **self.parameters(), "_type": "lava-mistral-chat"}
        hidden = SETTINGS | FRAMEWORK
        params.update((name, value) for name, value in named(kwargs).items() if name in KNOWN and name not in hidden)
        if "tools" in params:
            params["tools"] = without_authorization(params["tools"])
        return params if stop is None else {**params, "stop": stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        kwargs = {**named(kwargs)}
        stop = kwargs.pop("stop", self.stop) if stop is None else stop
        params = super()._get_ls_params(stop=[stop] if isinstance(stop, str) else stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # The key of a cache: what is asked, whoever pays for it. LangChain's own is made of a serialization that it
        # keeps from the first call on, whatever is changed in the model.
        hidden = SETTINGS | FRAMEWORK
        given = {name: value for name, value in named(kwargs).items() if name not in hidden}
        return str(sorted({**self._identifying_params, "stop": stop or self.stop, **given}.items(), key=itemgetter(0)))

    def _resolve_model_profile(self) -> ModelProfile:
        return profile_of(self.model)

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        combined: dict[str, Any] = {}
        for output in llm_outputs:
            added(combined, output or {})
        return combined

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        note_call()
        generations = super()._convert_cached_generations([each.model_copy() for each in cache_val])
        for generation in generations:
            metadata = generation.message.response_metadata
            if "cost" in metadata:
                # LangChain counts a hit as free, and so it was.
                update = {"response_metadata": {**metadata, "cost": "0"}}
                generation.message = generation.message.model_copy(update=update)
        return generations

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        asked = kwargs.pop("streaming", None)
        # A stream is one message; several answers at once would run into each other.
        if asked is False or (named(kwargs).get("n") or self.n or 1) > 1:
            return True
        if asked and self.streaming is False:
            return self.model_copy(update={"streaming": None})._streaming_disabled(**kwargs)
        return super()._streaming_disabled(**kwargs)

    # Calls

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = self._run(kwargs, run_manager)
        with translated(), run.counted():
            request = self._request(messages, stop, kwargs, run)
            answer = request.client.chat(**request.arguments, on_retry=run.on_retry)
        return to_result(answer, headers=request.headers)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = self._run(kwargs, run_manager)
        with translated():
            try:
                with run.counted():
                    request = self._request(messages, stop, kwargs, run)
                    answer = await request.async_client.chat(**request.arguments, on_retry=run.on_retry_soon)
            finally:
                await run.told()
        return to_result(answer, headers=request.headers)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = self._run(kwargs, run_manager)
        with translated():
            with run.counted():
                request = self._request(messages, stop, kwargs, run, stream=True)
                opened = request.client.stream(**request.arguments, on_retry=run.on_retry)
            with opened as stream:
                builder = ChunkBuilder(head_metadata(stream, headers=request.headers))
                for delta in stream:
                    chunk = builder.chunk(delta) if delta.index == 0 else None
                    if chunk is not None:
                        if run_manager is not None:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                chunk = builder.last(*tail_metadata(stream), stream.turn.tool_calls)
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
        run = self._run(kwargs, run_manager)
        with translated():
            try:
                with run.counted():
                    request = self._request(messages, stop, kwargs, run, stream=True)
                    opened = await request.async_client.stream(**request.arguments, on_retry=run.on_retry_soon)
            finally:
                await run.told()
            async with opened as stream:
                run.opened = stream
                builder = ChunkBuilder(head_metadata(stream, headers=request.headers))
                async for delta in stream:
                    chunk = builder.chunk(delta) if delta.index == 0 else None
                    if chunk is not None:
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                chunk = builder.last(*tail_metadata(stream), stream.turn.tool_calls)
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
        """Return the answer, chunk by chunk. The request is sent when the first is asked for, billed as of now.

        Closing the iterator closes the connection.

        Raises:
            LavaError: while iterating, when the call failed or the stream ended early (`StreamInterruptedError`, with
                what had come).
        """
        kwargs[_RUN] = run = CallRun.begin(config, self.callbacks)
        return super().stream(input, run.config, stop=stop, **kwargs)

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Return the answer, chunk by chunk; see `stream`."""
        kwargs[_RUN] = run = CallRun.begin(config, self.callbacks)
        return self._closing(run, super().astream(input, run.config, stop=stop, **kwargs))

    @staticmethod
    async def _closing(run: CallRun, chunks: Any) -> AsyncIterator[AIMessageChunk]:
        """Close the connection with the iterator: an async generator that is left is only closed by the event loop."""
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        finally:
            if run.opened is not None:
                await run.opened.aclose()

    # LangChain gives `_stream` no run manager where a model streams under `invoke`.

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        kwargs = self._with_run(kwargs, run_manager)
        return super()._generate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        kwargs = self._with_run(kwargs, run_manager)
        return await super()._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)

    def _with_run(self, kwargs: dict[str, Any], manager: Any) -> dict[str, Any]:
        streams = {"stream": True} if kwargs.get("streaming") else {}
        return {**kwargs, **streams, _RUN: self._run(kwargs, manager)}

    # The request

    @staticmethod
    def _run(kwargs: Mapping[str, Any], manager: Any) -> CallRun:
        run: CallRun = kwargs.get(_RUN) or CallRun()
        run.manager = manager or run.manager
        return run

    def _clients(self, changed: Mapping[str, Any]) -> tuple[LavaMistral, AsyncLavaMistral]:
        """Return the clients of the present settings, made anew only where one has changed."""
        fields = self.__dict__
        settings = {name: fields[name] for name in _OF_A_CALL} | {**changed}
        if changed:
            return new_clients(fields, **settings)
        present = shared_settings(fields), settings, dict(self.lava_metadata or ())
        if self._made.settings != present:
            self._made = Made(present, new_clients(fields, **settings))
        return cast("tuple[LavaMistral, AsyncLavaMistral]", self._made.value)

    def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        run: CallRun,
        *,
        stream: bool = False,
    ) -> ChatRequest:
        """Return a call, resolved from the model's settings and its own arguments."""
        parameters = self.parameters()
        said: dict[str, Any] = {}
        self._check_names(kwargs)
        for name, value in named(kwargs).items():
            if name in SETTINGS:
                said[name] = value
            elif name not in FRAMEWORK:
                parameters[PARAMETERS.get(name, name)] = value
        if stop is not None:
            parameters["stop"] = stop
        if stream and (parameters.get("n") or 1) > 1:
            raise InvalidRequestError("A stream is one message: ask for n > 1 with generate() or invoke().")
        if not _IN_USERS_FORMS.isdisjoint(parameters):
            normalize(parameters)
        parameters.setdefault("model", self.model)
        metadata = said.get("lava_metadata")
        if said.get("trace_metadata", self.trace_metadata):
            metadata = traced(metadata)
        parameters["messages"] = to_wire(messages)
        if parameters.get("prompt_cache_key") == "auto" and (thread := run.thread_id()) is not None:
            # Without a thread the core derives one from the beginning of the conversation.
            parameters["prompt_cache_key"] = sha256(thread.encode()).hexdigest()[:32]
        parameters["billing"] = said.get("billing")
        parameters["lava_metadata"] = metadata
        parameters["repair_messages"] = said.get("repair_messages", self.repair_messages)
        changed = {name: said[name] for name in _OF_A_CALL & said.keys()} if said else said
        return ChatRequest(
            *self._clients(changed), parameters, said.get("include_response_headers", self.include_response_headers)
        )

    # Tools and schemas

    def bind(self, **kwargs: Any) -> Any:
        """Return the model with arguments for all its calls.

        Raises:
            ConfigurationError: an argument is misspelt, is a key, or has no meaning here.
        """
        with translated():
            self._check_names(kwargs)
        return super().bind(**kwargs)

    @staticmethod
    def _check_names(kwargs: Mapping[str, Any]) -> None:
        unknown = named(kwargs).keys() - KNOWN
        if unknown:
            check_call(unknown, free={**(kwargs.get("model_kwargs") or {}), **(kwargs.get("extra_body") or {})})

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
        """Return the model with tools that it may call.

        Args:
            tools: pydantic classes, `TypedDict`s, functions, `BaseTool`s, JSON Schemas with a title, dictionaries of
                OpenAI's, Anthropic's or Bedrock's form, or tools that Mistral runs itself (`{"type": "web_search"}`).
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
            if wire:
                choice = to_tool_choice(tool_choice, names_of(wire))
                given = {"tools": wire, "tool_choice": choice, "parallel_tool_calls": parallel_tool_calls}
                kwargs.update((name, value) for name, value in given.items() if value is not None)
            if response_format is not None:
                kwargs["response_format"] = to_response_format(response_format)
        return cast("Runnable[LanguageModelInput, AIMessage]", self.bind(**kwargs))

    def with_structured_output(
        self,
        schema: ToolLike | None = None,
        *,
        method: Literal["function_calling", "json_schema", "json_mode"] | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return the model with answers of a schema's form: objects of a pydantic class, dictionaries otherwise.

        Args:
            schema: a pydantic class, `TypedDict`, JSON Schema, function, `BaseTool`, the dictionary of a tool in
                OpenAI's, Anthropic's or Bedrock's form, `{"name": …, "schema": …}` or a json_schema response format; an
                `Enum`, `list[…]`, union or another type that pydantic knows. `None` for any JSON (method `json_mode`).
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
        with translated():
            return structured(self, schema, method=method, include_raw=include_raw, strict=strict, bound=kwargs)

    # Tokens

    def get_num_tokens(self, text: str) -> int:
        """Count the tokens of a text: exactly with the extra `tokenizer`, else by an estimate that is not too low."""
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return count_tokens(text, self.model).tokens

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of a text in the model's vocabulary.

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
        """Count the tokens of a conversation, with its tools; see `get_num_tokens`."""
        with translated():
            return count_tokens(to_wire(messages), self.model, tools=to_tools(tools or ())).tokens
