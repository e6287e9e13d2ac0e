"""What is bound to a model stays bound, whatever is made of the model afterwards; above all, who pays."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import typing
from collections.abc import Callable
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRequest, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import ConfigurableField, Runnable, RunnableBinding
from langchain_core.runnables.configurable import RunnableConfigurableAlternatives, RunnableConfigurableFields
from langchain_core.runnables.fallbacks import RunnableWithFallbacks
from pydantic import BaseModel

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral import Billing
from lava_mistral.gateway import LocalGateway, Status
from tests.langchain.scenario import Caller, chat

PAYER = Billing(customer_id="cus_1", meter_slug="chat")
OTHER = Billing(customer_id="cus_2", meter_slug="chat")


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is sunny in {city}."


class Report(BaseModel):
    """The weather report."""

    city: str


class Foreign(BaseChatModel):
    """Another integration's model, as far as these tests need one."""

    fails: bool = False

    @property
    def _llm_type(self) -> str:
        return "foreign"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if self.fails:
            raise ConnectionError("down")
        call = {"name": "Report", "args": {"city": "Rome"}, "id": "a"}
        calls = [call] if Report in kwargs.get("tools", ()) else []
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Foreign.", tool_calls=calls))])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return cast("Any", self.bind(tools=list(tools)))

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        return super().with_structured_output(schema)


def weather(way: str, model: Any, caller: Caller, streamed: bool) -> Any:
    """Ask a model with a tool, for an answer of a form, or in an agent."""
    prompt: Any = "What is the weather in 'Oslo'? Answer in JSON."
    if way == "tools":
        runnable = model.bind_tools([get_weather])
    elif way in ("function_calling", "json_schema", "json_mode"):
        runnable = model.with_structured_output(Report, method=way, include_raw=way == "json_mode")
    else:
        forms = {"agent": None, "agent by tool": ToolStrategy(Report), "agent by schema": ProviderStrategy(Report)}
        runnable = create_agent(model, [get_weather], response_format=forms[way])
        prompt = {"messages": [("user", prompt)]}
    return caller.stream(runnable, prompt)[-1] if streamed else caller.invoke(runnable, prompt)


STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
WAYS = ("tools", "function_calling", "json_schema", "json_mode", "agent", "agent by tool", "agent by schema")


def test_the_types_of_methods_can_be_read() -> None:
    """LangChain reads them where it hands a method on to a model and its fallbacks."""
    own = ("langchain_lava_mistral", "lava_mistral")
    methods = [
        method
        for name, method in inspect.getmembers(ChatLavaMistral, callable)
        if not name.startswith("_") and str(getattr(method, "__module__", "")).startswith(own)
    ]
    assert methods
    for method in methods:
        typing.get_type_hints(method)


@STREAMED
@pytest.mark.parametrize("way", WAYS)
def test_a_fallback_has_the_tools_too(way: str, streamed: bool, gateway: LocalGateway, caller: Caller) -> None:
    gateway.queue(Status(500))
    both = chat(gateway, max_retries=0).with_fallbacks([chat(gateway, model="mistral-large-latest")])
    assert weather(way, both, caller, streamed)
    assert [request.model for request in gateway.requests][:2] == ["mistral-small-2603", "mistral-large-latest"]
    sent = gateway.requests[1].body
    assert "tools" in sent or "response_format" in sent


@pytest.mark.parametrize("way", ["tools", "agent", "function_calling"])
@pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours second"])
def test_a_fallback_of_another_integration(way: str, first: bool, gateway: LocalGateway, caller: Caller) -> None:
    if first:
        gateway.queue(Status(500))
        both = chat(gateway, max_retries=0).with_fallbacks([Foreign()])
    else:
        both = Foreign(fails=True).with_fallbacks([chat(gateway)])
    made: Any = both.with_structured_output(Report) if way == "function_calling" else None
    got = caller.invoke(made, "What is the weather in 'Oslo'?") if made else weather(way, both, caller, False)
    if way == "function_calling":
        assert got == Report(city="Rome" if first else "Oslo")
    elif first:
        assert (got["messages"][-1] if way == "agent" else got).text == "Foreign."
    else:
        assert gateway.requests[0].body["tools"][0]["function"]["name"] == "get_weather"


def listener(run: Any) -> None:
    """Hear of a run."""


async def async_listener(run: Any) -> None:
    """Hear of a run."""


