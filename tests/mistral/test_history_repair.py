"""Conversations: checked by Mistral's rules before they are sent, and repaired unless that is refused.

mistral-common, Mistral's own package, is the oracle of the order.
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
import re
import string
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import MistralRequestValidatorV13, ValidationMode

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.history_repair import HistoryRepair, prepare
from lava_mistral.mistral.limits import MAX_TOOLS
from lava_mistral.mistral.message_normalization import mistral_tool_id

strict = partial(prepare, repair=False)
ALPHABET = set(string.ascii_letters + string.digits)


def system(content: Any = "Be brief.") -> Any:
    return {"role": "system", "content": content}


def user(content: Any = "Hello") -> Any:
    return {"role": "user", "content": content}


def assistant(content: Any = "", *ids: Any, **fields: Any) -> Any:
    """An assistant message, with a call for each id."""
    message = {"role": "assistant", "content": content, **fields}
    if ids:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}} for id in ids
        ]
    return message


def tool(id: Any, content: Any = "4") -> Any:
    return {"role": "tool", "content": content, "tool_call_id": id}


def ids_of(messages: list[Any]) -> list[Any]:
    """The ids of the calls and of the results, in order."""
    return [
        id
        for message in messages
        for id in (
            [call["id"] for call in message.get("tool_calls") or ()]
            + ([message["tool_call_id"]] if message["role"] == "tool" else [])
        )
    ]


def shape(messages: list[Any]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in messages]


def accepted_by_mistral(messages: list[Any]) -> bool:
    """Whether mistral-common, as a server uses it, accepts the order and the ids.

    It never looks at the calls of the very first message, so a user message goes before an assistant's. Newer releases
    take a user message after a tool's, which the API is known to refuse (error 3230).
    """
    if any(before["role"] == "tool" and after["role"] == "user" for before, after in itertools.pairwise(messages)):
        return False
    if messages and messages[0]["role"] == "assistant":
        messages = [user(), *messages]
    plain = [
        {key: value for key, value in message.items() if key != "content"}
        | {"content": message["content"] if isinstance(message["content"], str) else json.dumps(message["content"])}
        for message in copy.deepcopy(messages)
    ]
    validator = MistralRequestValidatorV13(ValidationMode.serving)
    try:
        validator.validate_request(ChatCompletionRequest(model="mistral-small-2603", messages=plain))
    except MistralCommonException:
        return False
    return True


# Ids


@given(st.text())
def test_defect_6_any_id_becomes_one_that_mistral_takes(id: str) -> None:
    mapped = mistral_tool_id(id)
    assert len(mapped) == 9
    assert set(mapped) <= ALPHABET
    assert mistral_tool_id(mapped) == mapped


def test_an_id_of_mistrals_form_stays() -> None:
    assert mistral_tool_id("D681PevKs") == "D681PevKs"


def test_a_foreign_id_maps_to_the_same_in_every_process() -> None:
    assert mistral_tool_id("call_abc123") == "OANJQSxzk"


def test_foreign_ids_do_not_collide() -> None:
    foreign = [f"call_{number}" for number in range(20_000)] + [f"toolu_{number:024x}" for number in range(20_000)]
    assert len({mistral_tool_id(id) for id in foreign}) == len(foreign)


def test_defect_6_ids_agree_on_both_sides_and_across_turns() -> None:
    history = [user(), assistant("", "call_1", "D681PevKs"), tool("D681PevKs"), tool("call_1")]
    first = strict(history)
    one = mistral_tool_id("call_1")
    assert ids_of(first) == [one, "D681PevKs", "D681PevKs", one]
    longer = strict([*history, assistant("4"), user("And?")])
    assert longer[: len(first)] == first
    assert accepted_by_mistral(longer)


def test_an_id_used_again_in_a_later_turn_is_matched_within_its_turn() -> None:
    messages = [user(), assistant("", "call_0"), tool("call_0", "1"), assistant("", "call_0"), tool("call_0", "2")]
    assert ids_of(strict(messages)) == [mistral_tool_id("call_0")] * 4


@pytest.mark.parametrize("missing", [None, "", "null"])
def test_calls_without_ids_get_one_from_their_place_and_results_are_matched_in_order(missing: Any) -> None:
    messages = [user(), assistant("", missing, missing), tool(missing, "1"), tool(missing, "2")]
    prepared = strict(messages)
    first, second, *results = ids_of(prepared)
    assert first != second
    assert results == [first, second]
    assert prepared == strict(messages)
    assert accepted_by_mistral(prepared)


def test_results_without_ids_take_the_calls_that_are_left() -> None:
    messages = [user(), assistant("", "aaaaaaaaa", "bbbbbbbbb"), tool("aaaaaaaaa"), tool(None)]
    assert ids_of(strict(messages)) == ["aaaaaaaaa", "bbbbbbbbb", "aaaaaaaaa", "bbbbbbbbb"]
    del messages[3]["tool_call_id"]
    assert ids_of(strict(messages)) == ["aaaaaaaaa", "bbbbbbbbb", "aaaaaaaaa", "bbbbbbbbb"]


def test_a_result_without_an_id_is_of_the_latest_calls() -> None:
    messages = [user(), assistant("", None), assistant("", "aaaaaaaaa", None), tool(None, "1"), tool(None, "2")]
    prepared = prepare(messages)
    assert [message["content"] for message in prepared[2:]] == ["This call was not run.", "", "1", "2"]
    assert prepared[4]["tool_call_id"] == prepared[3]["tool_calls"][1]["id"]
    assert prepared[5]["tool_call_id"] == "aaaaaaaaa"


def test_a_result_without_an_id_leaves_their_calls_to_results_that_name_them() -> None:
    messages = [user(), assistant("", "aaaaaaaaa", "bbbbbbbbb"), tool(None, "second"), tool("aaaaaaaaa", "first")]
    prepared = strict(messages)
    assert [message["content"] for message in prepared[2:]] == ["second", "first"]
    assert [message["tool_call_id"] for message in prepared[2:]] == ["bbbbbbbbb", "aaaaaaaaa"]


def test_a_prefix_that_calls_tools_is_none() -> None:
    prepared = prepare([user(), assistant("So", "aaaaaaaaa", prefix=True)])
    assert "prefix" not in prepared[1]
    assert accepted_by_mistral(prepared)


def test_one_id_on_two_parallel_calls_becomes_two() -> None:
    prepared = strict([user(), assistant("", "call", "call"), tool("call", "1"), tool("call", "2")])
    first, second, *results = ids_of(prepared)
    assert first == mistral_tool_id("call") != second
    assert results == [first, second]
    assert accepted_by_mistral(prepared)


# What is left alone, and what Mistral's schema refuses in a part


def test_a_good_conversation_passes_as_it_is() -> None:
    messages = [
        system(),
        user(),
        assistant("Let me see.", "aaaaaaaaa", "bbbbbbbbb"),
        tool("aaaaaaaaa"),
        tool("bbbbbbbbb"),
        assistant("4"),
        user([{"type": "text", "text": "And?"}, {"type": "image_url", "image_url": "https://example.com/a.png"}]),
        assistant("{", prefix=True),
    ]
    prepared = strict(messages)
    assert prepared == messages
    assert all(new is old for new, old in zip(prepared, messages, strict=True))
    assert prepare(messages) == messages


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "a"}),
        ("a", {"type": "text", "text": "a"}),
        (
            {"type": "thinking", "thinking": [{"type": "text", "text": "a", "index": 0}], "signature": "s", "index": 1},
            {"type": "thinking", "thinking": [{"type": "text", "text": "a"}], "signature": "s"},
        ),
        (
            {"type": "thinking", "thinking": "a", "closed": True},
            {"type": "thinking", "thinking": [{"type": "text", "text": "a"}], "closed": True},
        ),
        ({"type": "thinking", "thinking": None}, {"type": "thinking", "thinking": []}),
        (
            {"type": "reference", "reference_ids": [1, "2", "doc", None, {}]},
            {"type": "reference", "reference_ids": [1, 2]},
        ),
        ({"type": None}, {"type": None}),
        (5, 5),
    ],
    ids=str,
)
def test_defect_9_parts_lose_what_the_schema_refuses_and_no_content(part: Any, expected: Any) -> None:
    before = copy.deepcopy(part)
    messages = [user(), assistant([part, {"type": "text", "text": "b"}]), user([part])]
    prepared = strict(messages)
    assert [prepared[1]["content"][0], prepared[2]["content"][0]] == [expected, expected]
    assert part == before
    assert strict(prepared) == prepared


def test_a_citation_of_which_the_schema_takes_no_id_is_left_out() -> None:
    cited = [{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": ["doc"]}]
    assert strict([user(), assistant(cited), user()])[1]["content"] == [{"type": "text", "text": "a"}]
    with pytest.raises(InvalidRequestError, match="neither content"):
        strict([user(), assistant(cited[1:]), user()])


def test_a_part_of_an_unknown_type_is_left_to_mistral() -> None:
    parts = [{"type": "of_next_year", "x": 1}]
    assert prepare([user(parts)]) == [user(parts)]


@pytest.mark.parametrize("kind", ["tool_reference", "tool_file", "unknown", "of_next_year"])
def test_what_answers_alone_may_hold_is_left_out(kind: str) -> None:
    part = {"type": kind, "tool": "web_search", "title": "x"}
    said = {"type": "text", "text": "a"}
    assert prepare([user(), assistant([said, part]), user()])[1]["content"] == [said]
    assert prepare([user(), assistant([part]), user()]) == [user(), user()]
    source = {"type": "tool_reference", "tool": "web_search", "title": "x"}
    thought = {"type": "thinking", "thinking": [said, source, {"type": "unknown"}]}
    assert prepare([user(), assistant([thought]), user()])[1]["content"] == [thought | {"thinking": [said, source]}]


def test_results_lose_what_the_schema_refuses() -> None:
    result = tool("call_1", [{"type": "text", "text": "4", "id": "x"}])
    prepared = strict([user(), assistant("", "call_1"), result])
    assert prepared[2] == tool(mistral_tool_id("call_1"), [{"type": "text", "text": "4"}])


def test_calls_lose_what_the_schema_refuses() -> None:
    message = assistant("", "aaaaaaaaa")
    message["tool_calls"] = [
        {"id": "aaaaaaaaa", "index": None, "extra": 1, "function": {"name": "add", "arguments": "", "parsed": {}}}
    ]
    before = copy.deepcopy(message)
    prepared = strict([user(), message, tool("aaaaaaaaa")])
    assert prepared[1]["tool_calls"] == [{"id": "aaaaaaaaa", "function": {"name": "add", "arguments": "{}"}}]
    assert message == before


@pytest.mark.parametrize("arguments", [{}, {"a": 1}, '{"a": 1}', "{broken"])
def test_arguments_stay_as_they_are(arguments: Any) -> None:
    message = assistant("", "aaaaaaaaa")
    message["tool_calls"][0]["function"]["arguments"] = arguments
    assert strict([user(), message, tool("aaaaaaaaa")])[1] is message


def test_a_prefix_in_the_past_is_no_prefix_any_more() -> None:
    messages = [user(), assistant("{", prefix=True), assistant("{}"), user()]
    assert strict(messages)[1] == {"role": "assistant", "content": "{"}
    assert messages[1]["prefix"] is True


# What is refused

REFUSED = [
    ([], "at least one message; got none"),
    ([user(), "Hello"], r"messages\[1\] should be a dictionary with a role; got str"),
    ([{"content": "x"}], r"messages\[0\] has role None; expected system, user, assistant or tool"),
    ([{"role": "developer", "content": "x"}], r"messages\[0\] has role 'developer'; expected system, user"),
    (
        [user(), assistant("", "aaaaaaaaa"), tool("aaaaaaaaa"), user()],
        r"messages\[3\] \(user\) comes right after the tool message messages\[2\]; expected an assistant message",
    ),
    (
        [user(), assistant("", "aaaaaaaaa"), tool("aaaaaaaaa"), system(), assistant("x"), user()],
        r"messages\[3\] \(system\) comes right after the tool message messages\[2\]",
    ),
    (
        [user(), assistant("x"), system(), user()],
        r"messages\[2\] \(system\) comes right after the assistant message messages\[1\]; expected a user",
    ),
    ([user(), assistant("x")], r"messages\[1\] \(assistant\) is last; expected a user message or a tool result"),
    ([assistant("x", prefix=True)], r"messages\[0\] \(assistant\) is last; expected a user"),
    ([user(), assistant(""), user()], r"messages\[1\] \(assistant\) has neither content nor tool calls"),
    ([user(), assistant([]), user()], r"messages\[1\] \(assistant\) has neither content nor tool calls"),
    ([user(), {"role": "assistant"}, user()], r"messages\[1\] \(assistant\) has neither content nor tool calls"),
    (
        [user(), assistant("", "aaaaaaaaa")],
        r"messages\[1\] \(assistant\) calls 'add' \(id 'aaaaaaaaa'\), but no tool message right after it",
    ),
    (
        [user(), assistant("", "aaaaaaaaa", "call_2"), tool("aaaaaaaaa"), assistant("x"), user()],
        r"messages\[1\] \(assistant\) calls 'add' \(id 'call_2'\), but no tool message",
    ),
    ([user(), tool("call_1")], r"messages\[1\] \(tool\) is the result of the call 'call_1'; expected one that"),
    (
        [user(), assistant("", "aaaaaaaaa"), tool("call_1")],
        r"messages\[1\] \(assistant\) calls 'add' \(id 'aaaaaaaaa'\), but no tool message right after it",
    ),
    (
        [user(), assistant("", "aaaaaaaaa"), tool("aaaaaaaaa"), tool("aaaaaaaaa")],
        r"messages\[3\] \(tool\) is the result of the call 'aaaaaaaaa'; .* that has no result yet",
    ),
    (
        [user(), assistant("", "aaaaaaaaa"), user(), tool("aaaaaaaaa")],
        r"messages\[1\] \(assistant\) calls 'add'",
    ),
    ([user(), assistant(tool_calls={"id": "x"})], r"messages\[1\].tool_calls should be a list; got dict"),
    (
        [user(), assistant(tool_calls=[{"name": "add"}])],
        r"messages\[1\].tool_calls\[0\] should be an object with a function; got \{'name': 'add'\}",
    ),
]


@pytest.mark.parametrize(("messages", "said"), REFUSED, ids=[said[:60] for _, said in REFUSED])
def test_defect_7_what_mistral_would_refuse_is_refused_before_it_is_sent(messages: list[Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as caught:
        strict(messages)
    assert caught.value.origin == "client"
    assert not caught.value.retryable


def test_an_error_names_the_way_out() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        strict([user(), tool("x")])
    assert str(caught.value).endswith("repair_messages=True repairs it.")


@pytest.mark.parametrize("messages", [messages for messages, _ in REFUSED[1:4] + REFUSED[-2:]])
def test_what_has_not_the_shape_of_a_message_is_not_repaired(messages: list[Any]) -> None:
    with pytest.raises(InvalidRequestError):
        prepare(messages)


def test_more_tools_than_mistral_takes_are_refused() -> None:
    def tools(count: int) -> Any:
        return [{"type": "function", "function": {"name": f"f{number}", "parameters": {}}} for number in range(count)]

    assert strict([user()], tools=tools(MAX_TOOLS)) == [user()]
    with pytest.raises(InvalidRequestError, match="129 tools were given; Mistral takes at most 128"):
        prepare([user()], tools=tools(129))


@pytest.mark.parametrize(
    "messages",
    [
        [user("Answer in JSON.")],
        [system("json only"), user()],
        [user([{"type": "image_url", "image_url": "x"}, {"type": "text", "text": "as Json"}])],
    ],
)
def test_json_mode_passes_with_the_word_json(messages: list[Any]) -> None:
    assert strict(messages, response_format={"type": "json_object"}) == messages


@pytest.mark.parametrize(
    "messages",
    [
        [user()],
        [user(None)],
        [user("Hi"), assistant("Here is JSON"), user("Go on")],
        [user([{"type": "image_url", "image_url": "json.png"}])],
    ],
)
def test_json_mode_without_the_word_json_is_refused(messages: list[Any]) -> None:
    assert strict(messages, response_format={"type": "text"}) == messages
    with pytest.raises(InvalidRequestError, match="the word JSON"):
        prepare(messages, response_format={"type": "json_object"})


# What is repaired


def repaired(messages: list[Any], caplog: pytest.LogCaptureFixture, **request: Any) -> tuple[list[Any], list[str]]:
    """The repaired messages and what the log says was done."""
    before = copy.deepcopy(messages)
    with pytest.raises(InvalidRequestError):
        strict(messages, **request)
    with caplog.at_level(logging.INFO, logger="lava_mistral"):
        out = prepare(messages, **request)
    assert messages == before
    assert accepted_by_mistral(out)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("lava_mistral", "INFO")
    caplog.clear()
    return out, record.getMessage().removeprefix("repair_messages: ").split("; ")


def test_a_last_assistant_message_becomes_a_prefix(caplog: pytest.LogCaptureFixture) -> None:
    out, log = repaired([user(), assistant("Once upon")], caplog)
    assert out == [user(), assistant("Once upon", prefix=True)]
    assert log == ["messages[1] (assistant) was last: the answer continues it"]


TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"response_format": {"type": "json_object"}}, "Give your answer as JSON."),
        ({"response_format": {"type": "json_schema"}}, "Give your answer as JSON."),
        ({"response_format": {"type": "json_schema"}, "tools": TOOLS}, "Give your answer as JSON."),
        ({"tools": TOOLS, "tool_choice": "any"}, "Go on."),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "add"}}}, "Go on."),
        ({"tools": TOOLS}, "Go on."),
    ],
)
def test_a_last_assistant_message_is_no_prefix_of_json_or_of_a_tool_call(
    caplog: pytest.LogCaptureFixture, request_: Any, said: str
) -> None:
    """langgraph's create_react_agent(response_format=…), and supervisors without messages that hand back."""
    out, log = repaired([user(), assistant("It is 4.")], caplog, **request_)
    assert out == [user(), assistant("It is 4."), user(said)]
    assert log == ["messages[1] (assistant) was last: a user message was added"]


