"""Errors: each answer, event and exception has its class, its author, its advice, and shows no secret."""

from __future__ import annotations

import asyncio
import base64
import copy
import inspect
import json
import pickle
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lava_mistral.errors as module
from lava_mistral import AsyncLavaMistral, Billing, LavaMistral
from lava_mistral.billing.credentials import BillingContext
from lava_mistral.calls.call import Call
from lava_mistral.calls.error_mapping import error_from_event, error_from_failure, error_from_response, redact
from lava_mistral.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.errors import (
    AnswerText,
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ContextOverflowError,
    InsufficientBalanceError,
    InvalidRequestError,
    LavaError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
)
from lava_mistral.gateway import LocalGateway
from lava_mistral.mistral.turn import Turn
from lava_mistral.transport.failures import (
    ConnectionBroken,
    ConnectTimeout,
    DeadlineExceeded,
    NotConnected,
    TransportError,
)

WRONG_TOKEN = base64.b64encode(b'{"secret_key":"aks_test_wrong"}').decode()
SECRETS = [
    "aks_live_0123456789abcdef",
    "aks_test_0123456789abcdef",
    "lava_sk_0123456789",
    "eyJzZWNyZXRfa2V5IjoiYWtzX2xpdmVfMDEyMyJ9",
    "Bearer b3BhcXVlLXRva2VuLW9mLXNvbWUtbGVuZ3Ro",
]
KEY = "aks_live_0"
TOKEN = Billing("c_1", "m").forward_token(KEY)
CLASSES = [each for _, each in inspect.getmembers(module, inspect.isclass) if issubclass(each, LavaError)]


def answer(status: int, body: Any, **headers: str) -> LavaError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_from_response(shown(status, content, fields), KEY)


PAGE = "a page of HTML came instead of an answer of Lava's"


def shown(status: int, content: bytes, headers: Any = {}) -> AnswerText:  # noqa: B006 - it is not changed
    return AnswerText(status, headers, content.decode("utf-8", "replace"), "POST", "https://api.mistral.ai/v1/models")


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (521, ServerError, True),
        (524, ServerError, True),
        (525, ServerError, False),
        (529, ServerError, False),
        (301, ServerError, False),
        (400, InvalidRequestError, False),
        (401, AuthenticationError, False),
        (402, InsufficientBalanceError, False),
        (403, PermissionDeniedError, False),
        (404, NotFoundError, False),
        (408, APITimeoutError, True),
        (413, InvalidRequestError, False),
        (422, InvalidRequestError, False),
        (429, RateLimitError, True),
        (500, ServerError, True),
        (501, ServerError, False),
        (502, ServerError, True),
        (503, ServerError, True),
        (504, ServerError, True),
    ],
)
@pytest.mark.parametrize("author", ["lava", "mistral"])
def test_a_status_has_its_class_and_says_whether_to_try_again(
    status: int, kind: type[LavaError], retryable: bool, author: str
) -> None:
    body = {"error": "no"} if author == "lava" else {"object": "error", "message": "no", "type": None, "code": None}
    error = answer(status, body, x_lava_request_id="req_1")
    assert type(error) is kind
    assert error.retryable is retryable
    assert (error.status_code, error.origin, error.message, error.request_id) == (status, author, "no", "req_1")
    assert error.body == body
    assert str(error).startswith(f"{author.title()}: no (HTTP {status}, request req_1).")
    assert ("Trying again can help." in str(error)) is retryable


