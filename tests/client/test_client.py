"""The framework-free client and the transport, on the wire: what is sent, what comes back, what goes wrong."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal
from importlib.metadata import version
from time import asctime, gmtime, monotonic, time, tzset
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from lava_mistral import (
    APIConnectionError,
    APITimeoutError,
    AsyncLavaMistral,
    AsyncLavaTransport,
    AuthenticationError,
    Billing,
    ConfigurationError,
    ContextOverflowError,
    InsufficientBalanceError,
    InvalidRequestError,
    LavaError,
    LavaMistral,
    LavaTransport,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
    StreamStalledError,
    billed_to,
)
from lava_mistral.gateway import LocalGateway
from tests.fakes.clients import BASE, KEY, Caller, at_once
from tests.fakes.wire import DONE, Pieces, Wire, event

ASK: list[Any] = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
ANSWER = {
    "id": "cmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "mistral-small-2603",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


class Both(Caller):
    """One client, sync or async, that asks a script; tries follow each other at once."""

    def __init__(self, wire: Wire, asynchronous: bool, *, max_retries: int = 2, **settings: Any) -> None:
        super().__init__(asynchronous)
        self.made = self.client(wire, retry=at_once(max_retries), **settings)

    async def chat(self, messages: Any = ASK, **options: Any) -> Any:
        return await self.do(self.made.chat(messages, **options))

    async def stream(self, messages: Any = ASK, **options: Any) -> Any:
        return await self.do(self.made.stream(messages, **options))


@pytest.fixture(params=["sync", "async"])
def both(request: pytest.FixtureRequest) -> Callable[..., Both]:
    return lambda wire, **settings: Both(wire, request.param == "async", **settings)


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine five hours behind UTC."""
    monkeypatch.setenv("TZ", "EST5")
    tzset()
    yield
    monkeypatch.undo()
    tzset()


async def test_a_call_goes_to_lava_with_the_provider_address_in_u(both: Any) -> None:
    wire = Wire(ANSWER)
    completion = await both(wire, metadata={"app": "tests"}).chat(
        temperature=0.0, max_tokens=None, lava_metadata={"user": "ü"}, billing=Billing(customer_id="c", meter_slug="m")
    )
    [request] = wire.requests
    address = urlsplit(str(request.url))
    assert (request.method, address.path) == ("POST", "/v1/forward")
    assert parse_qs(address.query) == {"u": ["https://api.mistral.ai/v1/chat/completions"]}
    assert request.headers["authorization"] == "Bearer " + Billing(customer_id="c", meter_slug="m").forward_token(KEY)
    assert json.loads(request.headers["x-lava-metadata"]) == {"app": "tests", "user": "ü"}
    assert request.headers["host"] == "127.0.0.1:9"
    assert wire.bodies == [{"model": "mistral-small-2603", "messages": ASK, "temperature": 0.0}]
    assert (completion.text, completion.model, completion.request_id) == ("Hi", "mistral-small-2603", "req_1")
    # 1,000 tokens in at $0.15 a million, 500 out at $0.60.
    assert completion.cost == Decimal("0.00045")
    assert completion.raw == ANSWER


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_headers_of_a_given_client_go_with_it_and_its_own_authorization_does_not(asynchronous: bool) -> None:
    wire = Wire(ANSWER)
    settings: dict[str, Any] = {
        "transport": httpx.MockTransport(wire),
        "headers": {"x-trace": "t", "authorization": "Bearer mine", "user-agent": "shop/1"},
        "auth": ("user", "password"),
    }
    if asynchronous:
        agiven = httpx.AsyncClient(**settings)
        await AsyncLavaMistral(api_key=KEY, base_url=BASE, http_client=agiven).chat(ASK)
        assert not agiven.is_closed
    else:
        given = httpx.Client(**settings)
        LavaMistral(api_key=KEY, base_url=BASE, http_client=given).chat(ASK)
        assert not given.is_closed
    headers = wire.requests[0].headers
    assert (headers["x-trace"], headers["authorization"]) == ("t", f"Bearer {KEY}")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_key_follows_no_redirect(asynchronous: bool) -> None:
    wire = Wire(httpx.Response(307, headers={"location": "https://elsewhere.example/"}))
    settings: dict[str, Any] = {"transport": httpx.MockTransport(wire), "follow_redirects": True}
    with pytest.raises(ServerError, match="307"):
        if asynchronous:
            await AsyncLavaMistral(api_key=KEY, base_url=BASE, http_client=httpx.AsyncClient(**settings)).chat(ASK)
        else:
            LavaMistral(api_key=KEY, base_url=BASE, http_client=httpx.Client(**settings)).chat(ASK)
    assert [request.url.host for request in wire.requests] == ["127.0.0.1"]


