"""Settings of the model and of a call: their names, their limits, what they do."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from pydantic import BaseModel, ValidationError

from lava_mistral import APITimeoutError, ConfigurationError, LavaError, UsageTotals
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings, LavaUsageHandler
from tests.fakes.llama_index_scripted import KEY, Caller, Scripted, answer, ask, stream

CHAT: Any = ChatLavaMistral
EMBEDDINGS: Any = LavaMistralEmbeddings


def test_a_model_by_position() -> None:
    assert CHAT("mistral-large-2512", temperature=0.1).model == "mistral-large-2512"
    assert EMBEDDINGS("codestral-embed", dimensions=64).model_name == "codestral-embed"
    with pytest.raises(TypeError, match="multiple values"):
        CHAT("mistral-large-2512", model="mistral-small-2603")
    with pytest.raises(ValidationError, match="given twice"):
        EMBEDDINGS("codestral-embed", model_name="mistral-embed")


@pytest.mark.parametrize("model", [CHAT("m-1", timeout=3), EMBEDDINGS("m-1", timeout=3)], ids=["chat", "embeddings"])
def test_such_a_model_is_copied_and_sent_like_others(model: Any) -> None:
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model.model_copy(deep=True)):
        assert (again.to_dict(), again.timeout) == (model.to_dict(), 3)
    assert type(model).from_dict(model.to_dict()).to_dict() == model.to_dict()


@pytest.mark.parametrize("cls", [CHAT, EMBEDDINGS])
def test_a_model_that_is_sent_to_another_process_keeps_the_handlers_that_cannot_go(cls: Any) -> None:
    # A tracer's handler holds locks and generators; `IngestionPipeline(num_workers=2)` pickles the model that it has.
    handler = LlamaDebugHandler(print_trace_on_end=False)
    handler.lock = threading.Lock()  # type: ignore[attr-defined]
    model = cls(callback_manager=CallbackManager([handler]))
    again = pickle.loads(pickle.dumps(model))
    assert not again.callback_manager.handlers
    assert model.callback_manager.handlers == [handler]


@pytest.mark.parametrize("cls", [CHAT, EMBEDDINGS])
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"base_url": "api.lava.so"}, "base URL"),
        ({"base_url": "http://api.lava.so/v1"}, "unencrypted"),
        ({"timeout": 0}, "greater than 0"),
        ({"timeout": -1.5}, "greater than 0"),
        ({"max_retries": -1}, "greater than or equal to 0"),
        ({"bas_url": "https://x"}, "Did you mean 'base_url'"),
        ({"time_out": 3}, "Did you mean 'timeout'"),
        ({"surely_nothing_like_it": 3}, "surely_nothing_like_it"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_at_once(cls: Any, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        cls(**settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"stream_chunk_timeout": -1}, "greater than 0"),
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"billing": {"custmer_id": "c"}}, "Did you mean 'customer_id'"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"response_format": "json_object"}, "response_format="),
        ({"stop": "a", "stop_sequences": "b"}, "given twice"),
    ],
    ids=str,
)
def test_wrong_settings_of_the_chat_model(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ChatLavaMistral(**settings)


@pytest.mark.parametrize(("given", "why"), [("batchsize", "Did you mean 'embed_batch_size'"), ("batch_size", "limits")])
def test_misspelt_settings_of_embeddings(given: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        LavaMistralEmbeddings(**{given: 3})


def test_what_lives_beside_the_models_drops_no_argument() -> None:
    with pytest.raises(ValidationError, match="totls"):
        LavaUsageHandler(totls=UsageTotals())  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="temprature"):
        ChatLavaMistral().as_structured_llm(BaseModel, temprature=0.2)


@pytest.mark.parametrize("name", ["api_key", "temprature"])
def test_what_lives_beside_the_models_shows_no_argument(name: str) -> None:
    for made in (LavaUsageHandler, partial(ChatLavaMistral().as_structured_llm, BaseModel)):
        with pytest.raises(ValueError, match=name) as caught:
            made(**{name: "aks_live_canary"})
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize("timeout", [None, 0.5, 30])
def test_no_limit_is_a_limit_too(timeout: float | None) -> None:
    llm = ChatLavaMistral(timeout=timeout, stream_chunk_timeout=timeout, base_url="https://api.lava.so/v1/")
    assert (llm.timeout, llm.stream_chunk_timeout, llm.base_url) == (timeout, timeout, "https://api.lava.so/v1")


def test_settings_of_the_sister_package(caller: Caller) -> None:
    mistral = Scripted()
    llm = mistral.llm(n=1, streaming=True, stop_sequences=["x"], request_timeout=3)
    assert llm.timeout == 3
    caller.chat(llm, ask())
    assert (mistral.body["n"], mistral.body["stop"]) == (1, ["x"])
    assert not {"streaming", "stream"} & mistral.body.keys()
    assert ChatLavaMistral.from_dict(llm.to_dict()).n == 1


PER_CALL: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"safe_mode": True}, {"safe_prompt": True}),
    ({"model_name": "mistral-large-2512"}, {"model": "mistral-large-2512"}),
    ({"random_seed": 3}, {"random_seed": 3}),
    ({"seed": 3}, {"random_seed": 3}),
    ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
    ({"model_kwargs": {"min_tokens": 3}}, {"min_tokens": 3}),
    ({"max_completion_tokens": 3}, {"max_tokens": 3}),
    ({"extra_body": {"min_tokens": 3}}, {"min_tokens": 3}),
    ({"additional_kwargs": {"temprature": 3}}, {"temprature": 3}),
    ({"mistral_metadata": {"a": "b"}}, {"metadata": {"a": "b"}}),
    ({"n": 1, "streaming": False}, {"n": 1}),
    ({"timeout": 3, "stream_chunk_timeout": 3, "max_retries": 3, "request_timeout": 3}, {}),
]


@pytest.mark.parametrize(("given", "sent"), PER_CALL[:-1], ids=str)
@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete"])
def test_a_call_takes_every_name_of_the_constructor(
    caller: Caller, method: str, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    streamed = method.startswith("stream")
    mistral = Scripted(stream("Hi") if streamed else answer())
    run = caller.all if streamed else caller.one
    run(mistral.llm(random_seed=1), method, ask() if "chat" in method else "Hello", **given)
    expected = {"model": "mistral-small-2603", "random_seed": 1, **sent}
    body = {name: value for name, value in mistral.body.items() if name not in ("messages", "stream")}
    assert body == expected


@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete"])
def test_what_is_no_part_of_the_request_is_not_in_it(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    mistral = Scripted(stream("Hi") if streamed else answer())
    settings = {"timeout": 3, "stream_chunk_timeout": None, "max_retries": 0}
    run = caller.all if streamed else caller.one
    run(mistral.llm(), method, ask() if "chat" in method else "Hello", **settings)
    assert mistral.body.keys() - {"stream"} == {"model", "messages"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"tool_choise": "any"}, "Did you mean 'tool_choice'"),
        ({"max_token": 3}, "Did you mean 'max_tokens'"),
        ({"wait_time": 3}, "max_retries="),
        ({"show_thinking": True}, "ThinkingBlock"),
        ({"stream_usage": True}, "usage always comes"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete"])
def test_a_misspelt_argument_of_a_call_is_refused_before_it_is_sent(
    caller: Caller, method: str, given: dict[str, Any], why: str
) -> None:
    mistral = Scripted(stream("Hi"))
    run = caller.all if method.startswith("stream") else caller.one
    with pytest.raises(ConfigurationError, match=why):
        run(mistral.llm(), method, ask() if "chat" in method else "Hello", **given)
    assert not mistral.requests


@pytest.mark.parametrize("name", ["wait_time", "show_thinking", "stream_usage"])
def test_a_setting_that_has_no_meaning_here_is_refused_with_a_hint(name: str) -> None:
    for cls in (CHAT, EMBEDDINGS):
        with pytest.raises(ValidationError, match=f"'{name}' has no meaning here: "):
            cls(**{name: True})


def test_settings_under_the_names_of_other_classes() -> None:
    sync, asynchronous = httpx.Client(), httpx.AsyncClient()
    llm = CHAT(max_completion_tokens=3, extra_body={"a": 1}, client=sync, async_client=asynchronous)
    assert (llm.max_tokens, llm.additional_kwargs) == (3, {"a": 1})
    assert (llm.http_client, llm.async_http_client) == (sync, asynchronous)
    embeddings = EMBEDDINGS(max_concurrent_requests=3, output_dimension=64, client=sync)
    assert (embeddings.num_workers, embeddings.dimensions, embeddings.http_client) == (3, 64, sync)
    with pytest.raises(ValidationError, match=r"must be an httpx\.Client or httpx2\.Client, not AsyncClient"):
        CHAT(http_client=asynchronous)


def test_the_key_of_the_prompt_cache_follows_system_prompt_and_tools(caller: Caller) -> None:
    mistral = Scripted()
    llm = mistral.llm(prompt_cache_key="auto")

    def key(system: str, question: str, **more: Any) -> str:
        caller.chat(llm, [ChatMessage(role="system", content=system), *ask(question)], **more)
        return str(mistral.body["prompt_cache_key"])

    def clock() -> str:
        """The time."""
        return "noon"

    first = key("Be brief.", "One?")
    assert first == key("Be brief.", "Two?") != "auto"
    assert len({first, key("Be long.", "One?"), key("Be brief.", "One?", tools=[clock])}) == 3
    assert key("Be brief.", "One?", prompt_cache_key="mine") == "mine"


def test_two_names_of_one_setting_in_a_call(caller: Caller) -> None:
    with pytest.raises(ConfigurationError, match="given twice"):
        caller.chat(Scripted().llm(), ask(), safe_mode=True, safe_prompt=False)


@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_several_answers_to_a_call_are_refused(caller: Caller, method: str) -> None:
    mistral = Scripted()
    with pytest.raises(ConfigurationError, match="one answer"):
        (caller.all if method.startswith("stream") else caller.one)(mistral.llm(), method, ask(), n=2)
    for settings in ({"n": 2}, {"additional_kwargs": {"n": 2}}):
        with pytest.raises(ConfigurationError, match="one answer"):
            (caller.all if method.startswith("stream") else caller.one)(mistral.llm(**settings), method, ask())
    assert not mistral.requests


@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_a_call_says_how_often_it_is_tried_again(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    good = stream("Hi") if streamed else answer()
    run = caller.all if streamed else caller.one
    mistral = Scripted(503, good)
    run(mistral.llm(max_retries=0), method, ask(), max_retries=1)
    assert len(mistral.requests) == 2
    mistral = Scripted(503, good)
    with pytest.raises(LavaError):
        run(mistral.llm(max_retries=3), method, ask(), max_retries=0)
    assert len(mistral.requests) == 1


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that begins a stream and then says nothing."""
    done = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(f"data: {json.dumps(stream('Hi')[1])}\n\n".encode())
            self.wfile.flush()
            done.wait(60)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    done.set()
    server.shutdown()
    serving.join()
    server.server_close()