@pytest.mark.parametrize(
    ("body", "message", "code", "type", "origin"),
    [
        ({"error": "Insufficient balance"}, "Insufficient balance", None, None, "lava"),
        ({"error": {"message": "Unknown meter"}}, "Unknown meter", None, None, "lava"),
        (
            {"error": {"object": "error", "message": "Invalid model: x", "code": "1500"}},
            "Invalid model: x",
            "1500",
            None,
            "mistral",
        ),
        (
            {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": 1300},
            "Rate limit exceeded",
            "1300",
            "rate_limited",
            "mistral",
        ),
        ({"detail": "Unauthorized"}, "Unauthorized", None, None, "mistral"),
        ({"message": None, "detail": "Unauthorized"}, "Unauthorized", None, None, "mistral"),
        ({"message": "Unauthorized", "request_id": "abc"}, "Unauthorized", None, None, "mistral"),
        (
            {
                "object": "error",
                "message": {
                    "detail": [
                        {"loc": ["body", "messages", 0, "role"], "msg": "Field required", "type": "missing"},
                        {"loc": ["body"], "msg": "Extra inputs", "type": "extra_forbidden"},
                        {"loc": ["body", "n"], "type": "int_type"},
                        {"msg": "odd", "loc": None},
                        "bare",
                    ]
                },
                "type": "invalid_request_error",
            },
            "messages.0.role: Field required; Extra inputs; n: int_type; odd; bare",
            None,
            "invalid_request_error",
            "mistral",
        ),
        ({"object": "error", "message": {"why": "x"}}, '{"why":"x"}', None, None, "mistral"),
        (b"<html>Bad gateway</html>\n", f"{PAGE}: <html>Bad gateway</html>", None, None, "lava"),
        (
            b"\n<!DOCTYPE html><html><head>\n<title>api.lava.so | 520:\n an error</title></head><body>" + b"x" * 5000,
            f"{PAGE}: api.lava.so | 520: an error",
            None,
            None,
            "lava",
        ),
        (b"", "an answer with status 400 and no explanation", None, None, "lava"),
        ([], "an answer with status 400 and no explanation", None, None, "lava"),
        ({"error": {}}, "an answer with status 400 and no explanation", None, None, "lava"),
        (b"x" * 900, "x" * 500 + "…", None, None, "lava"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_form_of_an_error_body_is_read(
    body: Any, message: str, code: str | None, type: str | None, origin: str
) -> None:
    error = answer(400, body)
    assert (error.message, error.code, error.type, error.origin) == (message, code, type, origin)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (
            "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
            "3051",
        ),
        ("Prompt 40000 > 32768 maximum context length", "3059"),
        ("Prompt 40000 > 32768 maximum context length", "5059"),
    ],
)
def test_a_prompt_that_is_too_long_is_a_context_overflow(message: str, code: str) -> None:
    error = answer(400, {"object": "error", "message": message, "code": code})
    assert type(error) is ContextOverflowError
    assert "larger window" in error.advice


def test_other_refusals_under_the_same_code_are_no_context_overflow() -> None:
    body = {"object": "error", "message": "Image input is not enabled for this model", "code": "3051"}
    assert type(answer(400, body)) is InvalidRequestError


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (400, {"message": "Invalid model: x", "code": "1500"}, "`lava-mistral models` lists the models"),
        (400, {"message": "Unexpected role", "code": "3230"}, "repair_messages=True, where it is not set yet, mends"),
        (401, {"error": "bad key"}, "set LAVA_SECRET_KEY or api_key="),
        (401, {"detail": "Unauthorized"}, "check Billing(provider_key=…)"),
        (402, {"error": "empty"}, "top up at https://www.lava.so/"),
        (402, {"message": "empty"}, "The Mistral account of the provider key"),
        (401, {"error": "Invalid credential"}, "Spend keys (lava_sk_…) are not for the forward proxy"),
        (403, {"error": "no"}, "the meter is on the customer's plan"),
        (403, {"error": {"message": "no", "code": "forbidden", "status": 403}}, "the meter is on the customer's plan"),
        (403, {"object": "error", "message": "Blocked", "type": "guardrail"}, "It is Mistral that refuses"),
        (404, {"error": "Not Found"}, "base_url or LAVA_BASE_URL: it ends in /v1"),
    ],
)
def test_an_error_says_what_to_do(status: int, body: Any, advice: str) -> None:
    assert advice in str(answer(status, body))