@pytest.mark.parametrize("request_", [{"response_format": {"type": "text"}}, {"tools": TOOLS, "tool_choice": "none"}])
def test_a_last_assistant_message_is_continued_where_text_is_asked_for(
    caplog: pytest.LogCaptureFixture, request_: Any
) -> None:
    out, _ = repaired([user(), assistant("Once upon")], caplog, **request_)
    assert out[-1]["prefix"] is True


def test_a_prefix_that_was_asked_for_stays_one() -> None:
    messages = [user(), assistant("{", prefix=True)]
    assert prepare(messages, response_format={"type": "json_schema"}, tools=TOOLS) == messages


@pytest.mark.parametrize("fields", [{}, {"prefix": True}])
def test_an_assistant_message_alone_is_followed_by_a_user_message(
    caplog: pytest.LogCaptureFixture, fields: Any
) -> None:
    out, _ = repaired([assistant("Hello, I am Le Chat.", **fields)], caplog)
    assert out == [assistant("Hello, I am Le Chat."), user("Go on.")]


def test_calls_without_results_get_results_that_say_so(caplog: pytest.LogCaptureFixture) -> None:
    """langchain#36411: return_direct beside a parallel call; interrupted runs; cut-off calls."""
    not_run = "This call was not run."
    out, log = repaired(
        [user("1"), assistant("", "aaaaaaaaa", "bbbbbbbbb"), tool("bbbbbbbbb"), assistant("x", "ccccccccc")], caplog
    )
    assert out == [
        user("1"),
        assistant("", "aaaaaaaaa", "bbbbbbbbb"),
        tool("bbbbbbbbb"),
        tool("aaaaaaaaa", not_run),
        assistant("x", "ccccccccc"),
        tool("ccccccccc", not_run),
    ]
    assert log == [
        "messages[1] (assistant) got a result for its call of 'add', which was not run",
        "messages[3] (assistant) got a result for its call of 'add', which was not run",
    ]


