"""Ask for answers as objects: by a JSON schema where the model has it, else by a tool that it must call.

LlamaIndex's own program does not force the tool when it streams, and forgets the system prompt in async code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeAlias, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    ToolCallBlock,
)
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import (
    BaseModel,
    PydanticSchemaGenerationError,
    PydanticUserError,
    RootModel,
    ValidationError,
    create_model,
)

from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.json_codec import unfenced
from lava_mistral.mistral.turn import CUT_OFF
from lava_mistral.pricing.catalog import get_model
from llama_index_lava_mistral._redaction import redacted, resumed, without_span
from llama_index_lava_mistral._tools import function_of, partial_json, response_format_of

dispatcher = get_dispatcher(__name__)

_Kwargs: TypeAlias = dict[str, Any] | None

# What the way of asking decides.
_DECIDED = ("tool_required", "tool_choice", "allow_parallel_tool_calls", "tools", "response_format")


class AnswerForm(Generic[Model]):
    """How to ask a model for an object, by a JSON schema or a tool, and how to read it from the answer.

    For a type that is no pydantic class (an enumeration, a union, a list), the object has one field.
    """

    def __init__(self, output_cls: Any, by_schema: bool) -> None:
        self._by_schema = by_schema
        self._name: str = getattr(output_cls, "__name__", str(output_cls))
        is_class = isinstance(output_cls, type) and issubclass(output_cls, BaseModel)
        self.is_wrapped = not is_class or issubclass(output_cls, RootModel)
        try:
            self._cls: type[BaseModel] = (
                create_model("Answer", value=(output_cls, ...)) if self.is_wrapped else output_cls
            )
            self._flexible: type[BaseModel] = create_flexible_model(self._cls)
            if by_schema:
                self._arguments: dict[str, Any] = {"response_format": response_format_of(self._cls)}
            else:
                function = function_of(self._cls)
                self._arguments = {
                    "tools": [{"type": "function", "function": function}],
                    "tool_choice": function["name"],
                    "parallel_tool_calls": False,
                }
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise ConfigurationError(
                f"An answer can't be asked for as {output_cls!r}: there is no JSON schema for it. Use a pydantic class."
            ) from error

    def arguments(self, llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the arguments of a chat that asks for the object."""
        return {k: v for k, v in (llm_kwargs or {}).items() if k not in _DECIDED} | self._arguments

    def read(self, response: ChatResponse) -> Model:
        """Return the object in an answer, or raise ValueError."""
        text = self._text(response)
        try:
            made = self._cls.model_validate_json(text)
        except ValidationError as error:
            cut_off = response.additional_kwargs.get("finish_reason") in CUT_OFF
            advice = " The answer was cut off: give a larger max_tokens." if cut_off else ""
            said = text or response.message.content or ""
            raise ValueError(
                f"Expected a {self._name} as JSON; the model answered {said[:500]!r}.{advice}\n{error}"
            ) from error
        return cast("Model", made.value if self.is_wrapped else made)  # type: ignore[attr-defined]

    def grow(self, responses: Iterable[ChatResponse]) -> Generator[Any, None, None]:
        """Yield the object as it grows: of the class itself whenever what has come is one; at the end always."""
        shown, last = None, ChatResponse(message=ChatMessage())
        for last in responses:
            if (grown := self._grown(last)) is not None and grown != shown:
                shown = grown
                yield grown
        if (whole := self.read(last)) != shown:
            yield whole

    async def agrow(self, responses: AsyncIterable[ChatResponse]) -> AsyncGenerator[Any, None]:
        """Yield the object as it grows; see `grow`."""
        shown, last = None, ChatResponse(message=ChatMessage())
        async for last in responses:
            if (grown := self._grown(last)) is not None and grown != shown:
                shown = grown
                yield grown
        if (whole := self.read(last)) != shown:
            yield whole

    def _grown(self, response: ChatResponse) -> Any:
        data = partial_json(self._text(response))
        if not data:
            return None
        try:
            return self._cls.model_validate(data)
        except ValidationError:
            return self._flexible.model_validate(data)

    def _text(self, response: ChatResponse) -> str:
        """Return the JSON text of the answer, as far as it came."""
        if self._by_schema:
            return unfenced(response.message.content or "")
        calls = (block.tool_kwargs for block in response.message.blocks if isinstance(block, ToolCallBlock))
        return str(next(calls, ""))


@lru_cache(maxsize=256)
def answer_form(output_cls: Any, by_schema: bool) -> AnswerForm[Any]:
    """Return the form for a type, which is built once; see `AnswerForm`."""
    return AnswerForm(output_cls, by_schema)


