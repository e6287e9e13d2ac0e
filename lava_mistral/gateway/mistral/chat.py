"""`POST /v1/chat/completions` of the simulated Mistral."""

from __future__ import annotations

import asyncio
import random
import secrets
import string
import time
import uuid
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import orjson

from lava_mistral.gateway.faults import EVENT_STREAM, Interrupted
from lava_mistral.gateway.mistral import rules, stream
from lava_mistral.gateway.mistral.answers import Terms, broken_off, headers, json_answer, played_stream
from lava_mistral.gateway.model.fill import SchemaProblem
from lava_mistral.gateway.model.prompt import text_of
from lava_mistral.gateway.model.reply import Call, Reply, answer
from lava_mistral.gateway.model.text import count, split
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.server.delivery import Answer
from lava_mistral.mistral.types import Usage
from lava_mistral.pricing.catalog import Model, get_model
from lava_mistral.pricing.tokens import count_tokens

_ALPHABET = string.ascii_letters + string.digits
_ENDLESS_TOKENS = 200
_CACHE_BLOCK = 16
_TOOL_MARKERS = 4  # What stands around the tools in a prompt.
_CALL_MARKERS = 3  # What marks a tool call as one in an answer.
_MOST_CACHED = 1_000


class Chat:
    """Answers chat requests; used in one thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._draw = random.Random(options.seed)
        self._cached: dict[tuple[str, str], list[int]] = {}

    async def prompt_tokens(self, body: Mapping[str, Any], model: Model) -> list[int]:
        """Check what the schema does not, and count the tokens of each message; those of tools go to the first."""
        rules.check_messages(body["messages"])
        rules.check_tools(body)
        rules.check_media(body["messages"], model)
        if self._options.tokenizer == "exact":
            exact = await asyncio.to_thread(
                count_tokens, body["messages"], model=body["model"], tools=body.get("tools")
            )
            counts = [exact.tokens]
        else:
            counts = [rules.message_tokens(message) for message in body["messages"]]
            counts[0] += 1
            if body.get("tools"):
                counts[0] += _TOOL_MARKERS + count(orjson.dumps(body["tools"]).decode())
        rules.check_window(sum(counts), model)
        return counts

    def answer(self, body: Mapping[str, Any], counts: Sequence[int], terms: Terms) -> Answer:
        """Answer a request that was checked with what the simulated model says."""
        try:
            choices = [_choice(body, number) for number in range(body.get("n") or 1)]
        except SchemaProblem as problem:
            raise rules.Rejection(f"Invalid JSON schema: {problem}", *rules.ARGUMENTS) from None
        usage = self._usage(body, counts, choices)
        terms.record.response_id = uuid.uuid4().hex
        named = {"id": terms.record.response_id, "created": int(time.time()), "model": body["model"]}
        if body.get("stream"):
            events = stream.events(choices, usage, named, fragment=self._options.fragment_tool_calls, draw=self._draw)
            steps = played_stream(events, terms.fault, pace=self._options.pace, settle=lambda: terms.settle(usage))
            return Answer(200, headers(EVENT_STREAM) | terms.limits(sum(counts)), steps, terms.delay)
        finished = [choice.whole(at) for at, choice in enumerate(choices)]
        if isinstance(terms.fault, Interrupted) and terms.fault.how == "finish error":
            finished[0]["finish_reason"] = "error"
        if body.get("prompt_logprobs"):
            prompt = split("".join(text_of(message.get("content")) for message in body["messages"]))
            read = {"content": stream.logprobs(prompt, body.get("top_prompt_logprobs") or 0)}
            finished = [{**choice, "prompt_logprobs": read} for choice in finished]
        response = {**named, "usage": usage, "object": "chat.completion", "choices": finished}
        late = terms.delay + self._options.latency_per_token * usage["completion_tokens"]
        told = terms.limits(usage["total_tokens"])
        whole = json_answer(200, response, told, delay=late, before=lambda: terms.settle(usage))
        return broken_off(whole, terms.fault)

    def _usage(self, body: Mapping[str, Any], counts: Sequence[int], choices: Sequence[stream.Choice]) -> Usage:
        prompt, completion = sum(counts), sum(map(_completion_tokens, choices))
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        if body.get("prompt_cache_key") is not None:
            usage["num_cached_tokens"] = self._cache(body, counts)
            usage["prompt_tokens_details"] = {"cached_tokens": usage["num_cached_tokens"]}
        if body.get("service_tier") is not None:
            usage["service_tier"] = "standard"
        if thought := sum(len(choice.thinking) for choice in choices):
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        return usage  # type: ignore[return-value]

    def _cache(self, body: Mapping[str, Any], counts: Sequence[int]) -> int:
        """Count the tokens at the prompt's start that the last prompt of the same key had, in whole blocks."""
        key = (body["model"], body["prompt_cache_key"])
        messages = [body.get("tools"), *body["messages"]]
        now, before = [hash(orjson.dumps(message)) for message in messages], self._cached.pop(key, [])
        self._cached[key] = now
        if len(self._cached) > _MOST_CACHED:
            del self._cached[next(iter(self._cached))]
        same = takewhile(lambda held: held[0] == held[1], zip(before, now, (0, *counts), strict=False))
        return sum(tokens for _, _, tokens in same) // _CACHE_BLOCK * _CACHE_BLOCK


