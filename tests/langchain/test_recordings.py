"""Every recorded exchange with Mistral, through this package: what is asked, and what the user gets."""

from __future__ import annotations

import json
from typing import Any

import httpx
import orjson
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from tests.conftest import recordings
from tests.langchain.scenario import Caller, Script

# What a field means when it is absent, by Mistral's schema.
DEFAULTS = {"prefix": False, "tool_calls": [], "index": 0, "type": "function", "stream": False, "description": ""}


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


def block(part: dict[str, Any]) -> list[dict[str, Any]]:
    """A part of the recorded request, as a LangChain user writes it."""
    match part["type"]:
        case "image_url" if part["image_url"]["url"].startswith("data:"):
            head, data = part["image_url"]["url"].split(",", 1)
            return [{"type": "image", "base64": data, "mime_type": head[5:].removesuffix(";base64")}]
        case "image_url":
            return [{"type": "image", "url": part["image_url"]["url"]}]
        case "document_url" if part["document_url"].startswith("data:"):
            head, data = part["document_url"].split(",", 1)
            return [{"type": "file", "base64": data, "mime_type": head[5:].removesuffix(";base64")}]
        case "document_url":
            return [{"type": "file", "url": part["document_url"], "mime_type": "application/pdf"}]
        case "thinking":
            return [{"type": "reasoning", "reasoning": item["text"]} for item in part["thinking"]]
        case _:
            return [part]


def blocks(content: Any) -> Any:
    return content if isinstance(content, str) else [piece for part in content or () for piece in block(part)]


def message(wire: dict[str, Any]) -> BaseMessage:
    """A recorded message, as a LangChain user writes it."""
    content = blocks(wire.get("content"))
    match wire["role"]:
        case "user":
            return HumanMessage(content)
        case "system":
            return SystemMessage(content)
        case "tool":
            return ToolMessage(content, tool_call_id=wire["tool_call_id"])
        case _:
            calls = [
                {"name": c["function"]["name"], "args": json.loads(c["function"]["arguments"]), "id": c["id"]}
                for c in wire.get("tool_calls") or ()
            ]
            return AIMessage(content, tool_calls=calls)


def expected(response: dict[str, Any]) -> tuple[str, str, list[tuple[str, Any, str]], str, Any]:
    """Text, thinking, tool calls, finish reason and usage in a recorded answer, streamed or not."""
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
    for _, said in choices:
        for part in blocks_of(said.get("content")):
            text += part.get("text", "")
            thinking += "".join(item["text"] for item in part.get("thinking", ()))
        for made in said.get("tool_calls") or ():
            calls.append((made["function"]["name"], json.loads(made["function"]["arguments"]), made["id"]))
    return text, thinking, calls, choices[-1][0]["finish_reason"], usage


def blocks_of(content: Any) -> list[dict[str, Any]]:
    return [{"text": content}] if isinstance(content, str) else content or []


def replay(response: dict[str, Any]) -> httpx.Response:
    body = response["body"]
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    kind = "text/event-stream" if isinstance(body, str) else "application/json"
    return httpx.Response(response["status"], content=content, headers={"content-type": kind})


@pytest.mark.parametrize("exchange", recordings("chat"))
def test_a_recorded_chat(exchange: dict[str, Any], caller: Caller) -> None:
    request, response = exchange["request"]["body"], exchange["response"]
    script = Script(replay(response))
    parameters = {key: value for key, value in request.items() if key not in ("model", "messages", "stream", "tools")}
    model: Any = script.model(model=request["model"])
    if "tools" in request:
        tools = [{"type": "function", **tool} for tool in request["tools"]]
        model = model.bind_tools(tools, tool_choice=parameters.pop("tool_choice", None))

    got = caller.ask(request.get("stream", False), model, [message(m) for m in request["messages"]], **parameters)

    assert meaning(script.body) == meaning(request)
    text, thinking, calls, finish_reason, usage = expected(response)
    assert got.text == text
    reasoning = [b["reasoning"] for b in got.content_blocks if b["type"] == "reasoning"]
    assert "".join(reasoning) == thinking
    assert [(c["name"], c["args"], c["id"]) for c in got.tool_calls] == calls
    assert got.response_metadata["finish_reason"] == finish_reason
    assert got.usage_metadata is not None
    assert got.usage_metadata["input_tokens"] == usage["prompt_tokens"]
    assert got.usage_metadata["output_tokens"] == usage["completion_tokens"]
    assert got.usage_metadata["total_tokens"] == usage["total_tokens"]
    cached = usage.get("num_cached_tokens", (usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
    assert got.usage_metadata.get("input_token_details", {}).get("cache_read") == cached


@pytest.mark.parametrize("exchange", recordings("embeddings"))
def test_recorded_embeddings(exchange: dict[str, Any], caller: Caller) -> None:
    request, response = exchange["request"]["body"], exchange["response"]
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    script = Script(replay(response))

    vectors = caller.embed(script.embeddings(model=request["model"]), texts)

    assert {**script.body, "encoding_format": None} == {
        "model": request["model"],
        "input": texts,
        "encoding_format": None,
    }
    assert vectors == [item["embedding"] for item in response["body"]["data"]]
