"""Any JSON in the place of an answer: a turn or a ServerError, and never another exception."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lava_mistral.errors import InvalidRequestError, ServerError
from lava_mistral.mistral.history_repair import prepare
from lava_mistral.mistral.tools import ToolNames
from lava_mistral.mistral.turn import Turn
from lava_mistral.mistral.turn_accumulator import TurnAccumulator
from lava_mistral.mistral.usage import cached_tokens, known_usage, reasoning_tokens
from tests.fakes.answers import turn_of

ODD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 9), st.floats(allow_nan=False), st.sampled_from(["", "a", "null"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["a", "url", "text"]), inner)),
    max_leaves=4,
)


def odd_or(*sound: Any) -> st.SearchStrategy[Any]:
    return st.one_of(ODD, *(each if isinstance(each, st.SearchStrategy) else st.just(each) for each in sound))


def record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=fields)


KINDS = [
    "text",
    "thinking",
    "reference",
    "image_url",
    "document_url",
    "tool_reference",
    "tool_file",
    "file",
    "of_next_year",
]
PART = record(
    type=odd_or(*KINDS),
    text=odd_or("word"),
    thinking=odd_or(st.lists(record(type=odd_or("text", "reference"), text=odd_or("hm")), max_size=2)),
    reference_ids=odd_or([1, "2"]),
    image_url=odd_or({"url": "https://example.com/a.png"}),
    document_url=ODD,
)
CALL = record(
    id=odd_or("aaaaaaaaa"),
    index=odd_or(0, 1),
    function=odd_or(record(name=odd_or("f", "g.h"), arguments=odd_or("{}", '{"a": ', '"{}"'))),
)
MESSAGE = record(
    role=odd_or("assistant", "tool", "user", "system"),
    content=odd_or("word", st.lists(st.one_of(PART, ODD), max_size=3)),
    tool_calls=odd_or(st.lists(CALL, max_size=2)),
    tool_call_id=odd_or("aaaaaaaaa"),
    index=odd_or(0, 1),
    prefix=ODD,
    name=ODD,
)
CHOICE = record(
    index=odd_or(0, 1),
    message=odd_or(MESSAGE),
    messages=odd_or(st.lists(MESSAGE, max_size=3)),
    delta=odd_or(MESSAGE),
    finish_reason=odd_or("stop", "tool_calls", "length"),
    logprobs=odd_or({"content": [{"token": "a"}]}),
)
COUNTS = record(prompt_tokens=odd_or(5), completion_tokens=odd_or(5), total_tokens=ODD, num_cached_tokens=ODD)
CHUNK = record(id=ODD, model=ODD, created=ODD, choices=odd_or(st.lists(CHOICE, max_size=2)), usage=odd_or(COUNTS))
NAMES = st.sampled_from([ToolNames(), ToolNames(["f", "g h"]), ToolNames(["f"], built_in=True)])


def look_at(turn: Turn) -> None:
    """Use all of a turn, and send it back."""
    assert isinstance(turn.text, str)
    assert isinstance(turn.thinking, str)
    assert all(isinstance(part["type"], str) for part in [*turn.content, *turn.citations, *turn.files])
    for call in turn.tool_calls:
        assert isinstance(call.id, str)
        assert isinstance(call.name, str)
        assert call.parsed() is None or isinstance(call.parsed(), dict)
    json.dumps([turn.steps, turn.logprobs])
    prepare([{"role": "user", "content": "?"}, turn.to_wire(), {"role": "user", "content": "?"}])


@settings(max_examples=150)
@given(CHOICE, NAMES)
def test_any_choice_is_a_turn_or_a_server_error(choice: Any, names: ToolNames) -> None:
    try:
        turn = turn_of(choice, names)
    except ServerError:
        return
    look_at(turn)


@settings(max_examples=150)
@given(st.lists(CHUNK, max_size=4), NAMES)
def test_any_chunks_are_turns_or_a_server_error(chunks: list[Any], names: ToolNames) -> None:
    accumulator, own = TurnAccumulator(names), Turn()
    try:
        for chunk in chunks:
            for delta in accumulator.add(chunk):
                if delta.index == 0:
                    own.add(delta)
        for delta in accumulator.end():
            own.add(delta) if delta.index == 0 else None
    except ServerError:
        return
    for turn in accumulator.turns:
        look_at(turn)
        if turn.index == 0:
            assert own.text == turn.text
            assert [call.arguments for call in own.tool_calls] == [call.arguments for call in turn.tool_calls]


@settings(max_examples=80)
@given(CHUNK)
def test_any_whole_answer_is_a_chunk_or_a_server_error(body: Any) -> None:
    try:
        TurnAccumulator().add_whole(body)
    except ServerError:
        return


@given(odd_or(COUNTS))
def test_any_usage_is_counted_or_none(usage: Any) -> None:
    known = known_usage(usage)
    if known is not None:
        assert type(known["total_tokens"]) is int
        assert type(cached_tokens(known)) is int
        assert type(reasoning_tokens(known)) in (int, type(None))


@settings(max_examples=150)
@given(st.lists(odd_or(MESSAGE), max_size=4), st.booleans())
def test_any_messages_are_repaired_or_refused(messages: list[Any], repair: bool) -> None:
    try:
        out = prepare(messages, repair=repair)
    except InvalidRequestError:
        return
    assert prepare(out, repair=False) == out
