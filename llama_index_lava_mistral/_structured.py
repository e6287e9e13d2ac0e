"""Ask for answers as objects: by a JSON schema where the model has it, else by a tool that it must call.

LlamaIndex's own program does not force the tool when it streams, and forgets the system prompt in async code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, cast

from llama_index.core.base.llms import types as llama
from llama_index.core.instrumentation.events import llm as events
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ConfigDict, PydanticUserError, RootModel, ValidationError, create_model

from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.json_codec import unfenced
from lava_mistral.mistral.turn import CUT_OFF
from lava_mistral.pricing.catalog import get_model
from llama_index_lava_mistral._instrumentation import observed
from llama_index_lava_mistral._tools import function_of, partial_json, response_format_of

dispatcher = get_dispatcher(__name__)

# Arguments of a call that the form sets.
_SET_BY_THE_FORM = ("tool_required", "tool_choice", "allow_parallel_tool_calls", "tools", "response_format")


class AnswerForm(Generic[Model]):
    """How to ask a model for an object, and to read it. What is no pydantic class becomes the field of one."""

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
            function = function_of(self._cls)
        except PydanticUserError as error:
            raise ConfigurationError(
                f"An answer can't be asked for as {output_cls!r}: there is no JSON schema for it. Use a pydantic class."
            ) from error
        self._arguments: dict[str, Any] = {"response_format": response_format_of(self._cls)}
        if not by_schema:
            tools = [{"type": "function", "function": function}]
            self._arguments = {"tools": tools, "tool_choice": function["name"], "parallel_tool_calls": False}

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the call that asks for the object, with those given that do not get in its way."""
        return {name: value for name, value in given.items() if name not in _SET_BY_THE_FORM} | self._arguments

    def read(self, response: llama.ChatResponse) -> Model:
        """Return the object in an answer, or raise ValueError."""
        text = self._text(response)
        try:
            made = self._cls.model_validate_json(text)
        except ValidationError as error:
            cut_off = response.additional_kwargs.get("finish_reason") in CUT_OFF
            advice = " The answer was cut off: give a larger max_tokens." if cut_off else ""
            said = repr((text or response.message.content or "")[:500])
            raise ValueError(f"Expected a {self._name} as JSON; the model answered {said}.{advice}\n{error}") from error
        output = made.value if self.is_wrapped else made  # type: ignore[attr-defined]
        dispatcher.event(events.LLMStructuredPredictEndEvent(output=output))
        return cast("Model", output)

    def grow(self, responses: Iterable[llama.ChatResponse]) -> Generator[Any, None, None]:
        """Yield the object as it grows: of the class itself whenever what has come is one; at the end always."""
        shown, last = None, llama.ChatResponse(message=llama.ChatMessage())
        for last in responses:
            for grown in self._grown(last, shown):
                yield (shown := grown)
        if (whole := self.read(last)) != shown:
            yield whole

    async def agrow(self, responses: AsyncIterable[llama.ChatResponse]) -> AsyncGenerator[Any, None]:
        """Yield the object as it grows; see `grow`."""
        shown, last = None, llama.ChatResponse(message=llama.ChatMessage())
        async for last in responses:
            for grown in self._grown(last, shown):
                yield (shown := grown)
        if (whole := self.read(last)) != shown:
            yield whole

    def _grown(self, response: llama.ChatResponse, shown: Any) -> Iterator[Any]:
        """Yield the object as far as it has come, where that is more than what was shown."""
        if data := partial_json(self._text(response)):
            try:
                grown = self._cls.model_validate(data)
            except ValidationError:
                grown = self._flexible.model_validate(data)
            if grown != shown:
                dispatcher.event(events.LLMStructuredPredictInProgressEvent(output=grown))
                yield grown

    def _text(self, response: llama.ChatResponse) -> str:
        """Return the JSON text of the answer, as far as it came."""
        if self._by_schema:
            return unfenced(response.message.content or "")
        calls = (block.tool_kwargs for block in response.message.blocks if isinstance(block, llama.ToolCallBlock))
        return str(next(calls, ""))


@lru_cache(maxsize=256)
def _answer_form(output_cls: Any, by_schema: bool) -> AnswerForm[Any]:
    return AnswerForm(output_cls, by_schema)


class StructuredModel(StructuredLLM):
    """LlamaIndex's model whose answers are objects; streams are billed to where they are asked for, not read."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    chat = observed()(StructuredLLM.chat)
    achat = observed()(StructuredLLM.achat)
    complete = observed()(StructuredLLM.complete)
    acomplete = observed()(StructuredLLM.acomplete)

    @observed(llm_chat_callback())
    def stream_chat(self, messages: Sequence[llama.ChatMessage], **kwargs: Any) -> llama.ChatResponseGen:
        """Return the object as it grows."""
        prompt = ChatPromptTemplate(message_templates=messages)
        objects = self.llm.stream_structured_predict(self.output_cls, prompt, llm_kwargs=kwargs)
        return (_response(each) for each in objects)

    @observed(llm_chat_callback())
    async def astream_chat(self, messages: Sequence[llama.ChatMessage], **kwargs: Any) -> llama.ChatResponseAsyncGen:
        """Return the object as it grows."""
        prompt = ChatPromptTemplate(message_templates=messages)
        objects = await self.llm.astream_structured_predict(self.output_cls, prompt, llm_kwargs=kwargs)
        return (_response(each) async for each in objects)


def _response(output: BaseModel) -> llama.ChatResponse:
    message = llama.ChatMessage(output.model_dump_json(), role=llama.MessageRole.ASSISTANT)
    return llama.ChatResponse(message=message, raw=output)


def answer_form(llm: FunctionCallingLLM, output_cls: Any, name: str, streams: bool) -> AnswerForm[Any]:
    """Return how to get an object from the model of that name."""
    mode = llm.pydantic_program_mode
    if mode not in (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION):
        raise ConfigurationError(
            f"pydantic_program_mode={mode.value!r} has no meaning here: the default asks by a JSON schema, and "
            "'function' by a tool."
        )
    by_schema = mode == PydanticProgramMode.DEFAULT and get_model(name).can("structured_output")
    form = _answer_form(output_cls, by_schema)
    if streams and form.is_wrapped:
        raise ConfigurationError(
            f"LlamaIndex streams pydantic objects, and {output_cls!r} is none: make it a field of a class, or use "
            "structured_predict."
        )
    return form
