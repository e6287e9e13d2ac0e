"""What tools give is data, unless Mistral can read it; tools that run on Mistral's side."""

from __future__ import annotations

import base64
import json
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from tests.langchain.scenario import USAGE, Caller, Script, answer, call, chunk

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()


def result_of(content: Any) -> Any:
    """What goes out for a tool's result."""
    asked = Script(answer())
    asking = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "abcdefghi"}])
    asked.model().invoke([HumanMessage("?"), asking, ToolMessage(content, tool_call_id="abcdefghi")])
    return asked.body["messages"][2]["content"]


DATA: dict[str, list[Any]] = {
    "files": [{"type": "file", "name": "a.txt", "size": 3}, {"type": "file", "name": "b.txt", "size": 4}],
    "document": [{"type": "document", "title": "T", "body": "…"}],
    "json": [{"type": "json", "data": {"a": 1}}],
    "search results": [{"type": "search_result", "title": "T", "source": "https://x.org", "content": []}],
    "text without text": [{"type": "text", "value": 3}],
    "an MCP link": [{"type": "resource_link", "uri": "file:///etc/hosts", "name": "hosts"}],
    "an MCP resource": [{"type": "resource", "resource": {"uri": "reports://1", "text": "r"}}],
    "a picture that is none": [
        {"type": "image", "base64": base64.b64encode(b"hello").decode(), "mime_type": "image/png"}
    ],
    "no base64": [{"type": "image", "data": "???", "mime_type": "image/png"}],
    "rows without a type": [{"text": "a", "score": 1}, {"text": "b", "score": 2}],
    "a call": [{"type": "tool_call", "name": "g", "args": {}, "id": "1"}],
    "reasoning": [{"type": "reasoning", "reasoning": "hm"}],
    "a video": [{"type": "video", "url": "https://x.org/a.mp4"}],
    "a report": [{"type": "file", "url": "reports://2026/1"}],
    "a file here": [{"type": "image_url", "image_url": {"url": "file:///tmp/a.png"}}],
    "a bucket": [{"type": "document_url", "document_url": "gs://bucket/a.pdf"}],
    "a path": [{"type": "image", "url": "/tmp/a.png"}],
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_data_goes_out_as_json(data: list[Any]) -> None:
    """langchain-ai/langchainjs#11092"""
    assert json.loads(result_of(data)) == data


READABLE: dict[str, tuple[Any, Any]] = {
    "a picture": (
        {"type": "image", "base64": PNG, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ),
    "a picture by URL": (
        {"type": "image", "url": "https://x.org/a.png"},
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}},
    ),
    "an uploaded file": ({"type": "file", "file_id": "f1"}, {"type": "file", "file_id": "f1"}),
}


@pytest.mark.parametrize(("block", "part"), READABLE.values(), ids=READABLE)
def test_what_mistral_can_read_is_content(block: Any, part: Any) -> None:
    assert result_of([block]) == [part]


def test_text_is_text() -> None:
    assert result_of([{"type": "text", "text": "hi", "id": "lc_1"}]) == "hi"


def test_content_beside_data_keeps_the_order() -> None:
    parts = result_of(["see:", {"type": "json", "a": 1}, {"type": "image", "url": "https://x.org/a.png"}])
    assert [part["type"] for part in parts] == ["text", "text", "image_url"]
    assert json.loads(parts[1]["text"]) == {"type": "json", "a": 1}


