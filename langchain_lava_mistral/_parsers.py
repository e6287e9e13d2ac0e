"""Parsers of structured answers that refuse what LangChain's own would silently complete or drop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, cast

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputKeyToolsParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator
from langchain_core.runnables.utils import AddableDict


class _Whole:
    """Refuses an answer that was cut off or broken: a stream's, too, once it has ended."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial and isinstance(result[0], ChatGeneration) and isinstance(result[0].message, AIMessage):
            self._check(result[0].message)
        return super().parse_result(result, partial=partial)  # type: ignore[misc]  # the parser it is mixed into

    def _check(self, message: AIMessage) -> None:
        reason = message.response_metadata.get("finish_reason")
        if reason in ("length", "model_length"):
            raise OutputParserException(
                f"The answer was cut off (finish_reason {reason!r}) before it was whole: give it more max_tokens.",
                llm_output=message.text,
            )
        if message.invalid_tool_calls and not message.tool_calls:
            call = message.invalid_tool_calls[0]
            raise OutputParserException(
                f"The arguments of {call['name']!r} are not a JSON object.", llm_output=call["args"] or ""
            )

    # While a stream runs LangChain parses what is there, and never looks whether it was all.

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        chunks: list[Any] = []
        latest = None
        for latest in super()._transform(_kept(input, chunks)):  # type: ignore[misc]
            yield latest
        if chunks:
            final = self.parse_result([_joined(chunks)])
            if final is not None and final != latest:
                yield final

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        chunks: list[Any] = []
        latest = None
        async for latest in super()._atransform(_akept(input, chunks)):  # type: ignore[misc]
            yield latest
        if chunks:
            final = await self.aparse_result([_joined(chunks)])  # type: ignore[attr-defined]
            if final is not None and final != latest:
                yield final


def _kept(source: Iterable[Any], chunks: list[Any]) -> Iterator[Any]:
    for chunk in source:
        chunks.append(chunk)
        yield chunk


async def _akept(source: AsyncIterator[Any], chunks: list[Any]) -> AsyncIterator[Any]:
    async for chunk in source:
        chunks.append(chunk)
        yield chunk


def _joined(chunks: list[Any]) -> Generation:
    if isinstance(chunks[0], str):
        return Generation(text="".join(chunks))
    return ChatGeneration(message=_sum(chunks))


def _sum(chunks: list[Any]) -> Any:
    return chunks[0].__add__(chunks[1:]) if len(chunks) > 1 else chunks[0]


class WholeJsonParser(_Whole, JsonOutputParser):
    """Parses a JSON answer into a dictionary."""


class WholePydanticParser(_Whole, PydanticOutputParser[Any]):
    """Parses a JSON answer into a pydantic object."""


class WholeToolParser(_Whole, JsonOutputKeyToolsParser):
    """Parses the arguments of the first call of a tool into a dictionary."""

    first_tool_only: bool = True

    def _check(self, message: AIMessage) -> None:
        super()._check(message)
        called = [call["name"] for call in message.tool_calls]
        if called and self.key_name not in called:
            raise OutputParserException(f"The answer calls {called[0]!r}, not {self.key_name!r}.")


class _PydanticArguments(JsonOutputKeyToolsParser):
    """Makes a pydantic object of the arguments; the tool may have another name than the class."""

    pydantic_object: Any

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        arguments = super().parse_result(result, partial=partial)
        if arguments is None:
            return None
        try:
            return self.pydantic_object(**arguments)
        except ValueError as error:
            # Of either version of pydantic.
            if partial:
                return None
            raise OutputParserException(
                f"The arguments of {self.key_name!r} don't make a {self.pydantic_object.__name__}: {error}",
                llm_output=str(arguments),
            ) from error


class WholePydanticToolParser(WholeToolParser, _PydanticArguments):
    """Parses the arguments of the first call of a tool into a pydantic object."""


def with_outcome(parser: OutputParserLike[Any]) -> Runnable[Any, dict[str, Any]]:
    """What adds `parsed` and `parsing_error` to `{"raw": message}`; chunks of `raw` are handed on as they come."""

    def parse(answer: Iterator[Any], config: RunnableConfig) -> Iterator[Any]:
        chunks: list[Any] = []
        for part in answer:
            chunks.append(part["raw"])
            yield AddableDict(part)
        try:
            parsed, failure = parser.invoke(_sum(chunks), config), None
        except Exception as error:  # noqa: BLE001 - whatever a user's validator raises
            parsed, failure = None, error
        yield AddableDict(parsed=parsed, parsing_error=failure)

    async def aparse(answer: AsyncIterator[Any], config: RunnableConfig) -> AsyncIterator[Any]:
        chunks: list[Any] = []
        async for part in answer:
            chunks.append(part["raw"])
            yield AddableDict(part)
        try:
            parsed, failure = await parser.ainvoke(_sum(chunks), config), None
        except Exception as error:  # noqa: BLE001 - whatever a user's validator raises
            parsed, failure = None, error
        yield AddableDict(parsed=parsed, parsing_error=failure)

    # Its type does not know of the configuration, which it hands to a generator that takes one.
    return RunnableGenerator(cast("Any", parse), cast("Any", aparse), name="Outcome")