def _choice(body: Mapping[str, Any], number: int) -> stream.Choice:
    reasoning = body["model"].startswith("magistral") or body.get("reasoning_effort") not in (None, "none")
    reply = answer(body, choice=number + (body.get("random_seed") or 0), reasoning=reasoning)
    limit = body.get("max_tokens")
    if reply.endless:
        allowed = _ENDLESS_TOKENS if limit is None else min(limit, get_model(body["model"]).context_window)
        return stream.Choice(text=[" "] * allowed, finish="length")
    text, stop = _prefixed(body, reply), body.get("stop") or ()
    ends = [text.index(end) for end in ([stop] if isinstance(stop, str) else stop) if end and end in text]
    choice = stream.Choice(
        thinking=split(reply.thinking),
        text=split(text[: min(ends, default=None)]),
        calls=list(map(_call, reply.calls)),
        steps=[step for call in reply.built_in for step in _step(call)],
        finish="tool_calls" if reply.calls else "stop",
        top=body.get("top_logprobs") or 0 if body.get("logprobs") else None,
    )
    return _cut(choice, limit)


def _call(call: Call) -> dict[str, Any]:
    return {
        "id": "".join(secrets.choice(_ALPHABET) for _ in range(9)),
        "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
    }


def _step(call: Call) -> list[dict[str, Any]]:
    """The call of a tool that Mistral runs itself, and its result."""
    made = {**_call(call), "index": 0}
    found: dict[str, Any] = {"type": "tool_reference", "tool": call.name, "title": "A simulated result"}
    if call.name in ("code_interpreter", "image_generation"):
        found = {"type": "tool_file", "tool": call.name, "file_id": uuid.uuid4().hex}
    return [
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "content": [found], "tool_call_id": made["id"]},
    ]


def _prefixed(body: Mapping[str, Any], reply: Reply) -> str:
    """The answer, begun with the text of a last assistant message."""
    last = body["messages"][-1]
    content = "" if reply.calls or last["role"] != "assistant" else text_of(last.get("content"))
    if reply.text.startswith(content):
        return reply.text
    return content + ("" if content[-1].isspace() or not reply.text else " ") + reply.text


def _completion_tokens(choice: stream.Choice) -> int:
    calls = [call["function"] for call in choice.calls]
    named = sum(_CALL_MARKERS + count(call["name"]) + count(call["arguments"]) for call in calls)
    return len(choice.thinking) + len(choice.text) + named


def _cut(choice: stream.Choice, limit: int | None) -> stream.Choice:
    """The answer within `max_tokens`, thinking and tool calls included; a call's arguments may break off."""
    if limit is None or _completion_tokens(choice) <= limit:
        return choice
    choice.finish = "length"
    choice.thinking = choice.thinking[:limit]
    choice.text = choice.text[: limit - len(choice.thinking)]
    left = limit - len(choice.thinking) - len(choice.text)
    calls, choice.calls = choice.calls, []
    for call in calls:
        left -= _CALL_MARKERS + count(call["function"]["name"])
        # Of a call whose name is not out yet there is nothing to tell.
        if left < 0:
            break
        choice.calls.append(call)
        arguments = split(call["function"]["arguments"])
        call["function"]["arguments"] = "".join(arguments[:left])
        left -= len(arguments)
    return choice
