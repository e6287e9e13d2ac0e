"""What the wire's examples mean: compares bodies by meaning, reads recorded answers, plays them again."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import httpx
import orjson

# What a field means when it is absent, by Mistral's schema.
DEFAULTS = {
    "prefix": False,
    "tool_calls": [],
    "index": 0,
    "type": "function",
    "stream": False,
    "description": "",
    "closed": True,
}


def meaning(value: Any) -> Any:
    """A body without what says nothing: defaults, the difference between a text and a list of one text, key order."""
    if isinstance(value, list):
        return [meaning(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: meaning(item) for key, item in value.items() if key not in DEFAULTS or item != DEFAULTS[key]}
    if isinstance(kept.get("arguments"), str):
        kept["arguments"] = json.loads(kept["arguments"])
    content = kept.get("content")
    if isinstance(content, list):
        parts = [part for part in content if part.get("text") != ""]
        texts = all(part["type"] == "text" for part in parts)
        kept["content"] = [part["text"] for part in parts] if texts else parts
    elif isinstance(content, str):
        kept["content"] = [content] if content else []
    return kept


class Said(NamedTuple):
    """What an answer says.

    Attributes:
        calls: name, arguments and id of each tool call.
    """

    text: str
    thinking: str
    calls: list[tuple[str, Any, str]]
    finish_reason: str
    usage: dict[str, Any]

    @property
    def cached(self) -> int | None:
        """Tokens that came from Mistral's cache, where the answer speaks of it."""
        return self.usage.get("num_cached_tokens", (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens"))


def said(response: dict[str, Any]) -> Said:
    """What a recorded answer says, streamed or not."""
    body = response["body"]
    if isinstance(body, str):
        chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
        choices = [(choice, choice["delta"]) for item in chunks for choice in item["choices"]]
        usage = chunks[-1]["usage"]
    else:
        choices = [(choice, choice["message"]) for choice in body["choices"]]
        usage = body["usage"]
    text = thinking = ""
    calls = []
    for _, message in choices:
        for part in _parts(message.get("content")):
            text += part.get("text", "")
            thinking += "".join(item["text"] for item in part.get("thinking", ()))
        for made in message.get("tool_calls") or ():
            calls.append((made["function"]["name"], json.loads(made["function"]["arguments"]), made["id"]))
    return Said(text, thinking, calls, choices[-1][0]["finish_reason"], usage)


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"text": content}] if isinstance(content, str) else content or []


def replay(response: dict[str, Any]) -> httpx.Response:
    """A recorded answer, as it came."""
    body = response["body"]
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    kind = "text/event-stream" if isinstance(body, str) else "application/json"
    return httpx.Response(response["status"], content=content, headers={"content-type": kind})