@pytest.mark.parametrize("content", ["", None, [], [""], [{"type": "text", "text": ""}], [{"type": "text"}]])
def test_an_assistant_message_that_says_nothing_is_left_out(caplog: pytest.LogCaptureFixture, content: Any) -> None:
    """mistral-vibe#555 and zed#31736: an empty answer in the history fails every later turn."""
    out, log = repaired([user("1"), assistant(content), user("2")], caplog)
    assert out == [user("1"), user("2")]
    assert log == ["messages[1] (assistant) was left out: it has neither content nor tool calls"]


def test_a_result_belongs_to_the_nearest_call_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    called = assistant("", "aaaaaaaaa")
    out, _ = repaired([user("1"), called, assistant("x"), user("2"), called, tool("aaaaaaaaa", "late")], caplog)
    assert [message["content"] for message in out if message["role"] == "tool"] == ["This call was not run.", "late"]


def test_ids_with_different_halves_of_surrogate_pairs_stay_different() -> None:
    assert mistral_tool_id("a\ud800") != mistral_tool_id("a\ud801")


def test_results_without_a_call_and_second_results_become_the_users(caplog: pytest.LogCaptureFixture) -> None:
    picture = {"type": "image_url", "image_url": "https://example.com/a.png"}
    out, log = repaired(
        [
            tool("xxxxxxxxx", "sunny") | {"name": "weather"},
            user(),
            assistant("", "call"),
            tool("call", "1"),
            tool("call", "2"),
            tool("other", [picture]),
            tool("more", ""),
            tool("more", [{"type": "text", "text": ""}]),
        ],
        caplog,
    )
    id = mistral_tool_id("call")
    assert out == [
        user("Result of the tool weather:\nsunny"),
        user(),
        assistant("", id),
        tool(id, "1"),
        assistant("OK"),
        user("Result of a tool:\n2"),
        user([{"type": "text", "text": "Result of a tool:"}, picture]),
    ]
    assert log == [
        "messages[0] (tool) was sent as the user's: its call is missing",
        "messages[4] (tool) was sent as the user's: its call is missing",
        "messages[4] (tool) got the assistant message 'OK' before it",
        "messages[5] (tool) was sent as the user's: its call is missing",
        "messages[6] (tool) was left out: it is empty, and its call is missing",
        "messages[7] (tool) was left out: it is empty, and its call is missing",
    ]


