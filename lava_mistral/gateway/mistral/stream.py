"""Writes a chat answer in Mistral's wire form, whole and streamed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import orjson

from lava_mistral.mistral.types import Usage

_PADDING = b"abcdefghijklmnopqrstuvwxyz0123456789"
_PADDINGS = [b',"p":"%s"}\n\n' % _PADDING[:length] for length in range(1, len(_PADDING) + 1)]


@dataclass(slots=True)
class Choice:
    """One finished answer; thinking and text are in tokens, tool calls in wire form without an index."""

    thinking: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)  # Messages of tools that ran on Mistral's side.
    finish: str = "stop"
    top: int | None = None  # Alternatives of each token, where log probabilities are asked for.

    def whole(self, index: int) -> dict[str, Any]:
        """Return the choice of an answer that is not streamed."""
        content: Any = "".join(self.text)
        if self.thinking:
            thought = {"type": "text", "text": "".join(self.thinking)}
            spoken = [{"type": "text", "text": content}] if content else []
            content = [{"type": "thinking", "thinking": [thought], "closed": True}, *spoken]
        message = {"role": "assistant", "tool_calls": self._indexed() or None, "content": content}
        said = {"messages": [*self.steps, message]} if self.steps else {"message": message}
        logged = {"logprobs": {"content": logprobs(self.text, self.top)}} if self.top is not None else {}
        return {"index": index, "finish_reason": self.finish, **said, **logged}

    def deltas(self, fragment: int | None) -> list[bytes]:
        """Return what follows the role in a stream, in JSON; a delta has so many characters of arguments, or all."""
        # Which message a delta belongs to is told only where there are several.
        told = {"index": len(self.steps), "role": "assistant"} if self.steps else {}
        deltas: list[dict[str, Any]] = [{"index": at, **step} for at, step in enumerate(self.steps)]
        for piece in self.thinking:
            part = {"type": "thinking", "thinking": [{"type": "text", "text": piece}]}
            deltas.append({"content": [part], **told})
        deltas += [{"content": piece, **told} for piece in self.text]
        if not self.calls:
            deltas.append({"content": "", **told})
        elif fragment is None:
            deltas.append({"content": "", "tool_calls": self._indexed(), **told})
        else:
            fragments = [piece for call in self._indexed() for piece in _fragments(call, fragment)]
            deltas += [{"content": "", "tool_calls": [piece], **told} for piece in fragments]
        written = [orjson.dumps(delta) for delta in deltas]
        if self.top is not None:
            first = len(self.steps) + len(self.thinking)
            for at, entry in enumerate(logprobs(self.text, self.top), first):
                written[at] += b',"logprobs":' + orjson.dumps({"content": [entry]})
        return written

    def _indexed(self) -> list[dict[str, Any]]:
        return [{**call, "index": at} for at, call in enumerate(self.calls)]


def logprobs(tokens: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Make up log probabilities: each token nearly certain, each alternative less likely than the one before."""
    entries = []
    for at, token in enumerate(tokens):
        entry = {"token": token, "logprob": -0.01, "bytes": list(token.encode("utf-8", "replace")), "token_id": at}
        others = [{**entry, "logprob": -0.01 - number} for number in range(top)]
        entries.append({**entry, "top_logprobs": others})
    return entries


def _fragments(call: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """One tool call in pieces: the first has id and name, the others the id "null" and no name, as seen in the wild."""
    arguments = call["function"]["arguments"]
    for at in range(0, max(len(arguments), 1), size):
        function = {"name": "" if at else call["function"]["name"], "arguments": arguments[at : at + size]}
        yield {"id": "null" if at else call["id"], "function": function, "index": call["index"]}


def events(
    choices: Sequence[Choice], usage: Usage, named: Mapping[str, Any], *, fragment: int | None, draw: random.Random
) -> list[bytes]:
    """Return the events of a stream without `[DONE]`; several choices are interleaved, the last event holds the usage.

    `named` holds the answer's `id`, `created` (a POSIX timestamp) and `model`; the padding's lengths are drawn.
    """
    fields = {"id": named["id"], "object": "chat.completion.chunk", **named}
    head = b"data: " + orjson.dumps(fields)[:-1] + b',"choices":[{"index":'
    role = b',"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    written = [b"%s%d%s" % (head, at, role) for at in range(len(choices))]
    deltas = [choice.deltas(fragment) for choice in choices]
    last = max((len(of_choice), at) for at, of_choice in enumerate(deltas))
    for turn, together in enumerate(zip_longest(*deltas), start=1):
        for at, delta in enumerate(together):
            if delta is not None:
                reason = b'"%s"' % choices[at].finish.encode() if turn == len(deltas[at]) else b"null"
                told = b',"usage":' + orjson.dumps(usage) if (turn, at) == last else b""
                parts = (head, b'%d,"delta":' % at, delta, b',"finish_reason":', reason, b"}]", told)
                written.append(b"".join(parts) + draw.choice(_PADDINGS))
    return written
