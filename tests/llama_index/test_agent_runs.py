"""What goes wrong in runs of LlamaIndex's agents, and whether they go on: Mistral refuses no request of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from workflows import Context
from workflows.context import PickleSerializer
from workflows.errors import WorkflowCancelledByUser
from workflows.events import HumanResponseEvent, InputRequiredEvent

from lava_mistral.gateway import LocalGateway
from tests.fakes.llama_index_scripted import answer, call, stream
from tests.llama_index.test_agents import events, memory, model, population, run, weather

pytestmark = [
    # LlamaIndex's workflows look at pydantic's deprecated attributes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:workflows"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index"),
]


class Verdict(BaseModel):
    """A verdict."""

    sunny: bool


class Script:
    """Says, turn by turn, texts or lists of calls; nothing that it is sent may be refused."""

    def __init__(self, gateway: LocalGateway, streaming: bool) -> None:
        self.gateway, self.streaming = gateway, streaming
        self.llm = model(gateway)

    def say(self, *turns: Any) -> None:
        for turn in turns:
            calls = turn if isinstance(turn, list) else []
            reason = "tool_calls" if calls else "stop"
            if self.streaming:
                # Each call comes whole, at its own place.
                deltas = [{"tool_calls": [{**made, "index": at}]} for at, made in enumerate(calls)] or [turn]
                self.gateway.queue(events(stream(*deltas, finish_reason=reason)))
            else:
                self.gateway.queue(answer("" if calls else turn, calls=calls, finish_reason=reason))

    def agent(self, *tools: Any, **settings: Any) -> FunctionAgent:
        return FunctionAgent(tools=list(tools), llm=self.llm, streaming=self.streaming, **settings)

    @property
    def roles(self) -> list[str]:
        """Those of the messages that were sent last."""
        return [message["role"] for message in self.gateway.requests[-1].body["messages"]]

    @property
    def results(self) -> list[Any]:
        """The tools' results that were sent last."""
        messages = self.gateway.requests[-1].body["messages"]
        return [message["content"] for message in messages if message["role"] == "tool"]


@pytest.fixture(params=[True, False], ids=["streamed", "whole"])
def script(gateway: LocalGateway, request: pytest.FixtureRequest) -> Iterator[Script]:
    yield Script(gateway, request.param)
    assert gateway.queued == 0
    assert {each.status for each in gateway.requests} == {200}


def ask(agent: Any, *questions: Any, **settings: Any) -> list[str]:
    """Return the answers to questions of one conversation."""

    async def talk() -> list[str]:
        kept = memory()
        return [str(await agent.run(question, memory=kept, **settings)) for question in questions]

    answers: list[str] = run(talk)
    return answers


def fails(city: str) -> str:
    """Look up a city."""
    raise RuntimeError("the index is down")


def test_the_model_is_told_of_a_tool_that_failed_beside_one_that_did_not(script: Script) -> None:
    both = [call("fails", {"city": "Rome"}, id="aaaaaaaaa"), call("weather", {"city": "Rome"}, id="bbbbbbbbb")]
    script.say(both, "Sunny, I think.", "Bye.")
    assert ask(script.agent(fails, weather), "Rome?", "Thanks.") == ["Sunny, I think.", "Bye."]
    assert "the index is down" in str(script.gateway.requests[1].body["messages"])


@pytest.mark.parametrize(
    ("result", "sent"), [(None, "None"), ([], ""), (b"\xff", "b'\\xff'"), ("caf\udce9", "caf\ufffd"), ("\0", "\0")]
)
def test_what_a_tool_gives_reaches_the_model(script: Script, result: Any, sent: str) -> None:
    script.say([call("look", {})], "Bye.")

    def look() -> Any:
        """Look."""
        return result

    assert ask(script.agent(look), "What is there?") == ["Bye."]
    assert script.results == [sent]


def test_a_tool_that_returns_directly_beside_another_call(script: Script) -> None:
    direct = FunctionTool.from_defaults(weather, return_direct=True)
    both = [call("population", {"city": "Rome"}, id="aaaaaaaaa"), call("weather", {"city": "Rome"}, id="bbbbbbbbb")]
    script.say(both, "Bye.")
    first, last = ask(script.agent(direct, population), "Rome?", "Thanks.")
    assert "sunny" in first
    assert last == "Bye."
    assert len(script.results) == 2
    assert script.roles[-1] == "user"


def test_an_agent_that_is_handed_a_conversation_hands_it_back(script: Script) -> None:
    def handoff(agent: str, id: str) -> list[Any]:
        return [call("handoff", {"to_agent": agent, "reason": "It knows."}, id=id)]

    script.say(
        handoff("Counter", "aaaaaaaaa"),
        [call("population", {"city": "Rome"}, id="bbbbbbbbb")],
        handoff("Greeter", "ccccccccc"),
        "Many people.",
        "Bye.",
    )
    team = [
        script.agent(weather, name="Greeter", description="Greets."),
        script.agent(population, name="Counter", description="Counts people.", system_prompt="Count."),
    ]
    assert ask(AgentWorkflow(agents=team, root_agent="Greeter"), "Rome?", "Thanks.") == ["Many people.", "Bye."]
    assert script.gateway.requests[1].body["messages"][0] == {"role": "system", "content": "Count."}


