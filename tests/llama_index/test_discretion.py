"""What may hold a key stays out of a request's body, of events and of spans."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, ValidationError

from lava_mistral import AsyncLavaMistral, Billing, ConfigurationError, LavaError, LavaMistral
from lava_mistral.billing.credentials import decode_forward_token
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from tests.fakes.llama_index_scripted import KEY, Caller, Scripted, answer, ask, chunk, stream

SECRET = "sk-hushhush-0123456789"
PROMPT = PromptTemplate("Name {what}.")


class City(BaseModel):
    name: str


class Told(BaseEventHandler):
    """Keeps what events say, in every form that a tracer may write."""

    texts: list[str] = []  # noqa: RUF012 - a pydantic field

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.texts += [repr(event), repr(event.model_dump())]


class Spans(SimpleSpanHandler):
    """Keeps what spans are told."""

    texts: list[str] = []  # noqa: RUF012 - a pydantic field
    names: list[str] = []  # noqa: RUF012 - a pydantic field

    def new_span(self, id_: str, bound_args: inspect.BoundArguments, *args: Any, **kwargs: Any) -> Any:
        self.names.append(id_.partition("-")[0])
        self.texts += [repr(bound_args), *(repr(vars(v)) for v in _values(bound_args) if hasattr(v, "__dict__"))]
        return super().new_span(id_, bound_args, *args, **kwargs)


def _values(bound_args: inspect.BoundArguments) -> Iterator[Any]:
    for value in bound_args.arguments.values():
        yield from value.values() if isinstance(value, dict) else [value]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Everything that events, spans and their ends say."""
    root = get_dispatcher()
    events, spans = Told(), Spans()
    texts: list[str] = []
    events.texts = spans.texts = texts
    root.add_event_handler(events)
    root.add_span_handler(spans)
    yield texts
    root.event_handlers.remove(events)
    root.span_handlers.remove(spans)


CALLS: dict[str, tuple[Any, ...]] = {
    "chat": (ask(),),
    "stream_chat": (ask(),),
    "complete": ("Hello",),
    "stream_complete": ("Hello",),
    "chat_with_tools": ([FunctionTool.from_defaults(lambda: "x", name="f", description="d")], "Hello"),
    "stream_chat_with_tools": ([FunctionTool.from_defaults(lambda: "x", name="f", description="d")], "Hello"),
    "predict_and_call": ([FunctionTool.from_defaults(lambda: "x", name="f", description="d")], "Hello"),
}
OBJECTS = ["structured_predict", "stream_structured_predict"]
WRONG: dict[str, Any] = {
    "api_key": SECRET,
    "mistral_api_key": SECRET,
    "headers": {"X-Key": SECRET},
    "extra_headers": {"X-Key": SECRET},
    "default_headers": {"X-Key": SECRET},
    "base_url": f"https://x/{SECRET}",
    "endpoint": SECRET,
    "spend_limit": 1,
    "metadata": {"key": SECRET},
    "stream": True,
    "openai_api_key": SECRET,
    "apiKey": SECRET,
    "hf_token": SECRET,
    "client_secret": SECRET,
    "password": SECRET,
    "Authorization": SECRET,
    "aws_secret_access_key": SECRET,
}


