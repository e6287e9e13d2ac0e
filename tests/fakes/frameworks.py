"""One conversation through the core, LangChain and LlamaIndex, in sync and async code, streamed or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.tools import FunctionTool

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral import AsyncLavaMistral, LavaMistral
from lava_mistral.gateway import LocalGateway

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


@dataclass
class Said:
    """A message in no framework's form: calls are (id, name, arguments); or, as `raw`, one that a framework gave."""

    role: str
    content: Any = ""
    calls: Sequence[tuple[str, str, Any]] = ()
    tool_call_id: str = ""
    name: str | None = None
    raw: Any = None


def user(content: Any = "Hello") -> Said:
    return Said("user", content)


def system(content: Any = "Be brief.") -> Said:
    return Said("system", content)


def assistant(content: Any = "", *calls: tuple[str, str, Any]) -> Said:
    return Said("assistant", content, calls)


def tool(id: str, content: Any, name: str | None = None) -> Said:
    return Said("tool", content, tool_call_id=id, name=name)


@dataclass
class Reply:
    """What the user gets: the text, and the calls as (name, arguments)."""

    text: str
    calls: list[tuple[str, Any]] = field(default_factory=list)
    message: Any = None


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def call(name: str, arguments: Any, id: str = "a1B2c3D4e") -> dict[str, Any]:
    """A tool call on the wire."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}}


def choice_answer(choice: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A whole answer of one choice."""
    head = {"id": "cmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "mistral-small-2603"}
    return {**head, "choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": USAGE, **more}


def events(*choices: dict[str, Any], finish_reason: str | None = "stop", done: bool = True) -> str:
    """A streamed answer of one choice, as text; each argument is a delta, or has one and what belongs beside it."""
    head = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mistral-small-2603"}
    chunks = [c if "delta" in c else {"delta": c} for c in ({"role": "assistant", "content": ""}, *choices)]
    said = [{**head, "choices": [{"index": 0, "finish_reason": None, **c}]} for c in chunks]
    said.append({**head, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": finish_reason}]})
    said[-1]["usage"] = USAGE
    return "".join(f"data: {json.dumps(each)}\n\n" for each in said) + "data: [DONE]\n\n" * done


class Framework:
    """The core, LangChain or LlamaIndex, called in one way.

    Args:
        kind: `"core"`, `"langchain"` or `"llama_index"`.
        asynchronous: call in async code, under an event loop of its own.
        streamed: ask for a stream, and put it together.
    """

    def __init__(self, kind: str, asynchronous: bool = False, streamed: bool = False) -> None:
        self.kind = kind
        self.asynchronous = asynchronous
        self.streamed = streamed

    def queue(self, gateway: LocalGateway, message: dict[str, Any], finish_reason: str = "stop") -> None:
        """Let the gateway answer with a message, whole or in one delta."""
        if self.streamed:
            gateway.queue(events(message, finish_reason=finish_reason))
        else:
            answer = choice_answer({"message": {"role": "assistant", **message}, "finish_reason": finish_reason})
            gateway.queue(answer)

    def send(self, gateway: LocalGateway, history: Sequence[Said], tools: Sequence[Any] = (), **request: Any) -> Reply:
        """Send a conversation; the tools are names, of functions that add two numbers, or as Mistral takes them."""
        return getattr(self, f"_{self.kind}")(gateway, history, tools, request)  # type: ignore[no-any-return]

    def _run(self, whole: Any, stream: Any) -> Any:
        """The result of a call: of a coroutine too; of a stream all that came."""
        if not self.asynchronous:
            return list(stream()) if self.streamed else whole()

        async def run() -> Any:
            if not self.streamed:
                return await whole()
            source = stream()
            if asyncio.iscoroutine(source):
                source = await source
            return [each async for each in source]

        return asyncio.run(run())

    def _core(self, gateway: LocalGateway, history: Sequence[Said], tools: Sequence[Any], request: Any) -> Reply:
        kind: Any = AsyncLavaMistral if self.asynchronous else LavaMistral
        client = kind(api_key=gateway.secret_key, base_url=gateway.base_url, max_retries=0)
        messages = [_wire(said) for said in history]
        parameters = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
        if tools:
            specs = [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in tools]
            given = [tool if isinstance(tool, dict) else spec for tool, spec in zip(tools, specs, strict=True)]
            request = {**request, "tools": given}
        opened: list[Any] = []

        def stream() -> Any:
            if not self.asynchronous:
                opened.append(client.stream(messages, **request))
                return opened[0]

            async def deltas() -> Any:
                opened.append(await client.stream(messages, **request))
                async for delta in opened[0]:
                    yield delta

            return deltas()

        result = self._run(lambda: client.chat(messages, **request), stream)
        turn = opened[0].turn if self.streamed else result.turn
        return Reply(turn.text, [(call.name, call.parsed()) for call in turn.tool_calls], turn)

    def _langchain(self, gateway: LocalGateway, history: Sequence[Said], tools: Sequence[Any], request: Any) -> Reply:
        model: Any = langchain_lava_mistral.ChatLavaMistral(
            api_key=gateway.secret_key, base_url=gateway.base_url, max_retries=0
        )
        if tools:
            choice = request.pop("tool_choice", None)
            bound = [n if isinstance(n, dict) else StructuredTool.from_function(add, name=n) for n in tools]
            model = model.bind_tools(bound, tool_choice=choice)
        messages = [_langchain_message(said) for said in history]
        if self.asynchronous:
            result = self._run(lambda: model.ainvoke(messages, **request), lambda: model.astream(messages, **request))
        else:
            result = self._run(lambda: model.invoke(messages, **request), lambda: model.stream(messages, **request))
        message = result[0].__add__(result[1:]) if self.streamed else result
        return Reply(message.text, [(call["name"], call["args"]) for call in message.tool_calls], message)

    def _llama_index(self, gateway: LocalGateway, history: Sequence[Said], tools: Sequence[Any], request: Any) -> Reply:
        llm: Any = llama_index_lava_mistral.ChatLavaMistral(
            api_key=gateway.secret_key, base_url=gateway.base_url, max_retries=0
        )
        if tools:
            given = [n if isinstance(n, dict) else FunctionTool.from_defaults(add, name=n) for n in tools]
            request = {**request, "tools": given}
        messages = [_llama_index_message(said) for said in history]
        if self.asynchronous:
            result = self._run(lambda: llm.achat(messages, **request), lambda: llm.astream_chat(messages, **request))
        else:
            result = self._run(lambda: llm.chat(messages, **request), lambda: llm.stream_chat(messages, **request))
        response = result[-1] if self.streamed else result
        calls = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        text = response.message.content or ""
        return Reply(text, [(call.tool_name, call.tool_kwargs) for call in calls], response.message)


def _wire(said: Said) -> dict[str, Any]:
    if said.raw is not None:
        return said.raw.to_wire()  # type: ignore[no-any-return]
    message: dict[str, Any] = {"role": said.role, "content": said.content}
    if said.calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in said.calls
        ]
    if said.role == "tool":
        message["tool_call_id"] = said.tool_call_id
        if said.name is not None:
            message["name"] = said.name
    return message


def _langchain_message(said: Said) -> Any:
    if said.raw is not None:
        return said.raw
    match said.role:
        case "user":
            return HumanMessage(said.content)
        case "system":
            return SystemMessage(said.content)
        case "tool":
            return ToolMessage(said.content, tool_call_id=said.tool_call_id, name=said.name)
        case _:
            return AIMessage(said.content, tool_calls=[{"id": i, "name": n, "args": a} for i, n, a in said.calls])


def _llama_index_message(said: Said) -> ChatMessage:
    if said.raw is not None:
        return said.raw  # type: ignore[no-any-return]
    blocks: Any = [TextBlock(text=said.content)] if isinstance(said.content, str) else list(said.content)
    blocks += [ToolCallBlock(tool_call_id=i, tool_name=n, tool_kwargs=a) for i, n, a in said.calls]
    kwargs = {"tool_call_id": said.tool_call_id} if said.tool_call_id else {}
    return ChatMessage(role=said.role, blocks=blocks, additional_kwargs=kwargs)
