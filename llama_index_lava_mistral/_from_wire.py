"""Map Mistral's answers and deltas to LlamaIndex's messages and responses. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms import types as llama

from lava_mistral.mistral.turn import Delta, Turn
from lava_mistral.mistral.types import ContentPart, ThinkingPart, Usage
from lava_mistral.mistral.usage import cached_tokens, reasoning_tokens
from llama_index_lava_mistral._to_wire import PROVIDER
from llama_index_lava_mistral._tools import call_parts

if TYPE_CHECKING:
    from lava_mistral.calls.chat_stream import StreamReader
    from lava_mistral.calls.responses import Completion

_set = object.__setattr__
_MESSAGE = llama.ChatMessage(role=llama.MessageRole.ASSISTANT, blocks=[])


def response_of(completion: Completion, with_headers: bool) -> llama.ChatResponse:
    """Return the response for a whole answer; of several choices the first."""
    turn = completion.turn
    facts = _facts(completion, with_headers) | _facts_so_far(completion, turn.finish_reason, completion.usage, turn)
    raw = {**completion.raw, "cost": facts["cost"]} if "cost" in facts else completion.raw
    return llama.ChatResponse(
        message=from_turn(turn), raw=raw, logprobs=_logprobs(turn.logprobs), additional_kwargs=facts
    )


class StreamedResponses:
    """Builds the cumulative response after each delta of a stream, always of new objects."""

    def __init__(self, stream: StreamReader, with_headers: bool) -> None:
        self._stream = stream
        self._facts = _facts(stream, with_headers)
        # The stream's own turn runs ahead of the deltas that it hands on.
        self._turn = Turn()
        # All that came, as long as it is text.
        self._text: str | None = ""
        self._usage: Usage | None = None

    def take(self, delta: Delta) -> llama.ChatResponse | None:
        """Return the response after this delta; `None` for a delta of another choice than the first."""
        if delta.index != 0 and delta.usage is None:
            return None
        delta = delta if delta.index == 0 else Delta(0, usage=delta.usage)
        self._turn.add(delta)
        self._text = None if self._text is None or delta.parts or delta.tool_calls else self._text + delta.text
        self._usage = delta.usage or self._usage
        return self._response(delta, self._turn.finish_reason)

    def end(self) -> llama.ChatResponse | None:
        """Return a last response for tool calls without a finish reason, so that none runs with half its arguments."""
        if not self._turn.tool_calls or self._turn.finish_reason is not None:
            return None
        return self._response(Delta(0), "unknown")

    def _response(self, delta: Delta, finish_reason: str | None) -> llama.ChatResponse:
        """Return a response, whose `raw` is the delta in Mistral's form."""
        stream, usage = self._stream, self._usage
        wire: dict[str, Any] = {"content": list(delta.parts) or delta.text}
        if delta.tool_calls:
            wire["tool_calls"] = [
                {"index": each.index, "id": each.id, "function": {"name": each.name, "arguments": each.arguments}}
                for each in delta.tool_calls
            ]
        choices = [{"index": 0, "delta": wire, "finish_reason": delta.finish_reason}]
        raw: dict[str, Any] = {"id": stream.id, "object": "chat.completion.chunk", "created": stream.created}
        raw |= {"model": stream.model, "choices": choices}
        facts = self._facts.copy()
        if finish_reason is not None or usage is not None:
            facts |= _facts_so_far(stream, finish_reason, usage, stream.turn)
        if usage is not None:
            # An agent hands on nothing else of a response.
            raw |= {"usage": dict(usage), "cost": facts["cost"]}
        if delta.thinking:
            facts["thinking_delta"] = delta.thinking
        told: Any = {"delta": delta.text, "raw": raw, "logprobs": _logprobs(delta.logprobs), "additional_kwargs": facts}
        text = self._text
        message = from_turn(self._turn) if text is None else _message([llama.TextBlock(text=text)], {})
        return llama.ChatResponse(message=message, **told)


def _facts(answer: Completion | StreamReader, with_headers: bool) -> dict[str, Any]:
    headers = {"headers": dict(answer.headers)} if with_headers else {}
    return {"lava_request_id": answer.request_id, **headers}


