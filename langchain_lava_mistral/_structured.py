"""Ask a model for answers of a schema's form, and parse them without completing or dropping anything silently."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from enum import Enum
from types import UnionType
from typing import TYPE_CHECKING, Any, cast, get_origin

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers.transform import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator, RunnableMap
from langchain_core.runnables.utils import AddableDict
from langchain_core.utils.json import parse_json_markdown
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import PydanticUserError, RootModel, TypeAdapter, create_model

from langchain_lava_mistral._tools import answer_function, answer_tool, to_response_format
from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.tools import object_schema, tool_name, unwrap, wrap_schema
from lava_mistral.mistral.turn import CUT_OFF

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_BUILTIN = (str, int, float, bool, list, dict, tuple, set)


def structured(
    model: BaseChatModel,
    schema: Any,
    *,
    method: str | None,
    include_raw: bool,
    strict: bool | None,
    bound: dict[str, Any],
) -> Runnable[Any, Any]:
    """Return the model with answers of a schema's form; see `ChatLavaMistral.with_structured_output`."""
    if method is None:
        method = "json_schema" if (model.profile or {}).get("structured_output") else "function_calling"
        if schema is None:
            method = "json_mode"
    if schema is None and method != "json_mode":
        raise ValueError(f"with_structured_output needs a schema for the method {method!r}.")
    model_class = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    schema, wrapped = _as_object(schema)
    if wrapped and not isinstance(schema, dict):
        model_class = schema
    # LangChain can't convert each schema for its traces that this package can.
    shown = None if schema is None else answer_function(schema)
    described = {"title": shown["name"], "description": shown.get("description")} if shown else {}
    described = {key: value for key, value in described.items() if value}
    bound = {
        **bound,
        "ls_structured_output_format": {
            "kwargs": {"method": method, "strict": strict},
            "schema": shown and {**described, **shown["parameters"]},
        },
    }
    tool = None
    llm: Runnable[Any, Any]
    match method:
        case "function_calling":
            function = answer_tool(schema, strict=strict)
            tool = function["function"]["name"]
            llm = model.bind_tools([function], tool_choice="any", **bound)  # type: ignore[list-item]  # a wire tool is a dictionary
        case "json_schema":
            llm = model.bind(response_format=to_response_format(schema, strict=strict), **bound)
        case "json_mode":
            if wrapped:
                raise ValueError("The method 'json_mode' gives an object: take json_schema or function_calling here.")
            llm = model.bind(response_format={"type": "json_object"}, **bound)
        case _:
            raise ValueError(f"The method is 'function_calling', 'json_schema' or 'json_mode', not {method!r}.")
    parser = AnswerParser(tool=tool, model_class=model_class, wrapped=wrapped)
    return RunnableMap(raw=llm) | _with_outcome(parser) if include_raw else llm | parser


def _as_object(schema: Any) -> tuple[Any, bool]:
    """Return a schema with an object at its top, which Mistral wants, and whether it was wrapped in one for that."""
    if isinstance(schema, dict):
        function = answer_function(schema)
        parameters, wrapped = wrap_schema(function["parameters"])
        return ({**parameters, "title": function["name"]} if wrapped else schema), wrapped
    plain = isinstance(schema, UnionType) or schema in _BUILTIN or get_origin(schema) is not None
    if not plain and not (isinstance(schema, type) and issubclass(schema, Enum | RootModel)):
        return schema, False
    try:
        if isinstance(schema, type) and object_schema(TypeAdapter(schema).json_schema())["type"] == "object":
            return schema, False
        description = schema.__doc__ if isinstance(schema, type) and schema not in _BUILTIN else None
        name = tool_name(getattr(schema, "__name__", "answer"))
        return create_model(name, __doc__=description, **cast("Any", {"value": (schema, ...)})), True
    except PydanticUserError as error:
        raise InvalidRequestError(f"There is no JSON Schema for {schema!r}: ask for a pydantic class.") from error


