"""`ChatLavaMistral` for LangChain: Mistral's chat models through Lava."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from inspect import signature
from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from pydantic import BaseModel

from langchain_lava_mistral._described_model import DescribedModel
from langchain_lava_mistral._from_wire import to_result
from langchain_lava_mistral._params import KNOWN, OUTSIDE, check_names, named
from langchain_lava_mistral._stream_chunks import ChunkBuilder
from langchain_lava_mistral._structured import AnswerParser, as_object
from langchain_lava_mistral._to_wire import to_wire
from langchain_lava_mistral._tools import ToolLike, answer_function, normalize, to_response_format, to_tool, to_tools
from langchain_lava_mistral.callbacks import RUN, CallRun, traced
from langchain_lava_mistral.errors import translated
from lava_mistral.errors import InvalidRequestError
from lava_mistral.frameworks.backends import ClientsOwner
from lava_mistral.frameworks.settings import WIRE_NAMES

_IN_USERS_FORMS = frozenset(("stop", "tools", "tool_choice", "response_format", "prediction"))


class ChatLavaMistral(DescribedModel, ClientsOwner):
    """Mistral's chat models through Lava, for LangChain (`langchain_lava_mistral`).

        model = ChatLavaMistral(model="mistral-small-2603")
        model.invoke("Why is the sky blue?").text

    What says what is asked and how can be given to `invoke`, `bind` and their like too, `billing=` and `lava_metadata=`
    included; the names of other integrations (`random_seed`, …) are understood. A parameter that is not set is not
    sent. A tool call whose arguments were cut off stands in `invalid_tool_calls`.

    A message's `response_metadata` holds `model_name`, `model_provider`, `finish_reason`, `id`, `created`,
    `lava_request_id` and, where the prices are known, `cost`: USD as text, for `Decimal`. With `n` above 1, and while
    streaming, usage and cost stand on one message or chunk only, so that sums are right.

    Args:
        api_key: Lava's secret key or a forward token, or a function returning it. By default `LAVA_FORWARD_TOKEN`,
            then `LAVA_SECRET_KEY`. A missing key is reported by the first call.
        billing: who pays. It is not serialized.
        lava_metadata: text pairs that Lava stores with each request (`metadata` is LangChain's, for traces).
        trace_metadata: add LangChain's run id to them, as `langchain_run_id`.
        spend_limit: USD that all calls of this model object may cost together, or a `SpendLimit` to share. A call that
            could pass it is refused before it is sent (`SpendLimitError`). It is not serialized.
        n: how many answers; `generate` gives them all. More than one is not streamed.
        tool_choice, response_format: in any form that `bind_tools` and `with_structured_output` take.
        prompt_cache_key: groups prompts for Mistral's cache; `"auto"` takes LangGraph's `thread_id`, else the system
            prompt and the tools: agents then pay a tenth for what they send again.
        streaming: `True` streams under `invoke` too; `False` never streams.
        base_url, timeout, max_retries, stream_chunk_timeout, require_customer, http_client: as of `LavaMistral`.
        repair_messages: repair what Mistral would refuse in a conversation, losing no word; false refuses it.
        cache_by_customer: LangChain's cache (`cache=`, `set_llm_cache`) keeps the answers of each customer apart.

    Raises:
        pydantic.ValidationError: a setting is wrong, misspelt or has no meaning here (it is a `ValueError`).
    """

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        # A stream is one message; several answers at once would run into each other.
        asked = kwargs if KNOWN.issuperset(kwargs) else named(kwargs)
        several = (asked.get("n") or self.n or 1) > 1
        off = self.disable_streaming is True or (self.disable_streaming == "tool_calling" and bool(kwargs.get("tools")))
        return several or off or asked.get("streaming", self.streaming) is False or not kwargs.get("stream", True)

    def _request(
        self, messages: Sequence[BaseMessage], stop: Any, kwargs: Mapping[str, Any], run: CallRun, stream: bool = False
    ) -> tuple[Any, dict[str, Any], bool]:
        """Return a call's clients, the arguments of their `chat` or `stream`, and whether to show the headers."""
        if not KNOWN.issuperset(kwargs):
            check_names(kwargs)
            kwargs = named(kwargs)
        arguments, said = {"model": self.model, **self._parameters(), **self.model_kwargs}, kwargs.get
        for name, value in kwargs.items():
            if name not in OUTSIDE:
                arguments[WIRE_NAMES.get(name, name)] = value
        if stop is not None:
            arguments["stop"] = stop
        if stream and (arguments.get("n") or 1) > 1:
            raise InvalidRequestError("A stream is one message: ask for n > 1 with generate() or invoke().")
        if not _IN_USERS_FORMS.isdisjoint(arguments):
            normalize(arguments)
        if arguments.get("prompt_cache_key") == "auto" and (thread := run.thread_id()) is not None:
            # Without a thread the core derives one from the beginning of the conversation.
            arguments["prompt_cache_key"] = sha256(str(thread).encode()).hexdigest()[:32]
        metadata = said("lava_metadata")
        arguments |= {
            "lava_metadata": traced(metadata) if said("trace_metadata", self.trace_metadata) else metadata,
            "billing": said("billing"),
            "repair_messages": said("repair_messages", self.repair_messages),
            "messages": to_wire(messages),
            "on_retry": run.on_retry,
        }
        return self._backend(kwargs), arguments, said("include_response_headers", self.include_response_headers)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        run: CallRun = kwargs.get(RUN) or CallRun(run_manager)
        with translated(), run.block:
            clients, arguments, headers = self._request(messages, stop, kwargs, run)
            answer = clients[0].chat(**arguments)
        return to_result(answer, headers=headers)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        run: CallRun = kwargs.get(RUN) or CallRun(run_manager)
        with translated(), run.block:
            clients, arguments, headers = self._request(messages, stop, kwargs, run)
            answer = await clients[1].chat(**arguments)
        return to_result(answer, headers=headers)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        run: CallRun = kwargs.get(RUN) or CallRun(run_manager)
        with translated():
            with run.block:
                clients, arguments, headers = self._request(messages, stop, kwargs, run, stream=True)
                opened = clients[0].stream(**arguments)
            with opened as stream:
                builder = ChunkBuilder(stream, headers=headers)
                for delta in stream:
                    if chunk := builder.chunk(delta):
                        if run_manager is not None:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                chunk = builder.last()
                if run_manager is not None:
                    run_manager.on_llm_new_token("", chunk=chunk)
                yield chunk

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        run: CallRun = kwargs.get(RUN) or CallRun(run_manager)
        with translated():
            with run.block:
                clients, arguments, headers = self._request(messages, stop, kwargs, run, stream=True)
                opened = await clients[1].stream(**arguments)
            async with opened as stream:
                builder = ChunkBuilder(stream, headers=headers)
                async for delta in stream:
                    if chunk := builder.chunk(delta):
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                chunk = builder.last()
                if run_manager is not None:
                    await run_manager.on_llm_new_token("", chunk=chunk)
                yield chunk

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Return the answer, chunk by chunk; the request is sent when the first is asked for, billed as of now.

        Closing the iterator closes the connection. A stream that ends early raises a `StreamInterruptedError`.
        """
        kwargs[RUN] = run = CallRun.begin(config, self.callbacks, CallbackManagerForLLMRun)
        return super().stream(input, run.config, **kwargs)

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Return the answer, chunk by chunk; see `stream`."""
        kwargs[RUN] = run = CallRun.begin(config, self.callbacks, AsyncCallbackManagerForLLMRun)
        return super().astream(input, run.config, **kwargs)

    # LangChain gives `_stream` no run manager where a model streams under `invoke`.
    def _generate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return super()._generate_with_cache(*args, **_with_run(kwargs))

    async def _agenerate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return await super()._agenerate_with_cache(*args, **_with_run(kwargs))

    def bind(self, **kwargs: Any) -> Any:
        """Return the model with arguments for all its calls; a misspelt one or a key is refused."""
        with translated():
            check_names(kwargs)
        return BoundModel(bound=self, kwargs=kwargs)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the model with a configuration for all its calls."""
        return self.bind().with_config(config, **kwargs)

    def with_types(self, **types: Any) -> Any:
        """Return the model with other types of input and output."""
        return self.bind().with_types(**types)

    def with_listeners(self, **listeners: Any) -> Any:
        """Return the model with functions that are told of its runs."""
        return self.bind().with_listeners(**listeners)

    def with_alisteners(self, **listeners: Any) -> Any:
        """Return the model with async functions that are told of its runs."""
        return self.bind().with_alisteners(**listeners)

    def with_fallbacks(self, fallbacks: Sequence[Runnable[Any, Any]], **options: Any) -> Any:
        """Return the model with others that take over where it fails."""
        return _keeping(super().with_fallbacks(fallbacks, **options))

    def configurable_fields(self, **fields: Any) -> Any:
        """Return the model with fields that a call's configuration sets."""
        return _keeping(super().configurable_fields(**fields))

    def configurable_alternatives(self, which: Any, **options: Any) -> Any:
        """Return the model with others of which a call's configuration chooses."""
        return _keeping(super().configurable_alternatives(which, **options))

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
            response_format: the form of an answer that calls no tool, as in `with_structured_output`.
        """
        with translated():
            given: dict[str, Any] = {"response_format": response_format}
            if wire := to_tools(tools, strict=strict):
                given |= {"tools": wire, "tool_choice": tool_choice, "parallel_tool_calls": parallel_tool_calls}
            normalize(given)
        kwargs.update((name, value) for name, value in given.items() if value is not None)
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
            schema: a pydantic class, `TypedDict`, JSON Schema, function, tool in any form that `bind_tools` takes,
                `{"name": …, "schema": …}` or a json_schema response format; an `Enum`, `list[…]`, union or another type
                that pydantic knows. `None` for any JSON (method `json_mode`).
            method: `json_schema` (Mistral enforces the schema; the default where the model is known to have it),
                `function_calling`, or `json_mode` (the prompt says what the JSON shall hold, and holds the word JSON).
            include_raw: give `{"raw": message, "parsed": …, "parsing_error": …}` and raise no parsing error.
            strict: whether the answer must follow the schema to the letter: by default what the schema says, else true
                for `json_schema` and unsaid for `function_calling`.

        Raises:
            ValueError: the method needs a schema, there is no such method, or `strict` is said twice and differently.
            OutputParserException: by a call whose answer was cut off or does not parse; by a stream at its end.
        """
        if method is None:
            enforces = (self.profile or {}).get("structured_output")
            method = "json_mode" if schema is None else "json_schema" if enforces else "function_calling"
        if schema is None and method != "json_mode":
            raise ValueError(f"with_structured_output needs a schema for the method {method!r}.")
        with translated():
            tool, (form, model_class, wrapped) = None, as_object(schema)
            # LangChain can't convert each schema for its traces that this package can.
            shown = answer_function(form) if form is not None else None
            about = {"description": shown["description"]} if shown and shown.get("description") else {}
            kwargs["ls_structured_output_format"] = {
                "kwargs": {"method": method, "strict": strict},
                "schema": shown and {"title": shown["name"], **about, **shown["parameters"]},
            }
            if method == "function_calling":
                function: Any = to_tool({"type": "function", "function": shown}, strict=strict)
                tool = function["function"]["name"]
                llm = self.bind_tools([function], tool_choice="any", **kwargs)
            elif method == "json_schema":
                llm = self.bind(response_format=to_response_format(form, strict=strict), **kwargs)
            elif method == "json_mode" and not wrapped:
                llm = self.bind(response_format={"type": "json_object"}, **kwargs)
            else:
                known = "'function_calling', 'json_schema' or, where the schema is of an object, 'json_mode'"
                raise ValueError(f"The method is {known}, not {method!r}.")
        return llm | AnswerParser(tool=tool, model_class=model_class, wrapped=wrapped, include_raw=include_raw)


def _with_run(kwargs: dict[str, Any]) -> dict[str, Any]:
    streamed = {"stream": True} if kwargs.get("streaming") else {}
    return {RUN: CallRun(kwargs.get("run_manager")), **kwargs, **streamed}


class BoundModel(RunnableBinding[LanguageModelInput, AIMessage]):
    """A model with arguments for all its calls. LangChain's own loses them where tools or a schema are bound later."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialize as LangChain's class."""
        return RunnableBinding.lc_id()

    def bind_tools(self, tools: Sequence[ToolLike], **options: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools in place of earlier ones; see `ChatLavaMistral.bind_tools`."""
        kept: Any = self._without_tools()
        if not isinstance(self.bound, ChatLavaMistral):
            # There is a retry between them.
            return ChatLavaMistral.bind_tools(kept, tools, **options)
        # A subclass may make something of its own of the tools.
        made: Any = self.bound.bind_tools(tools, **options)
        made = kept.bind(**made.kwargs) if type(made) is BoundModel else made.bind(**kept.kwargs)
        return cast("Runnable[LanguageModelInput, AIMessage]", made)

    def with_structured_output(
        self, schema: ToolLike | None = None, **options: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return the model with answers of this form alone; see `ChatLavaMistral.with_structured_output`."""
        return ChatLavaMistral.with_structured_output(self._without_tools("response_format"), schema, **options)

    def _without_tools(self, *others: str) -> Any:
        # A choice among earlier tools says nothing about others.
        of_tools = ("tools", "tool_choice", "parallel_tool_calls") if self.kwargs.get("tools") else ()
        kept = {name: value for name, value in self.kwargs.items() if name not in (*of_tools, *others)}
        return self.model_copy(update={"kwargs": kept})

    def with_alisteners(self, **listeners: Any) -> Any:
        """Return the model with async functions that are told of its runs."""
        told: Any = super().with_alisteners(**listeners)
        return self.model_copy(update={"config_factories": [*told.config_factories, *self.config_factories]})

    def with_fallbacks(self, fallbacks: Sequence[Runnable[Any, Any]], **options: Any) -> Any:
        """Return the model with others that take over where it fails."""
        return _keeping(super().with_fallbacks(fallbacks, **options))

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        return partial(method, **self.kwargs) if name in _CALLS else method


# Methods of a model that call it and that a binding hands on as they are.
_CALLS = frozenset(("generate", "agenerate", "generate_prompt", "agenerate_prompt"))


def _keeping(wrapper: Any) -> Any:
    # Loaded here: they take time, and few programs use them.
    from langchain_lava_mistral._wrappers import keeping

    return keeping(wrapper)


# LangChain reads them at each call, and Python would make them anew each time: a tenth of an `invoke`.
_answers: Any
for _answers in (ChatLavaMistral._generate, ChatLavaMistral._agenerate):
    _answers.__signature__ = signature(_answers)