def test_a_user_message_after_results_keeps_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """langchain#23703, hermes-agent#20154: the model answers what was said last."""
    exchange = [assistant("", "aaaaaaaaa"), tool("aaaaaaaaa"), assistant("", "bbbbbbbbb"), tool("bbbbbbbbb")]
    out, log = repaired([user("1"), *exchange, user("2"), user("3")], caplog)
    assert out == [user("1"), *exchange, assistant("OK"), user("2"), user("3")]
    assert log == ["messages[5] (user) got the assistant message 'OK' before it"]


def test_a_system_message_after_results_or_an_answer_becomes_the_users(caplog: pytest.LogCaptureFixture) -> None:
    exchange = [assistant("", "aaaaaaaaa"), tool("aaaaaaaaa")]
    out, log = repaired([user("1"), *exchange, system(), assistant("x"), user("2")], caplog)
    assert out == [user("1"), *exchange, assistant("OK"), user("Be brief."), assistant("x"), user("2")]
    assert log == [
        "messages[3] (system) was sent as the user's",
        "messages[3] (system) got the assistant message 'OK' before it",
    ]
    out, _ = repaired([assistant("Hi!"), system(), system("Be kind."), user()], caplog)
    assert out == [assistant("Hi!"), user("Be brief."), system("Be kind."), user()]


