"""Turns: whole from an answer, or put together from a stream, in each of the forms in which servers word them."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.errors import ServerError
from lava_mistral.mistral.response_parsing import read_parts
from lava_mistral.mistral.sse import SSEDecoder
from lava_mistral.mistral.turn import Delta, ToolCall, Turn
from lava_mistral.mistral.turn_accumulator import TurnAccumulator
from tests.fakes.answers import turn_of, whole_turn

WIRE = Path(__file__).resolve().parents[3] / "shared" / "wire"


def recorded(form: type) -> list[Any]:
    """The recorded chat answers whose body is a string (a stream) or a dictionary (a whole answer)."""
    if not WIRE.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason="the recorded traffic is not beside the project"))]
    exchanges = [json.loads(path.read_text()) for path in sorted(WIRE.glob("*.json"))]
    return [
        pytest.param(exchange["response"]["body"], id=exchange["id"])
        for exchange in exchanges
        if "chat" in exchange["request"]["path"]
        and exchange["response"]["status"] == 200
        and isinstance(exchange["response"]["body"], form)
    ]


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0, **fields: Any) -> Any:
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "mistral-small-2603",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}],
        "p": "abcdef",
        **fields,
    }


def call(id: Any = "", name: Any = "", arguments: Any = "", **fields: Any) -> dict[str, Any]:
    """A tool call or a fragment of one; what is `...` is left out."""
    function = {"name": name, "arguments": arguments}
    whole = {"id": id, "function": {k: v for k, v in function.items() if v is not ...}, **fields}
    return {key: value for key, value in whole.items() if value is not ...}


def assemble(*deltas: dict[str, Any]) -> tuple[Turn, list[Delta]]:
    assembler = TurnAccumulator()
    out = [delta for each in deltas for delta in assembler.add(chunk(each))]
    return assembler.turns[0], out


def text(value: str) -> Any:
    return {"type": "text", "text": value}


def thinking(*values: str, **fields: Any) -> Any:
    return {"type": "thinking", "thinking": [text(value) for value in values], **fields}


def reference(*ids: int | str) -> Any:
    return {"type": "reference", "reference_ids": list(ids)}


@pytest.mark.parametrize("body", recorded(str))
def test_a_recorded_stream_gives_its_text_usage_and_finish_reason(body: str) -> None:
    chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    expected = "".join(each["choices"][0]["delta"]["content"] for each in chunks)
    assembler = TurnAccumulator()
    events = SSEDecoder().feed(body.encode())
    assert events[-1] == ("[DONE]", "message")
    deltas = [delta for data, _ in events[:-1] for delta in assembler.add(json.loads(data))]
    [turn] = assembler.turns
    assert turn.text == expected == "".join(delta.text for delta in deltas)
    assert expected
    assert turn.content == [text(expected)]
    assert turn.finish_reason == deltas[-1].finish_reason == "stop"
    assert assembler.complete
    assert assembler.usage == chunks[-1]["usage"] == deltas[-1].usage
    assert (assembler.id, assembler.model, assembler.created) == (
        chunks[0]["id"],
        chunks[0]["model"],
        chunks[0]["created"],
    )
    assert all(delta.text for delta in deltas[:-1])


@pytest.mark.parametrize("body", recorded(dict))
def test_a_recorded_answer_gives_its_text_thinking_and_calls(body: dict[str, Any]) -> None:
    [choice] = body["choices"]
    message = choice["message"]
    turn = whole_turn(message, choice["finish_reason"], index=choice["index"])
    content = message["content"]
    parts = [text(content)] if isinstance(content, str) else content
    assert turn.text == "".join(part["text"] for part in parts if part["type"] == "text")
    assert turn.thinking == "".join(
        piece["text"] for part in parts if part["type"] == "thinking" for piece in part["thinking"]
    )
    assert turn.tool_calls == [
        ToolCall(each["id"], each["function"]["name"], each["function"]["arguments"])
        for each in message["tool_calls"] or ()
    ]
    assert turn.finish_reason == choice["finish_reason"]
    replayed = turn.to_wire()
    assert whole_turn(replayed, choice["finish_reason"]) == turn


def test_a_first_chunk_with_a_role_alone_says_nothing() -> None:
    assembler = TurnAccumulator()
    assert assembler.add(chunk({"role": "assistant", "content": ""})) == []
    assert assembler.add(chunk({"role": "assistant"})) == []
    assert assembler.add(chunk({"content": None})) == []
    assert assembler.add(chunk({"content": []})) == []
    assert assembler.add({"id": "c1", "model": "m", "choices": []}) == []
    assert assembler.turns[0].content == []
    assert not assembler.complete


def test_thinking_comes_in_lists_and_then_the_text_in_strings() -> None:
    turn, deltas = assemble(
        {"role": "assistant", "content": ""},
        {"content": [thinking("Let me ")]},
        {"content": [thinking("think.", closed=True), text("So")]},
        {"content": ": 4"},
    )
    assert [(delta.text, delta.thinking) for delta in deltas] == [("", "Let me "), ("So", "think."), (": 4", "")]
    assert [delta.parts for delta in deltas] == [
        (thinking("Let me "),),
        (thinking("think.", closed=True), text("So")),
        (),
    ]
    assert turn.content == [thinking("Let me think.", closed=True), text("So: 4")]
    assert (turn.text, turn.thinking) == ("So: 4", "Let me think.")


def test_thinking_holds_references_in_their_place() -> None:
    piece = {"type": "thinking", "thinking": [text("a"), reference(1), text("b")]}
    turn, [delta, _] = assemble({"content": [piece]}, {"content": [thinking("c")]})
    assert delta.thinking == "ab"
    assert turn.content == [{"type": "thinking", "thinking": [text("a"), reference(1), text("bc")]}]


def test_thinking_in_a_bare_string_is_read() -> None:
    turn, [delta] = assemble({"content": [{"type": "thinking", "thinking": "hm"}, "said"]})
    assert (delta.thinking, delta.text) == ("hm", "said")
    assert turn.content == [thinking("hm"), text("said")]


@pytest.mark.parametrize("ids", [(0, 3), ("0", "doc-a")])
def test_defect_10_references_stay_where_they_were_whatever_their_ids(ids: tuple[Any, ...]) -> None:
    turn, deltas = assemble(
        {"content": "Paris"}, {"content": [reference(*ids)]}, {"content": [text(" is big")]}, {"content": "."}
    )
    assert turn.content == [text("Paris"), reference(*ids), text(" is big.")]
    assert turn.text == "Paris is big."
    assert [(delta.text, bool(delta.parts)) for delta in deltas] == [
        ("Paris", False),
        ("", True),
        (" is big", True),
        (".", False),
    ]


def test_unknown_parts_and_marked_text_are_kept_as_they_are() -> None:
    odd = {"type": "tool_file", "file": {"id": 1}}
    marked = {"type": "text", "text": "b", "annotations": []}
    turn, [delta] = assemble({"content": [text("a"), marked, text("c"), odd]})
    assert delta.text == "abc"
    assert turn.content == [text("a"), marked, text("c"), odd]


def test_a_snapshot_of_the_content_does_not_change_as_the_turn_grows() -> None:
    assembler = TurnAccumulator()
    assembler.add(chunk({"content": [thinking("a"), text("b")]}))
    before = assembler.turns[0].content
    assembler.add(chunk({"content": "c"}))
    assert before == [thinking("a"), text("b")]
    assert assembler.turns[0].content == [thinking("a"), text("bc")]


def test_a_whole_call_in_one_delta() -> None:
    turn, [delta] = assemble(
        {"content": "", "tool_calls": [call("D681PevKs", "add", '{"a": 1}', index=0, type="function")]}
    )
    assert turn.tool_calls == [ToolCall("D681PevKs", "add", '{"a": 1}')]
    [fragment] = delta.tool_calls
    assert (fragment.index, fragment.id, fragment.name, fragment.arguments) == (0, "D681PevKs", "add", '{"a": 1}')
    assert turn.tool_calls[0].parsed() == {"a": 1}


@pytest.mark.parametrize("later", ["null", "", None, ..., "D681PevKs"], ids=str)
@pytest.mark.parametrize("name", ["", None, ..., "add"], ids=str)
@pytest.mark.parametrize("index", [0, ...], ids=str)
def test_defect_5_fragments_of_one_call_are_one_call(later: Any, name: Any, index: Any) -> None:
    turn, deltas = assemble(
        {"tool_calls": [call("D681PevKs", "add", "", index=index)]},
        {"tool_calls": [call(later, name, '{"a": ', index=index)]},
        {"tool_calls": [call(later, name, "1}", index=index)]},
    )
    assert turn.tool_calls == [ToolCall("D681PevKs", "add", '{"a": 1}')]
    fragments = [fragment for delta in deltas for fragment in delta.tool_calls]
    assert [fragment.index for fragment in fragments] == [0, 0, 0]
    assert [fragment.id for fragment in fragments] == ["D681PevKs", None, None]
    assert [fragment.name for fragment in fragments] == ["add", None, None]
    assert "".join(fragment.arguments for fragment in fragments) == '{"a": 1}'


@pytest.mark.parametrize("index", [0, ..., None], ids=str)
def test_defect_5_parallel_calls_that_all_say_index_0_stay_apart(index: Any) -> None:
    first = call("aaaaaaaaa", "add", '{"a": 1}', index=index)
    second = call("bbbbbbbbb", "add", '{"a": 2}', index=index)
    expected = [ToolCall("aaaaaaaaa", "add", '{"a": 1}'), ToolCall("bbbbbbbbb", "add", '{"a": 2}')]
    together, [delta] = assemble({"tool_calls": [first, second]})
    assert together.tool_calls == expected
    assert [fragment.index for fragment in delta.tool_calls] == [0, 1]
    apart, _ = assemble({"tool_calls": [first]}, {"tool_calls": [second]})
    assert apart.tool_calls == expected


def test_fragments_of_parallel_calls_at_index_0_go_to_the_call_begun_last() -> None:
    turn, _ = assemble(
        {"tool_calls": [call("aaaaaaaaa", "add", "", index=0)]},
        {"tool_calls": [call("null", "", '{"a": 1}', index=0)]},
        {"tool_calls": [call("bbbbbbbbb", "sub", "", index=0)]},
        {"tool_calls": [call("null", "", '{"b": 2}', index=0)]},
    )
    assert turn.tool_calls == [ToolCall("aaaaaaaaa", "add", '{"a": 1}'), ToolCall("bbbbbbbbb", "sub", '{"b": 2}')]


def test_interleaved_fragments_go_by_their_index() -> None:
    turn, _ = assemble(
        {"tool_calls": [call("aaaaaaaaa", "add", "", index=0), call("bbbbbbbbb", "sub", "", index=1)]},
        {"tool_calls": [call(None, None, '{"b": ', index=1), call(None, None, '{"a": ', index=0)]},
        {"tool_calls": [call(None, None, "1}", index=0), call(None, None, "2}", index=1)]},
    )
    assert [each.parsed() for each in turn.tool_calls] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("id", ["null", "", None, ...], ids=str)
@pytest.mark.parametrize("index", [0, ...], ids=str)
def test_calls_without_an_id_get_one_of_nine_characters(id: Any, index: Any) -> None:
    turn, deltas = assemble(
        {"tool_calls": [call(id, "add", '{"a": 1}', index=index)]},
        {"tool_calls": [call(id, "add", '{"a": 2}', index=index)]},
        {"tool_calls": [call(id, "sub", '{"a": 3}', index=index)]},
    )
    assert [(each.name, each.arguments) for each in turn.tool_calls] == [
        ("add", '{"a": 1}'),
        ("add", '{"a": 2}'),
        ("sub", '{"a": 3}'),
    ]
    ids = [each.id for each in turn.tool_calls]
    assert len(set(ids)) == 3
    assert all(len(id) == 9 and id.isascii() and id.isalnum() for id in ids)
    assert [delta.tool_calls[0].id for delta in deltas] == ids


def test_a_new_id_on_every_fragment_is_still_one_call() -> None:
    turn, _ = assemble(
        {"tool_calls": [call("call-1", "add", "", index=0)]},
        {"tool_calls": [call("call-2", None, '{"a":', index=0)]},
        {"tool_calls": [call("call-3", None, "1}", index=0)]},
    )
    assert turn.tool_calls == [ToolCall("call-1", "add", '{"a":1}')]


def test_one_id_for_two_calls_becomes_two_ids() -> None:
    same = [call("call", "add", '{"a": 1}', index=0), call("call", "add", '{"a": 2}', index=1)]
    for turn in (assemble({"tool_calls": same})[0], whole_turn({"tool_calls": same})):
        first, second = turn.tool_calls
        assert first.id == "call" != second.id
        assert [first.arguments, second.arguments] == ['{"a": 1}', '{"a": 2}']


def test_calls_of_a_whole_answer_stay_apart_though_they_have_neither_ids_nor_arguments() -> None:
    turn = whole_turn({"tool_calls": [call(None, "now", ""), call(None, "here", ""), call(None, "here", "")]})
    assert [each.name for each in turn.tool_calls] == ["now", "here", "here"]


def test_a_name_may_come_after_the_id() -> None:
    turn, deltas = assemble(
        {"tool_calls": [call("aaaaaaaaa", ..., ..., index=0)]},
        {"tool_calls": [call(..., "add", "{}", index=0)]},
    )
    assert turn.tool_calls == [ToolCall("aaaaaaaaa", "add", "{}")]
    assert [delta.tool_calls[0].name for delta in deltas] == [None, "add"]


def test_a_fragment_without_id_name_or_known_index_goes_to_the_last_call_or_begins_one() -> None:
    turn, _ = assemble(
        {"tool_calls": [call("aaaaaaaaa", "add", "{")]}, {"tool_calls": [call(None, None, "}", index=5)]}
    )
    assert turn.tool_calls == [ToolCall("aaaaaaaaa", "add", "{}")]
    headless, _ = assemble({"tool_calls": [call(None, None, "{}")]})
    assert [(each.name, each.arguments) for each in headless.tool_calls] == [("", "{}")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"a": [1, "é"]}, '{"a":[1,"é"]}'), ({}, "{}"), (None, ""), (..., ""), ([1], "[1]"), ("", "")],
    ids=str,
)
def test_arguments_may_be_an_object(arguments: Any, expected: str) -> None:
    wire = {"tool_calls": [call("aaaaaaaaa", "add", arguments)]}
    assert assemble(wire)[0].tool_calls == [ToolCall("aaaaaaaaa", "add", expected)]
    assert whole_turn(wire).tool_calls == [ToolCall("aaaaaaaaa", "add", expected)]


@pytest.mark.parametrize("arguments", ["", "{", "[]", '"x"', '"[]"', "{} {}", "nul", '"{'])
def test_arguments_that_are_no_object_parse_to_none(arguments: str) -> None:
    assert ToolCall("aaaaaaaaa", "add", arguments).parsed() is None


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        ('{"x": 123456789012345678901234567890}', {"x": 123456789012345678901234567890}),
        ('{"x": -9223372036854775809, "y": 0.1}', {"x": -9223372036854775809, "y": 0.1}),
        ('{"code": "a\nb\tc"}', {"code": "a\nb\tc"}),
        ('{"x": -Infinity}', {"x": float("-inf")}),
        ('{"x": "\\ud83d"}', {"x": "\ud83d"}),
    ],
)
def test_arguments_beyond_the_json_standard_are_taken_and_integers_are_exact(arguments: str, parsed: Any) -> None:
    assert ToolCall("aaaaaaaaa", "add", arguments).parsed() == parsed


@pytest.mark.parametrize("arguments", ['{"x": ' + "9" * 5000 + "}", '{"x": ' + "[" * 100_000])
def test_arguments_that_python_can_not_hold_parse_to_none(arguments: str) -> None:
    assert ToolCall("aaaaaaaaa", "add", arguments).parsed() is None


def test_defect_8_text_and_thinking_are_kept_beside_tool_calls() -> None:
    calls = [call("aaaaaaaaa", "add", "{}")]
    message = {"content": [thinking("hm"), text("I will add.")], "tool_calls": calls}
    turn = whole_turn(message, "tool_calls")
    assert (turn.thinking, turn.text, len(turn.tool_calls)) == ("hm", "I will add.", 1)
    streamed, [delta] = assemble({"content": "I will add.", "tool_calls": calls})
    assert (delta.text, delta.parts, len(delta.tool_calls)) == ("I will add.", (), 1)
    assert (streamed.text, len(streamed.tool_calls)) == ("I will add.", 1)


def test_the_last_chunk_closes_the_turn_with_or_without_text() -> None:
    assembler = TurnAccumulator()
    assembler.add(chunk({"content": "a"}))
    assert assembler.add(chunk({"content": ""}, "length")) == [Delta(0, finish_reason="length")]
    assert assembler.turns[0].finish_reason == "length"
    assert assembler.complete
    other = TurnAccumulator()
    assert other.add(chunk({"content": "a"}, "stop")) == [Delta(0, "a", finish_reason="stop")]
    bare = TurnAccumulator()
    assert bare.add({"choices": [{"finish_reason": "stop"}]}) == [Delta(0, finish_reason="stop")]  # type: ignore[typeddict-item]


def test_defect_19_usage_on_a_chunk_without_choices_is_kept() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assembler = TurnAccumulator()
    assembler.add(chunk({"content": "a"}, "stop"))
    for choices in ([], None):
        assert assembler.add({"id": "c1", "choices": choices, "usage": usage}) == [Delta(0, usage=usage)]  # type: ignore[arg-type,typeddict-item]
    assert assembler.usage == usage
    assert assembler.turns[0].finish_reason == "stop"


def test_usage_on_a_chunk_that_says_nothing_else_is_kept() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assembler = TurnAccumulator()
    assert assembler.add(chunk({"content": ""}, index=1, usage=usage)) == [Delta(1, usage=usage)]  # type: ignore[arg-type]


def test_several_choices_grow_apart() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assembler = TurnAccumulator()
    both = chunk({"content": "b"}, index=1)
    both["choices"].append({"index": 0, "delta": {"content": "a"}, "finish_reason": None})
    assert [(delta.index, delta.text) for delta in assembler.add(both)] == [(1, "b"), (0, "a")]
    assembler.add(chunk({"content": "B"}, "stop", 1))
    assert not assembler.complete
    last = chunk({"content": ""}, "length", usage=usage)
    last["choices"].append({"index": 1, "delta": {"content": ""}, "finish_reason": "stop"})
    assert [delta.usage for delta in assembler.add(last)] == [None, usage]
    assert [(turn.index, turn.text, turn.finish_reason) for turn in assembler.turns] == [
        (0, "a", "length"),
        (1, "bB", "stop"),
    ]
    assert assembler.complete


@pytest.mark.parametrize(
    "garbage",
    [
        [],
        {"choices": {}},
        {"choices": [{"finish_reason": ["stop"]}]},
        {"choices": ["x"]},
        {"choices": [{"index": "0", "delta": {}}]},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {"content": {"type": "text"}}}]},
        {"choices": [{"delta": {"content": [5]}}]},
        {"choices": [{"delta": {"content": [{"type": "text", "text": 5}]}}]},
        {"choices": [{"delta": {"content": [{"type": "thinking", "thinking": 5}]}}]},
        {"choices": [{"delta": {"tool_calls": "x"}}]},
        {"choices": [{"delta": {"tool_calls": ["x"]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": "x"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"name": 5}}]}}]},
    ],
    ids=json.dumps,
)
def test_what_is_no_chunk_is_a_server_error_that_says_what_came(garbage: Any) -> None:
    with pytest.raises(ServerError, match=r"should be .*; got ") as caught:
        TurnAccumulator().add(garbage)
    assert caught.value.origin == "mistral"


def test_what_is_no_message_is_a_server_error() -> None:
    with pytest.raises(ServerError, match="message should be an object; got list"):
        whole_turn([])


@pytest.mark.parametrize(
    ("turn", "wire"),
    [
        (Turn(), {"role": "assistant", "content": ""}),
        (Turn(pieces=["hi"]), {"role": "assistant", "content": "hi"}),
        (
            Turn(pieces=[thinking("a"), text("b")]),
            {"role": "assistant", "content": [thinking("a"), text("b")]},
        ),
        (
            Turn(tool_calls=[ToolCall("aaaaaaaaa", "add", "{}")]),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "aaaaaaaaa", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
            },
        ),
    ],
    ids=["empty", "text", "thinking", "calls"],
)
def test_a_turn_replays_as_a_message(turn: Turn, wire: Any) -> None:
    assert turn.to_wire() == wire
    turn.finish("stop")
    assert whole_turn(wire, "stop") == turn


def test_turns_compare_pickle_and_print() -> None:
    turn = Turn(0, [ToolCall("aaaaaaaaa", "add", "{}")], "tool_calls", pieces=["a"])
    assert pickle.loads(pickle.dumps(turn)) == turn
    assert turn != Turn(0, [ToolCall("aaaaaaaaa", "add", "{}")], "stop", pieces=["a"])
    assert turn != "a"
    assert repr(turn) == (
        "Turn(index=0, content=[{'type': 'text', 'text': 'a'}], "
        "tool_calls=[ToolCall(id='aaaaaaaaa', name='add', arguments='{}')], finish_reason='tool_calls')"
    )


# A turn of any content, cut into deltas in any way, comes out as the same turn that was not cut.

WORDS = st.text(max_size=12)
PIECES = st.lists(
    st.one_of(
        WORDS.map(text),
        st.lists(WORDS, max_size=3).map(lambda words: thinking(*words)),
        st.lists(st.integers(0, 9) | WORDS, max_size=3).map(lambda ids: reference(*ids)),
        st.just({"type": "unknown", "x": 1}),
    ),
    max_size=6,
)
ARGUMENTS = st.dictionaries(WORDS, st.integers() | WORDS, max_size=3).map(json.dumps)
CALLS = st.lists(st.tuples(st.sampled_from(["add", "sub"]), ARGUMENTS), max_size=4)


def cut(data: st.DataObject, value: str) -> list[str]:
    """The text in one to four pieces, some perhaps empty."""
    ends = sorted(data.draw(st.lists(st.integers(0, len(value)), max_size=3)))
    return [value[start:end] for start, end in zip([0, *ends], [*ends, len(value)], strict=True)]


def cut_part(data: st.DataObject, part: Any) -> list[dict[str, Any]]:
    """The deltas that bring a part."""
    if part["type"] == "text":
        as_string = data.draw(st.booleans())
        return [{"content": piece if as_string else [text(piece)]} for piece in cut(data, part["text"])]
    if part["type"] == "thinking":
        words = [piece for inner in part["thinking"] for piece in cut(data, inner["text"])]
        return [{"content": [thinking(word)]} for word in words] or [{"content": [part]}]
    return [{"content": [part]}]


def cut_calls(data: st.DataObject, calls: list[Any]) -> list[dict[str, Any]]:
    """The deltas that bring the calls one after another, in one of the ways in which servers word them."""
    index_of = data.draw(st.sampled_from([lambda position: position, lambda position: 0, lambda position: ...]))
    later_id = data.draw(st.sampled_from(["null", "", None, ..., "own"]))
    deltas = []
    for position, (name, arguments) in enumerate(calls):
        own = f"callid00{position}"
        first, *rest = cut(data, arguments)
        deltas.append({"tool_calls": [call(own, name, first, index=index_of(position))]})
        id = own if later_id == "own" else later_id
        deltas += [{"tool_calls": [call(id, None, piece, index=index_of(position))]} for piece in rest]
    return deltas


@given(PIECES, CALLS, st.data())
def test_any_cut_of_a_turn_into_deltas_gives_the_turn_again(
    pieces: list[Any], calls: list[Any], data: st.DataObject
) -> None:
    message = {
        "content": pieces,
        "tool_calls": [call(f"callid00{i}", name, arguments) for i, (name, arguments) in enumerate(calls)],
    }
    whole = whole_turn(message, "stop")
    deltas = [delta for part in pieces for delta in cut_part(data, part)] + cut_calls(data, calls)
    assembler = TurnAccumulator()
    handed_on = [delta for each in deltas for delta in assembler.add(chunk(each))]
    handed_on += assembler.add(chunk({"content": ""}, "stop"))
    assert assembler.turns == [whole]
    assert "".join(delta.text for delta in handed_on) == whole.text
    assert "".join(delta.thinking for delta in handed_on) == whole.thinking
    followed = Turn()
    for delta in handed_on:
        followed.add(delta)
    assert followed == whole


@given(PIECES, CALLS)
def test_a_replayed_turn_is_the_same_turn(pieces: list[Any], calls: list[Any]) -> None:
    turn = Turn(0, [ToolCall(f"callid00{i}", *each) for i, each in enumerate(calls)], "stop", pieces=read_parts(pieces))
    assert whole_turn(turn.to_wire(), "stop") == turn


@pytest.mark.parametrize("arguments", ["null", ' "" ', "{}", '"{}"', '"null"', '"\\"{}\\""'])
@pytest.mark.parametrize("name", ["add", "add.one"])
def test_arguments_that_are_none_call_a_tool_without_arguments(arguments: str, name: str) -> None:
    wire = {"tool_calls": [call("aaaaaaaaa", "add", arguments)]}
    whole = whole_turn(wire, "tool_calls")
    streamed = TurnAccumulator()
    streamed.add(chunk(wire, "tool_calls"))
    for turn in (whole, streamed.turns[0]):
        assert (turn.tool_calls[0].parsed(), turn.tool_calls[0].arguments) == ({}, "{}")
    assert ToolCall("aaaaaaaaa", name, arguments).parsed() == {}


@pytest.mark.parametrize(
    ("reason", "parsed"), [("tool_calls", {}), ("stop", {}), ("length", None), ("model_length", None), (None, None)]
)
def test_empty_arguments_are_none_at_all_unless_the_answer_was_cut_off(reason: Any, parsed: Any) -> None:
    wire = {"tool_calls": [call("aaaaaaaaa", "add", "")]}
    whole = whole_turn(wire, reason)
    streamed = TurnAccumulator()
    streamed.add(chunk(wire))
    streamed.add(chunk({"content": ""}, reason))
    assert [turn.tool_calls[0].parsed() for turn in (whole, streamed.turns[0])] == [parsed, parsed]


def test_json_that_is_encoded_twice_is_decoded() -> None:
    twice = json.dumps(json.dumps({"a": "é\n"}))
    assert ToolCall("aaaaaaaaa", "add", twice).parsed() == {"a": "é\n"}
    turn, _ = assemble({"tool_calls": [call("aaaaaaaaa", "add", twice)]})
    assert json.loads(turn.tool_calls[0].arguments) == {"a": "é\n"}
    pieces, _ = assemble(
        *({"tool_calls": [call("aaaaaaaaa", "add", each, index=0)]} for each in (twice[:5], twice[5:]))
    )
    assert pieces.tool_calls[0].parsed() == {"a": "é\n"}


NOTHING: list[Any] = [{}, {"message": None}, {"message": {}}, {"message": {"content": ""}, "finish_reason": None}]


@pytest.mark.parametrize("choice", NOTHING, ids=json.dumps)
def test_a_choice_with_nothing_in_it_is_no_answer(choice: Any) -> None:
    with pytest.raises(ServerError, match="message should be an object"):
        turn_of(choice)


def test_an_empty_answer_with_a_finish_reason_is_one() -> None:
    assert whole_turn({"content": ""}, "stop").text == ""
    assert whole_turn({"content": "Hi"}, None).text == "Hi"


@pytest.mark.parametrize(
    "part",
    [
        {"value": "x"},
        {"type": None},
        {"type": ["text"]},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"detail": "low"}},
        {"type": "document_url", "document_url": None},
        {"type": "input_audio"},
        {"type": "file", "file_id": 5},
        {"type": "resource", "uri": "lib://1"},
        {"type": "tool_reference", "tool": "web_search"},
    ],
    ids=json.dumps,
)
def test_a_part_that_is_not_what_it_says_is_kept_as_an_unknown_one(part: Any) -> None:
    turn, [delta] = assemble({"content": [part, text("a")]})
    assert turn.content == [{**part, "type": "unknown"}, text("a")] == list(delta.parts)
    assert turn.text == delta.text == "a"


@pytest.mark.parametrize("part", [{"text": "a"}, {"type": None, "text": "a"}])
def test_a_text_without_a_type_is_a_text(part: Any) -> None:
    assert assemble({"content": [part]})[0].content == [text("a")]


@pytest.mark.parametrize(("ids", "kept"), [(None, []), ([1, None, "b", {}], [1, "b"]), ("x", [])])
def test_ids_of_a_reference_are_numbers_and_texts(ids: Any, kept: list[Any]) -> None:
    turn, _ = assemble({"content": [{"type": "reference", "reference_ids": ids}]})
    assert turn.content == [{"type": "reference", "reference_ids": kept}]


@pytest.mark.parametrize("id", [["a"], {}, 5, 0.5, True])
def test_a_call_with_an_id_of_an_odd_type_gets_another(id: Any) -> None:
    for turn in (
        assemble({"tool_calls": [call(id, "add", "{}")]})[0],
        whole_turn({"tool_calls": [call(id, "add")]}),
    ):
        assert isinstance(turn.tool_calls[0].id, str)
        assert len(turn.tool_calls[0].id) == 9


KEPT: list[Any] = [
    {"type": "resource", "uri": "lib://1", "content": text("a")},
    {"type": "resource_link", "uri": "lib://1"},
    {"type": "tool_reference", "tool": "web_search", "title": "Mistral", "url": "https://mistral.ai/"},
    {"type": "tool_file", "tool": "image_generation", "file_id": "f"},
    {"type": "file", "file_id": "f"},
    {"type": "input_audio", "input_audio": "AAAA"},
    {"type": "of_next_year", "value": 1},
]


@pytest.mark.parametrize("part", KEPT, ids=lambda part: part["type"])
def test_every_kind_of_part_is_kept(part: Any) -> None:
    whole = whole_turn({"content": [part]}, "stop")
    streamed, [delta] = assemble({"content": [part]})
    assert whole.content == streamed.content == list(delta.parts) == [part]
    assert whole.citations == ([part] if part["type"] == "tool_reference" else [])
    assert whole.files == ([] if part["type"] in ("tool_reference", "of_next_year") else [part])


def token(word: str) -> Any:
    return {"token": word, "logprob": -0.1, "bytes": [1], "token_id": 1, "top_logprobs": None}


def test_logprobs_are_kept_whole_and_streamed() -> None:
    tokens = [token("Hel"), token("lo")]
    choice = {"message": {"content": "Hello"}, "finish_reason": "stop", "logprobs": {"content": tokens}}
    assert turn_of(choice).logprobs == tokens
    accumulator, own = TurnAccumulator(), Turn()
    for each in tokens:
        piece = chunk({"content": each["token"]})
        piece["choices"][0]["logprobs"] = {"content": [each]}
        [delta] = accumulator.add(piece)
        assert delta.logprobs == (each,)
        own.add(delta)
    assert accumulator.turns[0].logprobs == own.logprobs == tokens


@pytest.mark.parametrize("odd", [None, 5, [], {}, {"content": None}, {"content": "x"}])
def test_odd_logprobs_are_none(odd: Any) -> None:
    choice = {"message": {"content": "Hello"}, "finish_reason": "stop", "logprobs": odd}
    assert turn_of(choice).logprobs == []


@pytest.mark.parametrize("usage", [5, [], {"prompt_tokens": "7"}, {"prompt_tokens": 7.5}, {"prompt_tokens": None}])
def test_usage_that_can_not_be_counted_with_is_none(usage: Any) -> None:
    accumulator = TurnAccumulator()
    [delta] = accumulator.add(chunk({"content": "a"}, usage=usage))
    assert (delta.text, delta.usage, accumulator.usage) == ("a", None, None)


@pytest.mark.parametrize("piece", ["word ", [thinking("word ")], [reference(1)]], ids=["text", "thinking", "mixed"])
def test_a_turn_is_read_in_time_that_grows_with_its_length(piece: Any) -> None:
    """Squares of 40,000 deltas took ten seconds."""
    accumulator = TurnAccumulator()
    for _ in range(40_000):
        accumulator.add(chunk({"content": piece}))
    turn = accumulator.turns[0]
    began = time.thread_time()
    assert turn.text or turn.thinking or turn.content
    assert time.thread_time() - began < 1


def test_a_call_without_a_name_is_no_answer() -> None:
    with pytest.raises(ServerError, match="calls with a name"):
        whole_turn({"tool_calls": [{"id": "abcdefgh1"}]})
    with pytest.raises(ServerError, match="calls with a name"):
        TurnAccumulator().add(chunk({"tool_calls": [{"index": 0, "id": "abcdefgh1", "function": None}]}, "tool_calls"))


@pytest.mark.parametrize("reason", [None, ""])
def test_a_finish_reason_without_a_word_is_none(reason: Any) -> None:
    """Some servers send an empty one with each chunk."""
    accumulator = TurnAccumulator()
    fragments = [call("aaaaaaaaa", "search"), call(None, None, '{"q": '), call(None, None, "1}")]
    for fragment in fragments:
        accumulator.add(chunk({"tool_calls": [{**fragment, "index": 0}]}, reason))
        assert not accumulator.complete
    accumulator.add(chunk({"content": ""}, "tool_calls"))
    assert accumulator.complete
    assert accumulator.turns[0].tool_calls == [ToolCall("aaaaaaaaa", "search", '{"q": 1}')]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_beside_the_content_are_thinking(field: str) -> None:
    grown, deltas = assemble({"role": "assistant", field: "Let me"}, {"content": "", field: " see."}, {"content": "4"})
    assert "".join(delta.thinking for delta in deltas) == "Let me see."
    assert grown.content == [thinking("Let me see."), text("4")]
    whole = whole_turn({"role": "assistant", "content": "4", field: "Let me see."})
    assert whole.content == grown.content


def test_a_message_in_the_place_of_a_delta_is_read() -> None:
    accumulator = TurnAccumulator()
    accumulator.add({"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]})
    assert accumulator.turns[0].text == "Hello"


def test_a_message_beside_a_delta_is_what_has_come() -> None:
    accumulator = TurnAccumulator()
    for delta in ({"content": "Hel"}, {"content": "lo"}, {}):
        reason = None if delta else "stop"
        accumulator.add({"choices": [{"delta": delta, "message": {"content": "Hello"}, "finish_reason": reason}]})
    assert accumulator.turns[0].text == "Hello"
