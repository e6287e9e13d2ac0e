"""Answers as pydantic objects: through a JSON schema where the model has it, else through a tool that must be called.

LlamaIndex's own program does not force the tool when it streams, and forgets the system prompt in async code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from typing import Any, Generic, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import Model
from pydantic import ValidationError

from llama_index_lava_mistral._redaction import CallContext, redacted, without_span
from llama_index_lava_mistral._tools import CUT_OFF, function_of, partial_json, response_format_of

# What the program says itself.
_DECIDED = ("tool_required", "tool_choice", "allow_parallel_tool_calls", "tools", "response_format")


class StructuredProgram(Generic[Model]):
    """Asks a model for one object of a class.

    Args:
        llm: the model.
        output_cls: the class.
        prompt: what to ask.
        by_schema: through a JSON schema; otherwise through a tool.
    """

    def __init__(
        self, llm: FunctionCallingLLM, output_cls: type[Model], prompt: BasePromptTemplate, *, by_schema: bool
    ) -> None:
        self._llm = llm
        self._output_cls = output_cls
        self._prompt = prompt
        self._by_schema = by_schema

    def call(self, llm_kwargs: Mapping[str, Any] | None, prompt_args: Mapping[str, Any]) -> Model:
        """The object.

        Raises:
            ValueError: the answer is no object of the class.
        """
        response = self._llm.chat(self._messages(prompt_args), **self._kwargs(llm_kwargs))
        return self._object(response)

    async def acall(self, llm_kwargs: Mapping[str, Any] | None, prompt_args: Mapping[str, Any]) -> Model:
        """The object; see `call`."""
        response = await self._llm.achat(self._messages(prompt_args), **self._kwargs(llm_kwargs))
        return self._object(response)

    def stream(
        self, llm_kwargs: Mapping[str, Any] | None, prompt_args: Mapping[str, Any]
    ) -> Generator[Model | FlexibleModel, None, None]:
        """The object as it grows: of the class itself whenever what has come is one; at the end always.

        Raises:
            ValueError: the whole answer is no object of the class.
        """
        growing = _Growing(self)
        for response in self._llm.stream_chat(self._messages(prompt_args), **self._kwargs(llm_kwargs)):
            yield from growing.take(response)
        yield from growing.end()

    async def astream(
        self, llm_kwargs: Mapping[str, Any] | None, prompt_args: Mapping[str, Any]
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """The object as it grows; see `stream`."""
        growing = _Growing(self)
        responses = await self._llm.astream_chat(self._messages(prompt_args), **self._kwargs(llm_kwargs))
        async for response in responses:
            for each in growing.take(response):
                yield each
        for each in growing.end():
            yield each

    def _messages(self, prompt_args: Mapping[str, Any]) -> list[ChatMessage]:
        return self._llm._extend_messages(self._prompt.format_messages(llm=self._llm, **prompt_args))

    def _kwargs(self, llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
        kwargs = {name: value for name, value in (llm_kwargs or {}).items() if name not in _DECIDED}
        if self._by_schema:
            return kwargs | {"response_format": response_format_of(self._output_cls)}
        function = function_of(self._output_cls)
        return kwargs | {
            "tools": [{"type": "function", "function": function}],
            "tool_choice": function["name"],
            "parallel_tool_calls": False,
        }

    def _text(self, response: ChatResponse) -> str:
        """The JSON text of the answer, as far as it came."""
        if self._by_schema:
            return response.message.content or ""
        for block in response.message.blocks:
            if isinstance(block, ToolCallBlock):
                return str(block.tool_kwargs)
        return ""

    def _object(self, response: ChatResponse) -> Model:
        text = self._text(response)
        try:
            return self._output_cls.model_validate_json(text)
        except ValidationError as error:
            cut_off = response.additional_kwargs.get("finish_reason") in CUT_OFF
            advice = " The answer was cut off: give a larger max_tokens." if cut_off else ""
            said = text or response.message.content or ""
            raise ValueError(
                f"Expected a {self._output_cls.__name__} as JSON; the model answered {said[:500]!r}.{advice}\n{error}"
            ) from error


class _Growing(Generic[Model]):
    """Makes objects of a growing JSON text."""

    def __init__(self, program: StructuredProgram[Model]) -> None:
        self._program = program
        self._flexible = create_flexible_model(program._output_cls)
        self._data: dict[str, Any] = {}
        self._shown: Model | FlexibleModel | None = None
        self._last = ChatResponse(message=ChatMessage())

    def take(self, response: ChatResponse) -> Iterator[Model | FlexibleModel]:
        self._last = response
        data = partial_json(self._program._text(response))
        if not data or data == self._data:
            return
        self._data = data
        grown: Model | FlexibleModel
        try:
            grown = self._program._output_cls.model_validate(data)
        except ValidationError:
            grown = self._flexible.model_validate(data)
        if grown != self._shown:
            self._shown = grown
            yield grown

    def end(self) -> Iterator[Model]:
        whole = self._program._object(self._last)
        if whole != self._shown:
            yield whole


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
        return cast("ChatResponseGen", CallContext().steps(super().stream_chat(messages, **kwargs)))

    @redacted
    @without_span
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Return the object as it grows."""
        return cast("ChatResponseAsyncGen", CallContext().asteps(await super().astream_chat(messages, **kwargs)))
