"""Answers and faults on request: each one is seen by a client as what it is."""

from __future__ import annotations

import base64
import json
import socket
import time
from typing import Any

import httpx
import numpy as np
import pytest

from lava_mistral.gateway import (
    Body,
    Cut,
    Garbage,
    Interrupted,
    LocalGateway,
    Reset,
    Slow,
    Stall,
    Status,
    WrongVectors,
)
from tests.fakes.waiting import eventually

from .conftest import Forward, events

ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "mistral-small-2603",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Canned."}}],
    "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000},
}
ROLE = (
    b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    b'"finish_reason":null}]}\n\n'
)
END = (
    b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1000000,"completion_tokens":0,"total_tokens":1000000}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def read(forward: Forward, **parameters: Any) -> tuple[bytes, httpx.HTTPError | None]:
    """What a client reads of a stream, and how it ends."""
    body = {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    headers = {"authorization": f"Bearer {forward.gateway.secret_key}"}
    url = f"{forward.gateway.base_url}/forward?u=https://api.mistral.ai/v1/chat/completions"
    got = b""
    try:
        with forward.client.stream("POST", url, json={**body, **parameters}, headers=headers, timeout=0.5) as response:
            for chunk in response.iter_raw():
                got += chunk
    except httpx.HTTPError as error:
        return got, error
    return got, None


def test_a_dict_is_the_body(forward, gateway):
    gateway.queue(ANSWER)
    assert forward.chat().json() == ANSWER
    # Its usage is charged as if it were real.
    assert gateway.requests[0].cost == gateway.requests[0].charge == 1000 - gateway.wallet.merchant
    assert f"{gateway.requests[0].cost:f}".rstrip("0") == "0.15"
    assert forward.chat().json()["id"] != "x"


def test_answers_are_given_in_order_to_valid_requests(forward, gateway):
    gateway.queue(ANSWER, 500)
    gateway.queue((418, {"message": "teapot"}, {"x-tea": "green"}))
    assert gateway.queued == 3
    assert forward.chat(temperature=9).status_code == 422
    assert forward.chat(bearer="aks_live_unknown").status_code == 401
    assert gateway.queued == 3
    assert [forward.chat().status_code for _ in range(2)] == [200, 500]
    last = forward.chat()
    assert (last.status_code, last.json(), last.headers["x-tea"]) == (418, {"message": "teapot"}, "green")
    assert gateway.queued == 0


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(400, "invalid_request_invalid_args", "3051"), (429, "rate_limited", "1300"),
     (500, "internal_server_error", "3700"),
     (502, None, None), (503, "unreachable_backend", "1100"), (504, None, None), (408, None, None)],
)  # fmt: skip
def test_a_status_has_mistrals_body(forward, gateway, status, kind, code):
    gateway.queue(status)
    response = forward.chat()
    body = response.json()
    assert (response.status_code, body["raw_status_code"], body["type"], body["code"]) == (status, status, kind, code)
    assert body["object"] == "error"
    assert body["message"]
    assert gateway.requests[0].outcome == "error"


def test_401_404_and_422_have_their_own_forms(forward, gateway):
    gateway.queue(401, Status(404), Status(422))
    assert forward.chat().json() == {"detail": "Unauthorized"}
    assert forward.chat().json().keys() == forward("/v1/nothing").json().keys() == {"message", "request_id"}
    refused, really = forward.chat().json(), forward.chat(temperature="hot").json()
    assert refused["message"]["detail"][0]["loc"] == ["body"]
    assert refused["type"] == really["type"] == "invalid_request_error"


def test_retry_after_in_seconds_or_as_text(forward, gateway):
    gateway.queue(Status(429, retry_after=1.5), Status(503, retry_after=0.0), Status(503, retry_after="soon"))
    assert [forward.chat().headers["retry-after"] for _ in range(3)] == ["1.5", "0", "soon"]


def test_a_body_may_be_anything(forward, gateway):
    gateway.queue(
        Body("<html>", status=502, headers={"Content-Type": "text/html"}), (403, {"error": "No."}), (200, b"[]")
    )
    page, refused, empty = (forward.chat() for _ in range(3))
    assert (page.status_code, page.text, page.headers["content-type"]) == (502, "<html>", "text/html")
    assert (refused.status_code, refused.json()) == (403, {"error": "No."})
    assert (empty.json(), empty.headers["content-type"]) == ([], "application/json")


