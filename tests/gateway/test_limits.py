"""Rate limits and latency."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.mistral.limits import Bucket, RateLimit


def test_a_bucket_fills_steadily():
    bucket = Bucket(rate=10, capacity=5)
    bucket.level = 0
    assert bucket.wait(2) == pytest.approx(0.2, abs=0.01)
    # More than fits goes when it is full.
    assert bucket.wait(100) == pytest.approx(0.5, abs=0.01)
    time.sleep(0.1)
    bucket.wait(0)
    assert 1 <= bucket.level <= 5


def test_no_limit_refuses_nothing():
    limit = RateLimit(None, None, 1.0)
    assert all(limit.take(10**9) == 0 for _ in range(1_000))


def test_too_many_requests_are_refused_until_the_time_told(connect):
    with LocalGateway(requests_per_second=4) as gateway:
        forward = connect(gateway)
        answers = [forward.chat() for _ in range(6)]
        assert [answer.status_code for answer in answers[:4]] == [200] * 4
        refused = answers[5]
        assert refused.status_code == 429
        body = refused.json()
        assert (body["type"], body["code"], body["message"]) == ("rate_limited", "1300", "Rate limit exceeded")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-ratelimit-limit-req-10-second"] == "40"
        assert refused.headers["x-ratelimit-remaining-req-10-second"] == "0"
        remaining = [int(answer.headers["x-ratelimit-remaining-req-10-second"]) for answer in answers[:4]]
        assert remaining == sorted(remaining, reverse=True)
        assert gateway.requests[-1].cost == 0
        time.sleep(1)
        assert forward.chat().status_code == 200


def test_tokens_are_limited_too(connect):
    with LocalGateway(tokens_per_minute=6_000) as gateway:
        forward = connect(gateway)
        # A second's worth is 100 tokens.
        assert forward.embed("word " * 60).status_code == 200
        refused = forward.embed("word " * 60)
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-limit-tokens-minute"] == "6000"
        assert 30 <= int(refused.headers["x-ratelimit-remaining-tokens-minute"]) <= 60
        # One that is larger than all that can be saved up is let through when nothing is used.
        time.sleep(1)
        assert forward.embed("word " * 150).status_code == 200
        assert forward.embed("word").status_code == 429


def test_a_burst_may_be_larger(connect):
    with LocalGateway(requests_per_second=4, burst=5) as gateway:
        forward = connect(gateway)
        assert [forward.chat().status_code for _ in range(20)] == [200] * 20


def test_latency_grows_with_tokens(connect):
    with LocalGateway(latency=0.05, latency_per_token=0.001) as gateway:
        forward = connect(gateway)
        assert 0.15 <= forward.embed("word " * 100).elapsed.total_seconds() < 5
        assert forward.chat("word " * 200).elapsed.total_seconds() >= 0.25


def test_requests_in_flight_are_counted(connect):
    with LocalGateway(latency=0.2) as gateway:
        forward = connect(gateway)
        with ThreadPoolExecutor(6) as pool:
            running = [pool.submit(forward.chat) for _ in range(6)]
            deadline = time.monotonic() + 5
            while gateway.in_flight < 6 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert gateway.in_flight == 6
            assert [one.result().status_code for one in running] == [200] * 6
        # Whoever has read an answer finds its request ended.
        assert gateway.in_flight == 0
        assert gateway.max_in_flight == 6
        assert gateway.max_connections == gateway.connections == 6
        forward.chat()
        assert gateway.max_in_flight == 6
        gateway.reset()
        assert gateway.max_in_flight == 0
        forward.chat()
        assert gateway.max_in_flight == 1
