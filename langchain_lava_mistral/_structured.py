"""Parse answers of a schema's form without completing or dropping anything silently."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from enum import Enum
from types import UnionType
from typing import Any, cast, get_origin

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers.transform import BaseCumulativeTransformOutputParser
from langchain_core.outputs import Generation
from langchain_core.runnables import Runnable, RunnableGenerator
from langchain_core.runnables.utils import AddableDict
from langchain_core.utils.json import parse_json_markdown
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import PydanticUserError, RootModel, TypeAdapter, create_model

from langchain_lava_mistral._tools import answer_function
from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.tools import object_schema, tool_name, wrap_schema
from lava_mistral.mistral.turn import CUT_OFF

_BUILTIN = (str, int, float, bool, list, dict, tuple, set)


def as_object(schema: Any) -> tuple[Any, Any, bool]:
    """Return a schema with an object at its top, which Mistral wants, the pydantic class that an answer makes an object
    of, and whether the schema was wrapped in an object for that."""
    if isinstance(schema, dict):
        function = answer_function(schema)
        parameters, wrapped = wrap_schema(function["parameters"])
        return ({**parameters, "title": function["name"]} if wrapped else schema), None, wrapped
    is_class = isinstance(schema, type)
    model_class = schema if is_class and is_basemodel_subclass(schema) else None
    plain = isinstance(schema, UnionType) or schema in _BUILTIN or get_origin(schema) is not None
    if not plain and not (is_class and issubclass(schema, Enum | RootModel)):
        return schema, model_class, False
    try:
        if is_class and object_schema(TypeAdapter(schema).json_schema())["type"] == "object":
            return schema, model_class, False
        description = schema.__doc__ if is_class and schema not in _BUILTIN else None
        name = tool_name(getattr(schema, "__name__", "answer"))
        made = create_model(name, __doc__=description, **cast("Any", {"value": (schema, ...)}))
    except PydanticUserError as error:
        raise InvalidRequestError(f"There is no JSON Schema for {schema!r}: ask for a pydantic class.") from error
    return made, made, True


class AnswerParser(BaseCumulativeTransformOutputParser[Any]):
    """Parse an answer into a dictionary or a pydantic object; one that was cut off or broken is an error."""

    tool: str | None = None
    model_class: Any = None
    wrapped: bool = False

    def parse(self, text: str) -> Any:
        """Parse an answer that is text."""
        return self.parse_result([Generation(text=text)])

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse an answer, or as much as there is of it; `None` where that makes nothing yet."""
        message = getattr(result[0], "message", None)
        try:
            return self._read(result[0].text, message)
        except OutputParserException:
            # Of a stream, whose chunks are put together here, the last one shows what is wrong with the whole.
            if partial and getattr(message, "chunk_position", "last") != "last":
                return None
            raise

    def _read(self, text: str, message: Any) -> Any:
        reason = getattr(message, "response_metadata", {}).get("finish_reason")
        if reason in CUT_OFF:
            said = f"The answer was cut off (finish_reason {reason!r}) before it was whole: give it more max_tokens."
            raise OutputParserException(said, llm_output=text)
        value: Any
        if self.tool is not None:
            value = self._arguments(message)
        else:
            try:
                value = parse_json_markdown(text.strip())
            except ValueError as error:
                raise OutputParserException("The answer is not JSON.", llm_output=text) from error
        kind = self.model_class
        if value is not None and kind is not None:
            try:
                value = kind.model_validate(value) if hasattr(kind, "model_validate") else kind.parse_obj(value)
            except ValueError as error:
                said = f"The answer does not make a {kind.__name__}: {error}"
                raise OutputParserException(said, llm_output=str(value)) from error
        if value is None or not self.wrapped:
            return value
        if not isinstance(value, dict):
            return value.value
        if "value" not in value:
            raise OutputParserException("The answer has no 'value'.", llm_output=str(value))
        return value["value"]

    def _arguments(self, message: AIMessage) -> Any:
        calls, broken = message.tool_calls, message.invalid_tool_calls
        for call in calls:
            if call["name"] == self.tool:
                return call["args"]
        said = f"The model answered in words instead of calling {self.tool!r}."
        if calls:
            said = f"The answer calls {calls[0]['name']!r}, not {self.tool!r}."
        elif broken:
            said = f"The arguments of {broken[0]['name']!r} are not a JSON object."
        raise OutputParserException(said, llm_output=message.text)

    # The last chunk waits for the end of the model's run: an error over it would break the run off, and no callback
    # would be told of the answer and its usage.

    def _transform(self, input: Iterator[Any]) -> Iterator[Any]:
        def to_its_end() -> Iterator[Any]:
            held: list[Any] = []
            for chunk in input:
                if getattr(chunk, "chunk_position", None) == "last":
                    held.append(chunk)
                else:
                    yield chunk
            yield from held

        yield from super()._transform(to_its_end())

    async def _atransform(self, input: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async def to_its_end() -> AsyncIterator[Any]:
            held: list[Any] = []
            async for chunk in input:
                if getattr(chunk, "chunk_position", None) == "last":
                    held.append(chunk)
                else:
                    yield chunk
            for chunk in held:
                yield chunk

        async for value in super()._atransform(to_its_end()):
            yield value


def with_outcome(parser: AnswerParser) -> Runnable[Any, dict[str, Any]]:
    """Return what adds `parsed` and `parsing_error` to `{"raw": message}`; chunks of `raw` are handed on."""

    def outcome(chunks: list[Any]) -> AddableDict:
        try:
            answer = chunks[0].__add__(chunks[1:]) if len(chunks) > 1 else chunks[0]
            return AddableDict(parsed=parser.invoke(answer), parsing_error=None)
        except Exception as error:  # noqa: BLE001 - whatever a user's validator raises
            return AddableDict(parsed=None, parsing_error=error)

    def parse(answer: Iterator[Any]) -> Iterator[Any]:
        chunks: list[Any] = []
        for part in answer:
            chunks.append(part["raw"])
            yield AddableDict(part)
        yield outcome(chunks)

    async def aparse(answer: AsyncIterator[Any]) -> AsyncIterator[Any]:
        chunks: list[Any] = []
        async for part in answer:
            chunks.append(part["raw"])
            yield AddableDict(part)
        yield outcome(chunks)

    return RunnableGenerator(parse, aparse, name="Outcome")
