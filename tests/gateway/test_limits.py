"""Rate limits and latency."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from lava_mistral.gateway import LocalGateway, Options, Stall
from lava_mistral.gateway.mistral.provider import RateLimit
from tests.fakes.waiting import eventually
from tests.fakes.wire import event


class Clock:
    """Moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(limit: RateLimit) -> list[int]:
    """How many requests and tokens the headers say are left."""
    headers = limit.headers(1)
    return [int(headers[f"x-ratelimit-remaining-{kind}"]) for kind in ("req-10-second", "tokens-minute")]


def test_requests_are_limited_until_the_time_told():
    clock = Clock()
    limit = RateLimit(Options(requests_per_second=4), clock)
    left = []
    for _ in range(4):
        assert limit.take(10) == 0
        left.append(told(limit)[0])
    assert left == [3, 2, 1, 0]
    assert limit.take(10) == pytest.approx(0.25)
    clock.now += 0.25
    assert limit.take(10) == 0
    assert limit.take(10) > 0


def test_tokens_are_limited_until_the_time_told():
    clock = Clock()
    # A second's worth is 100 tokens.
    limit = RateLimit(Options(tokens_per_minute=6_000), clock)
    assert limit.take(60) == 0
    assert limit.take(60) == pytest.approx(0.2)
    assert told(limit)[1] == 40
    clock.now += 1
    # One that is larger than all that can be saved up is let through when nothing is used.
    assert limit.take(150) == 0
    assert limit.take(1) > 0


def test_no_limit_refuses_nothing():
    limit = RateLimit(Options())
    assert all(limit.take(10**9) == 0 for _ in range(1_000))


def test_too_many_requests_are_refused(connect):
    # So few that no machine is too slow for the second one to be too many.
    with LocalGateway(requests_per_second=0.02) as gateway:
        forward = connect(gateway)
        assert forward.chat().status_code == 200
        refused = forward.chat()
        assert refused.status_code == 429
        body = refused.json()
        assert (body["type"], body["code"], body["message"]) == ("rate_limited", "1300", "Rate limit exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 50
        assert refused.headers["x-ratelimit-limit-req-10-second"] == "1"
        assert refused.headers["x-ratelimit-remaining-req-10-second"] == "0"
        assert gateway.requests[-1].cost == 0


def test_too_many_tokens_are_refused(connect):
    with LocalGateway(tokens_per_minute=60) as gateway:
        forward = connect(gateway)
        assert forward.embed("word " * 600).status_code == 200
        refused = forward.embed("word")
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-limit-tokens-minute"] == "60"
        assert refused.headers["x-ratelimit-remaining-tokens-minute"] == "0"


def test_a_burst_may_be_larger(connect):
    with LocalGateway(requests_per_second=4, burst=5) as gateway:
        forward = connect(gateway)
        assert [forward.chat().status_code for _ in range(20)] == [200] * 20


def test_latency_grows_with_tokens(connect):
    with LocalGateway(latency=0.05, latency_per_token=0.001) as gateway:
        forward = connect(gateway)
        assert 0.15 <= forward.embed("word " * 100).elapsed.total_seconds() < 5
        assert forward.chat("word " * 200).elapsed.total_seconds() >= 0.25


def test_requests_in_flight_are_counted(forward, gateway):
    gateway.queue(*[[event("Hello"), Stall()]] * 6)
    url = f"{gateway.base_url}/forward?u=https://api.mistral.ai/v1/chat/completions"
    body = {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    headers = {"authorization": f"Bearer {gateway.secret_key}"}
    with ExitStack() as stack:
        for number in range(6):
            stack.enter_context(forward.client.stream("POST", url, json=body, headers=headers))
            assert gateway.in_flight == number + 1
    eventually(lambda: not gateway.in_flight)
    assert gateway.max_in_flight == 6
    assert gateway.max_connections == gateway.connections == 6
    # Whoever has read an answer finds its request ended.
    forward.chat()
    assert gateway.in_flight == 0
    assert gateway.max_in_flight == 6
    gateway.reset()
    assert gateway.max_in_flight == 0
    forward.chat()
    assert gateway.max_in_flight == 1