def test_a_result_that_came_late_goes_to_its_call(caplog: pytest.LogCaptureFixture) -> None:
    out, log = repaired(
        [
            user("1"),
            assistant("", "aaaaaaaaa", "bbbbbbbbb"),
            tool("aaaaaaaaa"),
            user("2"),
            assistant("Wait"),
            tool("bbbbbbbbb"),
            user("3"),
        ],
        caplog,
    )
    assert out == [
        user("1"),
        assistant("", "aaaaaaaaa", "bbbbbbbbb"),
        tool("aaaaaaaaa"),
        tool("bbbbbbbbb"),
        assistant("OK"),
        user("2"),
        assistant("Wait"),
        user("3"),
    ]
    assert log == [
        "messages[1] (assistant) got the result messages[5], which came later",
        "messages[3] (user) got the assistant message 'OK' before it",
    ]


def test_results_of_parallel_calls_in_two_messages_find_their_own(caplog: pytest.LogCaptureFixture) -> None:
    one, two = assistant("", "aaaaaaaaa"), assistant("", "bbbbbbbbb")
    out, _ = repaired([user(), one, two, tool("bbbbbbbbb"), tool("aaaaaaaaa")], caplog)
    assert out == [user(), one, tool("aaaaaaaaa"), two, tool("bbbbbbbbb")]


