"""Makes LlamaIndex's responses of the core's answers and deltas. Pure.

A response, its message and its block are validated by pydantic once; the thousands of a stream that hold nothing but
text are copies of them, which costs a fraction.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, TextBlock
from pydantic_core import from_json

from lava_mistral.calls.responses import Completion
from lava_mistral.calls.stream_parser import StreamReader
from lava_mistral.mistral.turn import Delta, ToolCall, Turn
from lava_mistral.mistral.types import Usage, cached_tokens
from llama_index_lava_mistral._convert import from_turn

CUT_OFF = ("length", "model_length")
"""Finish reasons of an answer that was longer than allowed."""


def response_of(completion: Completion) -> ChatResponse:
    """The response for an answer that was not streamed; of several choices the first."""
    return ChatResponse(
        message=from_turn(completion.turn),
        raw=completion.raw,
        additional_kwargs=_facts(completion, completion.turn.finish_reason, completion.usage),
    )


_new = object.__new__
_set = object.__setattr__
_BLOCK = TextBlock(text="text")
_MESSAGE = ChatMessage(role=MessageRole.ASSISTANT, blocks=[_BLOCK], additional_kwargs={})
_RESPONSE = ChatResponse(message=_MESSAGE, delta="text", raw={}, additional_kwargs={})


def _copy(model: Any, **values: Any) -> Any:
    copy = _new(type(model))
    _set(copy, "__dict__", model.__dict__ | values)
    _set(copy, "__pydantic_fields_set__", set(model.__pydantic_fields_set__))
    _set(copy, "__pydantic_extra__", model.__pydantic_extra__)
    _set(copy, "__pydantic_private__", model.__pydantic_private__)
    return copy


def text_response(text: str, delta: str, raw: dict[str, Any], facts: dict[str, Any]) -> ChatResponse:
    """A response that holds nothing but text.

    Args:
        text: all text so far.
        delta: what is new of it.
        raw: the delta in the wire's form.
        facts: the response's `additional_kwargs`.
    """
    message = _copy(_MESSAGE, blocks=[_copy(_BLOCK, text=text)], additional_kwargs={})
    response: ChatResponse = _copy(_RESPONSE, message=message, delta=delta, raw=raw, additional_kwargs=facts)
    return response


class StreamedResponses:
    """Makes of each delta of a stream the response as far as it came; every response is made of fresh objects."""

    def __init__(self, stream: StreamReader) -> None:
        self._stream = stream
        # All that has come, as long as it is text alone; from then on it is in the turn.
        self._text: str | None = ""
        # The stream's own turn runs ahead of the deltas that it hands on.
        self._turn = Turn()
        self._usage: Usage | None = None

    def take(self, delta: Delta) -> ChatResponse | None:
        """The response after this delta; `None` for a delta of another choice than the first."""
        if delta.index != 0:
            if delta.usage is None:
                return None
            delta = Delta(0, usage=delta.usage)
        if self._text is not None:
            if not (delta.parts or delta.tool_calls or delta.finish_reason or delta.usage):
                self._text += delta.text
                return text_response(self._text, delta.text, self._raw(delta), _facts(self._stream, None, None))
            self._turn = Turn(0, self._text)
            self._text = None
        self._turn.add(delta)
        self._usage = delta.usage or self._usage
        facts = _facts(self._stream, self._turn.finish_reason, self._usage)
        if delta.thinking:
            facts["thinking_delta"] = delta.thinking
        return ChatResponse(
            message=from_turn(self._turn), delta=delta.text, raw=self._raw(delta), additional_kwargs=facts
        )

    def _raw(self, delta: Delta) -> dict[str, Any]:
        """The delta in the wire's own form."""
        message: dict[str, Any] = {"content": list(delta.parts) if delta.parts else delta.text}
        if delta.tool_calls:
            message["tool_calls"] = [
                {
                    "index": fragment.index,
                    "id": fragment.id,
                    "type": "function",
                    "function": {"name": fragment.name, "arguments": fragment.arguments},
                }
                for fragment in delta.tool_calls
            ]
        raw: dict[str, Any] = {
            "id": self._stream.id,
            "object": "chat.completion.chunk",
            "created": self._stream.created,
            "model": self._stream.model,
            "choices": [{"index": 0, "delta": message, "finish_reason": delta.finish_reason}],
        }
        if self._usage is not None:
            raw["usage"] = dict(self._usage)
        return raw


def _facts(answer: Completion | StreamReader, finish_reason: str | None, usage: Usage | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"lava_request_id": answer.request_id}
    if finish_reason is not None:
        facts["finish_reason"] = finish_reason
    if usage is not None:
        facts["cost"] = answer.cost
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            facts[name] = usage.get(name, 0)
        facts["cached_tokens"] = cached_tokens(usage)
    return facts


def partial_json(text: str) -> dict[str, Any]:
    """The JSON object that a text begins, as far as it has come; empty where there is none yet."""
    try:
        value = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def arguments_of(call: ToolCall, finish_reason: str | None) -> dict[str, Any]:
    """The arguments of a tool call: while the answer grows, as far as they have come; once it has ended, all of them.

    Args:
        call: the call.
        finish_reason: of the answer; `None` while it grows.

    Raises:
        ValueError: the answer has ended, and the arguments are no JSON object. The tool must not run with the half that
            is there.
    """
    if finish_reason is None:
        return partial_json(call.arguments)
    cut_off = finish_reason in CUT_OFF
    if not call.arguments.strip() and not cut_off:
        # As some servers write none at all.
        return {}
    whole = call.parsed()
    if whole is None:
        why = "the answer was cut off in them: give a larger max_tokens" if cut_off else "the model made a mistake"
        raise ValueError(
            f"Expected the arguments of {call.name!r} as a JSON object; got {call.arguments[:200]!r} ({why}). "
            "The tool is not called."
        )
    return whole
