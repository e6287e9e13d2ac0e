"""What tools give is data, whatever type it says of itself (langchainjs#11092, MCP servers)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock, ImageBlock, TextBlock, ToolCallBlock

import langchain_lava_mistral
import llama_index_lava_mistral
from lava_mistral.gateway import LocalGateway

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="  # one pixel
ROWS: list[Any] = [
    [{"type": "file", "name": "a.txt", "size": 3}, {"type": "file", "name": "b.txt", "size": 4}],
    [{"type": "document", "id": 7, "title": "Report"}],
    [{"type": "json", "json": {"a": 1}}],
    [{"type": "search_result", "source": "https://example.com", "title": "x"}],
    [{"type": "text"}],
    [{"type": "resource_link", "uri": "reports://q3", "name": "Q3"}],
    [{"type": "image", "base64": "bm90IGEgcGljdHVyZQ==", "mime_type": "image/png"}],
    [{"type": "image_url", "image_url": {"url": "file:///tmp/a.png"}}],
    [{"type": "image", "url": "gs://bucket/a.png"}],
    [{"type": "file", "url": "reports://q3", "mime_type": "application/pdf"}],
]


@pytest.mark.parametrize("rows", ROWS, ids=json.dumps)
def test_langchain_sends_data_as_json(gateway: LocalGateway, rows: Any) -> None:
    model = langchain_lava_mistral.ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    asks = AIMessage("", tool_calls=[{"id": "aaaaaaaaa", "name": "ls", "args": {}}])
    model.invoke([HumanMessage("?"), asks, ToolMessage(rows, tool_call_id="aaaaaaaaa")])
    assert json.loads(gateway.requests[-1].body["messages"][2]["content"]) == rows


def test_langchain_sends_readable_content_as_parts(gateway: LocalGateway) -> None:
    model = langchain_lava_mistral.ChatLavaMistral(
        model="mistral-small-2603", api_key=gateway.secret_key, base_url=gateway.base_url
    )
    asks = AIMessage("", tool_calls=[{"id": "aaaaaaaaa", "name": "draw", "args": {}}])
    blocks: Any = [{"type": "text", "text": "Here"}, {"type": "image", "base64": PNG, "mime_type": "image/png"}]
    model.invoke([HumanMessage("?"), asks, ToolMessage(blocks, tool_call_id="aaaaaaaaa")])
    assert [part["type"] for part in gateway.requests[-1].body["messages"][2]["content"]] == ["text", "image_url"]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (DocumentBlock(url="reports://q3", document_mimetype="application/pdf"), "reports://q3"),
        (ImageBlock(url="gs://bucket/a.png"), "gs://bucket/a.png"),
        (DocumentBlock(path="/no/such/file.pdf"), "/no/such/file.pdf"),
        (TextBlock(text='[{"type": "file"}]'), '[{"type": "file"}]'),
    ],
)
def test_llama_index_sends_what_mistral_can_not_fetch_as_text(gateway: LocalGateway, block: Any, text: str) -> None:
    llm = llama_index_lava_mistral.ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    asks = ToolCallBlock(tool_call_id="aaaaaaaaa", tool_name="ls", tool_kwargs={})
    result = ChatMessage(role="tool", blocks=[block], additional_kwargs={"tool_call_id": "aaaaaaaaa"})
    llm.chat([ChatMessage(role="user", content="?"), ChatMessage(role="assistant", blocks=[asks]), result])
    assert text in gateway.requests[-1].body["messages"][2]["content"]
