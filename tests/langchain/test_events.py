"""Streams as LangChain's events: the protocol's lifecycle (version 3) and the older ones (version 2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream

from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import Caller, Script, call, chat, chunk, events

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")


def thought(text: str) -> list[Any]:
    return [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]


def fragment(arguments: str, *, id: str | None = None, name: str = "", index: int | None = 0) -> dict[str, Any]:
    made: dict[str, Any] = {"id": id, "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [made if index is None else {**made, "index": index}]}


STREAMS: dict[str, tuple[list[Any], list[tuple[str, Any]]]] = {
    "text": (["Hel", "lo"], [("text", "Hello")]),
    "thinking, then text": (
        [thought("Let "), thought("me."), "It ", "is."],
        [("reasoning", "Let me."), ("text", "It is.")],
    ),
    "text between thoughts": (
        [thought("a"), "b", thought("c"), "d"],
        [("reasoning", "a"), ("text", "b"), ("reasoning", "c"), ("text", "d")],
    ),
    "text, then thinking": (["a", thought("b"), "c"], [("text", "a"), ("reasoning", "b"), ("text", "c")]),
    "text beside a call": (
        ["Let me see.", {"tool_calls": [call("f", {"x": 1})]}],
        [("text", "Let me see."), ("tool_call", {"x": 1})],
    ),
    "a call in fragments": (
        [fragment('{"x"', id="aaaaaaaa1", name="f"), fragment(': "a'), fragment('bc"}')],
        [("tool_call", {"x": "abc"})],
    ),
    "two calls in fragments": (
        [
            "Wait.",
            fragment('{"x":', id="aaaaaaaa1", name="f"),
            fragment(" 1}"),
            fragment('{"y":', id="aaaaaaaa2", name="g", index=1),
            fragment(" 2}", index=1),
        ],
        [("text", "Wait."), ("tool_call", {"x": 1}), ("tool_call", {"y": 2})],
    ),
    "two calls, both of index 0": (
        [fragment('{"x": 1}', id="aaaaaaaa1", name="f"), fragment('{"y": 2}', id="aaaaaaaa2", name="g")],
        [("tool_call", {"x": 1}), ("tool_call", {"y": 2})],
    ),
    "thinking, text and a call": (
        [thought("hm"), "Wait.", {"tool_calls": [call("f", {"x": 1})]}],
        [("reasoning", "hm"), ("text", "Wait."), ("tool_call", {"x": 1})],
    ),
    "a call between two texts": (
        ["a", {"tool_calls": [call("f", {})]}, "b"],
        [("text", "ab"), ("tool_call", {})],
    ),
    "cited text": (
        ["a", [{"type": "reference", "reference_ids": [1]}], "b"],
        [("text", "a"), ("text", "b")],
    ),
}


def shown(block: Any) -> tuple[str, Any]:
    return block["type"], block.get("text", block.get("reasoning", block.get("args")))


@pytest.mark.parametrize(("deltas", "blocks"), STREAMS.values(), ids=STREAMS)
def test_the_lifecycle_of_a_stream_is_valid(deltas: list[Any], blocks: list[Any], caller: Caller) -> None:
    seen = caller.events(Script(events(*deltas)).model(), "Hi")

    assert_valid_event_stream(seen)
    finished = [shown(event["content"]) for event in seen if event["event"] == "content-block-finish"]
    assert finished == blocks
    start, end = seen[0], seen[-1]
    assert start["metadata"] == {"provider": "lava_mistral", "model": "mistral-small-2603"}
    assert end["usage"] == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    assert end["metadata"]["finish_reason"] == "stop"
    assert end["metadata"]["lava_request_id"] == "req_1"


@pytest.mark.parametrize(("deltas", "blocks"), STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_stream_put_together_is_the_same(version: str, deltas: list[Any], blocks: list[Any], caller: Caller) -> None:
    whole = caller.whole(Script(events(*deltas)).model(output_version=version), "Hi")

    # LangChain puts calls after all texts in one version and where they came in the other.
    assert sorted(map(str, map(shown, whole.content_blocks))) == sorted(map(str, blocks))
    assert whole.text == "".join(value for kind, value in blocks if kind == "text")
    assert not whole.invalid_tool_calls
    if version == "v1":
        assert {block["type"] for block in whole.content} == {kind for kind, _ in blocks}  # type: ignore[index]


def test_a_citation_is_on_the_finished_block(caller: Caller) -> None:
    deltas = ["a", [{"type": "reference", "reference_ids": [1]}], "b", [{"type": "reference", "reference_ids": [2]}]]
    seen = caller.events(Script(events(*deltas)).model(), "Hi")
    cited = [e["content"]["annotations"] for e in seen if e["event"] == "content-block-finish"]
    assert [[a["extras"]["reference_ids"] for a in found] for found in cited] == [[[1]], [[2]]]


def test_events_of_a_reasoning_model(gateway: LocalGateway, caller: Caller) -> None:
    seen = caller.events(chat(gateway, reasoning_effort="high"), "Is the sky blue?")
    assert_valid_event_stream(seen)
    assert [e["content"]["type"] for e in seen if e["event"] == "content-block-finish"] == ["reasoning", "text"]


def test_the_projections_of_a_stream(gateway: LocalGateway) -> None:
    stream = chat(gateway, reasoning_effort="high").stream_events("Is the sky blue?", version="v3")
    assert "".join(stream.text)
    assert isinstance(stream.output, AIMessage)

    async def run() -> None:
        astream = await chat(gateway, reasoning_effort="high").astream_events("Is the sky blue?", version="v3")
        assert "".join([delta async for delta in astream.text])
        assert "".join([delta async for delta in astream.reasoning])

    asyncio.run(run())


def test_version_2_events(gateway: LocalGateway) -> None:
    async def collect() -> list[Any]:
        return [event async for event in chat(gateway).astream_events("Hi", version="v2")]

    seen = asyncio.run(collect())

    assert [event["event"] for event in (seen[0], seen[-1])] == ["on_chat_model_start", "on_chat_model_end"]
    said = "".join(e["data"]["chunk"].text for e in seen if e["event"] == "on_chat_model_stream")
    assert said == seen[-1]["data"]["output"].text != ""


def test_events_are_heard_when_a_handler_asks_for_them(caller: Caller) -> None:
    from langchain_core.tracers._streaming import _V2StreamingCallbackHandler

    class Heard(BaseCallbackHandler, _V2StreamingCallbackHandler):
        def __init__(self) -> None:
            self.events: list[Any] = []

        def on_stream_event(self, event: Any, **_: Any) -> None:
            self.events.append(event)

    heard = Heard()
    got = caller.invoke(Script(events(thought("hm"), "Hi")).model(), "Hi", {"callbacks": [heard]})

    assert got.text == "Hi"
    assert_valid_event_stream(heard.events)


def test_a_second_thread_of_choices_is_not_mixed_in(caller: Caller) -> None:
    other = {**chunk(), "choices": [{"index": 1, "delta": {"content": "NO"}, "finish_reason": "stop"}]}
    got = caller.whole(Script([*events("Hi")[:-1], other, events("Hi")[-1]]).model(), "Hi")
    assert got.text == "Hi"