@pytest.mark.parametrize("given", ["shop/1", None])
async def test_a_request_names_one_user_agent_the_callers_before_ours(both: Any, given: str | None) -> None:
    wire = Wire(ANSWER, {"request_id": "r", "status": "completed"})
    run = both(wire)
    http = httpx.AsyncClient if run.asynchronous else httpx.Client
    settings: Any = {} if given is None else {"headers": {"user-agent": given}}
    http_client = http(transport=httpx.MockTransport(wire), **settings)
    run.made = type(run.made)(api_key=KEY, base_url=BASE, http_client=http_client)
    await run.chat()
    record = run.made.request("r")
    assert (await record if run.asynchronous else record).request_id == "r"
    sent = given or f"lava-mistral/{version('lava-mistral')}"
    assert [request.headers.get_list("user-agent") for request in wire.requests] == [[sent], [sent]]


def tool_call(id: str, **more: Any) -> Any:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **more}


def tool_result(id: str, content: str) -> Any:
    return {"role": "tool", "tool_call_id": id, "content": content}


@pytest.mark.parametrize(
    "more",
    [
        {"type": None, "index": None},
        {"index": None},
        {"function": {"name": "f", "arguments": "{}", "parsed": None}},
    ],
)
async def test_fields_of_a_call_that_hold_nothing_are_not_sent(both: Any, more: dict[str, Any]) -> None:
    wire = Wire(ANSWER)
    call = tool_call("abcdefgh1", **more)
    await both(wire).chat(
        [*ASK, {"role": "assistant", "content": "", "tool_calls": [call]}, tool_result("abcdefgh1", "r")]
    )
    sent = {name: value for name, value in tool_call("abcdefgh1").items() if more.get(name, value) is not None}
    assert wire.bodies[0]["messages"][1]["tool_calls"] == [sent]


async def test_ids_that_differ_in_half_a_surrogate_pair_stay_apart(both: Any) -> None:
    wire = Wire(ANSWER)
    calls = [tool_call("id \ud800"), tool_call("id \ud801")]
    results = [tool_result("id \ud801", "second"), tool_result("id \ud800", "first")]
    await both(wire).chat([*ASK, {"role": "assistant", "content": "", "tool_calls": calls}, *results])
    _, turn, *sent = wire.bodies[0]["messages"]
    first, second = (call["id"] for call in turn["tool_calls"])
    assert first != second
    assert {message["tool_call_id"]: message["content"] for message in sent} == {first: "first", second: "second"}


ERRORS: list[tuple[int, Any, type[LavaError], str, bool]] = [
    (401, {"error": "Invalid secret key"}, AuthenticationError, "lava", False),
    (401, {"detail": "Unauthorized"}, AuthenticationError, "mistral", False),
    (401, {"message": "Unauthorized", "request_id": "x"}, AuthenticationError, "mistral", False),
    (402, {"error": {"message": "Insufficient balance"}}, InsufficientBalanceError, "lava", False),
    (403, {"error": {"message": "Meter not on plan"}}, PermissionDeniedError, "lava", False),
    (404, {"object": "error", "message": "no Route matched", "type": "x"}, NotFoundError, "mistral", False),
    (
        400,
        {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "param": None, "code": "1500"},
        InvalidRequestError,
        "mistral",
        False,
    ),
    (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum "
            "context length",
            "code": "3051",
        },
        ContextOverflowError,
        "mistral",
        False,
    ),
    (
        400,
        {"object": "error", "message": "Prompt 40000 > 32768 maximum context length", "code": 3059},
        ContextOverflowError,
        "mistral",
        False,
    ),
    (
        422,
        {"object": "error", "message": {"detail": [{"loc": ["body", "foo"], "msg": "Extra inputs", "type": "extra"}]}},
        InvalidRequestError,
        "mistral",
        False,
    ),
    (429, {"message": "Rate limit exceeded", "code": "1300", "type": "rate_limited"}, RateLimitError, "mistral", True),
    (500, {"error": "gateway"}, ServerError, "lava", True),
    (503, {"object": "error", "message": "down", "code": "1100", "raw_status_code": 503}, ServerError, "mistral", True),
]


