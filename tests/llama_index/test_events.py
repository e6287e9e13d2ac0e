"""Callbacks and instrumentation: one start and one end a call, spans, token counts, and nothing secret in them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from lava_mistral import Billing, RateLimitError
from lava_mistral.billing.credentials import decode_forward_token
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import Caller, Scripted, answer, ask, stream

METHODS = ["chat", "stream_chat", "complete", "stream_complete"]
SECRET = "mistral-key-hushhush"


class Events(BaseEventHandler):
    """Keeps every event."""

    seen: list[Any] = []  # noqa: RUF012 - a pydantic field

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event)

    def names(self) -> list[str]:
        """The names of the events."""
        return [event.class_name() for event in self.seen]


class Spans(SimpleSpanHandler):
    """Keeps what spans are told."""

    told: list[str] = []  # noqa: RUF012 - a pydantic field

    def new_span(self, id_: str, bound_args: inspect.BoundArguments, *args: Any, **kwargs: Any) -> Any:
        self.told.append(f"{id_} {bound_args!r}")
        return super().new_span(id_, bound_args, *args, **kwargs)


@pytest.fixture
def events() -> Iterator[Events]:
    root = get_dispatcher()
    handler = Events()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def spans() -> Iterator[Spans]:
    root = get_dispatcher()
    handler = Spans()
    root.add_span_handler(handler)
    yield handler
    root.span_handlers.remove(handler)


def run(caller: Caller, method: str, *, llm: ChatLavaMistral | None = None, **kwargs: Any) -> None:
    streamed = method.startswith("stream")
    if llm is None:
        llm = Scripted(stream("Hi", " you") if streamed else answer("Hi you")).llm()
    argument: Any = "Hello" if "complete" in method else ask()
    (caller.all if streamed else caller.one)(llm, method, argument, **kwargs)


@pytest.mark.parametrize("method", METHODS)
def test_one_start_and_one_end(caller: Caller, method: str, events: Events) -> None:
    run(caller, method)
    kind = "Completion" if "complete" in method else "Chat"
    progress = [f"LLM{kind}InProgressEvent"] * 3 if method.startswith("stream") else []
    assert events.names() == [f"LLM{kind}StartEvent", *progress, f"LLM{kind}EndEvent"]


@pytest.mark.parametrize("method", METHODS)
def test_one_callback_event(caller: Caller, method: str) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    streamed = method.startswith("stream")
    mistral = Scripted(stream("Hi") if streamed else answer())
    run(caller, method, llm=mistral.llm(callback_manager=CallbackManager([debug])))
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1
    assert len(debug.get_events()) == 2


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_those_that_mistral_counted(caller: Caller, method: str) -> None:
    counter = TokenCountingHandler(tokenizer=lambda text: [0] * 10_000)
    streamed = method.startswith("stream")
    mistral = Scripted(stream("Hi") if streamed else answer())
    run(caller, method, llm=mistral.llm(callback_manager=CallbackManager([counter])))
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (12, 5)


@pytest.mark.parametrize("method", METHODS)
def test_a_failed_call_ends_its_event(caller: Caller, method: str) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    with pytest.raises(RateLimitError):
        run(caller, method, llm=Scripted(429).llm(callback_manager=CallbackManager([debug])))
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1


@pytest.mark.parametrize("method", METHODS)
def test_one_span(caller: Caller, method: str, spans: Spans) -> None:
    run(caller, method)
    name = f"a{method}" if caller.asynchronous else method
    assert [told.partition("-")[0] for told in spans.told] == [f"ChatLavaMistral.{name}"]


@pytest.mark.parametrize("method", METHODS)
def test_no_secret_in_any_event(caller: Caller, method: str, events: Events, spans: Spans) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    streamed = method.startswith("stream")
    mistral = Scripted(stream("Hi") if streamed else answer())
    billing = Billing(customer_id="c_1", meter_slug="m", provider_key=SECRET)
    llm = mistral.llm(callback_manager=CallbackManager([debug]), billing=billing)
    run(caller, method, llm=llm, billing=billing, lava_metadata={"team": "red"})
    token = decode_forward_token(mistral.requests[-1].headers["authorization"].removeprefix("Bearer "))
    assert token is not None
    assert token["provider_key"] == SECRET
    written = [repr(event) for event in events.seen]
    written += [repr(event.model_dump()) for event in events.seen]
    written += [event.model_dump_json() for event in events.seen]
    written += [repr(event.payload) for event in debug.get_events()]
    written += spans.told
    assert len(written) > 6
    assert not any("hushhush" in text for text in written)
    assert "customer 'c_1'" in written[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_tracer_that_does_not_ask_for_usage_events_gets_none(caller: Caller, method: str, events: Events) -> None:
    """OpenInference and others warn of each event that they do not know."""
    run(caller, method)
    assert all(event.class_name().startswith("LLM") for event in events.seen)


@pytest.mark.parametrize("method", METHODS)
def test_a_handler_that_asks_gets_one_usage_event_a_call(caller: Caller, method: str) -> None:
    class Asking(Events):
        lava_events: ClassVar[bool] = True

    root, handler = get_dispatcher(), Asking(seen=[])
    root.add_event_handler(handler)
    try:
        run(caller, method)
    finally:
        root.event_handlers.remove(handler)
    assert handler.names().count("LavaCallEvent") == 1


def test_a_usage_handler_that_fails_does_not_fail_the_call(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Events):
        lava_events: ClassVar[bool] = True

        def handle(self, event: Any, **kwargs: Any) -> None:
            raise RuntimeError("of this test")

    root, handler = get_dispatcher(), Failing()
    root.add_event_handler(handler)
    try:
        run(caller, "chat")
    finally:
        root.event_handlers.remove(handler)
    assert "of this test" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_the_facts_of_a_response_can_be_written_as_json(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    llm = Scripted(stream("Hi") if streamed else answer("Hi")).llm()
    response = (caller.all if streamed else caller.one)(llm, method, "Hello" if "complete" in method else ask())
    facts = (response[-1] if streamed else response).additional_kwargs
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cost"] == "0.0000048"


class City(BaseModel):
    name: str


def test_structured_events(caller: Caller, events: Events) -> None:
    prompt = PromptTemplate("Name {what}.")
    caller.one(Scripted(answer('{"name": "Rome"}')).llm(), "structured_predict", City, prompt, what="one")
    assert [name for name in events.names() if "Structured" in name] == [
        "LLMStructuredPredictStartEvent",
        "LLMStructuredPredictEndEvent",
    ]
    assert events.seen[-1].output == City(name="Rome")
    events.seen.clear()
    llm = Scripted(stream('{"name": ', '"Rome"}')).llm()
    caller.all(llm, "stream_structured_predict", City, prompt, what="one")
    assert [name for name in events.names() if "Structured" in name] == [
        "LLMStructuredPredictStartEvent",
        "LLMStructuredPredictInProgressEvent",
        "LLMStructuredPredictEndEvent",
    ]
