"""Writes a chat answer as Mistral streams it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import orjson

from lava_mistral.mistral.types import Usage

DONE = b"data: [DONE]\n\n"
_PADDING = b"abcdefghijklmnopqrstuvwxyz0123456789"
_PADDINGS = [b',"p":"%s"}\n\n' % _PADDING[:length] for length in range(1, len(_PADDING) + 1)]


@dataclass(slots=True)
class Choice:
    """One finished answer.

    Attributes:
        thinking: what a reasoning model wrote first, in tokens.
        text: the answer, in tokens.
        calls: the tool calls in wire form, without an index.
        finish: the finish reason.
    """

    thinking: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str = "stop"

    def message(self) -> dict[str, Any]:
        """The message of an answer that is not streamed."""
        content: Any = "".join(self.text)
        if self.thinking:
            thought = {"type": "text", "text": "".join(self.thinking)}
            content = [{"type": "thinking", "thinking": [thought], "closed": True}, *_text_part(content)]
        calls = [{**call, "index": at} for at, call in enumerate(self.calls)]
        return {"role": "assistant", "tool_calls": calls or None, "content": content}

    def deltas(self, fragment: int | None) -> list[bytes]:
        """The deltas of a stream after the one with the role, as JSON; the last one goes with the finish reason.

        Args:
            fragment: characters of arguments a delta, or `None` for whole tool calls.
        """
        deltas: list[bytes] = []
        for piece in self.thinking:
            part = {"type": "thinking", "thinking": [{"type": "text", "text": piece}]}
            deltas.append(orjson.dumps({"content": [part]}))
        deltas += [b'{"content":' + orjson.dumps(piece) + b"}" for piece in self.text]
        if not self.calls:
            deltas.append(b'{"content":""}')
        elif fragment is None:
            calls = [{**call, "index": at} for at, call in enumerate(self.calls)]
            deltas.append(orjson.dumps({"content": "", "tool_calls": calls}))
        else:
            for at, call in enumerate(self.calls):
                deltas += _fragments(call, at, fragment)
        return deltas


def _text_part(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}] if text else []


def _fragments(call: dict[str, Any], index: int, size: int) -> list[bytes]:
    """One tool call in pieces: the first has id and name, the others the id "null" and no name, as seen in the wild."""
    arguments = call["function"]["arguments"]
    pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)] or [""]
    written = []
    for at, piece in enumerate(pieces):
        name = call["function"]["name"] if at == 0 else ""
        fragment = {
            "id": call["id"] if at == 0 else "null",
            "function": {"name": name, "arguments": piece},
            "index": index,
        }
        written.append(orjson.dumps({"content": "", "tool_calls": [fragment]}))
    return written


def events(
    choices: Sequence[Choice],
    usage: Usage,
    named: Mapping[str, Any],
    *,
    fragment: int | None = None,
    draw: random.Random,
) -> Iterator[bytes]:
    """The events of a stream without `[DONE]`; the last one holds the usage.

    Args:
        choices: the answers; several are interleaved.
        usage: the count of tokens.
        named: the answer's `id`, `created` (a POSIX timestamp) and `model`.
        fragment: characters of arguments a delta, or `None` for whole tool calls.
        draw: where the lengths of the padding come from.
    """
    fields = {"id": named["id"], "object": "chat.completion.chunk", **named}
    head = b"data: " + orjson.dumps(fields)[:-1] + b',"choices":[{"index":'
    for at in range(len(choices)):
        yield head + b'%d,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n' % at
    deltas = [choice.deltas(fragment) for choice in choices]
    heads = [head + b'%d,"delta":' % at for at in range(len(choices))]
    reasons = [orjson.dumps(choice.finish) for choice in choices]
    lengths = [len(of_choice) for of_choice in deltas]
    last = max((length, at) for at, length in enumerate(lengths))
    for turn, together in enumerate(zip_longest(*deltas), start=1):
        for at, delta in enumerate(together):
            if delta is None:
                continue
            reason = reasons[at] if turn == lengths[at] else b"null"
            told = b',"usage":' + orjson.dumps(usage) if (turn, at) == last else b""
            yield b"".join((heads[at], delta, b',"finish_reason":', reason, b"}]", told, draw.choice(_PADDINGS)))
