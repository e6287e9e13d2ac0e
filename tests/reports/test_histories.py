"""Histories that frameworks produce and Mistral refuses: the conversation goes on, and no word is lost."""

from __future__ import annotations

import logging
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from llama_index.core.base.llms.types import ChatMessage

import llama_index_lava_mistral
from lava_mistral.gateway import LocalGateway
from tests.fakes.frameworks import Framework, Said, assistant, call, system, tool, user

LOOK = ("aaaaaaaaa", "add", {"a": 1})
ALSO = ("bbbbbbbbb", "add", {"a": 2})


def sent(gateway: LocalGateway, framework: Framework, history: list[Said], **request: Any) -> list[tuple[str, Any]]:
    """The roles and contents that arrived; the gateway is as strict as Mistral."""
    framework.send(gateway, history, **request)
    assert gateway.requests[-1].status == 200
    return [(message["role"], message["content"]) for message in gateway.requests[-1].body["messages"]]


SITUATIONS: dict[str, tuple[list[Said], list[tuple[str, str]]]] = {
    # langchain#23703, onyx#6458, hermes-agent#20154
    "a question right after a tool's result": (
        [user("1"), assistant("", LOOK), tool("aaaaaaaaa", "3"), user("2")],
        [("user", "1"), ("assistant", ""), ("tool", "3"), ("assistant", "OK"), ("user", "2")],
    ),
    # litellm#17761
    "a note of the system after a tool's result": (
        [user("1"), assistant("", LOOK), tool("aaaaaaaaa", "3"), system("Be brief.")],
        [("user", "1"), ("assistant", ""), ("tool", "3"), ("assistant", "OK"), ("user", "Be brief.")],
    ),
    # mistral-vibe#555, zed#31736
    "an empty answer": (
        [user("1"), assistant(""), user("2")],
        [("user", "1"), ("user", "2")],
    ),
    # langchain#36411
    "a parallel call beside one that returns at once": (
        [user("1"), assistant("", LOOK, ALSO), tool("aaaaaaaaa", "3"), assistant("3"), user("2")],
        [
            ("user", "1"),
            ("assistant", ""),
            ("tool", "3"),
            ("tool", "This call was not run."),
            ("assistant", "3"),
            ("user", "2"),
        ],
    ),
    # crush#279
    "a run that was interrupted in a call": (
        [user("1"), assistant("", LOOK), user("2")],
        [
            ("user", "1"),
            ("assistant", ""),
            ("tool", "This call was not run."),
            ("assistant", "OK"),
            ("user", "2"),
        ],
    ),
    # zed#37021: the window of a memory begins in the middle of an exchange
    "a result whose call was trimmed away": (
        [tool("aaaaaaaaa", "3"), assistant("It is 3."), user("2")],
        [("user", "Result of a tool:\n3"), ("assistant", "It is 3."), ("user", "2")],
    ),
    "a result that came after the next question": (
        [user("1"), assistant("", LOOK), user("2"), tool("aaaaaaaaa", "3"), user("3")],
        [("user", "1"), ("assistant", ""), ("tool", "3"), ("assistant", "OK"), ("user", "2"), ("user", "3")],
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_conversation_goes_on(gateway: LocalGateway, framework: Framework, situation: str) -> None:
    history, expected = SITUATIONS[situation]
    assert sent(gateway, framework, history) == expected


def test_it_goes_on_for_every_later_turn(gateway: LocalGateway, framework: Framework) -> None:
    history = SITUATIONS["a run that was interrupted in a call"][0]
    first = sent(gateway, framework, history)
    assert sent(gateway, framework, [*history, assistant("Hm."), user("3")])[: len(first)] == first


def test_one_line_says_what_was_done(
    gateway: LocalGateway, framework: Framework, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lava_mistral"):
        framework.send(gateway, [user("1"), assistant(""), assistant("", LOOK), user("2")])
    (said,) = [r.getMessage() for r in caplog.records if "repair_messages" in r.getMessage()]
    assert "messages[1] (assistant) was left out" in said
    assert "'add', which was not run" in said


@pytest.mark.parametrize(
    ("request_", "added"),
    [
        ({"response_format": {"type": "json_object"}}, "Give your answer as JSON."),
        ({"tools": ["add"]}, "Go on."),
        ({}, None),
    ],
    ids=["json", "tools", "text"],
)
def test_an_answer_at_the_end(gateway: LocalGateway, framework: Framework, request_: Any, added: str | None) -> None:
    """langgraph's create_react_agent(response_format=…); supervisors whose agents hand nothing back."""
    history = [user("As JSON: 1 + 2?"), assistant("It is 3.")]
    messages = sent(gateway, framework, history, **request_)
    assert messages[:2] == [("user", "As JSON: 1 + 2?"), ("assistant", "It is 3.")]
    assert messages[2:] == ([] if added is None else [("user", added)])
    assert gateway.requests[-1].body["messages"][1].get("prefix", False) is (added is None)


DATED = {
    "when": datetime(2026, 3, 1, 12, 30),
    "day": date(2026, 3, 1),
    "price": Decimal("1.50"),
    "id": UUID(int=7),
    "tags": {"a"},
}


def test_arguments_that_python_has_and_json_has_not(gateway: LocalGateway, framework: Framework) -> None:
    """langgraph checkpoints bring a call's arguments back as Python's objects."""
    framework.send(gateway, [user("1"), assistant("", ("aaaaaaaaa", "book", DATED)), tool("aaaaaaaaa", "done")])
    arguments = gateway.requests[-1].body["messages"][1]["tool_calls"][0]["function"]["arguments"]
    for text in ("2026-03-01T12:30:00", '"2026-03-01"', '"1.50"', str(UUID(int=7)), '["a"]'):
        assert text in (arguments if isinstance(arguments, str) else str(arguments).replace("'", '"'))


@pytest.mark.parametrize("arguments", ["null", '""', "", "{}", '"{}"'])
def test_a_call_without_arguments(gateway: LocalGateway, framework: Framework, arguments: str) -> None:
    framework.queue(gateway, {"content": "", "tool_calls": [call("add", arguments)]}, "tool_calls")
    assert framework.send(gateway, [user()], ["add"]).calls == [("add", {})]


def test_arguments_that_were_encoded_twice(gateway: LocalGateway, framework: Framework) -> None:
    framework.queue(gateway, {"content": "", "tool_calls": [call("add", '"{\\"a\\": 1, \\"b\\": 2}"')]}, "tool_calls")
    assert framework.send(gateway, [user()], ["add"]).calls == [("add", {"a": 1, "b": 2})]


def test_the_error_of_a_tool_that_returns_at_once_is_no_new_turn(gateway: LocalGateway) -> None:
    """LlamaIndex says the error text twice, the second time as the assistant."""
    llm = llama_index_lava_mistral.ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    calls = [{"id": "aaaaaaaaa", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    llm.chat(
        [
            ChatMessage(role="user", content="1"),
            ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": calls}),
            ChatMessage(role="tool", content="No such file", additional_kwargs={"tool_call_id": "aaaaaaaaa"}),
            ChatMessage(role="assistant", content="No such file", additional_kwargs={"tool_call_id": "aaaaaaaaa"}),
        ]
    )
    assert [message["role"] for message in gateway.requests[-1].body["messages"]] == ["user", "assistant", "tool"]
