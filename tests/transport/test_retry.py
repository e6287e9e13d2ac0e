"""Retries: whether to try again, and how long to wait first."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.errors import APIConnectionError, InvalidRequestError, RateLimitError, ServerError
from lava_mistral.transport.retry import Attempts, RetryPolicy, parse_retry_after

NOW = datetime(2026, 11, 23, 19, 0, tzinfo=UTC)


def longest(low: float, high: float) -> float:
    """A draw that always takes the longest wait."""
    assert low == 0.0
    return high


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Mon, 23 Nov 2026 19:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 19:00:30 -0000", 30.0),
        ("Mon, 23 Nov 2026 20:00:30 +0100", 30.0),
        ("Monday, 23-Nov-26 19:00:30 GMT", 30.0),
        ("Mon Nov 23 19:00:30 2026", 30.0),
        ("Mon, 23 Nov 2026 18:59:00 GMT", 0.0),
        ("Mon, 99 Nov 2026 19:00:30 GMT", None),
        ("Mon, 23 Nov 99999 19:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=NOW.timestamp()) == seconds


def test_a_date_is_measured_from_the_present() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    seconds = parse_retry_after(format_datetime(soon, usegmt=True))
    assert seconds is not None
    assert 55 < seconds <= 60


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d [+A-Z-]\w{0,4}"))
def test_any_header_gives_a_wait_or_none(value: str) -> None:
    seconds = parse_retry_after(value, now=0.0)
    assert seconds is None or 0 <= seconds < float("inf")


def test_waits_grow_twofold_up_to_the_longest() -> None:
    policy = RetryPolicy(max_retries=10, initial=0.5, longest=20.0, max_total=1000.0)
    waits = [policy.wait(ServerError("x"), tries=tries, elapsed=0.0, draw=longest) for tries in range(1, 11)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0, 20.0]


@given(st.integers(1, 10_000), st.floats(0.001, 10), st.floats(0.001, 100))
def test_jitter_is_drawn_from_the_whole_range(tries: int, initial: float, limit: float) -> None:
    policy = RetryPolicy(max_retries=10_000, initial=initial, longest=limit, max_total=float("inf"))
    wait = policy.wait(ServerError("x"), tries=tries, elapsed=0.0)
    assert wait is not None
    assert 0.0 <= wait <= min(limit, initial * 2.0 ** (tries - 1) if tries < 1000 else limit)


def test_two_callers_do_not_return_at_once() -> None:
    policy = RetryPolicy()
    assert len({policy.wait(ServerError("x"), tries=1, elapsed=0.0) for _ in range(20)}) > 10


@pytest.mark.parametrize(("max_retries", "tries", "again"), [(0, 1, False), (2, 1, True), (2, 2, True), (2, 3, False)])
def test_tries_are_counted(max_retries: int, tries: int, again: bool) -> None:
    wait = RetryPolicy(max_retries=max_retries).wait(RateLimitError("x"), tries=tries, elapsed=0.0)
    assert (wait is not None) is again


def test_what_can_not_succeed_later_is_final() -> None:
    assert RetryPolicy().wait(InvalidRequestError("x"), tries=1, elapsed=0.0) is None
    assert RetryPolicy().wait(ServerError("x", retryable=False), tries=1, elapsed=0.0) is None


def test_the_wish_of_the_server_is_a_lower_bound_with_a_little_jitter() -> None:
    policy = RetryPolicy(initial=8.0)
    error = RateLimitError("x", retry_after=7.0)
    assert policy.wait(error, tries=1, elapsed=0.0, draw=lambda low, high: low) == 7.0
    assert policy.wait(error, tries=1, elapsed=0.0, draw=longest) == 8.0
    at_once = RateLimitError("x", retry_after=0.0)
    assert policy.wait(at_once, tries=1, elapsed=0.0, draw=longest) == 1.0


@pytest.mark.parametrize(
    ("fields", "elapsed", "again"),
    [
        ({}, 299.0, True),
        ({}, 299.9, False),
        ({"retry_after": 290.0}, 0.0, True),
        ({"retry_after": 290.0}, 20.0, False),
        ({"retry_after": 3600.0}, 0.0, False),
    ],
)
def test_no_try_begins_after_the_total(fields: dict[str, Any], elapsed: float, again: bool) -> None:
    wait = RetryPolicy(max_total=300.0).wait(RateLimitError("x", **fields), tries=1, elapsed=elapsed, draw=longest)
    assert (wait is not None) is again


def test_attempts_tell_the_wait_and_then_that_there_is_none() -> None:
    attempts = Attempts(RetryPolicy(max_retries=2, initial=0.5))
    waits = [attempts.failed(APIConnectionError("x")) for _ in range(2)]
    assert None not in waits
    assert 0.0 <= waits[0] <= 0.5
    assert 0.0 <= waits[1] <= 1.0
    assert attempts.failed(ServerError("the last one")) is None
    assert attempts.tries == 3


def test_attempts_count_the_time_since_the_first_try() -> None:
    late = Attempts(RetryPolicy(max_total=10.0), started=time.monotonic() - 11.0)
    assert late.failed(ServerError("x")) is None


@pytest.mark.parametrize("value", ["Fri, 31 Dec 99999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +9999", "tomorrow"])
def test_a_date_that_is_none_gives_no_wait(value: str) -> None:
    assert parse_retry_after(value) is None