@pytest.mark.parametrize(
    "stream",
    [ROLE + END + DONE, (ROLE + END + DONE).decode(), [ROLE, END, DONE], [ROLE, 0.05, END[:40], 0.01, END[40:], DONE]],
)
def test_bytes_text_and_lists_are_event_streams(forward, gateway, stream):
    gateway.queue(stream)
    response = forward.chat(stream=True)
    assert response.content == ROLE + END + DONE
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert f"{gateway.requests[0].cost:f}".rstrip("0") == "0.15"


def test_pauses_are_real(forward, gateway):
    gateway.queue([ROLE, 0.2, END, DONE])
    begun = time.monotonic()
    assert forward.chat(stream=True).status_code == 200
    assert 0.2 <= time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([ROLE, Cut(clean=True)], None),
        ([ROLE, Cut()], httpx.RemoteProtocolError),
        ([ROLE, 0.05, Cut(reset=True)], httpx.ReadError),
        ([ROLE, Stall()], httpx.ReadTimeout),
        ([ROLE, 60], httpx.ReadTimeout),
    ],
)
def test_a_given_stream_can_be_cut(forward, gateway, steps, error):
    gateway.queue(steps)
    got, ended = read(forward)
    assert got == ROLE
    assert type(ended) is type(None) if error is None else isinstance(ended, error)
    assert forward.chat().status_code == 200


@pytest.mark.parametrize(
    ("how", "error", "end"),
    [
        ("clean", None, None),
        ("closed", httpx.RemoteProtocolError, None),
        ("reset", httpx.ReadError, None),
        ("stalled", httpx.ReadTimeout, None),
        ("no done", None, "stop"),
        ("error event", None, "error event"),
        ("finish error", None, "error"),
    ],
)
def test_the_usual_stream_can_be_interrupted(forward, gateway, how, error, end):
    gateway.queue(Interrupted(after=2, how=how))
    got, ended = read(forward)
    assert type(ended) is type(None) if error is None else isinstance(ended, error)
    seen = events(got.decode())
    if end in ("stop", "error"):
        last = seen[-2] if seen[-1] == "[DONE]" else seen[-1]
        assert last["choices"][0]["finish_reason"] == end
        assert last["usage"]
        assert gateway.requests[0].cost > 0
        return
    if end == "error event":
        *seen, wrong, done = seen
        assert (wrong["object"], wrong["code"], done) == ("error", "1100", "[DONE]")
    assert len(seen) == 2
    assert all(event["choices"][0]["finish_reason"] is None for event in seen)
    eventually(lambda: gateway.requests[0].outcome != "pending")
    assert gateway.requests[0].cost == 0


@pytest.mark.parametrize("how", ["closed", "reset", "stalled"])
def test_a_whole_answer_can_be_interrupted_too(forward, gateway, how):
    gateway.queue(Interrupted(how=how), Interrupted(how=how))
    for send in (lambda: read(forward, stream=False), lambda: (b"", _failure(forward.embed, "a"))):
        forward.client.timeout = 0.5
        _, ended = send()
        assert isinstance(ended, httpx.ReadTimeout if how == "stalled" else httpx.ReadError | httpx.RemoteProtocolError)
    assert [record.cost for record in gateway.requests] == [0, 0]


def _failure(send: Any, *args: Any) -> httpx.HTTPError | None:
    try:
        send(*args)
    except httpx.HTTPError as error:
        return error
    return None


def test_finish_reason_error_without_a_stream(forward, gateway):
    gateway.queue(Interrupted(how="finish error"))
    assert forward.chat().json()["choices"][0]["finish_reason"] == "error"


@pytest.mark.parametrize("fault", [Reset(), Slow(0.01, then=Reset())])
def test_a_connection_can_be_reset_before_the_answer(forward, gateway, fault):
    gateway.queue(fault)
    error = _failure(forward.chat)
    assert isinstance(error, httpx.ReadError)
    assert gateway.requests[0].status is None
    assert forward.chat().status_code == 200


def test_a_first_byte_can_be_slow(forward, gateway):
    gateway.queue(Slow(0.2), Slow(0.1, then=Slow(0.1, then=503)), Slow(0.2, then=ANSWER))
    for status in (200, 503, 200):
        begun = time.monotonic()
        assert forward.chat().status_code == status
        assert time.monotonic() - begun >= 0.2
    gateway.queue(Slow(60))
    assert isinstance(read(forward)[1], httpx.ReadTimeout)


def test_garbage(forward, gateway):
    gateway.queue(Garbage(), Garbage(after=1))
    with pytest.raises(json.JSONDecodeError):
        forward.chat().json()
    got, ended = read(forward)
    assert ended is None
    assert got.split(b"\n\n")[1] == b"data: {garbage"
    assert got.endswith(DONE)


def embedded(forward: Forward, **parameters: Any) -> list[dict[str, Any]]:
    texts = ["one", "two", "three", "four"]
    return list(forward.embed(texts, **parameters).json()["data"])


