"""Put `ChatLavaMistral` in the place of another project's scripted chat model: its answers come over HTTP."""

from __future__ import annotations

import atexit
import json
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral.gateway import LocalGateway

GATEWAY = LocalGateway()
GATEWAY.start()
atexit.register(GATEWAY.stop)


def behind(kind: type[BaseChatModel]) -> type[ChatLavaMistral]:
    """Return a class with the arguments of a scripted one; a local Mistral, as strict as the real one, says its lines.

    Once the answer over HTTP says the same, the scripted message itself is handed on: the other project's tests compare
    whole messages. It streams only where the scripted one does: they count chunks too.
    """
    streams = kind._stream is not BaseChatModel._stream

    class Substitute(ChatLavaMistral):
        _scripted: Any = PrivateAttr()

        def __init__(self, **settings: Any) -> None:
            super().__init__(api_key=GATEWAY.secret_key, base_url=GATEWAY.base_url, disable_streaming=not streams)
            self._scripted = kind(**settings)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in kind.__annotations__:
                setattr(self._scripted, name, value)
            else:
                super().__setattr__(name, value)

        def _script(self, messages: Any, stop: Any, manager: Any, kwargs: dict[str, Any]) -> AIMessage:
            structured = getattr(self._scripted, "structured_response", None)
            if "response_format" in kwargs and structured is not None:
                said = AIMessage(content=structured.model_dump_json())
            else:
                said = self._scripted._generate(messages, stop, manager).generations[0].message
            GATEWAY.queue(_on_the_wire(said), path="chat")
            return said

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            said = self._script(messages, stop, run_manager, kwargs)
            return _handed_on(said, super()._generate(messages, stop, run_manager, **kwargs))

        async def _agenerate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            said = self._script(messages, stop, None, kwargs)
            return _handed_on(said, await super()._agenerate(messages, stop, run_manager, **kwargs))

    return Substitute


def _handed_on(said: AIMessage, result: ChatResult) -> ChatResult:
    message: Any = result.generations[0].message
    assert (message.content, message.tool_calls) == (said.content, said.tool_calls)
    return ChatResult(generations=[ChatGeneration(message=said)])


def _on_the_wire(message: AIMessage) -> dict[str, Any]:
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["args"])},
        }
        for call in message.tool_calls
    ]
    said: dict[str, Any] = {"role": "assistant", "content": message.content, "tool_calls": calls or None}
    return {
        "id": "cmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "mistral-small-2603",
        "choices": [{"index": 0, "message": said, "finish_reason": "tool_calls" if calls else "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    }
