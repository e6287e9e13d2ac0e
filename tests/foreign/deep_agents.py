"""deepagents' agents on `ChatLavaMistral`, against a local Mistral that is as strict as the real one."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deepagents import create_deep_agent
from deepagents.backends import FilesystemBackend
from langchain.agents.middleware import TodoListMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral.gateway import LocalGateway

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Verdict(BaseModel):
    """A verdict."""

    good: bool


class Agents:
    """Runs an agent in sync code, in async code or streamed, and scripts what the model says."""

    def __init__(self, gateway: LocalGateway, way: str) -> None:
        self.gateway, self.way = gateway, way
        self.model = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)

    def say(self, *turns: str | list[tuple[str, dict[str, Any]]]) -> None:
        """Queue answers: text, or calls as (name, arguments)."""
        for number, turn in enumerate(turns):
            calls = [] if isinstance(turn, str) else turn
            said = {
                "role": "assistant",
                "content": turn if isinstance(turn, str) else "",
                "tool_calls": [
                    {
                        "id": f"c{number:04}{index:04}",
                        "type": "function",
                        "function": {"name": name, "arguments": json.dumps(arguments)},
                    }
                    for index, (name, arguments) in enumerate(calls)
                ]
                or None,
            }
            reason = "tool_calls" if calls else "stop"
            self.gateway.queue(
                {
                    "id": "cmpl",
                    "object": "chat.completion",
                    "created": 1_700_000_000,
                    "model": "mistral-small-2603",
                    "choices": [{"index": 0, "message": said, "finish_reason": reason}],
                    "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
                }
            )

    def run(self, agent: Any, asked: Any, config: Any = None) -> Any:
        """Return the agent's state at the end."""
        given = {"messages": [HumanMessage(asked)]} if isinstance(asked, str) else asked
        if self.way == "async":
            return asyncio.run(agent.ainvoke(given, config))
        if self.way == "streamed":
            last: Any = None
            for kind, state in agent.stream(given, config, stream_mode=["values", "messages"]):
                last = state if kind == "values" else last
            return last
        return agent.invoke(given, config)

    def results(self) -> list[Any]:
        """The tools' results in the request that was sent last."""
        return [each["content"] for each in self.gateway.requests[-1].body["messages"] if each["role"] == "tool"]


@pytest.fixture(params=["sync", "async", "streamed"])
def agents(request: pytest.FixtureRequest) -> Iterator[Agents]:
    with LocalGateway() as gateway:
        yield Agents(gateway, request.param)
        assert gateway.queued == 0
        assert {each.status for each in gateway.requests} == {200}


def test_files_are_written_and_read(agents: Agents) -> None:
    agents.say(
        [("write_file", {"file_path": "/note.txt", "content": "forty-two"})],
        [("read_file", {"file_path": "/note.txt"}), ("ls", {"path": "/"})],
        "It says forty-two.",
    )
    state = agents.run(create_deep_agent(model=agents.model), "Write a note and read it.")
    assert state["messages"][-1].text == "It says forty-two."
    assert "forty-two" in agents.results()[1]


def test_a_picture_that_is_read_is_seen(agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(PIXEL)
    agents.say([("read_file", {"file_path": "/dot.png"})], "One dot.")
    backend = FilesystemBackend(root_dir=tmp_path, virtual_mode=True)
    state = agents.run(create_deep_agent(model=agents.model, backend=backend), "What is in dot.png?")
    assert state["messages"][-1].text == "One dot."
    sent = json.dumps(agents.gateway.requests[-1].body["messages"])
    assert base64.b64encode(PIXEL).decode() in sent


def test_plans_are_kept(agents: Agents) -> None:
    todos = [{"content": "look", "status": "in_progress"}]
    agents.say([("write_todos", {"todos": todos})], "Planned.")
    state = agents.run(create_deep_agent(model=agents.model, middleware=[TodoListMiddleware()]), "Plan.")
    assert [todo["content"] for todo in state["todos"]] == ["look"]


def test_a_subagent_answers(agents: Agents) -> None:
    agents.say(
        [("task", {"description": "Add 1 and 2", "subagent_type": "adder"})],
        [("add", {"a": 1, "b": 2})],
        "3",
        "The sum is 3.",
    )

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    adder = {"name": "adder", "description": "Adds.", "system_prompt": "You add.", "tools": [add]}
    state = agents.run(create_deep_agent(model=agents.model, subagents=[adder]), "1 + 2?")
    assert state["messages"][-1].text == "The sum is 3."
    assert agents.results() == ["3"]


def test_an_unknown_subagent_and_a_failing_tool_are_told(agents: Agents) -> None:
    agents.say(
        [("task", {"description": "Add", "subagent_type": "nobody"}), ("read_file", {"file_path": "/none"})],
        "I can't.",
    )
    state = agents.run(create_deep_agent(model=agents.model), "Try.")
    assert state["messages"][-1].text == "I can't."
    assert "nobody" in agents.results()[0]


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_person_decides(agents: Agents, decision: str) -> None:
    agents.say([("write_file", {"file_path": "/a", "content": "x"})], "Done.")
    agent = create_deep_agent(model=agents.model, interrupt_on={"write_file": True}, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    agents.run(agent, "Write.", config)
    state = agents.run(agent, Command(resume={"decisions": [{"type": decision}]}), config)
    assert state["messages"][-1].text == "Done."


def test_a_run_that_was_left_in_a_call_goes_on(agents: Agents) -> None:
    agents.say("Let us go on.")
    left = AIMessage("", tool_calls=[{"name": "ls", "args": {"path": "/"}, "id": "call_9"}])
    state = agents.run(
        create_deep_agent(model=agents.model), {"messages": [HumanMessage("List."), left, HumanMessage("Well?")]}
    )
    assert state["messages"][-1].text == "Let us go on."
    assert len(agents.results()) == 1


def test_a_large_result_goes_to_a_file(agents: Agents) -> None:
    def report() -> str:
        """Return a report."""
        return "word " * 100_000

    agents.say([("report", {})], "Long.")
    agents.run(create_deep_agent(model=agents.model, tools=[report]), "Report.")
    assert len(agents.results()[0]) < 20_000


def test_the_answer_has_a_form(agents: Agents) -> None:
    agents.say('{"good": true}')
    state = agents.run(create_deep_agent(model=agents.model, response_format=Verdict), "Good?")
    assert state["structured_response"] == Verdict(good=True)


def test_a_long_conversation_is_summarized(agents: Agents) -> None:
    model = agents.model.model_copy(update={"profile": {**(agents.model.profile or {}), "max_input_tokens": 16_000}})
    agents.say("A summary of it.", "Fine.")
    history: list[Any] = []
    for turn in range(30):
        history += [HumanMessage(f"{turn}: " + "word " * 600), AIMessage("OK")]
    state = agents.run(create_deep_agent(model=model), {"messages": [*history, HumanMessage("And now?")]})
    assert state["messages"][-1].text == "Fine."
    assert "A summary of it." in json.dumps(agents.gateway.requests[-1].body["messages"])
