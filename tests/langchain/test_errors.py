"""Failures as LangChain's users catch them, and new tries as its callbacks hear of them."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import httpx
import pytest
from langchain_core import exceptions as langchain
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, CallbackManager
from langchain_core.messages import HumanMessage
from langchain_core.outputs import LLMResult
from tenacity import RetryCallState

from langchain_lava_mistral import errors
from langchain_lava_mistral.errors import to_langchain, translated
from lava_mistral import Billing, StreamStalledError
from lava_mistral import errors as core
from lava_mistral.gateway import Interrupted, LocalGateway, Reset, Slow, Status
from tests.fakes.wire import Pieces, event
from tests.langchain.scenario import Caller, Script, answer, chat, events

OVERFLOW = {"object": "error", "message": "Prompt 99 > 10 maximum context length", "code": "3059"}
PAIRS: dict[type[core.LavaError], tuple[type[Exception], ...]] = {
    core.ConfigurationError: (langchain.ModelError, ValueError),
    core.AuthenticationError: (langchain.ModelAuthenticationError,),
    core.BillingError: (langchain.ModelPermissionDeniedError,),
    core.InsufficientBalanceError: (langchain.ModelPermissionDeniedError,),
    core.PermissionDeniedError: (langchain.ModelPermissionDeniedError,),
    core.SpendLimitError: (langchain.ModelPermissionDeniedError,),
    core.NotFoundError: (langchain.ModelNotFoundError,),
    core.InvalidRequestError: (langchain.ModelInvalidRequestError,),
    core.ContextOverflowError: (langchain.ContextOverflowError, langchain.ModelInvalidRequestError),
    core.RateLimitError: (langchain.ModelRateLimitError,),
    core.ServerError: (langchain.ModelAPIError,),
    core.APIConnectionError: (langchain.ModelConnectionError,),
    core.APITimeoutError: (langchain.ModelTimeoutError,),
    core.StreamInterruptedError: (langchain.ModelAPIError,),
    core.StreamStalledError: (langchain.ModelTimeoutError, langchain.ModelAPIError),
}


def subclasses(cls: type[Any]) -> set[type[Any]]:
    return {cls, *(inner for sub in cls.__subclasses__() for inner in subclasses(sub))}


def test_every_error_of_the_core_has_its_pair() -> None:
    own = {cls for cls in subclasses(core.LavaError) if cls.__module__ == "lava_mistral.errors"} - {core.LavaError}
    assert own == set(PAIRS)


@pytest.mark.parametrize(("kind", "bases"), PAIRS.items())
def test_an_error_is_of_both_trees_and_survives_pickling(kind: type[core.LavaError], bases: Any) -> None:
    response = httpx.Response(418)
    original = kind("no", status_code=418, request_id="r", retryable=True, advice="Do.", answer=response, partial=[1])

    error: Any = to_langchain(original)

    assert isinstance(error, kind)
    assert type(error).__name__ == kind.__name__
    assert all(isinstance(error, base) for base in (langchain.ModelError, *bases))
    assert (error.is_retryable, error.response, error.request_id, str(error)) == (True, response, "r", str(original))
    assert to_langchain(error) is error
    assert to_langchain(kind("no")).is_retryable is kind.retryable_by_default  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.is_retryable, again.partial) == (str(error), True, [1])


def test_an_error_that_a_later_core_adds_is_still_one_of_both() -> None:
    class Newer(core.RateLimitError):
        pass

    class Other(core.LavaError):
        pass

    assert isinstance(to_langchain(Newer("x")), errors.RateLimitError)
    assert isinstance(to_langchain(Other("x")), errors.ServerError)


def test_the_cause_stays() -> None:
    cause = OSError("reset")
    with pytest.raises(errors.APIConnectionError) as caught, translated():
        raise core.APIConnectionError("x") from cause
    assert caught.value.__cause__ is cause
    assert caught.traceback[-1].name == "test_the_cause_stays"


FAULTS: dict[str, tuple[Any, type[Exception]]] = {
    "401": (Status(401), langchain.ModelAuthenticationError),
    "402": (Status(402), errors.BillingError),
    "403": (Status(403), langchain.ModelPermissionDeniedError),
    "404": (Status(404), langchain.ModelNotFoundError),
    "400": (Status(400), langchain.ModelInvalidRequestError),
    "overflow": (Status(400, body=OVERFLOW), langchain.ContextOverflowError),
    "429": (Status(429), langchain.ModelRateLimitError),
    "503": (Status(503), langchain.ModelAPIError),
    "reset": (Reset(), langchain.ModelConnectionError),
    "slow": (Slow(5.0), langchain.ModelTimeoutError),
}


@pytest.mark.parametrize(("fault", "kind"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
def test_a_failure_of_a_call(
    fault: Any, kind: type[Exception], streamed: bool, shared_gateway: LocalGateway, caller: Caller
) -> None:
    shared_gateway.reset()
    shared_gateway.queue(fault)
    model = chat(shared_gateway, max_retries=0, timeout=0.3)

    with pytest.raises(kind) as caught:
        caller.ask(streamed, model, "Hi")

    assert isinstance(caught.value, core.LavaError)
    assert isinstance(caught.value, langchain.ModelError)
    if caught.value.status_code is not None:
        assert caught.value.response is not None
        assert caught.value.request_id == shared_gateway.requests[0].request_id
        assert shared_gateway.secret_key not in str(dict(caught.value.response.request.headers))


@pytest.mark.parametrize("how", ["clean", "closed", "reset", "error event", "finish error"])
def test_a_stream_that_breaks_off_says_what_had_come(how: Any, shared_gateway: LocalGateway, caller: Caller) -> None:
    shared_gateway.queue(Interrupted(after=3, how=how))
    with pytest.raises(errors.StreamInterruptedError) as caught:
        caller.whole(chat(shared_gateway), "Is the sky blue?")
    assert caught.value.partial.text


def test_a_stream_that_goes_silent(shared_gateway: LocalGateway, caller: Caller) -> None:
    shared_gateway.queue(Interrupted(after=3, how="stalled"))
    with pytest.raises(StreamStalledError) as caught:
        caller.whole(chat(shared_gateway, stream_chunk_timeout=0.2), "Is the sky blue?")
    assert isinstance(caught.value, langchain.ModelTimeoutError)


def test_no_key_is_reported_by_the_first_call(caller: Caller) -> None:
    from langchain_lava_mistral import ChatLavaMistral

    with pytest.raises(errors.ConfigurationError, match="LAVA_SECRET_KEY"):
        caller.invoke(ChatLavaMistral(), "Hi")


@pytest.mark.parametrize("name", ["headers", "extra_headers", "default_headers"])
def test_headers_are_refused_and_neither_sent_as_a_field_nor_traced(name: str, caller: Caller) -> None:
    asked = Script(answer())
    headers = {"authorization": "Bearer hush"}
    heard = Beginnings()
    for given in ({name: headers}, {"model_kwargs": {name: headers}}):
        with pytest.raises(ValueError, match=r"http_client=httpx\.Client") as refused:
            asked.model(**given)
        assert "hush" not in str(refused.value)
        with pytest.raises(errors.ConfigurationError, match=r"http_client=httpx\.Client"):
            caller.invoke(asked.model(), "Hi", {"callbacks": [heard]}, **given)
    assert asked.requests == []
    assert len(heard.told) == 2
    assert "hush" not in str(heard.told)


@pytest.mark.parametrize("name", ["base_url", "http_client", "http_async_client"])
def test_what_belongs_to_the_model_is_refused_for_a_call(name: str, caller: Caller) -> None:
    asked = Script(answer())
    with pytest.raises(errors.ConfigurationError, match=rf"{name} can't be sent .*model_copy"):
        caller.invoke(asked.model(), "Hi", **{name: "http://127.0.0.1:1/v1"})
    assert asked.requests == []


def test_an_incomplete_identity_is_refused(caller: Caller) -> None:
    with pytest.raises(ValueError, match="meter_slug"):
        caller.invoke(Script(answer()).model(), "Hi", billing={"customer_id": "c"})


class Beginnings(BaseCallbackHandler):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.told.append((args, kwargs))


class Failures(BaseCallbackHandler):
    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.responses: list[LLMResult] = []

    def on_llm_error(self, error: BaseException, *, response: LLMResult, **_: Any) -> None:
        self.errors.append(error)
        self.responses.append(response)


def test_a_trace_of_a_failure_has_status_body_and_request_id(shared_gateway: LocalGateway, caller: Caller) -> None:
    shared_gateway.queue(Status(403))
    heard = Failures()
    with pytest.raises(errors.PermissionDeniedError):
        caller.invoke(chat(shared_gateway), "Hi", {"callbacks": [heard]})
    generation: Any = heard.responses[0].generations[0][0]
    metadata = generation.message.response_metadata
    assert metadata["status_code"] == 403
    assert metadata["request_id"].startswith("req_")
    assert metadata["body"]["object"] == "error"
    assert shared_gateway.secret_key not in str(metadata)


# New tries


class Retries(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[tuple[int, str, float, Any]] = []
        self.runs: set[Any] = set()

    def on_chat_model_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.runs.add(run_id)

    def on_retry(self, retry_state: RetryCallState, *, run_id: Any, **_: Any) -> None:
        assert retry_state.outcome is not None
        assert retry_state.next_action is not None
        error = retry_state.outcome.exception()
        assert isinstance(error, langchain.ModelError)
        self.heard.append((retry_state.attempt_number, type(error).__name__, retry_state.idle_for, run_id))


class AsyncRetries(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[int] = []

    async def on_retry(self, retry_state: RetryCallState, **_: Any) -> None:
        await asyncio.sleep(0)
        self.heard.append(retry_state.attempt_number)


WAYS = [
    ("invoke", "config"),
    ("stream", "config"),
    ("stream", "model"),
    ("stream", "manager"),
    ("invoke of a streaming model", "config"),
    ("events", "model"),
]


@pytest.mark.filterwarnings("ignore:.*is in beta")
@pytest.mark.parametrize(("way", "place"), WAYS, ids=map(", ".join, WAYS))
def test_callbacks_hear_of_a_new_try(way: str, place: str, shared_gateway: LocalGateway, caller: Caller) -> None:
    shared_gateway.reset()
    shared_gateway.queue(Status(503, retry_after=0))
    heard = Retries()
    model = chat(shared_gateway, streaming=True if "streaming" in way else None)
    config: Any = None
    if place == "config":
        config = {"callbacks": [heard]}
    elif place == "manager":
        config = {"callbacks": CallbackManager([heard], inheritable_handlers=[heard])}
    else:
        model = model.model_copy(update={"callbacks": [heard]})

    if way == "stream":
        caller.stream(model, "Hi", config)
    elif way == "events":
        caller.events(model, "Hi")
    else:
        caller.invoke(model, "Hi", config)

    ((tries, kind, _, run),) = heard.heard
    assert (tries, kind) == (1, "ServerError")
    assert {run} == heard.runs
    assert len(shared_gateway.requests) == 2


def test_the_waits_of_several_tries_add_up(shared_gateway: LocalGateway, caller: Caller) -> None:
    shared_gateway.queue(Status(503, retry_after=0), Status(429, retry_after=0))
    heard = Retries()
    caller.stream(chat(shared_gateway), "Hi", {"callbacks": [heard]})
    assert [(tries, kind) for tries, kind, _, _ in heard.heard] == [(1, "ServerError"), (2, "RateLimitError")]
    assert heard.heard[0][2] <= heard.heard[1][2]


def test_async_callbacks_hear_of_each_new_try(shared_gateway: LocalGateway) -> None:
    heard = AsyncRetries()
    model = chat(shared_gateway, callbacks=[heard])

    async def run() -> None:
        shared_gateway.queue(Status(503, retry_after=0))
        await model.ainvoke("Hi")
        shared_gateway.queue(Status(503, retry_after=0))
        async for _ in model.astream("Hi"):
            pass

    asyncio.run(run())
    assert heard.heard == [1, 1]


@pytest.mark.parametrize("end", ["answer", "stream", "refusal", "refusal of a stream"])
def test_async_callbacks_have_heard_of_a_new_try_before_the_call_goes_on(end: str) -> None:
    failed = httpx.Response(503, headers={"retry-after": "0"}, json={"error": "no"})
    refused = httpx.Response(400, json={"message": "no"})
    script = Script(failed, refused if "refusal" in end else events("Hi") if end == "stream" else answer("Hi"))
    order: list[str] = []

    class Slow(AsyncCallbackHandler):
        async def on_retry(self, retry_state: RetryCallState, **_: Any) -> None:
            for _turn in range(100):
                await asyncio.sleep(0)
            order.append(f"told after {len(script.requests)}")

    async def run() -> None:
        model = script.model(callbacks=[Slow()])
        try:
            if "stream" in end:
                async for _ in model.astream("Hi"):
                    order.append("answered")
            else:
                await model.ainvoke("Hi")
                order.append("answered")
        except core.LavaError:
            order.append("refused")

    asyncio.run(run())
    assert order[:2] == ["told after 1", "refused" if "refusal" in end else "answered"]


def test_a_new_try_without_callbacks(caller: Caller) -> None:
    failed = httpx.Response(503, headers={"retry-after": "0"}, json={"error": "no"})
    for streamed in (False, True):
        script = Script(failed, events("Hi") if streamed else answer("Hi"))
        assert caller.ask(streamed, script.model(), "Hi").text == "Hi"
    script = Script(failed, answer("Hi"))
    model = script.model()
    if caller.is_async:
        asyncio.run(model._agenerate([HumanMessage("Hi")]))
    else:
        model._generate([HumanMessage("Hi")])
    assert len(script.requests) == 2


def test_what_can_be_done_about_402_is_said(caller: Caller) -> None:
    with LocalGateway(customer_balance="0") as gateway:
        model = chat(gateway, billing=Billing("c_1", "m"))
        with pytest.raises(errors.InsufficientBalanceError, match=r"customer 'c_1' on meter 'm'.*top up"):
            caller.invoke(model, "Hi")
        assert len(gateway.requests) == 1


def test_errors_can_be_copied() -> None:
    error = errors.RateLimitError("no", retry_after=1.0)
    assert str(copy.copy(error)) == str(error)


def test_a_key_given_to_a_call_is_not_in_its_trace() -> None:
    from langchain_lava_mistral import ChatLavaMistral

    params = ChatLavaMistral(api_key="aks_test_x")._get_invocation_params(
        api_key="hush", mistral_api_key="hush", top_p=1
    )
    assert "hush" not in str(params)
    assert params["top_p"] == 1


def test_a_stream_that_a_callback_ends_is_closed_while_its_error_is_kept(caller: Caller) -> None:
    class Fails(BaseCallbackHandler):
        raise_error = True

        def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("enough")

    body = Pieces(event("a"), event("b"), event("c"))
    model = Script(httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body)).model()
    with pytest.raises(RuntimeError, match="enough") as caught:
        caller.stream(model, "?", {"callbacks": [Fails()]})
    assert caught.value.__traceback__ is not None
    assert body.closed
