"""Names of tools in a form that Mistral takes: collision-free, and the same whatever their order."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.calls.chat_body import chat_body
from lava_mistral.mistral.tools import ToolNames, to_tool_choice
from lava_mistral.mistral.turn_accumulator import TurnAccumulator

NAMES = st.lists(
    st.one_of(st.text(), st.text("ab._ ", max_size=3), st.text("a.", min_size=60, max_size=70)), unique=True
)


@given(NAMES)
def test_every_name_has_a_form_of_its_own_and_comes_back(names: list[str]) -> None:
    mapped = ToolNames(names)
    wire = [mapped.to_wire(name) for name in names]
    assert len(set(wire)) == len(names)
    assert [mapped.from_wire(name) for name in wire] == names
    for name, form in zip(names, wire, strict=True):
        assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", form)
        if re.fullmatch("[a-zA-Z0-9_-]{1,64}", name):
            assert form == name
    shuffled = random.Random(1).sample(names, len(names))
    assert [ToolNames(shuffled).to_wire(name) for name in names] == wire


def test_a_form_is_the_same_in_every_process() -> None:
    names = ToolNames(["math.add", "a.b", "a b"])
    assert [names.to_wire(name) for name in ("math.add", "a.b", "a b")] == ["math_add", "a_b_2e7336dc", "a_b_c8687a08"]


def test_a_name_of_no_tool_goes_out_in_mistrals_form_and_comes_back_as_it_is() -> None:
    names = ToolNames(["math.add"])
    assert (names.to_wire("math.sub"), names.from_wire("math_sub")) == ("math_sub", "math_sub")


def function(name: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def test_a_request_with_good_names_shares_its_parts_and_others_are_left_as_they_are() -> None:
    good, bad = function("add"), function("math.add")
    call = {"id": "aaaaaaaaa", "type": "function", "function": {"name": "math.add", "arguments": "{}"}}
    messages: Any = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "aaaaaaaaa", "name": "math.add", "content": "3"},
    ]
    choice = {"type": "function", "function": {"name": "math.add"}}
    body = chat_body(messages, "m", {"tools": [good, bad, {"type": "web_search"}], "tool_choice": choice}, stream=False)
    assert body["tools"] == [good, function("math_add"), {"type": "web_search"}]
    assert body["tools"][0] is good
    assert body["tool_choice"]["function"]["name"] == "math_add"
    assert body["messages"][0] is messages[0]
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "math_add"
    assert body["messages"][2]["name"] == "math_add"
    assert bad == function("math.add")
    assert call["function"]["name"] == messages[2]["name"] == choice["function"]["name"] == "math.add"


def test_a_call_without_a_name_in_a_history_is_sent_under_one() -> None:
    """As a stream leaves it that broke off before the name: Mistral refuses an empty one, at each later turn too."""
    call = {"id": "aaaaaaaaa", "type": "function", "function": {"name": "", "arguments": "{}"}}
    messages: Any = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": "There is no tool of this name."},
    ]
    body = chat_body(messages, "m", {}, stream=False)
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "tool"


@pytest.mark.parametrize("tools", [None, [], [{}], ["x"], [function(None)], [function(5)]])
def test_tools_without_a_name_are_left_to_mistral(tools: Any) -> None:
    ToolNames.of_tools(tools)
    body = chat_body([{"role": "user", "content": "?"}], "m", {"tools": tools}, stream=False)
    assert body.get("tools", tools or None) == (tools or None)


@pytest.mark.parametrize("choice", ["a.b", {"name": "a.b"}, {"function": {"name": "a.b"}}])
def test_a_choice_names_a_tool_by_either_form(choice: Any) -> None:
    assert to_tool_choice(choice, ["a.b", "a_b"]) == {"type": "function", "function": {"name": "a.b"}}
    assert to_tool_choice(choice, ["a_b"]) == {"type": "function", "function": {"name": "a_b"}}
    assert to_tool_choice("a_b", ["a.b"]) == {"type": "function", "function": {"name": "a.b"}}


def fragment(**fields: Any) -> Any:
    index, id = fields.pop("index", None), fields.pop("id", None)
    call = {"function": fields} | ({"index": index} if index is not None else {}) | ({"id": id} if id else {})
    return {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}


@pytest.mark.parametrize("later", [{"index": 0}, {"index": 0, "id": "aaaaaaaaa"}, {}])
@pytest.mark.parametrize(("own", "wire"), [("get_weather", "get_weather"), ("get.weather", "get_weather")])
def test_a_name_that_comes_in_pieces_is_joined(later: Any, own: str, wire: str) -> None:
    accumulator = TurnAccumulator(ToolNames([own]))
    pieces = [wire[:4], wire[4:6], wire[6:]]
    accumulator.add(fragment(index=0, id="aaaaaaaaa", name=pieces[0], arguments=""))
    for piece in pieces[1:]:
        accumulator.add(fragment(**later, name=piece, arguments=""))
    accumulator.add(fragment(**later, arguments='{"city":'))
    accumulator.add(fragment(**later, name=wire, arguments=' "Rome"}'))
    (made,) = accumulator.turns[0].tool_calls
    assert (made.name, made.parsed()) == (own, {"city": "Rome"})


def test_the_pieces_of_a_name_are_handed_on_once() -> None:
    accumulator = TurnAccumulator()
    deltas = [
        delta
        for piece in ("get", "_weather", "get_weather")
        for delta in accumulator.add(fragment(index=0, name=piece, arguments=""))
    ]
    deltas += accumulator.add(fragment(index=0, name="get_weather", arguments="{}"))
    assert [delta.tool_calls[0].name for delta in deltas] == ["get", "_weather", None, None]


def test_names_that_differ_in_half_a_surrogate_pair_stay_apart() -> None:
    names = ToolNames(["f\ud800", "f\ud801"])
    assert names.to_wire("f\ud800") != names.to_wire("f\ud801")
    assert names.from_wire(names.to_wire("f\ud800")) == "f\ud800"