class AnswerParser(BaseTransformOutputParser[Any]):
    """Parse an answer into a dictionary or a pydantic object; one that was cut off or broken is an error."""

    tool: str | None = None
    model_class: Any = None
    wrapped: bool = False

    def parse(self, text: str) -> Any:
        """Parse an answer that is text."""
        return self.parse_result([Generation(text=text)])

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse an answer, or as much as there is of it."""
        message = result[0].message if isinstance(result[0], ChatGeneration) else None
        if not partial and isinstance(message, AIMessage):
            self._check(message)
        if self.tool is None:
            value = self._read_text(result[0].text, partial)
        else:
            calls = message.tool_calls if isinstance(message, AIMessage) else []
            value = next((call["args"] for call in calls if call["name"] == self.tool), None)
        if value is not None and self.model_class is not None:
            value = self._instance(value, partial)
        if value is None or not self.wrapped:
            return value
        if not isinstance(value, dict):
            return value.value
        if "value" not in value and not partial:
            raise OutputParserException("The answer has no 'value'.", llm_output=str(value))
        return unwrap(value)

    def _check(self, message: AIMessage) -> None:
        reason = message.response_metadata.get("finish_reason")
        if reason in CUT_OFF:
            raise OutputParserException(
                f"The answer was cut off (finish_reason {reason!r}) before it was whole: give it more max_tokens.",
                llm_output=message.text,
            )
        if self.tool is None:
            return
        called = [call["name"] for call in message.tool_calls]
        if called:
            if self.tool not in called:
                raise OutputParserException(f"The answer calls {called[0]!r}, not {self.tool!r}.")
        elif message.invalid_tool_calls:
            bad = message.invalid_tool_calls[0]
            raise OutputParserException(
                f"The arguments of {bad['name']!r} are not a JSON object.", llm_output=bad["args"] or ""
            )
        else:
            raise OutputParserException(
                f"The model answered in words instead of calling {self.tool!r}.", llm_output=message.text
            )

    def _read_text(self, text: str, partial: bool) -> Any:
        try:
            return parse_json_markdown(text.strip())
        except ValueError as error:
            if partial:
                return None
            raise OutputParserException("The answer is not JSON.", llm_output=text) from error

    def _instance(self, value: Any, partial: bool) -> Any:
        kind = self.model_class
        try:
            return kind.model_validate(value) if hasattr(kind, "model_validate") else kind.parse_obj(value)
        except ValueError as error:
            if partial:
                return None
            raise OutputParserException(
                f"The answer does not make a {kind.__name__}: {error}", llm_output=str(value)
            ) from error

    # While a stream runs LangChain's own parsers show what is there, and never look whether it was all.

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        state = _State(self)
        for chunk in input:
            yield from state.after(chunk)
        yield from state.after(None)

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        state = _State(self)
        async for chunk in input:
            for value in state.after(chunk):
                yield value
        for value in state.after(None):
            yield value


class _State:
    """A streamed answer: what it says as it grows, each state once, and whether it is whole at its end."""

    def __init__(self, parser: AnswerParser) -> None:
        self._parser, self._answer, self._said = parser, cast("Any", None), cast("Any", None)

    def after(self, chunk: Any) -> Iterator[Any]:
        """Yield the state after a chunk, or after the end (`None`), if it is a new one."""
        if chunk is not None:
            self._answer = chunk if self._answer is None else self._answer + chunk
        whole = self._answer
        if whole is not None:
            generation = Generation(text=whole) if isinstance(whole, str) else ChatGeneration(message=whole)
            value = self._parser.parse_result([generation], partial=chunk is not None)
            if value is not None and value != self._said:
                self._said = value
                yield value


def _with_outcome(parser: AnswerParser) -> Runnable[Any, dict[str, Any]]:
    """Return what adds `parsed` and `parsing_error` to `{"raw": message}`; chunks of `raw` are handed on."""

    def parse(answer: Iterator[Any], config: RunnableConfig) -> Iterator[Any]:
        chunks: list[Any] = []
        for part in answer:
            chunks.append(part["raw"])
            yield AddableDict(part)
        try:
            outcome = AddableDict(parsed=parser.invoke(_joined(chunks), config), parsing_error=None)
        except Exception as error:  # noqa: BLE001 - whatever a user's validator raises
            outcome = AddableDict(parsed=None, parsing_error=error)
        yield outcome

    async def aparse(answer: AsyncIterator[Any], config: RunnableConfig) -> AsyncIterator[Any]:
        chunks: list[Any] = []
        async for part in answer:
            chunks.append(part["raw"])
            yield AddableDict(part)
        try:
            outcome = AddableDict(parsed=await parser.ainvoke(_joined(chunks), config), parsing_error=None)
        except Exception as error:  # noqa: BLE001 - whatever a user's validator raises
            outcome = AddableDict(parsed=None, parsing_error=error)
        yield outcome

    # Its type does not know of the configuration, which it hands to a generator that takes one.
    return RunnableGenerator(cast("Any", parse), cast("Any", aparse), name="Outcome")


def _joined(chunks: list[Any]) -> Any:
    return chunks[0].__add__(chunks[1:]) if len(chunks) > 1 else chunks[0]
