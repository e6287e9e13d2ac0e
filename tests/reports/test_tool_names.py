"""Tools of MCP servers have names that Mistral refuses (openai/codex#8174, ag2ai/ag2#1832)."""

from __future__ import annotations

from typing import Any

import pytest

from lava_mistral.gateway import LocalGateway
from tests.fakes.frameworks import Framework, assistant, call, tool, user

LONG = "mcp__" + "documentation_" * 6 + "search"


def sent(gateway: LocalGateway) -> Any:
    return gateway.requests[-1].body


def names(gateway: LocalGateway) -> list[str]:
    return [each["function"]["name"] for each in sent(gateway)["tools"]]


@pytest.mark.parametrize("name", ["math.add", "my tool", LONG, "größe", "加算", "add"])
def test_a_tool_is_defined_called_and_replayed_under_its_own_name(
    gateway: LocalGateway, framework: Framework, name: str
) -> None:
    history = [user(), assistant("", ("c1", name, {"a": 1, "b": 2})), tool("c1", "3", name), assistant("3"), user("?")]
    framework.send(gateway, history, [name])
    (wire,) = names(gateway)
    assert len(wire) <= 64
    assert sent(gateway)["messages"][1]["tool_calls"][0]["function"]["name"] == wire
    framework.queue(gateway, {"tool_calls": [call(wire, {"a": 1, "b": 2})]}, "tool_calls")
    assert framework.send(gateway, history, [name]).calls == [(name, {"a": 1, "b": 2})]


def test_names_that_would_be_the_same_stay_apart(gateway: LocalGateway, framework: Framework) -> None:
    own = ["a.b", "a_b", "a b", LONG, LONG + "2"]
    framework.send(gateway, [user()], own)
    wire = names(gateway)
    assert len(set(wire)) == len(own)
    assert wire[1] == "a_b"
    for name, sent_as in zip(own, wire, strict=True):
        framework.queue(gateway, {"tool_calls": [call(sent_as, {"a": 1, "b": 2})]}, "tool_calls")
        assert framework.send(gateway, [user()], own).calls == [(name, {"a": 1, "b": 2})]


def test_the_order_of_the_tools_does_not_change_their_names(gateway: LocalGateway) -> None:
    framework = Framework("core")
    framework.send(gateway, [user()], ["a.b", "a b", "a_b"])
    first = names(gateway)
    framework.send(gateway, [user()], ["a_b", "a b", "a.b"])
    assert names(gateway) == first[::-1]


@pytest.mark.parametrize("framework", [Framework("langchain"), Framework("llama_index")])
@pytest.mark.parametrize("choice", ["math.add", "math_add", {"type": "function", "function": {"name": "math.add"}}])
def test_a_tool_is_chosen_by_its_own_name(gateway: LocalGateway, framework: Framework, choice: Any) -> None:
    framework.send(gateway, [user()], ["math.add"], tool_choice=choice)
    assert sent(gateway)["tool_choice"] == {"type": "function", "function": {"name": "math_add"}}
