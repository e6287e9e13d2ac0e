"""Answers of several messages, where tools ran on Mistral's side."""

from __future__ import annotations

from typing import Any

import pytest

from lava_mistral.errors import ServerError
from lava_mistral.mistral.tools import ToolNames
from lava_mistral.mistral.turn import Turn
from lava_mistral.mistral.turn_accumulator import TurnAccumulator
from tests.fakes.answers import turn_of

SEARCHED = {"id": "aaaaaaaaa", "type": "function", "function": {"name": "web_search", "arguments": '{"q": "x"}'}}
WEATHER = {"id": "bbbbbbbbb", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
FOUND = {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": '{"0": {"url": "https://mistral.ai/"}}'}
CITED = {"type": "tool_reference", "tool": "web_search", "title": "Mistral", "url": "https://mistral.ai/"}
DRAWN = {"type": "tool_file", "tool": "image_generation", "file_id": "f_1", "file_name": "cat.png"}
ANSWER = [{"type": "text", "text": "It is "}, CITED, {"type": "text", "text": "so."}, DRAWN]
ASKS = {"role": "assistant", "content": "", "tool_calls": [SEARCHED]}
SAYS = {"role": "assistant", "content": ANSWER}


def streamed(*deltas: Any, names: ToolNames = ToolNames(), finish_reason: Any = "stop") -> tuple[Turn, list[Any]]:  # noqa: B008
    accumulator = TurnAccumulator(names)
    out = []
    for at, delta in enumerate(deltas):
        reason = finish_reason if at == len(deltas) - 1 else None
        out += accumulator.add(
            {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        )
    return accumulator.turns[0], [*out, *accumulator.end()]


def indexed(*messages: Any) -> list[Any]:
    return [{**message, "index": at} for at, message in enumerate(messages)]


def test_the_last_assistant_message_is_the_answer_and_the_others_are_its_steps() -> None:
    turn = turn_of({"messages": [ASKS, FOUND, SAYS], "finish_reason": "stop"})
    assert turn.text == "It is so."
    assert turn.content == ANSWER
    assert turn.tool_calls == []
    assert turn.steps == [ASKS, FOUND]
    assert turn.citations == [CITED]
    assert turn.files == [DRAWN]


def test_a_file_in_a_step_is_a_file_of_the_turn() -> None:
    drew = {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": [DRAWN]}
    turn = turn_of({"messages": [ASKS, drew, {"role": "assistant", "content": "Here"}], "finish_reason": "stop"})
    assert turn.files == [DRAWN]


@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls", None])
def test_a_streamed_answer_of_several_messages_is_the_same(finish_reason: Any) -> None:
    pieces = [
        {"role": "assistant", "index": 0, "content": ""},
        {"index": 0, "tool_calls": [SEARCHED]},
        {"role": "tool", "index": 1, "tool_call_id": "aaaaaaaaa", "content": FOUND["content"][:9]},
        {"index": 1, "content": FOUND["content"][9:]},
        {"role": "assistant", "index": 2, "content": [ANSWER[0], CITED]},
        {"index": 2, "content": [*ANSWER[2:]]},
    ]
    turn, deltas = streamed(*pieces, finish_reason=finish_reason)
    assert "".join(delta.text for delta in deltas) == "It is so."
    assert [part for delta in deltas for part in delta.parts] == ANSWER
    assert not any(delta.tool_calls for delta in deltas)
    whole = turn_of({"messages": [ASKS, FOUND, SAYS], "finish_reason": finish_reason})
    assert (turn, turn.steps, turn.files) == (whole, whole.steps, whole.files)


def test_steps_without_an_index_go_by_their_role() -> None:
    turn, deltas = streamed(ASKS, FOUND, {"content": " "}, SAYS, names=ToolNames(built_in=True))
    assert "".join(delta.text for delta in deltas) == "It is so."
    assert turn.steps == [ASKS, FOUND | {"content": FOUND["content"] + " "}]
    assert turn.tool_calls == []


def test_a_finish_reason_that_comes_again_loses_no_step() -> None:
    turn, _ = streamed(*indexed(ASKS, FOUND, SAYS))
    accumulator = TurnAccumulator()
    deltas: list[Any] = [*indexed(ASKS, FOUND, SAYS), {"content": ""}]
    for delta, reason in zip(deltas, [None, None, "stop", "stop"], strict=True):
        accumulator.add({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    assert accumulator.turns[0].steps == turn.steps == [ASKS, FOUND]


BOTH = {"role": "assistant", "content": "", "tool_calls": [SEARCHED, WEATHER]}


def test_a_call_that_mistral_did_not_run_is_handed_on() -> None:
    turn = turn_of({"messages": [BOTH, FOUND], "finish_reason": "tool_calls"})
    assert [call.id for call in turn.tool_calls] == ["bbbbbbbbb"]
    assert turn.steps == [BOTH, FOUND]
    grown, deltas = streamed(*indexed(BOTH, FOUND), finish_reason="tool_calls")
    assert grown.tool_calls == turn.tool_calls
    assert grown.steps == turn.steps
    [fragment] = [fragment for delta in deltas for fragment in delta.tool_calls]
    assert (fragment.index, fragment.id, fragment.name, fragment.arguments) == (0, "bbbbbbbbb", "get_weather", "{}")


def test_a_call_after_steps_is_handed_on_with_its_own_name_and_kept_out_of_them() -> None:
    names = ToolNames(["get.weather"], built_in=True)
    asks = {"role": "assistant", "content": "Hm.", "tool_calls": [WEATHER]}
    turn = turn_of({"messages": [ASKS, FOUND, asks], "finish_reason": "tool_calls"}, names=names)
    grown, deltas = streamed(*indexed(ASKS, FOUND, asks), finish_reason="tool_calls", names=names)
    assert grown == turn
    assert grown.steps == turn.steps == [ASKS, FOUND]
    assert [call.name for call in turn.tool_calls] == ["get.weather"]
    assert [fragment.name for delta in deltas for fragment in delta.tool_calls] == ["get.weather"]


@pytest.mark.parametrize("indexed_", [True, False])
def test_a_call_of_a_built_in_tool_is_none_to_run(indexed_: bool) -> None:
    """Whatever else the answer says of it."""
    names = ToolNames(["get_weather"], built_in=True)
    turn = turn_of({"message": BOTH, "finish_reason": "tool_calls"}, names=names)
    assert [call.name for call in turn.tool_calls] == ["get_weather"]
    grown, deltas = streamed(*(indexed(BOTH) if indexed_ else [BOTH]), finish_reason="tool_calls", names=names)
    assert grown.tool_calls == turn.tool_calls
    assert [fragment.name for delta in deltas for fragment in delta.tool_calls] == ["get_weather"]


def test_calls_of_a_stream_that_ends_without_a_reason_are_handed_on() -> None:
    turn, deltas = streamed(*indexed(BOTH, FOUND), finish_reason=None)
    assert [fragment.name for delta in deltas for fragment in delta.tool_calls] == ["get_weather"]
    assert [call.name for call in turn.tool_calls] == ["get_weather"]


@pytest.mark.parametrize("messages", [5, ["x"], [FOUND], [{"role": "assistant", "tool_calls": "x"}]])
def test_what_are_no_messages_is_a_server_error(messages: Any) -> None:
    with pytest.raises(ServerError, match="should be"):
        turn_of({"messages": messages, "finish_reason": "stop"})


@pytest.mark.parametrize(
    "delta",
    [
        {"index": "0", "content": "a"},
        {"role": 5, "content": "a"},
        {"role": "tool", "tool_call_id": [], "content": None},
    ],
)
def test_odd_deltas_of_steps_are_no_failure(delta: Any) -> None:
    streamed({"role": "assistant", "content": "a", "index": 0}, delta, {"content": "b"})


@pytest.mark.parametrize(
    "choice",
    [
        {"messages": [ASKS, FOUND, SAYS], "finish_reason": "stop"},
        {"messages": [BOTH, FOUND], "finish_reason": "tool_calls"},
        {"message": SAYS, "finish_reason": "stop", "logprobs": {"content": [{"token": "It"}]}},
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"},
    ],
)
def test_a_whole_answer_as_a_chunk_gives_the_same_turn(choice: Any) -> None:
    accumulator = TurnAccumulator()
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    accumulator.add_whole({"id": "c", "model": "m", "choices": [choice], "usage": usage})
    whole, turn = turn_of(choice), accumulator.turns[0]
    assert (turn, turn.steps, turn.logprobs) == (whole, whole.steps, whole.logprobs)
    assert (accumulator.id, accumulator.usage, accumulator.complete) == ("c", usage, True)
