"""Parse answers of a schema's form without completing or dropping anything silently."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from enum import Enum
from types import UnionType
from typing import Any, cast, get_origin

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers.transform import BaseTransformOutputParser
from langchain_core.outputs import Generation
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


class AnswerParser(BaseTransformOutputParser[Any]):
    """Parse an answer into a dictionary or a pydantic object; one that was cut off or broken is an error.

    With `include_raw` it gives `{"raw": message, "parsed": …, "parsing_error": …}` instead, and raises nothing.
    """

    tool: str | None = None
    model_class: Any = None
    wrapped: bool = False
    include_raw: bool = False

    def parse(self, text: str) -> Any:
        """Parse an answer that is text."""
        return self.read(AIMessage(text))

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse an answer."""
        # A parser takes a text, too.
        message = getattr(result[0], "message", None) or AIMessage(result[0].text)
        return {"raw": message, **self.outcome(message)} if self.include_raw else self.read(message)

    def outcome(self, message: Any) -> dict[str, Any]:
        """Return what a message makes, or the error."""
        try:
            return {"parsed": self.read(message), "parsing_error": None}
        except Exception as error:  # noqa: BLE001 - whatever a user's validator raises
            return {"parsed": None, "parsing_error": error}

    def read(self, message: Any) -> Any:
        """Return what a message makes."""
        text, reason = message.text, message.response_metadata.get("finish_reason")
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

    def _transform(self, input: Iterator[Any]) -> Iterator[Any]:
        growing = _GrowingAnswer(self)
        for chunk in input:
            yield from growing.add(chunk)
        yield from growing.end()

    async def _atransform(self, input: AsyncIterator[Any]) -> AsyncIterator[Any]:
        growing = _GrowingAnswer(self)
        async for chunk in input:
            for value in growing.add(chunk):
                yield value
        for value in growing.end():
            yield value


class _GrowingAnswer:
    """Parse a streamed answer as it grows. What is wrong with it is raised at its end, when its run has ended too."""

    def __init__(self, parser: AnswerParser) -> None:
        self._parser = parser
        self._message: Any = None
        self._latest: Any = None

    def add(self, chunk: Any) -> list[Any]:
        """Return what the answer makes now, where that is news."""
        self._message = chunk if self._message is None else self._message + chunk
        if self._parser.include_raw:
            return [AddableDict(raw=chunk)]
        with suppress(OutputParserException):
            return self._news(self._parser.read(self._message))
        return []

    def end(self) -> list[Any]:
        """Return what the whole answer makes, where that is news."""
        if self._parser.include_raw:
            return [AddableDict(self._parser.outcome(self._message))]
        return self._news(self._parser.read(self._message))

    def _news(self, value: Any) -> list[Any]:
        if value is None or value == self._latest:
            return []
        self._latest = value
        return [value]