@pytest.mark.parametrize(("status", "body", "kind", "origin", "retryable"), ERRORS)
@pytest.mark.parametrize("streaming", [False, True])
async def test_each_refusal_has_its_class_its_author_and_its_advice(
    both: Any, status: int, body: Any, kind: type[LavaError], origin: str, retryable: bool, streaming: bool
) -> None:
    wire = Wire((status, body))
    run = both(wire, max_retries=1)
    with pytest.raises(kind) as caught:
        await (run.stream() if streaming else run.chat())
    error = caught.value
    assert (error.origin, error.retryable, error.status_code) == (origin, retryable, status)
    assert error.request_id == f"req_{len(wire.requests)}"
    assert f"HTTP {status}" in str(error)
    assert error.request_id in str(error)
    assert error.response is not None
    assert error.response.is_closed
    assert error.response.request.url == "https://api.mistral.ai/v1/chat/completions"
    assert len(wire.requests) == (2 if retryable else 1)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.fields()) == (type(error), str(error), error.fields())
    for shown in (str(error), repr(error), repr(vars(error)), repr(error.response.request.headers)):
        assert KEY not in shown


async def test_a_key_that_a_server_repeats_is_hidden_everywhere(both: Any) -> None:
    own = "own-mistral-key-0123456789"
    token = Billing(provider_key=own).forward_token(KEY)
    wire = Wire((401, {"error": f"no {KEY}, no {own}, no {token}"}))
    with pytest.raises(AuthenticationError) as caught:
        await both(wire, billing=Billing(provider_key=own)).chat()
    error = caught.value
    assert error.response is not None
    shown = f"{error} {error!r} {vars(error)} {error.response.text} {pickle.dumps(error)!r}"
    assert "[redacted]" in shown
    for secret in (KEY, own, token):
        assert secret not in shown


async def test_402_says_whose_wallet(both: Any) -> None:
    wire = Wire((402, {"error": "Insufficient balance"}))
    with billed_to("cus_7", "chat"), pytest.raises(InsufficientBalanceError, match="customer 'cus_7' on meter 'chat'"):
        await both(wire).chat()
    with pytest.raises(InsufficientBalanceError, match="the merchant's wallet"):
        await both(wire).chat()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("streaming", [False, True])
async def test_passing_failures_are_tried_again(both: Any, status: int, streaming: bool) -> None:
    good = Pieces(event("Hi", "stop"), DONE) if streaming else ANSWER
    wire = Wire((status, {"message": "later"}), httpx.ConnectError("refused"), good)
    told: list[Any] = []
    run = both(wire, max_retries=2)
    # What it returns is nobody's.
    record = lambda error, tries, wait: told.append((type(error), tries, wait >= 0)) or tries  # noqa: E731
    if streaming:
        [delta] = await run.take(await run.stream(on_retry=record))
        assert delta.text == "Hi"
    else:
        assert (await run.chat(on_retry=record)).text == "Hi"
    assert len(wire.requests) == 3
    assert [kind for kind, _, _ in told][1] is APIConnectionError
    assert [tries for _, tries, _ in told] == [1, 2]


async def test_a_retry_after_date_without_a_zone_is_in_utc(both: Any, far_away: None) -> None:
    in_a_minute = asctime(gmtime(time() + 60))
    with pytest.raises(RateLimitError) as caught:
        await both(Wire(httpx.Response(429, headers={"retry-after": in_a_minute})), max_retries=0).chat()
    assert caught.value.retry_after is not None
    assert 50 < caught.value.retry_after <= 60


