"""Every recorded exchange with Mistral, through this package: what is asked, and what the user gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from tests.conftest import recordings
from tests.fakes.wire_examples import meaning, replay, said
from tests.langchain.scenario import Caller, Script


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
    recorded = said(response)
    assert got.text == recorded.text
    reasoning = [b["reasoning"] for b in got.content_blocks if b["type"] == "reasoning"]
    assert "".join(reasoning) == recorded.thinking
    assert [(c["name"], c["args"], c["id"]) for c in got.tool_calls] == recorded.calls
    assert got.response_metadata["finish_reason"] == recorded.finish_reason
    assert got.usage_metadata is not None
    assert got.usage_metadata["input_tokens"] == recorded.usage["prompt_tokens"]
    assert got.usage_metadata["output_tokens"] == recorded.usage["completion_tokens"]
    assert got.usage_metadata["total_tokens"] == recorded.usage["total_tokens"]
    assert got.usage_metadata.get("input_token_details", {}).get("cache_read") == recorded.cached


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
