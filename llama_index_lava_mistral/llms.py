"""`ChatLavaMistral`: Mistral's chat models through Lava as a LlamaIndex LLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, cast

from llama_index.core.base.llms.generic_utils import (
    achat_to_completion_decorator,
    astream_chat_to_completion_decorator,
    chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel, Field, field_validator
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from llama_index_instrumentation import get_dispatcher

from lava_mistral.billing.listeners import Surroundings
from lava_mistral.calls.chat_body import refuse_keys
from lava_mistral.client._base import DEFAULT_CHAT_MODEL, DEFAULT_TIMEOUT
from lava_mistral.client.streams import AsyncChatStream, ChatStream
from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.tools import to_tool_choice
from lava_mistral.pricing.catalog import get_model
from llama_index_lava_mistral._convert import (
    named_choice,
    own_names,
    response_format_of,
    to_wire,
    tool_calls_of,
    tool_specs,
    with_own_names,
)
from llama_index_lava_mistral._discretion import billing_of, discreet, shown, within_a_span
from llama_index_lava_mistral._responses import StreamedResponses, arguments_of, response_of
from llama_index_lava_mistral._settings import OF_THE_CLIENT, LavaSettings
from llama_index_lava_mistral._structured import StructuredModel, StructuredProgram
from llama_index_lava_mistral.callbacks import counted, traced

if TYPE_CHECKING:
    from llama_index.core.program.utils import FlexibleModel
    from llama_index.core.tools.types import BaseTool

dispatcher = get_dispatcher(__name__)


def _responses(stream: ChatStream) -> Generator[ChatResponse | None, None, None]:
    """The responses of a stream, after a first `None`."""
    so_far = StreamedResponses(stream)
    with stream:
        yield None
        for delta in stream:
            response = so_far.take(delta)
            if response is not None:
                yield response


async def _aresponses(stream: AsyncChatStream) -> AsyncGenerator[ChatResponse | None, None]:
    so_far = StreamedResponses(stream)
    async with stream:
        yield None
        async for delta in stream:
            response = so_far.take(delta)
            if response is not None:
                yield response


def _check_end(last: ChatResponse) -> None:
    """Refuse half a call at the end of a stream that gave no reason to end; with one, whoever reads the calls does."""
    if "finish_reason" not in last.additional_kwargs:
        for call in tool_calls_of(last.message):
            arguments_of(call, "none")


def _refuse_several(n: Any) -> None:
    if isinstance(n, int) and n > 1:
        raise ConfigurationError(
            f"LlamaIndex has one answer a call; n={n} would pay for more, which nobody gets to see. Call {n} times, or "
            "use langchain_lava_mistral or lava_mistral.LavaMistral."
        )


class ChatLavaMistral(LavaSettings, FunctionCallingLLM):
    """Mistral's chat models through the Lava AI gateway, for LlamaIndex. (`langchain_lava_mistral` has LangChain's.)

    Every parameter of a completion can also be given to a single call: `llm.chat(messages, temperature=0.2)`; so can
    `billing=`, `lava_metadata=`, `trace_metadata=`, `timeout=`, `stream_chunk_timeout=`, `max_retries=` and
    `repair_messages=`. What is not set is not sent: Mistral's own defaults differ by model.

    A response carries `additional_kwargs` with `lava_request_id`, `finish_reason`, `cost` (USD, `Decimal`, where the
    price is known) and the token counts; while thinking streams, `thinking_delta`. `raw` is a dictionary.

    Args:
        model: the model's name, also by position; `lava-mistral models` lists them. Others work too.
        api_key: Lava's secret key or a forward token: text, a `SecretStr` or a function returning it. By default
            `LAVA_FORWARD_TOKEN`, then `LAVA_SECRET_KEY`, read when a call is made.
        base_url: by default `LAVA_BASE_URL`, else what the key's prefix says.
        billing: who pays.
        lava_metadata: text pairs that Lava stores with each request.
        trace_metadata: add the id of the call's span to them, as `llama_index_span_id`, so that a request in Lava's
            dashboard leads to its trace.
        spend_limit: USD that all calls of this object may cost together, or a `SpendLimit` to share. A call that could
            pass it is refused before it is sent (`SpendLimitError`).
        temperature: 0 to 1.5.
        max_tokens: the longest answer, in tokens; no limit by default.
        n: 1, since LlamaIndex has one answer a call.
        parallel_tool_calls: false forbids several calls in one turn, also where an agent would allow them.
        response_format: JSON mode or a JSON schema in Mistral's form, or a pydantic class.
        streaming: without effect; LlamaIndex streams where `stream_chat` and its like are called.
        context_window: overrides what the catalogue says.
        is_function_calling_model: overrides what the catalogue says.
        additional_kwargs: further fields of Mistral's request.
        timeout: seconds for an answer, or for a stream to begin.
        stream_chunk_timeout: seconds between two chunks of a stream.
        max_retries: how often a call is tried again.
        repair_messages: repair what Mistral would refuse in a conversation, losing no word; false refuses it.
        http_client: an `httpx.Client` to send with; `async_http_client` its async twin.

    Raises:
        LavaError: from every call that fails; its class says how.
    """

    model: str = Field(default=DEFAULT_CHAT_MODEL, description="The model's name.")
    temperature: float | None = Field(default=None, description="Randomness of the answer.", ge=0.0, le=1.5)
    max_tokens: int | None = Field(default=None, description="The longest answer, in tokens.", gt=0)
    top_p: float | None = Field(default=None, description="Nucleus sampling.", gt=0.0, le=1.0)
    stop: str | list[str] | None = Field(default=None, description="Texts that end the answer.")
    seed: int | None = Field(default=None, description="Makes the answer repeatable; random_seed on the wire.")
    presence_penalty: float | None = Field(default=None, description="Against words that were used.")
    frequency_penalty: float | None = Field(default=None, description="Against words that were used often.")
    safe_prompt: bool | None = Field(default=None, description="Put Mistral's safety prompt first.")
    parallel_tool_calls: bool | None = Field(default=None, description="May one turn call several tools?")
    prompt_mode: str | None = Field(default=None, description="'reasoning' for magistral models.")
    reasoning_effort: str | None = Field(default=None, description="How much to think: 'high' or 'none'.")
    prediction: dict[str, Any] | None = Field(default=None, description="What is expected of the answer.")
    n: int | None = Field(default=None, description="1: LlamaIndex has one answer a call.", ge=1)
    response_format: dict[str, Any] | None = Field(default=None, description="Text, JSON or a JSON schema.")
    prompt_cache_key: str | None = Field(default=None, description="Groups prompts for Mistral's cache.")
    additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="Further fields of Mistral's request.")
    streaming: bool | None = Field(
        default=None, description="Without effect: stream_chat and its like stream.", exclude=True
    )
    stream_chunk_timeout: float | None = Field(
        default=DEFAULT_TIMEOUT, description="Seconds between two chunks of a stream.", gt=0, exclude=True
    )
    repair_messages: bool = Field(
        default=True, description="Repair conversations that Mistral would refuse; false refuses them."
    )
    context_window: int | None = Field(
        default=None, description="Tokens that prompt and answer may have together; else the catalogue's.", gt=0
    )
    is_function_calling_model: bool | None = Field(
        default=None, description="Whether the model calls tools; else the catalogue's."
    )

    _synonyms: ClassVar[Mapping[str, str]] = {
        **LavaSettings._synonyms,
        "safe_mode": "safe_prompt",
        "random_seed": "seed",
        "stop_sequences": "stop",
        "model_name": "model",
        "model_kwargs": "additional_kwargs",
    }
    # Fields that are sent as they are, by their name on the wire.
    _sent: ClassVar[Mapping[str, str]] = {
        name: name
        for name in (
            "temperature",
            "max_tokens",
            "top_p",
            "stop",
            "presence_penalty",
            "frequency_penalty",
            "n",
            "safe_prompt",
            "parallel_tool_calls",
            "prompt_mode",
            "reasoning_effort",
            "prediction",
            "response_format",
            "prompt_cache_key",
        )
    } | {"seed": "random_seed"}

    @field_validator("response_format", mode="before")
    @classmethod
    def _take_a_class(cls, value: Any) -> Any:
        return None if value is None else response_format_of(value)

    @field_validator("n")
    @classmethod
    def _check_n(cls, value: int | None) -> int | None:
        _refuse_several(value)
        return value

    @field_validator("additional_kwargs")
    @classmethod
    def _check_additional_kwargs(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse_keys(value)
        _refuse_several(value.get("n"))
        return value

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serializes the model."""
        return "ChatLavaMistral"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex asks of the model; a model that the catalogue does not know gets cautious figures."""
        model = get_model(self.model)
        return LLMMetadata(
            context_window=model.context_window if self.context_window is None else self.context_window,
            # LlamaIndex's own figure for "not limited".
            num_output=-1 if self.max_tokens is None else self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=model.can("tools")
            if self.is_function_calling_model is None
            else self.is_function_calling_model,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events say of the model: metadata and the parameters that are set; nothing secret."""
        return {**super().to_payload(), **self._set_parameters()}

    @discreet
    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """One answer to a conversation."""
        return self._chat(messages, **kwargs)

    @discreet
    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """One answer to a conversation."""
        return await self._achat(messages, **kwargs)

    @discreet
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """The answer as it grows. The request is sent at once, and who pays is settled then."""
        return self._stream_chat(messages, **kwargs)

    @discreet
    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """The answer as it grows."""
        return await self._astream_chat(messages, **kwargs)

    @discreet
    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """One answer to a prompt, which is sent as a user message."""
        return chat_to_completion_decorator(self._chat)(prompt, **kwargs)

    @discreet
    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """One answer to a prompt."""
        return await achat_to_completion_decorator(self._achat)(prompt, **kwargs)

    @discreet
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The answer to a prompt as it grows."""
        return stream_chat_to_completion_decorator(self._stream_chat)(prompt, **kwargs)

    @discreet
    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """The answer to a prompt as it grows."""
        return await astream_chat_to_completion_decorator(self._astream_chat)(prompt, **kwargs)

    predict_and_call = discreet(FunctionCallingLLM.predict_and_call)
    apredict_and_call = discreet(FunctionCallingLLM.apredict_and_call)

    def _chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        said = self._said(kwargs)
        with counted():
            return response_of(self._sync_client(said).chat(**self._call(messages, said)))

    async def _achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        said = self._said(kwargs)
        with counted():
            return response_of(await self._async_client(said).chat(**self._call(messages, said)))

    def _stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        said = self._said(kwargs)
        with counted():
            stream = self._sync_client(said).stream(**self._call(messages, said))
        responses = _responses(stream)
        # Into the block that closes the stream: nobody may ever ask for a response.
        next(responses)
        return cast("ChatResponseGen", responses)

    async def _astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        said = self._said(kwargs)
        with counted():
            stream = await self._async_client(said).stream(**self._call(messages, said))
        responses = _aresponses(stream)
        await anext(responses)
        return cast("ChatResponseAsyncGen", responses)

    def _client_settings(self) -> dict[str, Any]:
        return super()._client_settings() | {"stream_chunk_timeout": self.stream_chunk_timeout}

    def _set_parameters(self) -> dict[str, Any]:
        values = ((wire, getattr(self, name)) for name, wire in self._sent.items())
        return {name: value for name, value in values if value is not None}

    def _said(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What a call says with these keyword arguments, each under the name of its field."""
        said = self._by_name(kwargs)
        return {**self._by_name(self.additional_kwargs), **(said.pop("additional_kwargs", None) or {}), **said}

    def _call(self, messages: Sequence[ChatMessage], said: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the client for a call that says this."""
        given = {self._sent.get(name, name): value for name, value in said.items() if name not in OF_THE_CLIENT}
        call: dict[str, Any] = {
            "model": self.model,
            "repair_messages": self.repair_messages,
            **self._set_parameters(),
            **given,
        }
        call.pop("streaming", None)
        _refuse_several(call.get("n"))
        if call.get("response_format") is not None:
            call["response_format"] = response_format_of(call["response_format"])
        call["billing"] = billing_of(call.get("billing"))
        if call.pop("trace_metadata", self.trace_metadata):
            call["lava_metadata"] = traced(call.get("lava_metadata"))
        call["messages"] = to_wire(messages)
        tools = tool_specs(call.pop("tools", None) or ())
        choice = named_choice(call.pop("tool_choice", None))
        if tools:
            call["tools"] = tools
            call["tool_choice"] = to_tool_choice(choice, [tool["function"]["name"] for tool in tools])
        else:
            call.pop("parallel_tool_calls", None)
        return call

    @discreet
    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of `chat` for a conversation with tools; the history stays as it is."""
        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(
                ChatMessage(role=MessageRole.USER, content=user_msg) if isinstance(user_msg, str) else user_msg
            )
        choice = named_choice(kwargs.pop("tool_choice", None))
        return {
            "messages": messages,
            "tools": tool_specs(tools),
            "tool_choice": choice if choice is not None else "any" if tool_required else "auto",
            "parallel_tool_calls": self._may_call_several(allow_parallel_tool_calls),
            **kwargs,
        }

    def _may_call_several(self, allowed: bool) -> bool:
        # An agent allows it unasked; who forbids it on the model has a reason.
        return allowed and self.parallel_tool_calls is not False

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """One call alone where several are not allowed, whatever the model did; and the tools' own names."""
        message = response.message
        calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
        if not calls:
            return response
        if len(calls) > 1 and not self._may_call_several(allow_parallel_tool_calls):
            further = {id(call) for call in calls[1:]}
            message.blocks = [block for block in message.blocks if id(block) not in further]
            message.additional_kwargs["tool_calls"] = message.additional_kwargs["tool_calls"][:1]
        with_own_names(message, own_names(tools))
        return response

    def stream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponseGen:
        """The answer of a model with tools as it grows.

        Raises:
            ValueError: while iterating, when the answer ends without a reason in the middle of a call.
        """
        responses = super().stream_chat_with_tools(
            tools, user_msg, chat_history, verbose, allow_parallel_tool_calls, tool_required, **kwargs
        )
        names = own_names(tools)

        def checked() -> ChatResponseGen:
            last = ChatResponse(message=ChatMessage())
            for last in responses:
                with_own_names(last.message, names)
                yield last
            _check_end(last)

        return checked()

    async def astream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponseAsyncGen:
        """The answer of a model with tools as it grows; see `stream_chat_with_tools`."""
        responses = await super().astream_chat_with_tools(
            tools, user_msg, chat_history, verbose, allow_parallel_tool_calls, tool_required, **kwargs
        )
        names = own_names(tools)

        async def checked() -> ChatResponseAsyncGen:
            last = ChatResponse(message=ChatMessage())
            async with aclosing(responses):
                async for last in responses:
                    with_own_names(last.message, names)
                    yield last
            _check_end(last)

        return checked()

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tools that a response calls, with the arguments as far as they have come while it grows.

        Raises:
            ValueError: there is none, and `error_on_no_tool_call` is set; or the answer has ended and the arguments of
                one are not whole, so that the tool must not run.
        """
        calls = tool_calls_of(response.message)
        if not calls and error_on_no_tool_call:
            raise ValueError(
                f"Expected a tool call; the model answered with text: {(response.message.content or '')[:200]!r}. "
                "tool_required=True makes it call one."
            )
        finish_reason = response.additional_kwargs.get("finish_reason")
        return [
            ToolSelection(tool_id=call.id, tool_name=call.name, tool_kwargs=arguments_of(call, finish_reason))
            for call in calls
        ]

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredModel:
        """This model with answers that are objects of a class."""
        return StructuredModel(llm=self, output_cls=output_cls, **kwargs)

    @discreet
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of a class, made by the model.

        Raises:
            ValueError: the model's answer is no such object.
        """
        program = self._program(output_cls, prompt, llm_kwargs)
        if program is None:
            predicted: Model = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return predicted
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        result = program.call(llm_kwargs, prompt_args)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    @discreet
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of a class, made by the model; see `structured_predict`."""
        program = self._program(output_cls, prompt, llm_kwargs)
        if program is None:
            predicted: Model = await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return predicted
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        result = await program.acall(llm_kwargs, prompt_args)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    @within_a_span
    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | FlexibleModel, None, None]:
        """The object as it grows. The model is asked when the first is read, and billed to whom this call is."""
        objects = super().stream_structured_predict(output_cls, prompt, shown(llm_kwargs or {}), **prompt_args)
        return Surroundings.here().steps(objects)

    @within_a_span
    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """The object as it grows; see `stream_structured_predict`."""
        objects = await super().astream_structured_predict(output_cls, prompt, shown(llm_kwargs or {}), **prompt_args)
        return Surroundings.here().asteps(objects)

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | list[Model] | FlexibleModel | list[FlexibleModel], None, None]:
        program = self._program(output_cls, prompt, llm_kwargs)
        if program is None:
            return super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        return program.stream(llm_kwargs, prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | list[Model] | FlexibleModel | list[FlexibleModel], None]:
        program = self._program(output_cls, prompt, llm_kwargs)
        if program is None:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        return program.astream(llm_kwargs, prompt_args)

    def _program(
        self, output_cls: type[Model], prompt: BasePromptTemplate, llm_kwargs: Mapping[str, Any] | None
    ) -> StructuredProgram[Model] | None:
        """How to get an object from this model; `None` leaves it to LlamaIndex, which asks for JSON in words."""
        model = get_model((llm_kwargs or {}).get("model", self.model))
        match self.pydantic_program_mode:
            case PydanticProgramMode.DEFAULT if model.can("structured_output"):
                return StructuredProgram(self, output_cls, prompt, by_schema=True)
            case PydanticProgramMode.DEFAULT | PydanticProgramMode.FUNCTION if self.metadata.is_function_calling_model:
                return StructuredProgram(self, output_cls, prompt, by_schema=False)
            case _:
                return None