async def test_retry_after_is_obeyed_and_a_hopeless_one_ends_the_tries(both: Any) -> None:
    wire = Wire(httpx.Response(429, json={"message": "slow down"}, headers={"retry-after": "0.2"}), ANSWER)
    waits: list[float] = []
    began = monotonic()
    await both(wire).chat(on_retry=lambda error, tries, wait: waits.append(wait))
    assert monotonic() - began >= 0.2
    assert waits == [0.2]
    wire = Wire(httpx.Response(429, json={"message": "slow down"}, headers={"retry-after": "86400"}))
    with pytest.raises(RateLimitError) as caught:
        await both(wire).chat()
    assert caught.value.retry_after == 86400
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectTimeout("t"), APITimeoutError),
        (httpx.ReadTimeout("t"), APITimeoutError),
        (httpx.RemoteProtocolError("Server disconnected"), APIConnectionError),
        (ConnectionResetError("reset"), APIConnectionError),
    ],
)
async def test_failures_below_http_are_typed_and_show_no_credential(
    both: Any, failure: Exception, kind: type[LavaError]
) -> None:
    wire = Wire(failure)
    with pytest.raises(kind) as caught:
        await both(wire, max_retries=1).chat()
    assert len(wire.requests) == 2
    cause = caught.value.__cause__
    assert isinstance(cause, type(failure))
    if isinstance(cause, httpx.RequestError):
        assert "authorization" not in cause.request.headers


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>proxy</html>",
        b'["no", "object"]',
        b'{"choices": []}',
        b"{}",
    ],
)
async def test_an_answer_that_is_none_is_a_server_error(both: Any, answer: bytes) -> None:
    with pytest.raises(ServerError, match="expected an answer"):
        await both(Wire(httpx.Response(200, content=answer)), max_retries=0).chat()


@pytest.mark.parametrize("beside", [{}, {"choices": []}, {"choices": ANSWER["choices"]}])
@pytest.mark.parametrize(("code", "tries"), [(400, 1), (429, 2), ("3505", 2)])
async def test_an_error_under_a_good_status_is_told_and_tried_again_where_that_can_help(
    both: Any, beside: Any, code: Any, tries: int
) -> None:
    error = {"message": "The provider refused it", "code": code}
    wire = Wire({"object": "chat.completion", **beside, "error": error})
    with pytest.raises(ServerError, match="The provider refused it") as caught:
        await both(wire, max_retries=1).chat()
    assert caught.value.retryable == (tries == 2)
    assert len(wire.requests) == tries


async def test_finish_reason_error_is_no_answer(both: Any) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "half"}, "finish_reason": "error"}
    with pytest.raises(ServerError) as caught:
        await both(Wire({**ANSWER, "choices": [choice]}), max_retries=0).chat()
    assert caught.value.partial.text == "half"
    run = both(Wire(Pieces(event("half"), event("", "error"), DONE)), max_retries=0)
    stream = await run.stream()
    with pytest.raises(StreamInterruptedError) as caught:
        await run.take(stream)
    assert caught.value.partial.text == "half"


async def test_a_stream_gives_deltas_then_usage_and_cost(both: Any) -> None:
    said = [event(text, id="c", model="m", created=1) for text in ("", "He", "llo")]
    body = Pieces(*said, event("", "stop", usage=USAGE), DONE)
    wire = Wire(body)
    run = both(wire)
    stream = await run.stream()
    deltas = await run.take(stream)
    assert "".join(delta.text for delta in deltas) == "Hello"
    assert stream.turn.text == "Hello"
    assert (stream.usage, stream.cost) == (USAGE, Decimal("0.00045"))
    assert (stream.request_id, stream.id, stream.model, stream.created) == ("req_1", "c", "m", 1)
    assert wire.bodies[0]["stream"] is True
    assert body.closed
    assert await run.take(stream) == []


