"""Every recorded request to Mistral is accepted, and answered in the form of the recorded response."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ..conftest import recordings
from .conftest import events

# A recorded answer says so where a gateway's does not: the count of requests is null in every recording.
ONLY_RECORDED = {"logprobs", "request_count"}


def shape(value: Any) -> Any:
    """What kind of value it is, with the fields of objects; lists by their first member."""
    match value:
        case dict():
            return {key: shape(member) for key, member in value.items() if key not in ONLY_RECORDED}
        case list():
            return [shape(value[0])] if value else []
        case bool() | None:
            return value
        case int() | float():
            return "number"
        case _:
            return "text"


@pytest.mark.parametrize("exchange", recordings())
def test_the_recorded_request_is_accepted(forward, gateway, exchange):
    request = exchange["request"]
    response = forward(request["path"], request["body"])
    assert response.status_code == exchange["response"]["status"] == 200, response.text
    assert gateway.requests[0].body == request["body"]
    assert response.headers["content-type"] == exchange["response"]["headers"]["content-type"]


@pytest.mark.parametrize("exchange", recordings("embeddings"))
def test_embeddings_have_the_recorded_form(forward, exchange):
    body = forward(exchange["request"]["path"], exchange["request"]["body"]).json()
    recorded = exchange["response"]["body"]
    assert shape(body) == shape(recorded)
    assert [len(one["embedding"]) for one in body["data"]] == [len(one["embedding"]) for one in recorded["data"]]


@pytest.mark.parametrize("exchange", recordings("chat"))
def test_chats_have_the_recorded_form(forward, exchange):
    request, recorded = exchange["request"], exchange["response"]["body"]
    response = forward(request["path"], request["body"])
    if isinstance(recorded, str):
        ours, theirs = events(response.text), events(recorded)
        assert [shape(ours[0]), ours[-1]] == [shape(theirs[0]), theirs[-1]]
        assert shape(ours[1]) == shape(theirs[1])
        usage = shape(theirs[-2].pop("usage"))
        assert shape(ours[-2].pop("usage")).items() >= usage.items()
        assert shape(ours[-2]) == shape(theirs[-2])
        return
    body = json.loads(response.content)
    for answer in (body, recorded):
        # What is said is the model's own affair, and so is whether it calls a tool.
        [choice] = answer["choices"]
        assert choice.pop("finish_reason") in ("stop", "tool_calls")
        message = choice.pop("message")
        assert message.keys() == {"role", "content", "tool_calls"}
        if message["tool_calls"]:
            assert shape(message["tool_calls"]) == [
                {"function": {"name": "text", "arguments": "text"}, "id": "text", "index": "number"}
            ]
    counts = {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert counts <= body.pop("usage").keys() & recorded.pop("usage").keys()
    assert shape(body) == shape(recorded)


@pytest.mark.parametrize("exchange", recordings("chat"))
def test_tools_are_chosen_as_recorded(forward, exchange):
    """Where a recorded turn called tools, the simulated model calls the same ones."""
    request, recorded = exchange["request"], exchange["response"]["body"]
    called = [] if isinstance(recorded, str) else recorded["choices"][0]["message"]["tool_calls"] or []
    if not called:
        assert forward(request["path"], request["body"]).status_code == 200
        return
    [choice] = forward(request["path"], request["body"]).json()["choices"]
    ours = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in ours] == [call["function"]["name"] for call in called]
    for one, other in zip(ours, called, strict=True):
        arguments, expected = (json.loads(call["function"]["arguments"]) for call in (one, other))
        assert arguments.keys() == expected.keys()
        assert arguments.get("city") == expected.get("city")


@pytest.mark.parametrize("exchange", recordings("chat"))
def test_prompts_count_about_as_many_tokens_as_recorded(forward, exchange):
    """Within a sixth for text and tools; what pictures and documents count for, nobody has published."""
    request, recorded = exchange["request"], exchange["response"]["body"]
    stream = isinstance(recorded, str)
    theirs = events(recorded)[-2]["usage"] if stream else recorded["usage"]
    response = forward(request["path"], request["body"])
    ours = events(response.text)[-2]["usage"] if stream else response.json()["usage"]
    assert ours["prompt_tokens"] > 0
    attached = any(isinstance(m["content"], list) and len(m["content"]) > 0 for m in request["body"]["messages"])
    # Reasoning models begin with a system prompt of Mistral's own, and one recording is not a real one.
    hidden = request["body"].get("reasoning_effort") or "magistral" in request["body"]["model"]
    if not attached and not hidden and "cache_tokens" not in exchange["id"]:
        assert theirs["prompt_tokens"] * 5 / 6 <= ours["prompt_tokens"] <= theirs["prompt_tokens"] * 7 / 6
