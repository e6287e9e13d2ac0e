"""`POST /v1/chat/completions` of the simulated Mistral."""

import asyncio
import random
import secrets
import string
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile, zip_longest
from typing import Any, Self

import orjson

from lava_mistral.gateway.faults import EVENT_STREAM, Fault, Interrupted
from lava_mistral.gateway.mistral import rules
from lava_mistral.gateway.mistral.answers import headers, json_answer, played_stream
from lava_mistral.gateway.model.fill import SchemaProblem
from lava_mistral.gateway.model.reply import ModelCall, reply_to
from lava_mistral.gateway.model.text import count, split
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.request_log import RequestRecord
from lava_mistral.gateway.server import HttpAnswer
from lava_mistral.mistral.message_normalization import text_of
from lava_mistral.mistral.types import Usage
from lava_mistral.pricing.catalog import Model, get_model
from lava_mistral.pricing.token_counting import count_tokens

_ALPHABET = string.ascii_letters + string.digits
_PADDING = string.ascii_lowercase + string.digits
_ENDLESS_TOKENS, _CACHE_BLOCK = 200, 16
_TOOL_MARKERS = 4  # What stands around the tools in a prompt.
_MOST_CACHED = 1_000


@dataclass(slots=True)
class ChatChoice:
    """One finished answer; thinking and text are in tokens, tool calls in wire form."""

    thinking: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str = "stop"
    top: int | None = None  # Alternatives of each token, where log probabilities are asked for.

    def tokens(self) -> int:
        calls = [call["function"] for call in self.calls]
        named = sum(rules.CALL_MARKERS + count(call["name"]) + count(call["arguments"]) for call in calls)
        return len(self.thinking) + len(self.text) + named

    def within(self, limit: int | None) -> Self:
        """Cut it to so many tokens, thinking and tool calls included; a call's arguments may break off."""
        if limit is None or self.tokens() <= limit:
            return self
        self.finish, self.thinking = "length", self.thinking[:limit]
        self.text = self.text[: limit - len(self.thinking)]
        left = limit - len(self.thinking) - len(self.text)
        calls, self.calls = self.calls, []
        for call in calls:
            left -= rules.CALL_MARKERS + count(call["function"]["name"])
            # Of a call whose name is not out yet there is nothing to tell.
            if left >= 0:
                self.calls.append(call)
                arguments = split(call["function"]["arguments"])
                call["function"]["arguments"] = "".join(arguments[:left])
                left -= len(arguments)
        return self

    def whole(self, index: int) -> dict[str, Any]:
        content: Any = "".join(self.text)
        if self.thinking:
            spoken = [{"type": "text", "text": content}] if content else []
            content = [{**_thought("".join(self.thinking)), "closed": True}, *spoken]
        message = {"role": "assistant", "tool_calls": self.calls or None, "content": content}
        choice = {"index": index, "finish_reason": self.finish, "message": message}
        return choice if self.top is None else choice | {"logprobs": {"content": _logprobs(self.text, self.top)}}

    def chunks(self, index: int) -> list[dict[str, Any]]:
        """Return what follows the role in a stream."""
        deltas: list[dict[str, Any]] = [{"content": [_thought(piece)]} for piece in self.thinking]
        deltas += [{"content": piece} for piece in self.text]
        deltas.append({"content": "", "tool_calls": self.calls} if self.calls else {"content": ""})
        chunks: list[dict[str, Any]] = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
        if self.top is not None:
            for at, entry in enumerate(_logprobs(self.text, self.top), len(self.thinking)):
                chunks[at]["logprobs"] = {"content": [entry]}
        chunks[-1]["finish_reason"] = self.finish
        return chunks