async def test_the_environment_requires_a_customer_of_clients_that_say_nothing(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAVA_REQUIRE_CUSTOMER", "1")
    for said in ({}, {"require_customer": None}, {"require_customer": 0}):
        wire = Wire(ANSWER)
        with pytest.raises(ConfigurationError, match="No customer is named"):
            await both(wire, **said).chat()
        assert not wire.bodies


async def test_streams_are_told_apart_and_do_not_show_what_they_hold(both: Any) -> None:
    streams = []
    for _ in range(2):
        run = both(Wire(Pieces(event("Hello"), event("", "stop"), DONE)))
        streams.append(await run.stream())
        await run.take(streams[-1])
    assert len({*streams}) == 2
    assert "Hello" not in repr(streams)


async def test_leaving_a_stream_early_closes_the_connection(both: Any) -> None:
    body = Pieces(*[event("x") for _ in range(100)], DONE)
    run = both(Wire(body))
    stream = await run.stream()
    await run.take(stream, 3)
    await run.close(stream)
    assert body.closed
    assert body.taken < 10


@pytest.mark.parametrize(
    "end",
    [
        [],
        [httpx.ReadError("reset")],
        [b'data: {"object":"error","message":"boom","code":"1100","raw_status_code":503}\n\n'],
        [b'event: error\ndata: {"error":{"message":"boom"}}\n\n'],
        [b"data: {truncated\n\n"],
        [b"data: 5\n\n"],
        [b'data: {"choices": 5}\n\n'],
    ],
    ids=["cut", "reset", "error object", "error event", "garbage", "no object", "no choices"],
)
async def test_a_stream_that_ends_early_raises_with_what_had_come(both: Any, end: list[Any]) -> None:
    wire = Wire(Pieces(event("Hel"), event("lo"), *end))
    run = both(wire)
    stream = await run.stream()
    seen = []
    with pytest.raises(StreamInterruptedError) as caught:
        if run.asynchronous:
            async for delta in stream:
                seen.append(delta.text)
        else:
            for delta in stream:
                seen.append(delta.text)
    assert "".join(seen) == "Hello"
    assert caught.value.partial.text == "Hello"
    assert caught.value.request_id == "req_1"
    assert len(wire.requests) == 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.partial.text == "Hello"


async def test_a_stream_that_fails_before_its_first_word_is_tried_again(both: Any) -> None:
    broken = [
        Pieces(),
        Pieces(event("")),
        Pieces(event(""), httpx.ReadTimeout("silence")),
        Pieces(b'data: {"object":"error","message":"boom"}\n\n'),
    ]
    wire = Wire(*broken, Pieces(event("Hi", "stop"), DONE))
    run = both(wire, max_retries=4)
    assert (await run.take(await run.stream()))[-1].text == "Hi"
    assert len(wire.requests) == 5
    assert all(body.closed for body in broken)


async def test_a_break_after_the_answer_is_no_failure(both: Any) -> None:
    for end in ([DONE, httpx.ReadError("reset")], [httpx.ReadError("reset")], []):
        run = both(Wire(Pieces(event("Hi"), event("", "stop", usage=USAGE), *end)))
        stream = await run.stream()
        assert "".join(delta.text for delta in await run.take(stream)) == "Hi"
        assert stream.usage == USAGE


async def test_a_silent_stream_ends_with_an_error(both: Any) -> None:
    run = both(Wire(Pieces(event("Hi"), httpx.ReadTimeout("silence"))), stream_chunk_timeout=9.0)
    stream = await run.stream()
    with pytest.raises(StreamStalledError, match="9 s") as caught:
        await run.take(stream)
    assert isinstance(caught.value, APITimeoutError)
    assert caught.value.partial.text == "Hi"


async def test_comments_do_not_keep_a_stream_alive(both: Any) -> None:
    alive = [piece for _ in range(50) for piece in (b": still here\n\n", 0.02)]
    body = Pieces(event("Hi"), *alive)
    run = both(Wire(body), stream_chunk_timeout=0.1)
    with pytest.raises(StreamStalledError):
        await run.take(await run.stream())
    assert body.taken < 50


async def test_what_mistral_would_refuse_is_refused_before_it_is_sent(both: Any) -> None:
    wire = Wire(ANSWER)
    with pytest.raises(InvalidRequestError) as caught:
        await both(wire).chat([*ASK, {"role": "assistant", "content": "Well"}], repair_messages=False)
    assert caught.value.origin == "client"
    with pytest.raises(ConfigurationError, match="JSON"):
        await both(wire).chat(stop=object())
    assert wire.requests == []
    await both(wire).chat([*ASK, {"role": "assistant", "content": "Well"}])
    assert wire.bodies[0]["messages"][-1]["prefix"] is True


@pytest.mark.parametrize("name", ["api_key", "mistral_api_key", "secret_key", "provider_key"])
async def test_a_key_is_never_sent_as_a_field_of_the_request(both: Any, name: str) -> None:
    wire = Wire(ANSWER)
    with pytest.raises(ConfigurationError, match=name) as caught:
        await both(wire).chat(**{name: "sk-secret"})
    assert "sk-secret" not in str(caught.value)
    assert wire.requests == []


@pytest.mark.parametrize("name", ["endpoint", "server_url", "mistral_api_key"])
async def test_a_peers_address_or_key_is_refused_with_what_to_write(both: Any, name: str) -> None:
    wire = Wire(ANSWER)
    with pytest.raises(ConfigurationError, match=f"{name} can't be") as caught:
        await both(wire).chat(**{name: "hush"})
    assert "hush" not in str(caught.value)
    assert wire.requests == []


async def test_an_empty_tool_list_is_left_out(both: Any) -> None:
    wire = Wire(ANSWER)
    await both(wire).chat(tools=[], tool_choice="any")
    assert wire.bodies == [{"model": "mistral-small-2603", "messages": ASK}]


async def test_the_key_is_missed_by_the_first_call_not_by_the_constructor(both: Any) -> None:
    with pytest.raises(ConfigurationError, match="LAVA_SECRET_KEY"):
        await both(Wire(ANSWER), api_key=None).chat()


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"stream_chunk_timeout": -1}, {"max_retries": -1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        LavaMistral(api_key=KEY, **wrong)


def test_a_client_is_pickled_copied_and_shown_without_secrets() -> None:
    client = LavaMistral(api_key=KEY, base_url=BASE, billing=Billing(provider_key="hush"), max_retries=7)
    again = pickle.loads(pickle.dumps(client))
    assert repr(again) == repr(client)
    assert KEY not in repr(client)
    assert "hush" not in repr(client)
    assert copy.deepcopy({"client": client})["client"] is client


def test_both_clients_and_transports_have_the_same_signatures() -> None:
    import inspect

    def surface(cls: type) -> dict[str, Any]:
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(cls, callable)
            if name == "__init__" or not name.startswith("_")
        }

    assert surface(LavaMistral) == surface(AsyncLavaMistral)
    sync, asynchronous = surface(LavaTransport), surface(AsyncLavaTransport)
    assert sync["__init__"] == asynchronous["__init__"]