TEMPERATURE = ConfigurableField("temperature")
BOUND: dict[str, Callable[[ChatLavaMistral], Any]] = {
    "bind": lambda model: model.bind(billing=PAYER),
    "bind twice": lambda model: model.bind(billing=PAYER).bind(max_tokens=50),
    "bind over": lambda model: model.bind(billing=OTHER).bind(billing=PAYER),
    "with_config after": lambda model: model.bind(billing=PAYER).with_config(tags=["a"]),
    "with_config before": lambda model: model.with_config(tags=["a"]).bind(billing=PAYER),
    "with_types": lambda model: model.with_types(input_type=str).bind(billing=PAYER).with_types(output_type=AIMessage),
    "with_listeners": lambda model: model.with_listeners(on_end=listener).bind(billing=PAYER),
    "with_alisteners": lambda model: model.with_alisteners(on_end=async_listener).bind(billing=PAYER),
    "with_alisteners after": lambda model: model.bind(billing=PAYER).with_alisteners(on_end=async_listener),
    "tools before": lambda model: model.bind_tools([Report], tool_choice="Report").bind(billing=PAYER),
    "pickled": lambda model: pickle.loads(pickle.dumps(model.bind(billing=PAYER))),
    "with_fallbacks": lambda model: model.bind(billing=PAYER).with_fallbacks([model.bind(billing=PAYER)]),
    "with_fallbacks before": lambda model: model.with_fallbacks([model]).bind(billing=PAYER),
    "with_fallbacks between": lambda model: model.bind(top_p=1.0).with_fallbacks([model]).bind(billing=PAYER),
    "configurable": lambda model: model.configurable_fields(temperature=TEMPERATURE).bind(billing=PAYER),
    "configured": lambda model: (
        model.configurable_fields(temperature=TEMPERATURE)
        .with_config(configurable={"temperature": 0.5})
        .bind(billing=PAYER)
    ),
    "alternatives": lambda model: model.configurable_alternatives(TEMPERATURE, low=model).bind(billing=PAYER),
}


def check(gateway: LocalGateway) -> None:
    """All requests were the customer's."""
    assert gateway.requests
    assert {request.customer_id for request in gateway.requests} == {"cus_1"}


@pytest.mark.parametrize("bound", BOUND)
@pytest.mark.parametrize("way", ["tools", "json_schema", "agent"])
def test_the_payer_is_kept(bound: str, way: str, gateway: LocalGateway, caller: Caller) -> None:
    weather(way, BOUND[bound](chat(gateway)), caller, False)
    check(gateway)


@STREAMED
@pytest.mark.parametrize("way", WAYS)
def test_all_arguments_are_kept(way: str, streamed: bool, gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway).bind(billing=PAYER, lava_metadata={"feature": "search"}, max_tokens=77)

    weather(way, model, caller, streamed)

    check(gateway)
    assert {request.body["max_tokens"] for request in gateway.requests} == {77}
    assert all(request.metadata.get("feature") == "search" for request in gateway.requests)


def test_what_the_call_says_comes_first(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway).bind(billing=OTHER, max_tokens=50, response_format={"type": "json_object"}, tool_choice="any")

    caller.invoke(model.bind_tools([get_weather], tool_choice="auto", max_tokens=60, billing=PAYER), "Hi, in JSON")
    caller.invoke(model.with_structured_output(Report, method="json_schema", max_tokens=60, billing=PAYER), "Oslo?")
    caller.invoke(model.bind_tools([get_weather]), "Hi, in JSON", billing=PAYER, max_tokens=60, tool_choice="auto")

    check(gateway)
    assert [request.body["max_tokens"] for request in gateway.requests] == [60, 60, 60]
    assert [request.body.get("tool_choice") for request in gateway.requests] == ["auto", None, "auto"]
    assert gateway.requests[1].body["response_format"]["type"] == "json_schema"


def test_later_tools_replace_earlier_ones_and_their_choice(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway).bind_tools([Report], tool_choice="Report").bind(billing=PAYER)

    caller.invoke(cast("Any", model).bind_tools([get_weather]), "Hi")
    caller.invoke(cast("Any", model).with_structured_output(Report, method="json_schema"), "What about 'Oslo'?")

    check(gateway)
    first, second = (request.body for request in gateway.requests)
    assert [tool["function"]["name"] for tool in first["tools"]] == ["get_weather"]
    assert first.get("tool_choice") in (None, "auto")
    assert not {"tools", "tool_choice"} & second.keys()


def test_a_schema_replaces_an_earlier_form(gateway: LocalGateway, caller: Caller) -> None:
    model: Any = chat(gateway).bind(response_format={"type": "json_object"}, billing=PAYER)
    caller.invoke(model.with_structured_output(Report, method="function_calling"), "What about 'Oslo'?")
    check(gateway)
    assert "response_format" not in gateway.requests[0].body


