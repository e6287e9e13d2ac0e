"""Answers in odd forms, through every client: a good answer or a LavaError, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lava_mistral.errors import LavaError
from lava_mistral.gateway import LocalGateway
from tests.fakes.frameworks import Framework, Said, call, choice_answer, events, user

EMPTY: list[Any] = [
    {"choices": [{}]},
    {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": None}]},
]


@pytest.mark.parametrize("answer", EMPTY, ids=str)
@pytest.mark.parametrize("kind", ["core", "langchain", "llama_index"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_answer_with_nothing_in_it_is_an_error(
    gateway: LocalGateway, kind: str, asynchronous: bool, answer: Any
) -> None:
    gateway.queue({**choice_answer({}), **answer})
    with pytest.raises(LavaError):
        Framework(kind, asynchronous).send(gateway, [user()])


@pytest.mark.parametrize("kind", ["core", "langchain", "llama_index"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_stream_with_nothing_in_it_is_an_error(gateway: LocalGateway, kind: str, asynchronous: bool) -> None:
    gateway.queue(events(finish_reason=None))
    with pytest.raises(LavaError):
        Framework(kind, asynchronous, streamed=True).send(gateway, [user()])


ODD_PARTS: list[Any] = [
    {"value": "no type"},
    {"type": None},
    {"type": "image_url"},
    {"type": "image_url", "image_url": {}},
    {"type": "document_url", "document_url": None},
    {"type": "reference", "reference_ids": None},
    {"type": "reference", "reference_ids": [None, {}]},
    {"type": "thinking", "thinking": None},
    {"type": "thinking", "thinking": [{"type": "tool_reference"}]},
    {"type": "tool_reference", "tool": "web_search", "title": "x"},
    {"type": "tool_file", "tool": "image_generation", "file_id": "f"},
    {"type": "resource", "uri": "lib://1"},
    {"type": "resource_link", "uri": "lib://1"},
    {"type": "file", "file_id": "f"},
    {"type": "input_audio", "input_audio": "AAAA"},
    {"type": "of_next_year", "value": 1},
]


@pytest.mark.parametrize("part", ODD_PARTS, ids=str)
def test_odd_parts_beside_a_text_leave_the_text_and_go_back_into_the_conversation(
    gateway: LocalGateway, framework: Framework, part: Any
) -> None:
    framework.queue(gateway, {"content": [{"type": "text", "text": "Hi"}, part]})
    reply = framework.send(gateway, [user()])
    assert reply.text == "Hi"
    if part.get("type") == "input_audio":
        # A model without ears takes none.
        return
    framework.send(gateway, [user(), Said("assistant", raw=reply.message), user("And?")])
    assert gateway.requests[-1].status == 200
    assert "Hi" in str(gateway.requests[-1].body["messages"][1]["content"])


USAGES: list[Any] = [
    None,
    5,
    {"prompt_tokens": 12.0, "completion_tokens": 5.0, "total_tokens": 17.0},
    {"prompt_tokens": "12"},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": 12, "completion_tokens": 5},
    {"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": "x"},
]


@pytest.mark.parametrize("usage", USAGES, ids=str)
def test_odd_usage_breaks_no_answer(gateway: LocalGateway, framework: Framework, usage: Any) -> None:
    if framework.streamed:
        gateway.queue(events({"content": "Hi"}).replace('"usage": {"prompt_tokens": 12', '"was": {"prompt_tokens": 12'))
    else:
        message = {"role": "assistant", "content": "Hi"}
        gateway.queue(choice_answer({"message": message}) | {"usage": usage})
    assert framework.send(gateway, [user()]).text == "Hi"


@pytest.mark.parametrize("id", [None, "null", ["a"], {}, 5], ids=str)
def test_calls_with_odd_ids_are_made(gateway: LocalGateway, framework: Framework, id: Any) -> None:
    odd = {"id": id, "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    framework.queue(gateway, {"content": "", "tool_calls": [odd]}, "tool_calls")
    assert framework.send(gateway, [user()], ["add"]).calls == [("add", {"a": 1, "b": 2})]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("kind", ["core", "langchain", "llama_index"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_whole_answer_to_a_request_for_a_stream_is_delivered(
    gateway: LocalGateway, kind: str, asynchronous: bool, indent: int | None
) -> None:
    """Some proxies do not stream."""
    message = {"role": "assistant", "content": "Hi. " * 2_000}
    gateway.queue(json.dumps(choice_answer({"message": message}), indent=indent))
    assert Framework(kind, asynchronous, streamed=True).send(gateway, [user()]).text == "Hi. " * 2_000


SEARCHED = call("web_search", {"query": "x"}, "aaaaaaaaa")
FOUND = {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": '{"0": {"url": "https://mistral.ai/"}}'}
CITED = {"type": "tool_reference", "tool": "web_search", "title": "Mistral", "url": "https://mistral.ai/"}
STEPS: list[Any] = [
    {"role": "assistant", "content": "", "tool_calls": [SEARCHED]},
    FOUND,
    {"role": "assistant", "content": [{"type": "text", "text": "It is so."}, CITED]},
]


def test_an_answer_after_tools_on_mistrals_side_is_its_last_text_and_no_call(
    gateway: LocalGateway, framework: Framework
) -> None:
    """The answer came as messages and was lost; the search must not reach an agent as a call to make."""
    if framework.streamed:
        gateway.queue(events(*({**message, "index": at} for at, message in enumerate(STEPS))))
    else:
        gateway.queue(choice_answer({"messages": STEPS}))
    reply = framework.send(gateway, [user()])
    assert (reply.text, reply.calls) == ("It is so.", [])


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["core", "langchain", "llama_index"])
@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search"},
        {"type": "image_generation"},
        {"type": "document_library", "library_ids": ["l_1"]},
        {"type": "code_interpreter"},
        {"type": "connector", "connector_id": "c_1"},
    ],
    ids=lambda tool: tool["type"],
)
def test_tools_on_mistrals_side_go_out_as_they_are_and_their_calls_are_none_to_make(
    gateway: LocalGateway, kind: str, asynchronous: bool, tool: Any
) -> None:
    for streamed in (False, True):
        framework = Framework(kind, asynchronous, streamed)
        framework.queue(gateway, {"content": "It is so.", "tool_calls": [SEARCHED]})
        reply = framework.send(gateway, [user()], tools=[tool, "add"])
        assert gateway.requests[-1].body["tools"][0] == tool
        assert (reply.text, reply.calls) == ("It is so.", [])