class Served:
    """Any httpx code, through the transports."""

    @staticmethod
    async def send(wire: Wire, request: httpx.Request, asynchronous: bool, **settings: Any) -> httpx.Response:
        settings = {"api_key": KEY, "base_url": BASE, **settings}
        if asynchronous:
            async with httpx.AsyncClient(
                transport=AsyncLavaTransport(transport=httpx.MockTransport(wire), **settings)
            ) as client:
                return await client.send(request)
        with httpx.Client(transport=LavaTransport(transport=httpx.MockTransport(wire), **settings)) as sync_client:
            return sync_client.send(request)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_transport_readdresses_and_leaves_the_request_untouched(asynchronous: bool) -> None:
    wire = Wire({"ok": True})
    request = httpx.Request(
        "POST",
        "https://api.mistral.ai/v1/embeddings?x=1&y=%2F",
        json={"input": "a"},
        headers={"authorization": "Bearer mistral-key", "x-own": "kept", "cookie": "no=1"},
    )
    with billed_to("c", "m", metadata={"k": "v"}):
        response = await Served.send(wire, request, asynchronous, metadata={"app": "x"})
    [sent] = wire.requests
    assert parse_qs(urlsplit(str(sent.url)).query) == {"u": ["https://api.mistral.ai/v1/embeddings?x=1&y=%2F"]}
    assert sent.headers["authorization"] == "Bearer " + Billing(customer_id="c", meter_slug="m").forward_token(KEY)
    assert json.loads(sent.headers["x-lava-metadata"]) == {"app": "x", "k": "v"}
    assert sent.headers["x-own"] == "kept"
    assert "cookie" not in sent.headers
    assert sent.content == request.content
    assert response.request is request
    assert response.request.headers["authorization"] == "Bearer mistral-key"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "url", ["https://api.openai.com/v1/x", "http://api.mistral.ai/v1/x", "https://api.mistral.ai:444/v1", BASE]
)
async def test_the_transport_refuses_other_hosts(url: str, asynchronous: bool) -> None:
    wire = Wire({})
    with pytest.raises(ConfigurationError, match=r"api\.mistral\.ai"):
        await Served.send(wire, httpx.Request("GET", url), asynchronous)
    assert wire.requests == []