@pytest.mark.parametrize("form", ["float", "base64"])
def test_vectors_can_be_wrong(forward, gateway, form):
    right = embedded(forward, encoding_format=form)

    def wrong(how: Any) -> list[dict[str, Any]]:
        gateway.queue(WrongVectors(how))
        return embedded(forward, encoding_format=form)

    assert wrong("short") == right[:3]
    assert wrong("empty") == []
    shuffled = wrong("shuffled")
    assert shuffled != right
    assert sorted(shuffled, key=lambda one: one["index"]) == right
    assert [one["index"] for one in wrong("duplicated")] == [0, 1, 2, 0]
    assert len(wrong("dimension")[3]["embedding"]) == len(right[3]["embedding"]) // 2
    last = wrong("nan")[3]["embedding"]
    assert np.isnan(np.frombuffer(base64.b64decode(last), "<f4")).all() if form == "base64" else last[0] is None
    gateway.queue(WrongVectors("duplicated"))
    assert len(forward.embed("one").json()["data"]) == 2


def test_faults_can_come_at_random_or_by_rule(connect):
    with LocalGateway(faults=[(0.3, 503)], seed=1) as gateway:
        forward = connect(gateway)
        statuses = [forward.chat().status_code for _ in range(60)]
        assert 6 <= statuses.count(503) <= 30
        assert statuses.count(200) == 60 - statuses.count(503)
    with LocalGateway(faults=[(lambda record: record.kind == "embeddings", 500), (1.0, 429)]) as gateway:
        forward = connect(gateway)
        assert (forward.embed("a").status_code, forward.chat().status_code) == (500, 429)
        gateway.queue(ANSWER)
        assert forward.chat().status_code == 200


@pytest.mark.parametrize("status", [408, 429, 503])
def test_an_error_of_the_provider_leaves_the_connection_open(connect, status):
    with LocalGateway() as gateway:
        forward = connect(gateway)
        for _ in range(20):
            gateway.queue(status)
            assert forward.chat().status_code == status
            assert forward.chat().status_code == 200
        assert gateway.connections == 1


@pytest.mark.parametrize("response", [ConnectionError, ConnectionError("lost"), Reset])
def test_an_exception_is_refused_and_the_fault_for_it_named(gateway, response):
    with pytest.raises(ValueError, match=r"or Reset\(\) for a lost connection, not .*(ConnectionError|Reset)"):
        gateway.queue(response)


@pytest.mark.parametrize("response", [None, 1.5, True, object(), [None], [ROLE, True], ("a", "b", "c", None), int])
def test_what_can_not_be_an_answer_is_refused_at_once(gateway, response):
    with pytest.raises(ValueError, match=r"queued response|a step is|can't be written"):
        gateway.queue(response)
    assert gateway.queued == 0


def test_the_connection_serves_on_after_a_clean_answer(gateway):
    """Two requests on one socket: an error does not close it."""
    body = b'{"model":"nope","messages":[{"role":"user","content":"x"}]}'
    request = (
        b"POST /v1/forward?u=https://api.mistral.ai/v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"authorization: Bearer " + gateway.secret_key.encode() + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as wire:
        for _ in range(2):
            wire.sendall(request)
            got = b""
            while not got.endswith(b"}"):
                got += wire.recv(65536)
            assert got.startswith(b"HTTP/1.1 400")
    assert gateway.connections == 1


def test_a_list_of_two_is_a_pause_and_what_comes_then(forward, gateway):
    gateway.queue([0.25, ROLE + END + DONE])
    begun = time.monotonic()
    response = forward.chat(stream=True)
    assert (response.status_code, response.content) == (200, ROLE + END + DONE)
    assert time.monotonic() - begun >= 0.25


PAGE = "<html><body>Bad gateway</body></html>"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (json.dumps(ANSWER), "application/json"),
        (json.dumps(ANSWER, indent=2).encode(), "application/json"),
        ([b'{"id": ', 0.01, b"1}"], "application/json"),
        ((502, PAGE), "text/html; charset=utf-8"),
        (Status(502, body=PAGE), "text/html; charset=utf-8"),
        ((503, "upstream connect error"), "text/plain; charset=utf-8"),
        ((200, b"\n\n: hello\n\n"), "text/event-stream; charset=utf-8"),
        (Body(7), "application/json"),
        (Body("a,b", headers={"Content-Type": "text/csv"}), "text/csv"),
    ],
)
def test_the_content_type_is_what_a_body_looks_like(forward, gateway, given, kind):
    gateway.queue(given)
    assert forward.chat().headers["content-type"] == kind


