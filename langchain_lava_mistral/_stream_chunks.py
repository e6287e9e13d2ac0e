"""Convert the deltas of a streamed answer to LangChain's message chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from langchain_lava_mistral._content_blocks import PROVIDER
from langchain_lava_mistral._from_wire import from_usage, head_metadata, paid_metadata, turn_metadata, visible
from lava_mistral.mistral.json_codec import to_text
from lava_mistral.mistral.turn import Delta, ToolCall, ToolCallDelta

if TYPE_CHECKING:
    from lava_mistral.calls.chat_stream import StreamReader

_new = object.__new__
_set = object.__setattr__

_TAG = {"model_provider": PROVIDER}
_CHUNK = ChatGenerationChunk(message=AIMessageChunk(content="text", response_metadata=_TAG))
_MESSAGE_FIELDS, _CHUNK_FIELDS = dict(_CHUNK.message.__dict__), dict(_CHUNK.__dict__)
# What a consumer may change must be each chunk's own.
_MESSAGE_LISTS = tuple(name for name, value in _MESSAGE_FIELDS.items() if isinstance(value, list))


# One of them, behind JSON that was cut off, closes what is not open, however the JSON is completed.
_CONTRADICTIONS = ("", "}", "]", '"}', '"]', '""}', '""]')


def _ending(call: ToolCall) -> str:
    """Return what must follow a call's arguments for LangChain to read them as `ToolCall.parsed` does.

    LangChain completes JSON that was cut off, and an agent would run the tool with half a path. A bracket that closes
    nothing makes the call an invalid one, as it is in an answer that is not streamed.
    """
    arguments = call.arguments
    if not arguments or call.parsed() is not None:
        return ""
    if not arguments.strip():
        return "{}"
    for ending in _CONTRADICTIONS:
        try:
            if not isinstance(parse_partial_json(arguments + ending), dict):
                return ending
        except (ValueError, RecursionError):
            return ending
    return ""


class ChunkBuilder:
    """Build the chunks of one streamed answer, with its blocks numbered so that LangChain joins their fragments.

    Blocks have text indices (`lc_txt_0`, `lc_rs_1` …), since the indices of tool calls are integers. A reference closes
    the text before it and shares its number, so that each text block has its citation complete in one chunk.
    """

    def __init__(self, stream: StreamReader, *, headers: bool) -> None:
        self._stream = stream
        # Metadata that belongs on the first chunk alone.
        self._head = head_metadata(stream, headers=headers)
        self._structured, self._open = False, ""
        self._number, self._thoughts = -1, 0
        # Tool calls by index, and whether their arguments, null or encoded twice, are held until they are whole.
        self._held: dict[int, bool] = {}

    def chunk(self, delta: Delta) -> ChatGenerationChunk | None:
        """Return the chunk for a delta of the first choice; `None` where it holds nothing to show."""
        if delta.index != 0:
            return None
        content: Any = delta.text
        if delta.parts or self._structured:
            self._structured = True
            parts = delta.parts or (({"type": "text", "text": delta.text},) if delta.text else ())
            content = [self._indexed(visible(part)) for part in parts]
        elif content and not self._open:
            self._open, self._number = "txt", self._number + 1
        if not delta.tool_calls and not delta.logprobs:
            if not content:
                return None
            text = content
            if self._structured:
                text = "".join(part["text"] for part in content if part["type"] == "text")
            # A copy of one that pydantic has validated: validation, and `model_construct` too, cost many times more.
            fields = {**_MESSAGE_FIELDS, "content": content, "additional_kwargs": {}}
            fields["response_metadata"], self._head = {**self._head}, _TAG
            for name in _MESSAGE_LISTS:
                fields[name] = []
            message = _new(AIMessageChunk)
            _set(message, "__dict__", fields)
            _set(message, "__pydantic_fields_set__", {"content", "response_metadata"})
            _set(message, "__pydantic_extra__", {})
            _set(message, "__pydantic_private__", None)
            chunk = _new(ChatGenerationChunk)
            _set(chunk, "__dict__", {**_CHUNK_FIELDS, "text": text, "message": message})
            _set(chunk, "__pydantic_fields_set__", {"text", "message"})
            _set(chunk, "__pydantic_extra__", None)
            _set(chunk, "__pydantic_private__", None)
            return chunk
        calls = [*map(self._call, delta.tool_calls)]
        metadata, self._head = {**self._head}, _TAG
        if delta.logprobs:
            metadata["logprobs"] = {"content": [*delta.logprobs]}
        message = AIMessageChunk(content=content, tool_call_chunks=calls, response_metadata=metadata)
        return ChatGenerationChunk(message=message)

    def last(self) -> ChatGenerationChunk:
        """Return the chunk that ends the answer: why it ended, and what it used."""
        stream = self._stream
        endings = []
        for index, call in enumerate(stream.turn.tool_calls):
            ending = _ending(call)
            if self._held.get(index):
                # Encoded once; as they came where they are no object.
                whole = call.parsed()
                ending = call.arguments if whole is None else to_text(whole)
            if ending:
                endings.append(tool_call_chunk(name=None, args=ending, id=None, index=index))
        metadata = {**turn_metadata(stream.turn, logprobs=False), **paid_metadata(stream)}
        message = AIMessageChunk(
            content=[] if self._structured else "",
            tool_call_chunks=endings,
            usage_metadata=None if stream.usage is None else from_usage(stream.usage),
            response_metadata={**self._head, **metadata},
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _call(self, call: ToolCallDelta) -> ToolCallChunk:
        if call.arguments and call.index not in self._held and not call.arguments.isspace():
            self._held[call.index] = call.arguments.lstrip()[0] in '"n'
        arguments = "" if self._held.get(call.index) else call.arguments
        return tool_call_chunk(name=call.name, args=arguments, id=call.id, index=call.index)

    def _block(self, kind: str) -> str:
        """Return the index of the block of this kind that goes on here, or of a new one."""
        if self._open != kind:
            self._open, self._number, self._thoughts = kind, self._number + 1, 0
        return f"lc_{kind}_{self._number}"

    def _indexed(self, part: dict[str, Any]) -> dict[str, Any]:
        kind = part.get("type")
        if kind == "text":
            return {**part, "index": self._block("txt")}
        if kind == "thinking":
            index = self._block("rs")
            # Two fragments may differ in it, and LangChain can't put different truths together.
            part.pop("closed", None)
            return {**part, "thinking": self._thinking(part["thinking"]), "index": index}
        reference = kind in ("reference", "tool_reference")
        after_text = reference and self._open == "txt"
        index = f"lc_ref_{self._number}" if after_text else self._block("ref" if reference else "part")
        self._open = ""
        return {**part, "index": index}

    def _thinking(self, items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        thoughts: list[dict[str, Any]] = []
        for item in items:
            if item.get("type") != "text":
                # What stands between two texts keeps them apart.
                self._thoughts += 2
                thoughts.append({**item, "index": self._thoughts - 1})
            elif thoughts and thoughts[-1]["type"] == "text":
                thoughts[-1]["text"] += item["text"]
            else:
                thoughts.append({**item, "index": self._thoughts})
        return thoughts