async def test_the_event_loop_is_free_while_a_call_waits() -> None:
    started = asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    client = AsyncLavaMistral(
        api_key=KEY, base_url=BASE, http_client=httpx.AsyncClient(transport=httpx.MockTransport(slow))
    )
    call = asyncio.ensure_future(client.chat(ASK))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_transport_carries_any_request_to_a_real_server(gateway: LocalGateway, asynchronous: bool) -> None:
    settings: dict[str, Any] = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
    if asynchronous:
        async with httpx.AsyncClient(transport=AsyncLavaTransport(**settings)) as client:
            listed = await client.get("https://api.mistral.ai/v1/models")
            answer = await client.post(
                "https://api.mistral.ai/v1/embeddings", json={"model": "mistral-embed", "input": "a"}
            )
    else:
        with httpx.Client(transport=LavaTransport(**settings)) as sync_client:
            listed = sync_client.get("https://api.mistral.ai/v1/models")
            answer = sync_client.post(
                "https://api.mistral.ai/v1/embeddings", json={"model": "mistral-embed", "input": "a"}
            )
    assert listed.json()["data"]
    assert len(answer.json()["data"][0]["embedding"]) == 1024
    assert [record.path for record in gateway.requests] == ["/v1/models", "/v1/embeddings"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_closing_a_transport_closes_the_one_that_was_given(asynchronous: bool) -> None:
    inner = Closing()
    if asynchronous:
        async with httpx.AsyncClient(transport=AsyncLavaTransport(api_key=KEY, transport=inner)):
            pass
    else:
        with httpx.Client(transport=LavaTransport(api_key=KEY, transport=inner)):
            pass
    assert inner.closed


class Closing(httpx.MockTransport):
    """Remembers whether it was closed."""

    closed = False

    def __init__(self) -> None:
        super().__init__(Wire({}))

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("given", [0, 1])
async def test_max_retries_holds_for_embeddings_too(asynchronous: bool, given: int) -> None:
    wire, caller = Wire((503, {})), Caller(asynchronous)
    with pytest.raises(ServerError):
        await caller.do(caller.client(wire, max_retries=given).embed(["a"]))
    assert len(wire.requests) == 1 + given


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_embeddings_are_tried_again_ten_times_by_default(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    vector = {"data": [{"object": "embedding", "index": 0, "embedding": [0.5] * 1024}], "usage": {"prompt_tokens": 1}}
    caller = Caller(asynchronous)
    client = caller.client(Wire(vector, (503, {}), vector), max_retries=None)
    with caplog.at_level(logging.INFO, "lava_mistral"):
        # The first answer shows that the address is right; until then fewer tries are made.
        for _ in range(2):
            await caller.do(client.embed(["a"]))
    assert [record.getMessage()[:13] for record in caplog.records] == ["retry 1 of 10"]


@pytest.mark.parametrize("setting", [{"max_retries": "2"}, {"timeout": "5"}, {"stream_chunk_timeout": "5"}])
def test_a_setting_of_the_wrong_type_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        LavaMistral(api_key=KEY, **setting)


@pytest.mark.parametrize("choices", [[None], ["x"], "x", [{"message": "x"}], [{"message": {"tool_calls": [1]}}]])
async def test_choices_that_make_no_sense_are_an_error(both: Any, choices: Any) -> None:
    with pytest.raises(ServerError, match="expected an answer"):
        await both(Wire({**ANSWER, "choices": choices}), max_retries=0).chat()


@pytest.mark.parametrize("usage", ["x", {}, {"prompt_tokens": "12"}, {"prompt_tokens_details": "x"}, 1, None])
async def test_usage_that_can_not_be_counted_with_is_unknown(both: Any, usage: Any) -> None:
    answer = await both(Wire({**ANSWER, "usage": usage})).chat()
    assert (answer.text, answer.usage, answer.cost) == ("Hi", None, None)


async def test_a_field_of_a_call_that_the_schema_does_not_have_is_not_sent(both: Any) -> None:
    wire = Wire(ANSWER)
    call = tool_call("abcdefgh1", caller="x")
    await both(wire).chat(
        [*ASK, {"role": "assistant", "content": "", "tool_calls": [call]}, tool_result("abcdefgh1", "r")]
    )
    assert wire.bodies[0]["messages"][1]["tool_calls"] == [tool_call("abcdefgh1")]