def _facts_so_far(
    answer: Completion | StreamReader, finish_reason: str | None, usage: Usage | None, turn: Turn
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if finish_reason is not None:
        facts["finish_reason"] = finish_reason
        if turn.steps:
            # What tools on Mistral's side did before the answer.
            facts |= {"steps": turn.steps, "files": turn.files}
    if usage is not None:
        # As text, so that JSON holds every digit.
        facts["cost"] = None if (cost := answer.cost) is None else f"{cost:f}"
        facts |= {name: usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        facts["cached_tokens"] = cached_tokens(usage)
        for name, value in (("reasoning_tokens", reasoning_tokens(usage)), ("service_tier", usage.get("service_tier"))):
            if value is not None:
                facts[name] = value
    return facts


def _logprobs(tokens: Sequence[Any]) -> list[list[llama.LogProb]] | None:
    """Return the log probabilities of tokens: of each place the likely ones, else the token itself."""
    if not tokens:
        return None

    def read(each: Any) -> llama.LogProb:
        probability, data = each.get("logprob") or 0.0, each.get("bytes") or []
        return llama.LogProb(token=str(each.get("token")), logprob=probability, bytes=data)

    return [[read(each) for each in token.get("top_logprobs") or [token]] for token in tokens]


def from_turn(turn: Turn) -> llama.ChatMessage:
    """Return the message for a turn, complete or as far as it came; it shares nothing with other messages.

    All text is one block, since LlamaIndex joins text blocks with line breaks. Parts for which it has no block are in
    `additional_kwargs["parts"]`; where blocks do not say all of a turn, its content is in `["mistral_content"]`.
    """
    text = ""
    text_at: int | None = None
    cited = 0
    blocks: list[llama.ContentBlock] = []
    others: list[ContentPart] = []
    content = turn.content
    in_blocks = True
    for part in content:
        match part["type"]:
            case "text":
                text_at = len(blocks) if text_at is None else text_at
                text += part["text"]
                continue
            case "thinking":
                blocks.append(_thinking_block(part))
                if not text and all(piece.get("type") == "text" for piece in part["thinking"]):
                    continue
            case "reference":
                # One block for each source; it cites the text since the last reference.
                blocks += [_citation(text, cited, source, source) for source in part["reference_ids"]]
                cited = len(text)
            case "image_url":
                image = part["image_url"]
                blocks.append(llama.ImageBlock(url=image if isinstance(image, str) else image["url"]))
            case "document_url":
                blocks.append(llama.DocumentBlock(url=part["document_url"], title=part.get("document_name")))
            case _:
                other: Any = part
                if other["type"] == "tool_reference":
                    title = other.get("title") or other.get("tool")
                    blocks.append(_citation(text, cited, other.get("url") or title, title))
                    cited = len(text)
                others.append(part)
        in_blocks = False
    blocks.insert(len(blocks) if text_at is None else text_at, llama.TextBlock(text=text))
    kwargs: dict[str, Any] = {"parts": others} if others else {}
    if not in_blocks:
        kwargs["mistral_content"] = content
    for call in turn.tool_calls:
        blocks.append(llama.ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments))
    if turn.tool_calls:
        kwargs["tool_calls"] = call_parts(turn.tool_calls)
    return _message(blocks, kwargs)


def _message(blocks: list[llama.ContentBlock], kwargs: dict[str, Any]) -> llama.ChatMessage:
    # A copy of a validated message: the blocks are valid, and to look at them again costs a chunk a seventh.
    message = object.__new__(llama.ChatMessage)
    _set(message, "__dict__", {**_MESSAGE.__dict__, "blocks": blocks, "additional_kwargs": kwargs})
    _set(message, "__pydantic_fields_set__", {"role", "blocks", "additional_kwargs"})
    _set(message, "__pydantic_extra__", None)
    _set(message, "__pydantic_private__", None)
    return message


def _thinking_block(part: ThinkingPart) -> llama.ThinkingBlock:
    information: dict[str, Any] = {"provider": PROVIDER}
    information |= {key: part[key] for key in ("closed", "signature") if part.get(key) is not None}
    text = "".join(piece["text"] for piece in part["thinking"] if piece.get("type") == "text")
    return llama.ThinkingBlock(content=text, additional_information=information)


def _citation(text: str, start: int, source: Any, title: Any) -> llama.CitationBlock:
    where = {"start": start, "end": len(text)} | ({"reference_id": source} if isinstance(source, int) else {})
    cited, source = llama.TextBlock(text=text[start:]), str(source)
    return llama.CitationBlock(cited_content=cited, source=source, title=str(title), additional_location_info=where)