@pytest.mark.parametrize("to", ["Nobody", "Greeter"])
def test_a_handoff_to_an_agent_that_is_not_there_is_told(script: Script, to: str) -> None:
    script.say([call("handoff", {"to_agent": to, "reason": "?"}, id="aaaaaaaaa")], "I do it.")
    team = [
        script.agent(weather, name="Greeter", description="Greets.", can_handoff_to=["Counter"]),
        script.agent(population, name="Counter", description="Counts people."),
    ]
    assert ask(AgentWorkflow(agents=team, root_agent="Greeter"), "Rome?") == ["I do it."]
    assert to in script.results[0]


def test_a_handoff_beside_another_call(script: Script) -> None:
    made = [
        call("weather", {"city": "Rome"}, id="aaaaaaaaa"),
        call("handoff", {"to_agent": "Counter", "reason": "It counts."}, id="bbbbbbbbb"),
    ]
    script.say(made, "Counted.", "Bye.")
    team = [
        script.agent(weather, name="Greeter", description="Greets."),
        script.agent(population, name="Counter", description="Counts people."),
    ]
    assert ask(AgentWorkflow(agents=team, root_agent="Greeter"), "Rome?", "Thanks.") == ["Counted.", "Bye."]


@pytest.mark.parametrize("arguments", ['{"city": "Ro', '["Rome"]', "Rome"])
def test_a_malformed_call_beside_a_good_one_is_tried_again(script: Script, arguments: str) -> None:
    asked: list[str] = []

    def look_up(city: str) -> str:
        """Look up a city."""
        asked.append(city)
        return city

    made = [call("look_up", arguments, id="aaaaaaaaa"), call("weather", {"city": "Oslo"}, id="bbbbbbbbb")]
    script.say(made, [call("look_up", {"city": "Rome"}, id="ccccccccc")], "Done.", "Bye.")
    assert ask(script.agent(look_up, weather), "Rome?", "Thanks.") == ["Done.", "Bye."]
    assert asked == ["Rome"]
    assert "not a JSON object" in str(script.gateway.requests[1].body["messages"])


def test_an_object_after_tools_by_one_agent_and_by_a_team(script: Script) -> None:
    for wrapped in (False, True):
        script.say([call("weather", {"city": "Rome"}, id="aaaaaaaaa")], "It is sunny.")
        # Objects are asked for in one piece.
        script.gateway.queue(answer('{"sunny": true}'))
        agent: Any = script.agent(weather, output_cls=None if wrapped else Verdict)
        if wrapped:
            agent = AgentWorkflow(agents=[agent], output_cls=Verdict)
        output = run(lambda agent=agent: agent.run("Rome?", memory=memory()))
        assert output.get_pydantic_model(Verdict) == Verdict(sunny=True)


def test_a_run_that_was_cancelled_in_a_tool_goes_on(script: Script) -> None:
    reached: list[str] = []

    async def wait(city: str) -> str:
        """Look up a city."""
        reached.append(city)
        await asyncio.Event().wait()
        return "never"

    script.say([call("wait", {"city": "Rome"}, id="aaaaaaaaa")], "Here I am.")

    async def talk() -> str:
        kept, agent = memory(), script.agent(wait)
        handler = agent.run("Rome?", memory=kept)
        async for _ in handler.stream_events():
            if reached:
                break
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        return str(await agent.run("Are you there?", memory=kept))

    assert run(talk) == "Here I am."


def test_a_run_with_too_many_steps_ends_and_the_conversation_goes_on(script: Script) -> None:
    script.say(*([call("weather", {"city": "Rome"}, id=f"aaaaaaaa{step}")] for step in range(2)), "Enough.")

    async def talk() -> str:
        kept, agent = memory(), script.agent(weather)
        with pytest.raises(Exception, match="Max iterations"):
            await agent.run("Rome?", memory=kept, max_iterations=2)
        return str(await agent.run("And now?", memory=kept))

    assert run(talk) == "Enough."


def test_a_team_with_too_many_steps_is_asked_to_sum_up(script: Script) -> None:
    handoff = call("handoff", {"to_agent": "Counter", "reason": "It counts."}, id="aaaaaaaaa")
    script.say([handoff], [call("population", {"city": "Rome"}, id="bbbbbbbbb")], "Two million.", "Bye.")
    agents = [
        script.agent(weather, name="Greeter", description="Greets."),
        script.agent(population, name="Counter", description="Counts.", system_prompt="You count."),
    ]
    team = AgentWorkflow(agents=agents, root_agent="Greeter", early_stopping_method="generate")

    async def talk() -> tuple[str, list[str], str]:
        kept = memory()
        first = str(await team.run("Rome?", memory=kept, max_iterations=2))
        return first, script.roles, str(await team.run("Thanks.", memory=kept))

    # LlamaIndex asks by a system message after the result of the handoff, where Mistral takes none.
    roles = ["system", "user", "assistant", "tool", "assistant", "user"]
    assert run(talk) == ("Two million.", roles, "Bye.")
    assert "maximum number of iterations" in script.gateway.requests[2].body["messages"][-1]["content"]