def test_a_stream_that_is_none_still_calls_itself_one(forward, gateway):
    gateway.queue("garbage")
    response = forward.chat(stream=True)
    assert (response.text, response.headers["content-type"]) == ("garbage", "text/event-stream; charset=utf-8")


@pytest.mark.parametrize(
    "given",
    [
        json.dumps(ANSWER),
        json.dumps(ANSWER, indent=2).encode(),
        [json.dumps(ANSWER)[:300], 0.01, json.dumps(ANSWER)[300:]],
    ],
)
def test_json_is_charged_in_whatever_form_it_is_given(forward, gateway, given):
    gateway.queue(given)
    assert forward.chat().json() == ANSWER
    assert f"{gateway.requests[0].cost:f}".rstrip("0") == "0.15"


@pytest.mark.parametrize("then", [60, Cut(), Stall()])
def test_a_stream_whose_usage_has_come_is_charged_whatever_comes_then(forward, gateway, then):
    gateway.queue([ROLE, END[:40], END[40:], then, DONE])
    assert read(forward)[0] == ROLE + END
    eventually(lambda: gateway.requests[0].completed_at)
    assert f"{gateway.requests[0].cost:f}".rstrip("0") == "0.15"


def test_what_did_not_arrive_is_not_charged(forward, gateway):
    gateway.queue([ROLE, Cut(clean=True), END, DONE], (500, ANSWER), (500, json.dumps(ANSWER)))
    assert forward.chat(stream=True).content == ROLE
    assert [forward.chat().status_code for _ in range(2)] == [500, 500]
    assert [request.cost for request in gateway.requests] == [0, 0, 0]


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": "10"}, {"prompt_tokens": 10.0}, {"total_tokens": True}, {"prompt_tokens": -1},
     {"prompt_tokens": 10, "prompt_tokens_details": 3}, {"prompt_tokens_details": {"cached_tokens": "1"}}],
)  # fmt: skip
def test_usage_that_nobody_can_count_is_passed_on_and_free(forward, gateway, usage):
    gateway.queue({**ANSWER, "usage": usage})
    assert forward.chat().json()["usage"] == usage
    assert (gateway.requests[0].cost, gateway.requests[0].outcome) == (0, "completed")
    # The reports are not spoilt by it.
    assert forward.rest("/usage", start="2020-01-01").json()["totals"]["total_usage_tokens"] == 0
    assert forward.rest("/requests").json()["data"][0]["cost"] == "0"


@pytest.mark.parametrize("given", [204, 304, (204, b"none"), Body([b"a"], status=204)])
def test_an_answer_that_has_no_body_has_none(forward, gateway, given):
    gateway.queue(given)
    response = forward.chat()
    assert (response.status_code, response.content) == (204 if given != 304 else 304, b"")
    assert "content-type" not in response.headers
    assert response.headers.get("content-length", "0") == "0"
    assert forward.chat().status_code == 200
    assert gateway.connections == 1


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/mistral-small-2603"])
def test_models_are_the_provider_too(forward, gateway, path):
    gateway.queue(503, {"data": []}, Slow(0.2), Reset(), Interrupted(how="closed"))
    assert forward(path).status_code == 503
    assert forward(path).json() == {"data": []}
    begun = time.monotonic()
    assert "mistral-small-2603" in forward(path).text
    assert time.monotonic() - begun >= 0.2
    for error in (httpx.ReadError, httpx.RemoteProtocolError):
        with pytest.raises(error):
            forward(path)
    assert gateway.queued == 0
    # What Mistral itself refuses takes nothing from the queue.
    gateway.queue(503)
    assert forward("/v1/models/unknown-1").status_code == 404
    assert gateway.queued == 1


def test_models_know_rate_limits_and_rules(connect):
    with LocalGateway(requests_per_second=1, faults=[(lambda record: record.kind == "models", 500)]) as gateway:
        forward = connect(gateway)
        assert [forward("/v1/models").status_code for _ in range(2)] == [500, 429]


@pytest.mark.parametrize(
    "headers", [{"content-length": "3"}, {"x": "a\r\nb: c"}, {"": "x"}, {"a b": "x"}, {"Transfer-Encoding": "chunked"}]
)
def test_headers_that_would_break_the_answer_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(headers)) or "header"):
        Status(429, headers=headers)


def test_texts_that_can_not_be_sent_are_refused(gateway: LocalGateway) -> None:
    with pytest.raises(ValueError, match="no header"):
        Status(429, retry_after="日本")
    with pytest.raises(ValueError, match="surrogates"):
        gateway.queue(["\ud800"])
    assert gateway.queued == 0
