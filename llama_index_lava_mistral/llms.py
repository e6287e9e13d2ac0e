"""`ChatLavaMistral`: Mistral's chat models through Lava as a LlamaIndex LLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_index.core.base.llms import generic_utils as convert
from llama_index.core.base.llms import types as llama
from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation.events import llm as events
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index_instrumentation import get_dispatcher

from lava_mistral.calls.arguments import refuse_keys
from lava_mistral.frameworks.backends import ClientsOwner
from lava_mistral.transport.flow import Flow, adrive, drive
from llama_index_lava_mistral._instrumentation import observed
from llama_index_lava_mistral._params import ChatSettings

if TYPE_CHECKING:
    from llama_index.core.llms.llm import ToolSelection
    from llama_index.core.llms.structured_llm import StructuredLLM
    from llama_index.core.program.utils import FlexibleModel
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools.types import BaseTool
    from llama_index.core.types import Model
    from pydantic import BaseModel

    from llama_index_lava_mistral._structured import AnswerForm

dispatcher = get_dispatcher(__name__)

_Kwargs: TypeAlias = dict[str, Any] | None


class ChatLavaMistral(ChatSettings, ClientsOwner, FunctionCallingLLM):
    """Mistral's chat models through the Lava AI gateway, for LlamaIndex. (`langchain_lava_mistral` has LangChain's.)

    The settings are its fields; `ChatLavaMistral.model_fields[…].description` says what each means. All but those that
    say where to call can also be given to a call: `llm.chat(messages, temperature=0.2, billing=…)`. What is not set is
    not sent. `ChatLavaMistral("mistral-large-latest")` works too.

    A response's `additional_kwargs` hold `lava_request_id`, `finish_reason`, `cost` (USD as text, where the price is
    known) and the token counts; while thinking streams, `thinking_delta`. Calls that fail raise a `LavaError`.
    """

    context_window: int | None = Field(None, description="Tokens of prompt and answer; else the catalogue's.", gt=0)
    is_function_calling_model: bool | None = Field(None, description="Can it call tools? Else the catalogue says.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serializes the model."""
        return "ChatLavaMistral"

    @property
    def metadata(self) -> llama.LLMMetadata:
        """What LlamaIndex asks of the model, from the catalogue."""
        from lava_mistral.pricing.catalog import get_model

        model, window, calls_tools = get_model(self.model), self.context_window, self.is_function_calling_model
        return llama.LLMMetadata(
            context_window=model.context_window if window is None else window,
            # LlamaIndex's own figure for "not limited".
            num_output=-1 if self.max_tokens is None else self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=model.can("tools") if calls_tools is None else calls_tools,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events say of the model: metadata and the parameters that are set; nothing secret."""
        return {**super().to_payload(), **self._parameters()}

    @observed(llm_chat_callback())
    def chat(self, messages: Sequence[llama.ChatMessage], **kwargs: Any) -> llama.ChatResponse:
        """Return one answer to a conversation."""
        response: llama.ChatResponse = drive(self._answer(False, messages, kwargs))
        return response

    @observed(llm_chat_callback())
    async def achat(self, messages: Sequence[llama.ChatMessage], **kwargs: Any) -> llama.ChatResponse:
        """Return one answer to a conversation."""
        return await adrive(self._answer(True, messages, kwargs))

    @observed(llm_chat_callback())
    def stream_chat(self, messages: Sequence[llama.ChatMessage], **kwargs: Any) -> llama.ChatResponseGen:
        """Return the answer as it grows. The request is sent at once, and who pays is settled then."""
        return drive(self._answer(False, messages, kwargs, streams=True))

    @observed(llm_chat_callback())
    async def astream_chat(self, messages: Sequence[llama.ChatMessage], **kwargs: Any) -> llama.ChatResponseAsyncGen:
        """Return the answer as it grows; see `stream_chat`."""
        return await adrive(self._answer(True, messages, kwargs, streams=True))

    @observed(llm_completion_callback())
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> llama.CompletionResponse:
        """Return one answer to a prompt, which is sent as a user message."""
        return convert.chat_response_to_completion_response(drive(self._answer(False, prompt, kwargs)))

    @observed(llm_completion_callback())
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> llama.CompletionResponse:
        """Return one answer to a prompt."""
        return convert.chat_response_to_completion_response(await adrive(self._answer(True, prompt, kwargs)))

    @observed(llm_completion_callback())
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> llama.CompletionResponseGen:
        """Return the answer to a prompt as it grows."""
        responses = drive(self._answer(False, prompt, kwargs, streams=True))
        return convert.stream_chat_response_to_completion_response(responses)

    @observed(llm_completion_callback())
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> llama.CompletionResponseAsyncGen:
        """Return the answer to a prompt as it grows; see `stream_complete`."""
        responses = await adrive(self._answer(True, prompt, kwargs, streams=True))
        return convert.astream_chat_response_to_completion_response(responses)

    predict_and_call = observed()(FunctionCallingLLM.predict_and_call)
    apredict_and_call = observed()(FunctionCallingLLM.apredict_and_call)

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredLLM:
        """Return this model with answers that are objects of a class."""
        refuse_keys(kwargs)
        from llama_index_lava_mistral._structured import StructuredModel

        return StructuredModel(llm=self, output_cls=output_cls, **kwargs)

    @observed()
    def structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> Model:
        """Return an object of a pydantic class, an enumeration, a union or a list of such, or raise ValueError."""
        form, messages, kwargs = self._asked(output_cls, prompt, llm_kwargs, args)
        output: Model = form.read(self.chat(messages, **kwargs))
        return output

    @observed()
    async def astructured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> Model:
        """Return an object of a class, made by the model; see `structured_predict`."""
        form, messages, kwargs = self._asked(output_cls, prompt, llm_kwargs, args)
        output: Model = form.read(await self.achat(messages, **kwargs))
        return output

    @observed()
    def stream_structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> Generator[Model | FlexibleModel, None, None]:
        """Return the object as it grows. The request is sent at once, and who pays is settled then."""
        form, messages, kwargs = self._asked(output_cls, prompt, llm_kwargs, args, streams=True)
        return form.grow(self.stream_chat(messages, **kwargs))

    @observed()
    async def astream_structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """Return the object as it grows; see `stream_structured_predict`."""
        form, messages, kwargs = self._asked(output_cls, prompt, llm_kwargs, args, streams=True)
        return form.agrow(await self.astream_chat(messages, **kwargs))

    def _asked(
        self, output_cls: Any, prompt: PromptTemplate, llm_kwargs: _Kwargs, args: dict[str, Any], streams: bool = False
    ) -> tuple[AnswerForm[Any], list[llama.ChatMessage], dict[str, Any]]:
        """Return how to get an object from this model, and the conversation and the arguments that ask for it."""
        from llama_index_lava_mistral._structured import answer_form

        given = llm_kwargs or {}
        form = answer_form(self, output_cls, given.get("model", self.model), streams)
        start = events.LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=args)
        dispatcher.event(start)
        messages = self._extend_messages(prompt.format_messages(llm=self, **args))
        return form, messages, form.arguments(given)

    def _answer(
        self, asynchronous: bool, asked: str | Sequence[llama.ChatMessage], kwargs: Any, streams: bool = False
    ) -> Flow[Any]:
        # Loaded with the first call, like all that only calls need.
        from llama_index_lava_mistral._calls import answer

        return answer(self, asynchronous, asked, kwargs, streams)

    @observed()
    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | llama.ChatMessage | None = None,
        chat_history: list[llama.ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of `chat` for a conversation with tools; the history stays as it is."""
        from llama_index_lava_mistral._tools import named_choice, tool_spec

        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(llama.ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)
        choice = named_choice(kwargs.pop("tool_choice", None))
        return {
            "messages": messages,
            "tools": [tool_spec(tool) for tool in tools],
            "tool_choice": choice if choice is not None else "any" if tool_required else self.tool_choice or "auto",
            "parallel_tool_calls": self._allows_parallel_calls(allow_parallel_tool_calls),
            **kwargs,
        }

    def _allows_parallel_calls(self, allowed: bool) -> bool:
        # An agent allows it unasked; who forbids it on the model has a reason.
        return allowed and self.parallel_tool_calls is not False

    def _validate_chat_with_tools_response(
        self,
        response: llama.ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> llama.ChatResponse:
        """Keep one call alone where several are not allowed, whatever the model did."""
        message = response.message
        further = [block for block in message.blocks if isinstance(block, llama.ToolCallBlock)][1:]
        if further and not self._allows_parallel_calls(allow_parallel_tool_calls):
            message.blocks = [block for block in message.blocks if not any(block is each for each in further)]
            message.additional_kwargs["tool_calls"] = message.additional_kwargs["tool_calls"][:1]
        return response

    def get_tool_calls_from_response(
        self, response: llama.ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tools that a response calls, with the arguments as far as they have come while it grows.

        With `error_on_no_tool_call`, a malformed call and the lack of any raise ValueError; otherwise a malformed call
        selects no tool, so that an agent tells the model why.
        """
        from llama_index_lava_mistral._tools import calls_of, selection_of

        calls = calls_of(response.message)
        if not calls and error_on_no_tool_call:
            raise ValueError(
                f"Expected a tool call; the model answered with text: {(response.message.content or '')[:200]!r}. "
                "tool_required=True makes it call one."
            )
        finish_reason = response.additional_kwargs.get("finish_reason")
        return [selection_of(call, finish_reason, strict=error_on_no_tool_call) for call in calls]