def test_a_code_act_agent_hands_over_and_the_conversation_goes_on(script: Script) -> None:
    handoff = call("handoff", {"to_agent": "Counter", "reason": "It counts."}, id="aaaaaaaaa")
    script.say("Let me.\n<execute>\nprint(1)\n</execute>", [handoff], "Two million.", "Bye.")
    coder = CodeActAgent(
        code_execute_fn=lambda code: "1",
        llm=script.llm,
        streaming=script.streaming,
        name="Coder",
        description="Codes.",
        tools=[weather],
    )
    counter = script.agent(population, name="Counter", description="Counts.")
    team = AgentWorkflow(agents=[coder, counter], root_agent="Coder")
    assert ask(team, "Rome?", "Thanks.") == ["Two million.", "Bye."]
    # Such an agent keeps the result of the handoff without the call.
    assert "tool" not in script.roles
    assert "Agent Counter is now handling" in str(script.gateway.requests[-1].body["messages"])


def test_a_run_that_waits_for_a_person_is_stored_and_goes_on(script: Script) -> None:
    async def ask_name(ctx: Context) -> str:
        """Ask for the user's name."""
        asked = InputRequiredEvent(prefix="Your name?")
        return str((await ctx.wait_for_event(HumanResponseEvent, waiter_event=asked)).response)

    # LlamaIndex does not resolve annotations that are kept as text.
    ask_name.__annotations__["ctx"] = Context
    calls = [call("ask_name", {}, id="aaaaaaaaa"), call("weather", {"city": "Rome"}, id="bbbbbbbbb")]
    script.say(calls, "Hello, Ada.")

    async def talk() -> str:
        team, serializer = AgentWorkflow(agents=[script.agent(ask_name, weather)]), PickleSerializer()
        handler = team.run("Greet me.", memory=memory())
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                stored = handler.ctx.to_dict(serializer=serializer)
                await handler.cancel_run()
                break
        handler = team.run(ctx=Context.from_dict(team, stored, serializer=serializer))
        handler.ctx.send_event(HumanResponseEvent(response="Ada"))
        return str(await handler)

    assert run(talk) == "Hello, Ada."
    assert script.roles == ["user", "assistant", "tool", "tool"]
    assert sorted(script.results) == ["Ada", "The weather of Rome is sunny."]


def test_a_conversation_is_stored_and_loaded(script: Script) -> None:
    script.say([call("weather", {"city": "Rome"}, id="aaaaaaaaa")], "Sunny.", "Bye.")

    async def talk() -> str:
        kept, agent = memory(), script.agent(weather)
        await agent.run("Rome?", memory=kept)
        loaded = [ChatMessage.model_validate_json(message.model_dump_json()) for message in kept.get_all()]
        return str(await agent.run("Thanks.", chat_history=loaded, memory=memory()))

    assert run(talk) == "Bye."
    assert script.roles == ["user", "assistant", "tool", "assistant", "user"]


def test_thinking_of_another_provider_and_of_mistral_goes_back(script: Script) -> None:
    history = [
        ChatMessage(role="user", content="Hi"),
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content="Hm.", additional_information={"signature": "x"})]),
    ]
    script.say("Yes.")
    assert str(run(lambda: script.agent(weather).run("There?", chat_history=history, memory=memory()))) == "Yes."


@pytest.mark.parametrize(
    "turns",
    [
        ('Thought: I look.\nAction: fails\nAction Input: {"city": "Rome"}', "the index is down"),
        ('Thought: I look.\nAction: nothing\nAction Input: {"city": "Rome"}', "nothing"),
        ("Thought: I look.\nAction: weather\nAction Input: {'city': Rome", None),
        ("", "Your previous response was empty"),
    ],
    ids=["a tool that fails", "no such tool", "half an input", "nothing"],
)
def test_a_react_agent_goes_on_after_a_mistake(script: Script, turns: tuple[str, Callable[..., Any] | None]) -> None:
    first, told = turns
    script.say(first, "Thought: I know.\nAnswer: Sunny.", "Thought: I know.\nAnswer: Bye.")
    agent = ReActAgent(tools=[fails, weather], llm=script.llm, streaming=script.streaming)
    assert ask(agent, "Rome?", "Thanks.") == ["Sunny.", "Bye."]
    if told is not None:
        assert told in str(script.gateway.requests[1].body["messages"])