def test_arguments_in_a_history_may_hold_dates_and_the_like(caller: Caller) -> None:
    asked = Script(answer())
    args = {"day": date(2026, 1, 2), "price": Decimal("1.50"), "id": UUID(int=7), "tags": {"a"}}
    asking = AIMessage("", tool_calls=[{"name": "f", "args": args, "id": "abcdefghi"}])
    caller.invoke(asked.model(), [HumanMessage("?"), asking, ToolMessage("r", tool_call_id="abcdefghi")])
    sent = json.loads(asked.body["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert sent == {"day": "2026-01-02", "price": "1.50", "id": str(UUID(int=7)), "tags": ["a"]}


# Tools that run on Mistral's side

BUILT_IN: list[dict[str, Any]] = [
    {"type": "web_search"},
    {"type": "image_generation"},
    {"type": "document_library", "library_ids": ["l1"]},
    {"type": "connector", "connector_id": "c1", "authorization": {"type": "bearer", "token": "hush"}},
    {"type": "code_interpreter"},
]


class Beginnings(BaseCallbackHandler):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.told.append((args, kwargs))


@pytest.mark.parametrize("given", BUILT_IN, ids=[each["type"] for each in BUILT_IN])
def test_a_tool_of_mistrals_goes_out_as_it_is(given: dict[str, Any], caller: Caller) -> None:
    asked, heard = Script(answer()), Beginnings()
    own = {"name": "own"}
    caller.invoke(asked.model().bind_tools([given, own], tool_choice="own"), "?", {"callbacks": [heard]})
    assert asked.body["tools"][0] == given
    assert asked.body["tool_choice"]["function"]["name"] == "own"
    caller.invoke(asked.model(), "?", {"callbacks": [heard]}, tools=[given])
    assert asked.body["tools"] == [given]
    assert len(heard.told) == 2
    assert "hush" not in str(heard.told)


SEARCH = {"id": "s1aaaaaaa", "type": "function", "function": {"name": "web_search", "arguments": '{"query": "x"}'}}
FOUND = [{"type": "text", "text": "found"}, {"type": "tool_file", "tool": "web_search", "file_id": "f1"}]
SAID = [
    {"type": "text", "text": "Paris."},
    {"type": "tool_reference", "tool": "web_search", "title": "T", "url": "https://x"},
]


def test_the_answer_after_tools_on_mistrals_side(caller: Caller) -> None:
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [SEARCH]},
        {"role": "tool", "tool_call_id": "s1aaaaaaa", "content": FOUND},
        {"role": "assistant", "content": SAID},
    ]
    whole = answer()
    whole["choices"] = [{"index": 0, "messages": messages, "finish_reason": "stop"}]
    got = caller.invoke(Script(whole).model().bind_tools([{"type": "web_search"}]), "Where?")
    assert got.text == "Paris."
    assert got.tool_calls == []
    assert [block["title"] for block in got.content_blocks[0]["annotations"]] == ["T"]
    assert [step["role"] for step in got.response_metadata["steps"]] == ["assistant", "tool"]
    assert [file["file_id"] for file in got.response_metadata["files"]] == ["f1"]
    again = Script(answer())
    caller.invoke(again.model(), [HumanMessage("Where?"), got, HumanMessage("Sure?")])
    assert again.body["messages"][1]["content"][0] == {"type": "text", "text": "Paris."}


def test_a_stream_of_several_messages_gives_the_last_and_runs_no_tool(caller: Caller) -> None:
    stream = [
        chunk({"role": "assistant", "index": 0, "tool_calls": [{**SEARCH, "index": 0}]}),
        chunk({"role": "tool", "index": 1, "tool_call_id": "s1aaaaaaa", "content": "found"}),
        chunk({"role": "assistant", "index": 2, "content": "Pa"}),
        chunk({"role": "assistant", "index": 2, "content": "ris."}),
        chunk({"index": 2, "content": ""}, finish_reason="stop", usage=USAGE),
    ]
    got = caller.whole(Script(stream).model().bind_tools([{"type": "web_search"}, {"name": "own"}]), "Where?")
    assert got.text.endswith("Paris.")
    assert got.tool_calls == []
    assert [step["role"] for step in got.response_metadata["steps"]] == ["assistant", "tool"]


@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
def test_a_call_of_ones_own_tool_beside_mistrals_is_one_to_run(streamed: bool, caller: Caller) -> None:
    made = call("own", {"a": 1}, index=0)
    script = Script([chunk({"tool_calls": [made]}, finish_reason="tool_calls", usage=USAGE)])
    if not streamed:
        script = Script(answer("", calls=[made], finish_reason="tool_calls"))
    got = caller.ask(streamed, script.model().bind_tools([{"type": "web_search"}, {"name": "own"}]), "?")
    assert [(c["name"], c["args"]) for c in got.tool_calls] == [("own", {"a": 1})]


PARTS: dict[str, dict[str, Any]] = {
    "resource": {"type": "resource", "uri": "x://1", "content": {"type": "text", "text": "r"}},
    "resource link": {"type": "resource_link", "uri": "x://1"},
    "file": {"type": "file", "file_id": "f1"},
    "sound": {"type": "input_audio", "input_audio": "UklGRg=="},
    "unknown": {"type": "hologram", "beam": 1},
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
def test_no_part_of_an_answer_is_lost(part: Any, streamed: bool, caller: Caller) -> None:
    content = [{"type": "text", "text": "See "}, part]
    script = Script([chunk({"content": content}, finish_reason="stop", usage=USAGE)] if streamed else answer(content))
    got = caller.ask(streamed, script.model(), "?")
    assert got.text == "See "
    kept = got.content_blocks[1]
    assert part["type"] in (kept["type"], kept.get("value", {}).get("type")) or kept["value"]["beam"] == 1