def test_results_without_ids_go_to_the_latest_calls(caplog: pytest.LogCaptureFixture) -> None:
    out, _ = repaired([user("1"), assistant("", None), user("2"), tool(None, "4")], caplog)
    assert shape(out) == [("user", "1"), ("assistant", ""), ("tool", "4"), ("assistant", "OK"), ("user", "2")]


def test_ids_from_places_are_the_same_repaired_or_not(caplog: pytest.LogCaptureFixture) -> None:
    good = [user(), assistant("", None), tool(None)]
    out, _ = repaired([*good, user("2")], caplog)
    assert ids_of(out) == ids_of(prepare(good))


def test_what_was_repaired_once_is_repaired_the_same_in_later_turns(caplog: pytest.LogCaptureFixture) -> None:
    """The beginning of a conversation stays the same, so that Mistral's cache knows it."""
    history = [user("1"), assistant("", "aaaaaaaaa"), tool("aaaaaaaaa"), system(), tool("x", "5"), user("2")]
    first, _ = repaired(history, caplog)
    later, _ = repaired([*history, assistant("4"), user("3")], caplog)
    assert later[: len(first)] == first


def test_a_conversation_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at least one message"):
        prepare([tool("x", ""), assistant("")])


def test_nothing_is_logged_when_nothing_is_repaired(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="lava_mistral"):
        prepare([user()])
    assert not caplog.records


