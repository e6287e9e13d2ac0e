"""`POST /v1/chat/completions` of the simulated Mistral."""

from __future__ import annotations

import asyncio
import random
import secrets
import string
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from lava_mistral.gateway.faults import EVENT_STREAM, Fault, Interrupted
from lava_mistral.gateway.mistral import rules, stream
from lava_mistral.gateway.mistral.answers import Settle, broken_off, headers, json_answer, played_stream
from lava_mistral.gateway.model import tokens as pieces
from lava_mistral.gateway.model.reply import Reply, answer
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.records import RequestRecord
from lava_mistral.gateway.server.delivery import Answer
from lava_mistral.mistral.types import Usage
from lava_mistral.pricing.catalog import Model, get_model

_ALPHABET = string.ascii_letters + string.digits
_ENDLESS_TOKENS = 200
_CACHE_BLOCK = 16
# What stands around the tools in a prompt.
_TOOL_MARKERS = 4
# What marks a tool call as one in an answer.
_CALL_MARKERS = 3
_MOST_CACHED = 1_000


class Chat:
    """Answers chat requests; used in one thread.

    Args:
        options: how the gateway behaves.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._draw = random.Random(options.seed)
        self._cached: OrderedDict[tuple[str, str], list[int]] = OrderedDict()

    def check(self, body: Mapping[str, Any], model: Model) -> None:
        """Check what the schema does not.

        Raises:
            Rejection: Mistral refuses the request.
        """
        rules.check_messages(body["messages"])
        rules.check_tools(body)
        rules.check_schemas(body)
        rules.check_format(body)
        rules.check_images(body["messages"], model)

    async def prompt_tokens(self, body: Mapping[str, Any]) -> list[int]:
        """The tokens of each message; those of the tools and of the prompt's start count to the first."""
        if self._options.tokenizer == "exact":
            return [await asyncio.to_thread(_exact, body)]
        counts = [rules.message_tokens(message) for message in body["messages"]]
        counts[0] += 1
        if body.get("tools"):
            counts[0] += _TOOL_MARKERS + pieces.count(orjson.dumps(body["tools"]).decode())
        return counts

    def answer(
        self,
        record: RequestRecord,
        body: Mapping[str, Any],
        counts: Sequence[int],
        fault: Fault | None,
        settle: Settle,
        *,
        delay: float,
        limits: Callable[[int], Mapping[str, str]],
    ) -> Answer:
        """What the simulated model says.

        Args:
            record: the request's record; the answer's id is noted there.
            body: a request that was checked.
            counts: the tokens of each message.
            fault: what goes wrong on the way, if anything.
            settle: charges for the usage.
            delay: seconds until the first byte.
            limits: the headers on rate limits for so many tokens.
        """
        choices = [_choice(body, number) for number in range(body.get("n") or 1)]
        usage = self._usage(body, counts, choices)
        record.response_id, created = uuid.uuid4().hex, int(time.time())
        named = {"id": record.response_id, "created": created, "model": body["model"]}
        if body.get("stream"):
            events = stream.events(choices, usage, named, fragment=self._options.fragment_tool_calls, draw=self._draw)
            steps = played_stream(events, fault, pace=self._options.pace, settle=lambda: settle(usage))
            return Answer(200, headers(EVENT_STREAM), steps, delay)
        finished = [
            {"index": at, "finish_reason": choice.finish, "message": choice.message()}
            for at, choice in enumerate(choices)
        ]
        if isinstance(fault, Interrupted) and fault.how == "finish error":
            finished[0]["finish_reason"] = "error"
        response = {**named, "usage": usage, "object": "chat.completion", "choices": finished}
        delay += self._options.latency_per_token * usage["completion_tokens"]
        told = limits(usage["total_tokens"])
        return broken_off(json_answer(200, response, told, delay=delay, before=lambda: settle(usage)), fault)

    def _usage(self, body: Mapping[str, Any], counts: Sequence[int], choices: Sequence[stream.Choice]) -> Usage:
        prompt, completion = sum(counts), sum(map(_completion_tokens, choices))
        usage: Usage = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        key = body.get("prompt_cache_key")
        if key is not None:
            cached = self._cache((body["model"], key), body["messages"], counts)
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
            usage["num_cached_tokens"] = cached
        return usage

    def _cache(self, key: tuple[str, str], messages: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> int:
        """How many tokens at the prompt's start are those of the last prompt of the same key, in whole blocks."""
        digests = [hash(orjson.dumps(message)) for message in messages]
        before = self._cached.pop(key, [])
        self._cached[key] = digests
        if len(self._cached) > _MOST_CACHED:
            self._cached.popitem(last=False)
        same = 0
        for old, new, tokens in zip(before, digests, counts, strict=False):
            if old != new:
                break
            same += tokens
        return same // _CACHE_BLOCK * _CACHE_BLOCK


def _exact(body: Mapping[str, Any]) -> int:
    # It imports Mistral's tokenizers, which is slow and optional.
    from lava_mistral.pricing.tokens import count_tokens

    return count_tokens(body["messages"], model=body["model"]).tokens


def _choice(body: Mapping[str, Any], number: int) -> stream.Choice:
    reasoning = body["model"].startswith("magistral") or body.get("reasoning_effort") == "high"
    reply = answer(body, choice=number + (body.get("random_seed") or 0), reasoning=reasoning)
    limit = body.get("max_tokens")
    if reply.endless:
        tokens = _ENDLESS_TOKENS if limit is None else min(limit, get_model(body["model"]).context_window)
        return stream.Choice(text=[" "] * tokens, finish="length")
    text = _stopped(_prefixed(body, reply), body.get("stop"))
    choice = stream.Choice(thinking=pieces.split(reply.thinking), text=pieces.split(text), calls=_calls(reply))
    if choice.calls:
        choice.finish = "tool_calls"
    return _cut(choice, limit)


def _completion_tokens(choice: stream.Choice) -> int:
    return len(choice.thinking) + len(choice.text) + sum(_head(call) + _tail(call) for call in choice.calls)


def _head(call: Mapping[str, Any]) -> int:
    """The tokens of a tool call before its arguments: its name and what marks it as a call."""
    return _CALL_MARKERS + pieces.count(call["function"]["name"])


def _tail(call: Mapping[str, Any]) -> int:
    return pieces.count(call["function"]["arguments"])


def _prefixed(body: Mapping[str, Any], reply: Reply) -> str:
    """The answer, begun with the text of a last assistant message."""
    last = body["messages"][-1]
    if last["role"] != "assistant" or reply.calls:
        return reply.text
    content = last.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if reply.text.startswith(content):
        return reply.text
    gap = "" if not content or content[-1].isspace() or not reply.text else " "
    return content + gap + reply.text


def _stopped(text: str, stop: str | Sequence[str] | None) -> str:
    ends = [stop] if isinstance(stop, str) else stop or ()
    found = [text.index(end) for end in ends if end and end in text]
    return text[: min(found)] if found else text


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
        left -= _head(call)
        # Of a call whose name is not out yet there is nothing to tell.
        if left < 0:
            break
        choice.calls.append(call)
        if _tail(call) > left:
            call["function"]["arguments"] = "".join(pieces.split(call["function"]["arguments"])[:left])
            break
        left -= _tail(call)
    return choice


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": "".join(secrets.choice(_ALPHABET) for _ in range(9)),
            "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
        }
        for call in reply.calls
    ]
