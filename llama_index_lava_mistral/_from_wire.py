"""Map Mistral's answers and deltas to LlamaIndex's messages and responses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from lava_mistral.mistral.turn import Delta, Turn
from lava_mistral.mistral.types import ContentPart, ReferencePart, ThinkingPart, Usage
from lava_mistral.mistral.usage import cached_tokens, reasoning_tokens
from llama_index_lava_mistral._to_wire import PROVIDER
from llama_index_lava_mistral._tools import call_parts

if TYPE_CHECKING:
    from lava_mistral.calls.responses import Completion
    from lava_mistral.calls.stream_parser import StreamReader


def response_of(completion: Completion, with_headers: bool) -> ChatResponse:
    """Return the response for a whole answer; of several choices the first."""
    facts = _facts(completion, completion.turn.finish_reason, completion.usage, completion.turn, with_headers)
    return ChatResponse(
        message=from_turn(completion.turn),
        raw=completion.raw,
        logprobs=_logprobs(completion.turn.logprobs),
        additional_kwargs=facts,
    )


class StreamedResponses:
    """Builds the cumulative response after each delta of a stream, always of new objects."""

    def __init__(self, stream: StreamReader, with_headers: bool) -> None:
        self._stream = stream
        self._with_headers = with_headers
        # All that has come, as long as it is text alone; from then on it is in the turn.
        self._text: str | None = ""
        # The stream's own turn runs ahead of the deltas that it hands on.
        self._turn = Turn()
        self._usage: Usage | None = None

    def take(self, delta: Delta) -> ChatResponse | None:
        """Return the response after this delta; `None` for a delta of another choice than the first."""
        if delta.index != 0:
            if delta.usage is None:
                return None
            delta = Delta(0, usage=delta.usage)
        if self._text is not None:
            if not (delta.parts or delta.tool_calls or delta.finish_reason or delta.usage):
                self._text += delta.text
                message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=self._text)])
                return self._response(delta, message, None)
            self._turn = Turn(0, self._text)
            self._text = None
        self._turn.add(delta)
        self._usage = delta.usage or self._usage
        response = self._response(delta, from_turn(self._turn), self._turn.finish_reason)
        if delta.thinking:
            response.additional_kwargs["thinking_delta"] = delta.thinking
        return response

    def end(self) -> ChatResponse | None:
        """Return a last response where the stream ended in tool calls without a finish reason.

        Its finish reason says that nothing more comes, so that no tool runs with half of its arguments.
        """
        if not self._turn.tool_calls or self._turn.finish_reason is not None:
            return None
        return self._response(Delta(0), from_turn(self._turn), "unknown")

    def _response(self, delta: Delta, message: ChatMessage, finish_reason: str | None) -> ChatResponse:
        turn = None if finish_reason is None else self._stream.turn
        return ChatResponse(
            message=message,
            delta=delta.text,
            raw=self._raw(delta),
            logprobs=_logprobs(delta.logprobs),
            additional_kwargs=_facts(self._stream, finish_reason, self._usage, turn, self._with_headers),
        )

    def _raw(self, delta: Delta) -> dict[str, Any]:
        """Return the delta in Mistral's form."""
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


def _facts(
    answer: Completion | StreamReader,
    finish_reason: str | None,
    usage: Usage | None,
    turn: Turn | None,
    with_headers: bool,
) -> dict[str, Any]:
    facts: dict[str, Any] = {"lava_request_id": answer.request_id}
    if with_headers:
        facts["headers"] = dict(answer.headers)
    if finish_reason is not None:
        facts["finish_reason"] = finish_reason
    if usage is not None:
        # As text, so that JSON holds every digit.
        facts["cost"] = None if (cost := answer.cost) is None else f"{cost:f}"
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            facts[name] = usage.get(name, 0)
        facts["cached_tokens"] = cached_tokens(usage)
        for name, value in (("reasoning_tokens", reasoning_tokens(usage)), ("service_tier", usage.get("service_tier"))):
            if value is not None:
                facts[name] = value
    if turn is not None and turn.steps:
        # What tools on Mistral's side did before the answer.
        facts["steps"] = turn.steps
        facts["files"] = turn.files
    return facts