# Any conversation

IDS = st.sampled_from(["aaaaaaaaa", "bbbbbbbbb", "call_1", "call_2", "", None, "null"])
CONTENTS = st.sampled_from(
    ["one", "two", "", None, [], [{"type": "text", "text": "three"}], [{"type": "thinking", "thinking": "hm"}]]
)
MESSAGES = st.lists(
    st.one_of(
        st.builds(system, st.sampled_from(["rule", "law"])),
        st.builds(user, st.sampled_from(["who", "what", "why"])),
        st.builds(lambda content, ids: assistant(content, *ids), CONTENTS, st.lists(IDS, max_size=3)),
        st.builds(tool, IDS, st.sampled_from(["4", "5"])),
        st.builds(lambda content: assistant(content, prefix=True), CONTENTS),
    ),
    max_size=10,
)


@settings(max_examples=300)
@given(MESSAGES)
def test_what_passes_is_what_mistral_takes_and_passes_again(messages: list[Any]) -> None:
    before = copy.deepcopy(messages)
    try:
        out = strict(messages)
    except InvalidRequestError:
        return
    finally:
        assert messages == before
    assert accepted_by_mistral(out)
    assert strict(out) == out
    assert prepare(messages) == out


@settings(max_examples=400)
@given(MESSAGES)
def test_a_repaired_conversation_passes_and_keeps_every_word_in_its_order(messages: list[Any]) -> None:
    before = copy.deepcopy(messages)
    try:
        out = prepare(messages)
    except InvalidRequestError:
        assert not any(message["content"] or message.get("tool_calls") for message in messages)
        return
    finally:
        assert messages == before
    assert strict(out) == out
    assert accepted_by_mistral(out)
    # Each word of everybody but the tools, in order; those of the tools somewhere.
    said = [_words(message["content"]) for message in messages if message["role"] != "tool"]
    heard = iter([_words(message["content"]) for message in out])
    assert all(any(words == other for other in heard) for words in said if words)
    everything = [word for message in out for word in _words(message["content"])]
    for message in messages:
        for word in _words(message["content"]):
            assert word in everything
            everything.remove(word)