class StructuredModel(StructuredLLM):
    """LlamaIndex's model whose answers are objects; its streams are billed to where they are asked for.

    LlamaIndex's own asks the model when the first object is read, perhaps outside of the blocks around the call.
    """

    chat = redacted(StructuredLLM.chat)
    achat = redacted(StructuredLLM.achat)
    complete = redacted(StructuredLLM.complete)
    acomplete = redacted(StructuredLLM.acomplete)

    @redacted
    @without_span
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Return the object as it grows."""
        return resumed(super().stream_chat(messages, **kwargs))

    @redacted
    @without_span
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Return the object as it grows."""
        return resumed(await super().astream_chat(messages, **kwargs))


class StructuredPrediction(FunctionCallingLLM):
    """A model whose answers can be objects."""

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredModel:
        """This model with answers that are objects of a class."""
        return StructuredModel(llm=self, output_cls=output_cls, **kwargs)

    @redacted
    def structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> Model:
        """Return an object of a class, made by the model.

        Args:
            output_cls: a pydantic class; also an enumeration, a union or a list of such.
            prompt: what to ask, with the names of `args`.
            llm_kwargs: arguments of the call.
            **args: what the prompt is filled with.

        Raises:
            ValueError: the model's answer is no such object.
        """
        if (form := self._answer_form(output_cls, llm_kwargs)) is None:
            return cast("Model", super().structured_predict(output_cls, prompt, llm_kwargs, **args))
        dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=args))
        response = self.chat(self._asked(prompt, args), **form.arguments(llm_kwargs))
        output: Model = form.read(response)
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    @redacted
    async def astructured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> Model:
        """Return an object of a class, made by the model; see `structured_predict`."""
        if (form := self._answer_form(output_cls, llm_kwargs)) is None:
            return cast("Model", await super().astructured_predict(output_cls, prompt, llm_kwargs, **args))
        dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=args))
        response = await self.achat(self._asked(prompt, args), **form.arguments(llm_kwargs))
        output: Model = form.read(response)
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    @redacted
    @without_span
    def stream_structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> Generator[Model | FlexibleModel, None, None]:
        """Return the object as it grows. The model is asked when the first is read, and billed to whom this call is."""
        self._refuse_to_stream(output_cls, llm_kwargs)
        return resumed(super().stream_structured_predict(output_cls, prompt, llm_kwargs, **args))

    @redacted
    @without_span
    async def astream_structured_predict(
        self, output_cls: type[Model], prompt: PromptTemplate, llm_kwargs: _Kwargs = None, **args: Any
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """Return the object as it grows; see `stream_structured_predict`."""
        self._refuse_to_stream(output_cls, llm_kwargs)
        return resumed(await super().astream_structured_predict(output_cls, prompt, llm_kwargs, **args))

    def _structured_stream_call(self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **args: Any) -> Any:
        if (form := self._answer_form(output_cls, llm_kwargs)) is None:
            return super()._structured_stream_call(output_cls, prompt, llm_kwargs, **args)
        return form.grow(self.stream_chat(self._asked(prompt, args), **form.arguments(llm_kwargs)))

    async def _structured_astream_call(self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **args: Any) -> Any:
        if (form := self._answer_form(output_cls, llm_kwargs)) is None:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **args)
        return form.agrow(await self.astream_chat(self._asked(prompt, args), **form.arguments(llm_kwargs)))

    def _answer_form(self, output_cls: Any, llm_kwargs: Mapping[str, Any] | None) -> AnswerForm[Any] | None:
        """Return how to get an object from this model; `None` leaves it to LlamaIndex, which asks in words."""
        model = get_model((llm_kwargs or {}).get("model", self.metadata.model_name))
        match self.pydantic_program_mode:
            case PydanticProgramMode.DEFAULT if model.can("structured_output"):
                return answer_form(output_cls, True)
            case PydanticProgramMode.DEFAULT | PydanticProgramMode.FUNCTION if self.metadata.is_function_calling_model:
                return answer_form(output_cls, False)
            case _:
                return None

    def _refuse_to_stream(self, output_cls: Any, llm_kwargs: Mapping[str, Any] | None) -> None:
        if (form := self._answer_form(output_cls, llm_kwargs)) is not None and form.is_wrapped:
            raise ConfigurationError(
                f"LlamaIndex streams pydantic objects, and {output_cls!r} is none: make it a field of a class, or use "
                "structured_predict."
            )

    def _asked(self, prompt: BasePromptTemplate, args: Mapping[str, Any]) -> list[ChatMessage]:
        return self._extend_messages(prompt.format_messages(llm=self, **args))