def _thought(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def _logprobs(tokens: Sequence[str], top: int) -> list[dict[str, Any]]:
    entries = []
    for at, token in enumerate(tokens):
        entry = {"token": token, "logprob": -0.01, "bytes": list(token.encode("utf-8", "replace")), "token_id": at}
        entries.append({**entry, "top_logprobs": [{**entry, "logprob": -0.01 - number} for number in range(top)]})
    return entries


class Chat:
    """Answers chat requests; used in one thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._draw = random.Random(options.seed)
        self._cached: dict[tuple[str, str], list[int]] = {}

    async def prompt_tokens(self, body: Mapping[str, Any], model: Model) -> list[int]:
        """Check what the schema does not, and count the tokens of each message; those of tools go to the first."""
        messages, tools = body["messages"], body.get("tools")
        rules.check_messages(messages)
        rules.check_tools(body)
        rules.check_media(messages, model)
        if self._options.tokenizer == "exact":
            counts = [(await asyncio.to_thread(count_tokens, messages, model=body["model"], tools=tools)).tokens]
        else:
            counts = [rules.message_tokens(message) for message in messages]
            counts[0] += 1 + (_TOOL_MARKERS + count(orjson.dumps(tools).decode()) if tools else 0)
        if sum(counts) > model.context_window:
            said, most = f"Prompt contains {sum(counts)} tokens and 0 draft tokens, ", model.context_window
            raise rules.Rejection(f"{said}too large for model with {most} maximum context length")
        return counts

    def answer(
        self, body: Mapping[str, Any], counts: Sequence[int], record: RequestRecord, fault: Fault | None
    ) -> HttpAnswer:
        try:
            choices = [_choice(body, number) for number in range(body.get("n") or 1)]
        except SchemaProblem as problem:
            raise rules.Rejection(f"Invalid JSON schema: {problem}") from None
        usage = self._usage(body, counts, choices)
        record.response_id, now = uuid.uuid4().hex, int(time.time())
        named = {"id": record.response_id, "object": "chat.completion", "created": now, "model": body["model"]}
        if body.get("stream"):
            events = self._events(choices, usage, {**named, "object": "chat.completion.chunk"})
            return HttpAnswer(200, headers(EVENT_STREAM), played_stream(events, usage, fault, self._options.pace))
        finished = [choice.whole(at) for at, choice in enumerate(choices)]
        if isinstance(fault, Interrupted) and fault.how == "finish error":
            finished[0]["finish_reason"] = "error"
        answer = json_answer(200, {**named, "usage": usage, "choices": finished}, usage=usage)
        answer.delay = self._options.latency_per_token * usage["completion_tokens"]
        return answer

    def _events(self, choices: Sequence[ChatChoice], usage: Usage, head: Mapping[str, Any]) -> list[bytes]:
        """The events of a stream without `[DONE]`; several choices are interleaved, the last event holds the usage."""
        role = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        events: list[dict[str, Any]] = [{**head, "choices": [{"index": at, **role}]} for at in range(len(choices))]
        streams = [choice.chunks(at) for at, choice in enumerate(choices)]
        for chunk in (chunk for together in zip_longest(*streams) for chunk in together if chunk is not None):
            events.append({**head, "choices": [chunk], "p": _PADDING[: self._draw.randint(1, len(_PADDING))]})
        events[-1]["usage"] = usage
        return [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]

    def _usage(self, body: Mapping[str, Any], counts: Sequence[int], choices: Sequence[ChatChoice]) -> Usage:
        prompt, completion = sum(counts), sum(choice.tokens() for choice in choices)
        cached = self._cache(body, counts) if body.get("prompt_cache_key") is not None else None
        usage: Usage = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached or 0},
        }
        if cached is not None:
            usage["num_cached_tokens"] = cached
        if body.get("service_tier") is not None:
            usage["service_tier"] = "standard"
        if thought := sum(len(choice.thinking) for choice in choices):
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        return usage

    def _cache(self, body: Mapping[str, Any], counts: Sequence[int]) -> int:
        """Count the tokens at the prompt's start that the last prompt of the same key had, in whole blocks."""
        key = (body["model"], body["prompt_cache_key"])
        messages = [body.get("tools"), *body["messages"]]
        now, before = [hash(orjson.dumps(message)) for message in messages], self._cached.pop(key, [])
        if len(self._cached) >= _MOST_CACHED:
            self._cached.clear()
        self._cached[key] = now
        same = takewhile(lambda held: held[0] == held[1], zip(before, now, (0, *counts), strict=False))
        return sum(tokens for _, _, tokens in same) // _CACHE_BLOCK * _CACHE_BLOCK


def _choice(body: Mapping[str, Any], number: int) -> ChatChoice:
    reasoning = body["model"].startswith("magistral") or body.get("reasoning_effort") not in (None, "none")
    reply = reply_to(body, choice=number + (body.get("random_seed") or 0), reasoning=reasoning)
    limit = body.get("max_tokens")
    if reply.endless:
        allowed = _ENDLESS_TOKENS if limit is None else min(limit, get_model(body["model"]).context_window)
        return ChatChoice(text=[" "] * allowed, finish="length")
    text, last, stop = reply.text, body["messages"][-1], body.get("stop") or ()
    prefix = text_of(last.get("content")) if last["role"] == "assistant" and not reply.calls else ""
    if not text.startswith(prefix):
        text = prefix + ("" if prefix[-1].isspace() or not text else " ") + text
    ends = [text.index(end) for end in ([stop] if isinstance(stop, str) else stop) if end and end in text]
    return ChatChoice(
        thinking=split(reply.thinking),
        text=split(text[: min(ends, default=None)]),
        calls=[_call(call, at) for at, call in enumerate(reply.calls)],
        finish="tool_calls" if reply.calls else "stop",
        top=body.get("top_logprobs") or 0 if body.get("logprobs") else None,
    ).within(limit)


def _call(call: ModelCall, index: int = 0) -> dict[str, Any]:
    function = {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()}
    return {"id": "".join(secrets.choice(_ALPHABET) for _ in range(9)), "function": function, "index": index}