class Careful(ChatLavaMistral):
    """A user's own class, which has a say in tools."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return super().bind_tools(tools, parallel_tool_calls=False, **options)


class Stubborn(ChatLavaMistral):
    """One that tries again, too."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return super().bind_tools(tools, parallel_tool_calls=False, **options).with_retry(stop_after_attempt=2)


@pytest.mark.parametrize("kind", [Careful, Stubborn])
@pytest.mark.parametrize("way", ["tools", "function_calling", "agent"])
def test_a_class_of_ones_own_binds_tools_its_way(kind: Any, way: str, gateway: LocalGateway, caller: Caller) -> None:
    model = kind(api_key=gateway.secret_key, base_url=gateway.base_url)
    weather(way, model.with_config(tags=["a"]).bind(billing=PAYER), caller, False)
    check(gateway)
    assert {request.body["parallel_tool_calls"] for request in gateway.requests} == {False}


def test_raw_answers_and_lists_of_prompts(gateway: LocalGateway) -> None:
    model = chat(gateway).bind(billing=PAYER)
    prompt = [HumanMessage("What about 'Oslo'?")]
    model.with_structured_output(Report, include_raw=True).invoke(prompt)
    model.with_structured_output(Report).batch([prompt, prompt])
    model.generate([prompt])
    model.generate_prompt([ChatPromptValue(messages=prompt)])
    asyncio.run(model.agenerate([prompt]))
    asyncio.run(model.agenerate_prompt([ChatPromptValue(messages=prompt)]))
    assert len(gateway.requests) == 7
    check(gateway)


def test_middleware_that_binds(gateway: LocalGateway) -> None:
    @wrap_model_call
    def bill(request: ModelRequest, handler: Any) -> Any:
        return handler(request.override(model=cast("Any", request.model).bind(billing=PAYER)))

    @wrap_model_call
    def shorten(request: ModelRequest, handler: Any) -> Any:
        return handler(request.override(model_settings={"max_tokens": 50}))

    agent: Any = create_agent(chat(gateway), [get_weather], middleware=[bill, shorten])
    agent.invoke({"messages": [("user", "What is the weather in 'Oslo'?")]})
    check(gateway)
    assert {request.body["max_tokens"] for request in gateway.requests} == {50}


def test_fallback_middleware(gateway: LocalGateway) -> None:
    bound: Any = chat(gateway, max_retries=0).bind(billing=PAYER)
    gateway.queue(Status(500))
    agent: Any = create_agent(bound, [get_weather], middleware=[ModelFallbackMiddleware(bound)])
    agent.invoke({"messages": [("user", "What is the weather in 'Oslo'?")]})
    check(gateway)
    assert len(gateway.requests) == 3


def test_config_and_listeners_are_kept(gateway: LocalGateway) -> None:
    ended: list[str] = []
    model: Any = chat(gateway).with_config(tags=["mine"])
    model = model.with_listeners(on_end=lambda run: ended.append(str(run.tags)))
    assert model.bind_tools([get_weather]).invoke("Hi").text
    assert ended == ["['mine']"]


def test_a_configured_field_holds_beside_what_is_bound(gateway: LocalGateway, caller: Caller) -> None:
    model: Any = chat(gateway).configurable_fields(temperature=TEMPERATURE).bind(billing=PAYER)
    caller.invoke(model.bind_tools([get_weather]), "Hi", {"configurable": {"temperature": 0.5}})
    check(gateway)
    assert gateway.requests[0].body["temperature"] == 0.5


def test_a_retry_that_could_lose_tools_says_so(gateway: LocalGateway, caller: Caller) -> None:
    tried: Any = chat(gateway).with_retry()
    with pytest.raises(AttributeError):
        tried.bind(billing=PAYER).bind_tools([get_weather])
    inside: Any = chat(gateway).bind(billing=PAYER).with_retry()
    caller.invoke(inside.bind_tools([get_weather]), "Hi")
    check(gateway)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda model: model.bind(max_tokens=5), RunnableBinding),
        (lambda model: model.with_config(tags=["a"]), RunnableBinding),
        (lambda model: model.with_fallbacks([model]), RunnableWithFallbacks),
        (lambda model: model.configurable_fields(temperature=TEMPERATURE), RunnableConfigurableFields),
        (lambda model: model.configurable_alternatives(TEMPERATURE, low=model), RunnableConfigurableAlternatives),
    ],
    ids=["bind", "with_config", "with_fallbacks", "configurable_fields", "configurable_alternatives"],
)
def test_it_serializes_as_langchains_own(make: Any, kind: Any, gateway: LocalGateway) -> None:
    made = make(chat(gateway))
    assert isinstance(made, kind)
    assert dumps(made) == dumps(kind(**dict(made)))
    assert type(pickle.loads(pickle.dumps(made))) is type(made)