def test_a_call_says_how_long_a_stream_may_be_silent(caller: Caller, silent: str) -> None:
    llm = ChatLavaMistral(api_key=KEY, base_url=silent, max_retries=0, stream_chunk_timeout=300)
    with pytest.raises(APITimeoutError, match=r"within 0\.2 s"):
        caller.stream_chat(llm, ask(), stream_chunk_timeout=0.2)


def test_wrong_limits_of_a_call_are_refused(caller: Caller) -> None:
    for given in ({"timeout": 0}, {"stream_chunk_timeout": -1}, {"max_retries": -1}):
        mistral = Scripted()
        with pytest.raises(ConfigurationError, match=next(iter(given))):
            caller.chat(mistral.llm(), ask(), **given)
        assert not mistral.requests


class City(BaseModel):
    """A city."""

    name: str


CITY = {
    "type": "json_schema",
    "json_schema": {
        "name": "City",
        "description": "A city.",
        "strict": True,
        "schema": {**City.model_json_schema(), "additionalProperties": False},
    },
}


class Payloads(BaseCallbackHandler):
    """Keeps what calls say of themselves."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.kwargs: list[Any] = []

    def on_event_start(self, event_type: Any, payload: Any = None, *args: Any, **kwargs: Any) -> str:
        self.kwargs.append((payload or {}).get("additional_kwargs"))
        return ""

    def on_event_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def start_trace(self, trace_id: str | None = None) -> None:
        """Nothing."""

    def end_trace(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def test_a_class_is_a_response_format(caller: Caller) -> None:
    mistral = Scripted(answer('{"name": "Rome"}'))
    payloads = Payloads()
    llm = mistral.llm(callback_manager=CallbackManager([payloads]))
    caller.complete(llm, "Name one.", response_format=City)
    caller.chat(llm, ask(), response_format=City)
    llm = mistral.llm(response_format=City)
    caller.chat(llm, ask())
    assert [body["response_format"] for body in mistral.bodies] == [CITY] * 3
    assert ChatLavaMistral.from_dict(json.loads(llm.to_json())).response_format == CITY
    # Events are written as JSON.
    assert json.loads(json.dumps(payloads.kwargs))[0]["response_format"] == CITY


@pytest.mark.parametrize("wrong", ["json_object", City(name="Rome"), int])
def test_what_is_no_response_format_is_refused(caller: Caller, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="response_format="):
        caller.complete(Scripted().llm(), "Name one.", response_format=wrong)


class OfOneLoop(httpx.AsyncBaseTransport):
    """Stays in the event loop that it was used in first, like the connections of a pool."""

    loop: asyncio.AbstractEventLoop | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.loop = self.loop or asyncio.get_running_loop()
        self.loop.call_soon(lambda: None)
        return httpx.Response(200, json=answer())


def test_a_client_of_another_event_loop_says_so() -> None:
    llm = Scripted().llm(async_http_client=httpx.AsyncClient(transport=OfOneLoop()))
    assert asyncio.run(llm.acomplete("Hello")).text == "Hi"
    for call in (llm.acomplete, llm.astream_complete):
        with pytest.raises(ConfigurationError, match=r"another event loop.*asyncio\.run"):
            asyncio.run(call("Hello"))


class Failing(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise RuntimeError("the transport of this test has failed")


def test_what_else_a_client_raises_is_left_as_it_is() -> None:
    llm = Scripted().llm(async_http_client=httpx.AsyncClient(transport=Failing()))
    with pytest.raises(RuntimeError, match="of this test"):
        asyncio.run(llm.acomplete("Hello"))