def test_402_and_403_say_whose_wallet_it_is_and_are_one_class() -> None:
    for status in (402, 403):
        error = error_from_response(shown(status, b'{"error": "no"}'), TOKEN)
        assert isinstance(error, BillingError)
        assert "customer 'c_1' on meter 'm'" in str(error)
        assert "would have been charged" in str(error).lower()


@pytest.mark.parametrize("status", [402, 403])
def test_whoever_pays_is_named_where_nothing_more_is_known(status: int) -> None:
    assert "the merchant's wallet" in answer(status, {"error": "no"}).advice


def test_403_says_that_nothing_was_charged_and_what_to_check() -> None:
    said = str(error_from_response(shown(403, b'{"error": "no"}'), TOKEN))
    assert "Nothing was charged; it would have been charged to the plan of customer 'c_1' on meter 'm'." in said
    assert "Check the customer id" in said


@pytest.mark.parametrize(
    ("name", "advised", "not_advised"),
    [
        ("mistral-embed", DEFAULT_CHAT_MODEL, "embeddings request"),
        (DEFAULT_CHAT_MODEL, "mistral-embed", "a chat needs"),
    ],
)
def test_a_model_for_something_else_is_told_from_one_that_fits(name: str, advised: str, not_advised: str) -> None:
    said = str(answer(400, {"message": f"Invalid model: {name}", "code": "1500"}))
    assert f"needs a model such as '{advised}'" in said
    assert not_advised not in said


@pytest.mark.parametrize(
    ("key", "said"), [("a-key-of-mistrals", True), ("aks_test_wrong", False), (WRONG_TOKEN, False)]
)
def test_a_key_that_is_none_of_lavas_is_told_so(key: str, said: bool, gateway: LocalGateway) -> None:
    with pytest.raises(AuthenticationError) as caught:
        LavaMistral(api_key=key, base_url=gateway.base_url).chat([{"role": "user", "content": "Hi"}])
    assert ("This does not look like a Lava key; a Mistral key of your own goes into" in str(caught.value)) is said
    assert key not in str(caught.value)