def _logprobs(tokens: Iterable[Any]) -> list[list[LogProb]] | None:
    """Return the log probabilities of tokens: of each place the likely ones, else the token itself."""
    return [
        [
            LogProb(token=str(each.get("token")), logprob=each.get("logprob") or 0.0, bytes=each.get("bytes") or [])
            for each in token.get("top_logprobs") or [token]
        ]
        for token in tokens
    ] or None


def from_turn(turn: Turn) -> ChatMessage:
    """Return the message for a turn, complete or as far as it came; it shares nothing with other messages.

    All text is one block, since LlamaIndex joins text blocks with line breaks.
    """
    kwargs: dict[str, Any] = {}
    content = turn.content
    blocks: list[ContentBlock] = [*_content_blocks(content)]
    if other := [part for part in content if part["type"] not in _AS_BLOCKS]:
        kwargs["parts"] = other
    if turn.tool_calls:
        blocks += [
            ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments)
            for call in turn.tool_calls
        ]
        kwargs["tool_calls"] = call_parts(turn.tool_calls)
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=kwargs)


_AS_BLOCKS = ("text", "thinking", "reference", "image_url", "document_url")


def _content_blocks(content: Sequence[ContentPart]) -> list[ContentBlock]:
    text = ""
    text_at: int | None = None
    cited = 0
    references = others = 0
    blocks: list[ContentBlock] = []
    for part in content:
        match part["type"]:
            case "text":
                if text_at is None:
                    text_at = len(blocks)
                text += part["text"]
            case "thinking":
                blocks.append(_thinking_block(part, len(text)))
            case "reference":
                blocks += _citations(part, text, cited, references)
                cited = len(text)
                references += 1
            case "image_url":
                image = part["image_url"]
                blocks.append(ImageBlock(url=image if isinstance(image, str) else image["url"]))
            case "document_url":
                blocks.append(DocumentBlock(url=part["document_url"], title=part.get("document_name")))
            case _:
                # LlamaIndex has no block that holds all of it; see `from_turn`.
                other: Any = part
                if other["type"] == "tool_reference":
                    where = {"start": cited, "end": len(text), "part": others}
                    title = other.get("title") or other.get("tool")
                    blocks.append(_citation(text, where, other.get("url") or title, title))
                    cited = len(text)
                others += 1
    blocks.insert(len(blocks) if text_at is None else text_at, TextBlock(text=text))
    return blocks


def _thinking_block(part: ThinkingPart, position: int) -> ThinkingBlock:
    pieces = part["thinking"]
    information: dict[str, Any] = {"provider": PROVIDER}
    for key in ("closed", "signature"):
        if part.get(key) is not None:
            information[key] = part[key]
    if any(piece.get("type") != "text" for piece in pieces):
        information["thinking"] = pieces
    if position:
        information["position"] = position
    text = "".join(piece["text"] for piece in pieces if piece.get("type") == "text")
    return ThinkingBlock(content=text, additional_information=information)


def _citations(part: ReferencePart, text: str, start: int, ordinal: int) -> Iterator[CitationBlock]:
    """Return one block for each source, which cites the text since the last reference."""
    for source in part["reference_ids"]:
        where = {"start": start, "end": len(text), "reference": ordinal}
        if isinstance(source, int):
            where["reference_id"] = source
        yield _citation(text, where, str(source), str(source))


def _citation(text: str, where: dict[str, int], source: Any, title: Any) -> CitationBlock:
    return CitationBlock(
        cited_content=TextBlock(text=text[where["start"] :]),
        source=str(source),
        title=str(title),
        additional_location_info=where,
    )