def _words(content: Any) -> list[str]:
    """The words of a content, thoughts included, without the head of a result that became the user's."""
    text = json.dumps(content or "").replace("\\n", " ").replace("Result of a tool:", "")
    return [word for word in re.findall(r"\w+", text) if word not in ("type", "text", "thinking")]


def test_exactly_what_mistral_takes_passes() -> None:
    """Every order of up to five messages after a first one."""
    letters = [system(), user(), assistant("x"), assistant("x", "aaaaaaaaa"), tool("aaaaaaaaa")]
    verdicts = []
    for rest in itertools.chain.from_iterable(itertools.product(letters, repeat=length) for length in range(6)):
        messages = [user(), *rest]
        verdicts.append(accepted_by_mistral(messages))
        if verdicts[-1]:
            assert strict(messages) == messages
        else:
            with pytest.raises(InvalidRequestError):
                strict(messages)
    assert 100 < sum(verdicts) < len(verdicts) - 100


def test_plain_conversations_go_as_repair_has_them() -> None:
    """Every order of up to four messages: those that need no repair skip it."""
    letters = [system(), user(), user(""), assistant("x"), assistant(""), assistant("x", prefix=True)]
    letters += [assistant("", "call00001"), assistant("x", "call00001", "call00002"), assistant("", "odd")]
    letters += [tool("call00001"), tool("call00002"), tool("odd")]
    for messages in itertools.chain.from_iterable(itertools.product(letters, repeat=length) for length in range(1, 5)):
        repaired = HistoryRepair(messages, strict=False)
        repaired.end(None)
        if repaired.out:
            assert prepare(messages) == repaired.out


def test_a_long_history_is_prepared_in_no_time() -> None:
    messages = [system()]
    for number in range(33):
        messages += [user(), assistant("", f"call_{number}"), tool(f"call_{number}"), assistant("4")]
    messages.append(user())
    best = min(_timed(messages) for _ in range(20))
    assert best < 0.002, f"{len(messages)} messages took {best * 1e6:.0f} µs"


def _timed(messages: list[Any]) -> float:
    start = time.thread_time()
    strict(messages)
    return time.thread_time() - start