def test_a_refused_connection_to_this_machine_asks_for_the_gateway() -> None:
    refused = LavaMistral(api_key="aks_test_x", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(APIConnectionError, match="is `lava-mistral gateway` running"):
        refused.chat([{"role": "user", "content": "Hi"}])
    elsewhere = error_from_failure(NotConnected("refused"), "refused", host="api.lava.so")
    assert "gateway" not in elsewhere.advice
    assert "`lava-mistral doctor` tests them" in elsewhere.advice


@pytest.mark.parametrize("asynchronous", [False, True])
def test_https_to_a_server_of_http_is_told_so(asynchronous: bool, gateway: LocalGateway) -> None:
    where = {"api_key": "aks_test_x", "base_url": gateway.base_url.replace("http:", "https:"), "max_retries": 0}
    with pytest.raises(APIConnectionError, match="what answers there speaks http://"):
        if asynchronous:
            asyncio.run(AsyncLavaMistral(**where).chat([{"role": "user", "content": "Hi"}]))
        else:
            LavaMistral(**where).chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("reachable", [True, False])
@pytest.mark.parametrize("billing", [None, Billing(customer_id="c_1", meter_slug="chat")])
def test_the_local_gateways_key_elsewhere_asks_for_its_address(
    reachable: bool, billing: Billing | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAVA_BASE_URL", raising=False)

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "sandbox-api.lava.so"
        if reachable:
            return httpx.Response(401, json={"error": {"message": "Invalid key"}})
        raise httpx.ConnectError("refused", request=request)

    with httpx.Client(transport=httpx.MockTransport(answer)) as http_client:
        for key, said in ((LocalGateway().secret_key, True), ("aks_test_x", False)):
            lava = LavaMistral(api_key=key, billing=billing, http_client=http_client, max_retries=0)
            with pytest.raises((APIConnectionError, AuthenticationError)) as caught:
                lava.chat([{"role": "user", "content": "Hi"}])
            assert ("export LAVA_BASE_URL=http://127.0.0.1:8788/v1" in caught.value.advice) is said


def test_a_redirect_is_told_with_where_it_leads() -> None:
    error = error_from_response(shown(308, b"", {"location": "https://www.lava.so/v1"}), TOKEN)
    assert "a redirect to https://www.lava.so/v1 came" in str(error)
    assert "base_url" in error.advice
    assert not error.retryable


def test_a_page_of_a_firewall_is_not_mistaken_for_lavas_answer() -> None:
    error = error_from_response(shown(403, b"<html><h1>Blocked by policy</h1></html>"), TOKEN)
    assert (type(error), error.origin) == (PermissionDeniedError, "client")
    assert "firewall" in error.advice
    assert "c_1" not in str(error)


def test_lavas_own_errors_have_a_code_and_a_status() -> None:
    body = {"error": {"message": "Insufficient balance", "code": "insufficient_balance", "status": 402}}
    error = answer(402, body)
    assert (type(error), error.code, error.origin) == (InsufficientBalanceError, "insufficient_balance", "lava")
    late = error_from_event(json.dumps(body), request_id=None, partial=None)
    assert (late.status_code, late.retryable) == (402, False)


def test_retry_after_is_kept_and_said() -> None:
    error = answer(429, {"error": "slow down"}, retry_after="7")
    assert error.retry_after == 7.0
    assert str(error) == "Lava: slow down (HTTP 429). Retry after 7 s."


def test_a_message_reads_as_sentences() -> None:
    assert str(InvalidRequestError("It is wrong", advice="Do it right.")) == "lava-mistral: It is wrong. Do it right."
    assert str(InvalidRequestError("It is wrong.", advice="Do it right.")) == "lava-mistral: It is wrong. Do it right."
    assert str(ServerError("Down.", origin="mistral", code="1100", retryable=False)) == (
        "Mistral: Down (code 1100). Trying again will not help."
    )
    assert str(LavaError("Why?")) == "lava-mistral: Why?"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "object", "message", "detail", "type", "code", "loc", "msg", "raw_status_code", "param"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.integers(300, 599), JSON | st.binary())
def test_any_body_makes_an_error_that_prints_and_pickles(status: int, body: Any) -> None:
    error = answer(status, body)
    assert error.message
    assert f"HTTP {status}" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    if not isinstance(body, bytes):
        event = error_from_event(json.dumps(body), request_id=None, partial=None)
        assert isinstance(event, StreamInterruptedError)
        assert str(event)


def test_a_body_that_is_nested_without_end_can_be_printed_and_pickled() -> None:
    error = answer(400, b'{"error":{"message":' + b"[" * 900 + b"]" * 900 + b"}}")
    assert pickle.loads(pickle.dumps(error)).body == error.body
    assert error.message.startswith('{"error":{"message":[[[')


@pytest.mark.parametrize(
    ("body", "message", "retryable", "origin"),
    [
        ({"object": "error", "message": "busy", "raw_status_code": 429}, "busy", True, "mistral"),
        ({"object": "error", "message": "busy", "raw_status_code": 503, "code": 1100}, "busy", True, "mistral"),
        ({"object": "error", "message": "wrong", "raw_status_code": 400}, "wrong", False, "mistral"),
        ({"error": {"message": "gone"}}, "gone", True, "lava"),
        ({}, "no explanation was given", True, "mistral"),
    ],
)
def test_an_error_event_keeps_what_had_come(body: Any, message: str, retryable: bool, origin: str) -> None:
    turn = Turn(pieces=["Once"])
    error = error_from_event(json.dumps(body), request_id="req_1", partial=turn)
    assert type(error) is StreamInterruptedError
    assert error.message == f"the stream ended with an error: {message}"
    assert (error.partial, error.request_id, error.retryable, error.origin) == (turn, "req_1", retryable, origin)


@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (ConnectTimeout("slow"), APITimeoutError, "no connection to Lava in time (slow)"),
        (DeadlineExceeded("slow"), APITimeoutError, "no answer within 5 s (slow)"),
        (DeadlineExceeded(), APITimeoutError, "no answer within 5 s (DeadlineExceeded)"),
        (NotConnected("refused"), APIConnectionError, "the connection to Lava failed: refused"),
        (ConnectionBroken(""), APIConnectionError, "the connection to Lava failed: ConnectionBroken"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_failure_of_a_transport_has_its_class(failure: TransportError, kind: type[LavaError], said: str) -> None:
    error = error_from_failure(failure, str(failure), timeout=5)
    assert type(error) is kind
    assert error.message == said
    assert error.retryable


def test_a_timeout_without_a_limit_is_said_so() -> None:
    assert error_from_failure(DeadlineExceeded(""), "late").message == "no answer in time (late)"


@pytest.mark.parametrize("secret", SECRETS)
def test_defect_21_no_error_shows_or_keeps_a_credential(secret: str) -> None:
    said = f"the key {secret} is not accepted"
    errors = [
        answer(401, {"error": said}),
        answer(401, {"error": {"message": said, "header": {"authorization": [secret]}}}),
        answer(401, {"error": {"message": "no", "type": secret, "code": secret}}),
        answer(401, {"error": {"message": "no", "headers": {secret: "no key"}}}),
        answer(422, {"object": "error", "message": {"detail": [{"loc": ["header", secret], "msg": said}]}}),
        answer(502, said.encode()),
        error_from_event(json.dumps({"error": {"message": said}}), request_id=None, partial=None),
        Call("", BillingContext(), None).failed(NotConnected(said)),
    ]
    hidden = secret.removeprefix("Bearer ")
    for error in errors:
        for shown in (str(error), repr(error), repr(error.fields()), repr(pickle.loads(pickle.dumps(error)).fields())):
            assert hidden not in shown
        assert hidden.encode() not in pickle.dumps(error)


@pytest.mark.parametrize("text", ["Missing bearer token", "eyJ is a prefix", "an aks_live_ key was expected", ""])
def test_words_about_credentials_are_not_hidden(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_and_copying(kind: type[LavaError]) -> None:
    request = httpx.Request("POST", "https://api.mistral.ai/v1/chat/completions")
    error = kind(
        "It failed",
        advice="Do this.",
        status_code=429,
        code="1300",
        type="rate_limited",
        request_id="req_1",
        retryable=True,
        retry_after=3.0,
        origin="mistral",
        body={"message": "x"},
        answer=httpx.Response(429, request=request),
        partial=Turn(pieces=["Once"]),
    )
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert (str(twin), twin.fields()) == (str(error), error.fields())
        assert twin.response is None


def test_the_tree_in_the_docstring_names_every_class() -> None:
    assert module.__doc__ is not None
    for kind in CLASSES:
        assert kind.__name__ in module.__doc__


def test_a_configuration_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="wrong"):
        raise ConfigurationError("wrong")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mistral-smal-2603", "Did you mean 'mistral-small-2603'?"),
        # Lava bills some models by the name of the newest release alone.
        ("mistral-large-2512", "Did you mean 'mistral-large-latest'?"),
        # An old name of a chat model is most like that of an embedding model.
        ("open-mistral-7b", "Did you mean 'pixtral-12b'?"),
        ("mistral-embd", "Did you mean 'mistral-embed'?"),
        ("pixtral-large-2411", "pixtral-large-2411 is retired since 2026-05-31: use mistral-medium-2604."),
        ("mistral-embed", "'mistral-embed' embeds texts and answers no chats"),
        ("mistral-small-2603", "answers chats; an embeddings request needs a model such as 'mistral-embed'"),
        ("gpt-9", "`lava-mistral models` lists"),
    ],
)
def test_an_unknown_model_is_told_the_nearest(name: str, says: str) -> None:
    error = answer(400, {"object": "error", "message": f"Invalid model: {name}", "code": "1500"})
    assert says in str(error)