def run(caller: Caller, subject: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    return (caller.all if method.startswith("stream") else caller.one)(subject, method, *args, **kwargs)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("method", [*CALLS, *OBJECTS])
def test_a_key_given_to_a_call_is_refused_before_anybody_is_told(
    caller: Caller, told: list[str], method: str, name: str
) -> None:
    mistral = Scripted()
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = mistral.llm(callback_manager=CallbackManager([debug]))
    given = {name: WRONG[name]}
    with pytest.raises(ConfigurationError, match=name) as caught:
        if method in OBJECTS:
            run(caller, llm, method, City, PROMPT, what="one", llm_kwargs=given)
        else:
            run(caller, llm, method, *CALLS[method], **given)
    assert not mistral.requests
    assert not any("hushhush" in text for text in [*told, str(caught.value), repr(debug.get_events())])


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("method", [*CALLS, *OBJECTS, "get_text_embedding"])
def test_a_key_given_to_a_call_is_refused_where_nobody_listens_too(caller: Caller, method: str, name: str) -> None:
    mistral = Scripted()
    given: Any = {name: WRONG[name]}
    with pytest.raises(ConfigurationError, match=name):
        if method in OBJECTS:
            run(caller, mistral.llm(), method, City, PROMPT, what="one", llm_kwargs=given)
        elif method in CALLS:
            run(caller, mistral.llm(), method, *CALLS[method], **given)
        else:
            run(caller, LavaMistralEmbeddings(api_key=KEY), method, "Hello", **given)
    assert not mistral.requests


@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete"])
def test_who_pays_is_heeded_where_nobody_listens(caller: Caller, method: str) -> None:
    mistral = Scripted(stream("Hi") if method.startswith("stream") else answer())
    billing = Billing(customer_id="c_1", meter_slug="m", provider_key=SECRET)
    run(caller, mistral.llm(), method, *CALLS[method], billing=billing)
    token = decode_forward_token(mistral.requests[0].headers["authorization"].removeprefix("Bearer "))
    assert token is not None
    assert token["provider_key"] == SECRET


@pytest.mark.parametrize("place", ["additional_kwargs", "model_kwargs", "extra_body"])
@pytest.mark.parametrize("method", [*CALLS, *OBJECTS])
def test_a_key_among_further_fields_of_a_call_is_refused_too(
    caller: Caller, told: list[str], method: str, place: str
) -> None:
    mistral = Scripted()
    given = {place: {"my_token": SECRET}}
    with pytest.raises(ConfigurationError, match="my_token"):
        if method in OBJECTS:
            run(caller, mistral.llm(), method, City, PROMPT, what="one", llm_kwargs=given)
        else:
            run(caller, mistral.llm(), method, *CALLS[method], **given)
    assert not mistral.requests
    assert not any("hushhush" in text for text in told)


@pytest.mark.parametrize("method", ["get_query_embedding", "get_text_embedding", "get_text_embedding_batch"])
def test_a_key_given_to_an_embedding_is_refused_before_anybody_is_told(
    caller: Caller, told: list[str], method: str
) -> None:
    with pytest.raises(ConfigurationError, match="api_key"):
        caller.one(LavaMistralEmbeddings(api_key=KEY), method, ["a"] if "batch" in method else "a", api_key=SECRET)
    assert not any("hushhush" in text for text in told)


def test_arguments_by_position_are_looked_at_too(caller: Caller, told: list[str]) -> None:
    for method in OBJECTS:
        with pytest.raises(ConfigurationError, match="api_key"):
            run(caller, Scripted().llm(), method, City, PROMPT, {"api_key": SECRET}, what="one")
    assert not any("hushhush" in text for text in told)


def test_a_model_of_objects_tells_nothing_either(caller: Caller, told: list[str]) -> None:
    for method in ("chat", "stream_chat"):
        with pytest.raises(ConfigurationError, match="api_key"):
            run(caller, Scripted().llm().as_structured_llm(City), method, ask(), api_key=SECRET)
    with pytest.raises(ConfigurationError, match="api_key"):
        caller.one(Scripted().llm().as_structured_llm(City), "complete", "Hello", api_key=SECRET)
    assert not any("hushhush" in text for text in told)


@pytest.mark.parametrize("method", ["chat", "predict_and_call", "structured_predict", "as_structured_llm"])
def test_who_pays_is_told_without_the_key(caller: Caller, told: list[str], method: str) -> None:
    billing = Billing(customer_id="c_1", meter_slug="m", provider_key=SECRET)
    mistral = Scripted(answer('{"name": "Rome"}'))
    llm = mistral.llm()
    match method:
        case "structured_predict":
            caller.one(llm, method, City, PROMPT, llm_kwargs={"billing": billing}, what="one")
        case "as_structured_llm":
            caller.one(llm.as_structured_llm(City), "chat", ask(), billing=billing)
        case "predict_and_call":
            caller.one(llm, method, *CALLS[method], billing=billing, error_on_no_tool_call=False)
        case _:
            caller.one(llm, method, *CALLS[method], billing=billing)
    assert mistral.requests[0].headers["authorization"] != f"Bearer {KEY}"
    assert any("customer 'c_1'" in text for text in told)
    assert not any("hushhush" in text for text in told)


def test_template_variables_may_have_any_name(caller: Caller) -> None:
    mistral = Scripted(answer('{"name": "Rome"}'))
    prompt = PromptTemplate("{headers} {metadata} {stream} {api_key}")
    variables = {"headers": "a", "metadata": "b", "stream": "c", "api_key": "d"}
    caller.one(mistral.llm(), "structured_predict", City, prompt, **variables)
    assert mistral.body["messages"][0]["content"] == "a b c d"


@pytest.mark.parametrize("name", ["headers", "extra_headers", "default_headers", "http_client", "base_url"])
async def test_the_client_without_a_framework_refuses_them_too(name: str) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    given: Any = {name: SECRET}
    with pytest.raises(ConfigurationError, match=name):
        LavaMistral(api_key=KEY).chat(messages, **given)
    with pytest.raises(ConfigurationError, match=name):
        await AsyncLavaMistral(api_key=KEY).stream(messages, **given)


@pytest.mark.parametrize("name", ["api_key", "headers", "mistral_api_key", "endpoint", "hf_token", "password"])
def test_further_fields_hold_none(name: str) -> None:
    for settings in ({"additional_kwargs": {name: SECRET}}, {"model_kwargs": {name: SECRET}}):
        with pytest.raises(ValidationError, match=name) as caught:
            ChatLavaMistral(**settings)
        assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("cls", [ChatLavaMistral, LavaMistralEmbeddings])
@pytest.mark.parametrize(
    ("name", "why"),
    [("mistral_api_key", r"Billing\(provider_key="), ("secret_key", "api_key="), ("endpoint", "base_url=")],
)
def test_the_settings_of_other_integrations_are_explained(cls: Any, name: str, why: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name}.*{why}") as caught:
        cls(**{name: SECRET})
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_a_server_that_repeats_the_key_is_not_repeated(caller: Caller, told: list[str], method: str) -> None:
    key = "aks_live_hushhush0123456789"
    error = {"object": "error", "message": f"the key {key} is wrong", "type": "x", "code": "1"}

    def refuse(request: httpx.Request) -> httpx.Response:
        if method == "chat":
            return httpx.Response(401, json=error, headers={"x-echo": request.headers["authorization"]})
        body = f"data: {chunk({'content': 'Hi'})}\n\n".replace("'", '"').replace("None", "null")
        body += f'event: error\ndata: {{"message": "the key {key} is wrong"}}\n\n'
        return httpx.Response(200, text=body, headers={"content-type": "text/event-stream"})

    transport = httpx.MockTransport(refuse)
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = ChatLavaMistral(
        api_key=key,
        max_retries=0,
        http_client=httpx.Client(transport=transport),
        async_http_client=httpx.AsyncClient(transport=transport),
        callback_manager=CallbackManager([debug]),
    )
    with pytest.raises(LavaError) as caught:
        run(caller, llm, method, ask())
    assert "is wrong" in str(caught.value)
    assert told
    written = [*told, str(caught.value), repr(vars(caught.value))]
    written += [repr(event.payload) for event in debug.get_events()]
    assert not any("hushhush" in text for text in written)


def test_one_span_a_call(caller: Caller) -> None:
    root, spans = get_dispatcher(), Spans()
    root.add_span_handler(spans)
    try:
        mistral = Scripted(answer('{"name": "Rome"}'))
        caller.one(mistral.llm(), "structured_predict", City, PROMPT, what="one")
        caller.one(mistral.llm(), "predict_and_call", *CALLS["predict_and_call"], error_on_no_tool_call=False)
        caller.all(Scripted(stream('{"name": ', '"Rome"}')).llm(), "stream_structured_predict", City, PROMPT, what="x")
    finally:
        root.span_handlers.remove(spans)
    a = "a" if caller.asynchronous else ""
    assert [name.removeprefix("ChatLavaMistral.") for name in spans.names] == [
        f"{a}structured_predict",
        f"{a}chat",
        f"{a}predict_and_call",
        "_prepare_chat_with_tools",
        f"{a}chat",
        f"{a}stream_structured_predict",
        f"{a}stream_chat",
    ]
