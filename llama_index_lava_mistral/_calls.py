"""Make the calls of the chat model: resolve the arguments of each to one request, and hand on what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.base.llms import generic_utils as convert
from llama_index.core.base.llms import types as llama
from llama_index_instrumentation.dispatcher import active_instrument_tags

from lava_mistral.calls.arguments import refuse_misspelt, renamed
from lava_mistral.errors import ConfigurationError
from lava_mistral.frameworks.settings import PER_CALL_SETTINGS, WIRE_NAMES
from lava_mistral.mistral.tools import to_tool_choice
from lava_mistral.transport.flow import Flow
from llama_index_lava_mistral._from_wire import StreamedResponses, response_of
from llama_index_lava_mistral._instrumentation import billing_of
from llama_index_lava_mistral._params import SYNONYMS, ChatSettings
from llama_index_lava_mistral._to_wire import may_be_read, to_wire
from llama_index_lava_mistral._tools import named_choice, response_format_of, tool_spec
from llama_index_lava_mistral.callbacks import listening, traced

if TYPE_CHECKING:
    from lava_mistral.calls.chat_stream import AsyncChatStream, ChatStream

_CALL_ARGUMENTS: Final = frozenset(
    {*WIRE_NAMES, *SYNONYMS, *PER_CALL_SETTINGS, "model", "tools", "billing", "lava_metadata", "trace_metadata"}
    | {"repair_messages", "include_response_headers", "streaming", "additional_kwargs"}
)


def answer(
    llm: ChatSettings,
    asynchronous: bool,
    asked: str | Sequence[llama.ChatMessage],
    kwargs: Any,
    streams: bool = False,
) -> Flow[Any]:
    """Ask the model, and return its answer or the generator of what has come of it."""
    messages = convert.prompt_to_messages(asked) if isinstance(asked, str) else asked
    if asynchronous and any(may_be_read(block) for message in messages for block in message.blocks):
        client, arguments, with_headers = yield asyncio.to_thread(_request, llm, True, messages, kwargs)
    else:
        client, arguments, with_headers = _request(llm, asynchronous, messages, kwargs)
    with listening():
        answer = yield (client.stream if streams else client.chat)(**arguments)
    if not streams:
        return response_of(answer, with_headers)
    responses: Any = (_aresponses if asynchronous else _responses)(answer, with_headers)
    # Into the block that closes the stream: nobody may ever ask for a response.
    yield anext(responses) if asynchronous else next(responses)
    return responses


def _responses(stream: ChatStream, with_headers: bool) -> Generator[llama.ChatResponse | None, None, None]:
    """Yield the responses of a stream, after a first `None`."""
    so_far = StreamedResponses(stream, with_headers)
    with stream:
        yield None
        for delta in stream:
            if (response := so_far.take(delta)) is not None:
                yield response
    if (last := so_far.end()) is not None:
        yield last


async def _aresponses(stream: AsyncChatStream, with_headers: bool) -> AsyncGenerator[llama.ChatResponse | None, None]:
    so_far = StreamedResponses(stream, with_headers)
    async with stream:
        yield None
        async for delta in stream:
            if (response := so_far.take(delta)) is not None:
                yield response
    if (last := so_far.end()) is not None:
        yield last


def _request(
    llm: ChatSettings, asynchronous: bool, messages: Sequence[llama.ChatMessage], kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Any], bool]:
    """Return a client, the arguments of its `chat` or `stream`, and whether the response has headers."""
    arguments: dict[str, Any] = {"model": llm.model, **llm._parameters()}
    if kwargs or llm.additional_kwargs:
        arguments |= _call_arguments(llm, kwargs)
    if arguments.get("n", 1) != 1:
        raise ConfigurationError(
            f"LlamaIndex has one answer a call; n={arguments['n']} would pay for more, which nobody gets to see. "
            "Use langchain_lava_mistral or lava_mistral.LavaMistral."
        )
    client = llm._backend(arguments)[asynchronous]
    for name in PER_CALL_SETTINGS:
        arguments.pop(name, None)
    with_headers = arguments.pop("include_response_headers", llm.include_response_headers)
    arguments.setdefault("repair_messages", llm.repair_messages)
    if arguments.get("response_format") is not None:
        arguments["response_format"] = response_format_of(arguments["response_format"])
    arguments["billing"] = billing_of(arguments.get("billing"))
    if arguments.pop("trace_metadata", llm.trace_metadata):
        arguments["lava_metadata"] = traced(arguments.get("lava_metadata"))
    run = active_instrument_tags.get().get("llamaindex.run_id")
    if arguments.get("prompt_cache_key") == "auto" and run is not None:
        arguments["prompt_cache_key"] = str(run)
    arguments["messages"] = to_wire(messages)
    choice = named_choice(arguments.pop("tool_choice", None))
    if tools := [tool_spec(tool) for tool in arguments.pop("tools", None) or ()]:
        names = [tool["function"]["name"] for tool in tools if "function" in tool]
        arguments |= {"tools": tools, "tool_choice": to_tool_choice(choice, names)}
    else:
        arguments.pop("parallel_tool_calls", None)
    return client, arguments, with_headers


def _call_arguments(llm: ChatSettings, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by their name on the wire, and the further fields of the llm."""
    said = renamed(kwargs.items(), SYNONYMS)
    refuse_misspelt(said.keys() - _CALL_ARGUMENTS, _CALL_ARGUMENTS)
    own = renamed(llm.additional_kwargs.items(), SYNONYMS)
    if said.get("tools") and own.get("tools"):
        # Mistral's own tools, such as web search, beside those of an agent.
        said["tools"] = [*said["tools"], *own["tools"]]
    said = {**own, **(said.pop("additional_kwargs", None) or {}), **said}
    said.pop("streaming", None)
    return {WIRE_NAMES.get(name, name): value for name, value in said.items()}
