"""Options and faults are checked when they are given, not when a request meets them."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lava_mistral.gateway import (
    Body,
    Customer,
    Garbage,
    Interrupted,
    LocalGateway,
    Options,
    Slow,
    Status,
    WrongVectors,
)

ODD: Any = object()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"secret_key": ""}, "secret_key"),
        ({"secret_keys": "abc"}, "secret_keys"),
        ({"secret_keys": [""]}, "secret_keys"),
        ({"provider_keys": "abc"}, "provider_keys"),
        ({"meters": "abc"}, "meters"),
        ({"meters": [7]}, "meters"),
        ({"models": "acme-1"}, "models"),
        ({"forward_tokens": ["a"]}, "forward_tokens\\s+Input should be"),
        ({"forward_tokens": {"a": "key"}}, "forward_tokens.a\\s+Input should be"),
        ({"balance": 1.5}, "a balance is a Decimal"),
        ({"balance": "much"}, "a balance is a Decimal"),
        ({"balance": "NaN"}, "a balance is a Decimal"),
        ({"customer_balance": True}, "a balance is a Decimal"),
        ({"customers": ["a"]}, "customers\\s+Input should be"),
        ({"customers": {"a": 1.5}}, "a balance is a Decimal"),
        ({"latency": -1}, "latency\\s+Input should be greater than or equal to 0"),
        ({"latency_per_token": float("nan")}, "latency_per_token\\s+Input should be"),
        ({"pace": "slow"}, "pace\\s+Input should be a valid number"),
        ({"record_lag": -0.1}, "record_lag\\s+Input should be greater than or equal to 0"),
        ({"requests_per_second": 0}, "requests_per_second\\s+Input should be greater than 0"),
        ({"tokens_per_minute": 0}, "tokens_per_minute\\s+Input should be greater than 0"),
        ({"burst": 0}, "burst\\s+Input should be greater than 0"),
        ({"burst": None}, "burst\\s+Input should be a valid number"),
        ({"keep_requests": 0}, "keep_requests\\s+Input should be greater than or equal to 1"),
        ({"keep_requests": None}, "keep_requests\\s+Input should be a valid integer"),
        ({"tokenizer": "zz"}, "Input should be 'fast' or 'exact'"),
        ({"faults": [503]}, "faults.0\\s+Input should be a valid tuple"),
        ({"faults": [(2, 503)]}, "less than or equal to 1"),
        ({"faults": [("often", 503)]}, "Input should be a valid number"),
        ({"faults": [(0.5, object)]}, "a queued response"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options, said):
    with pytest.raises(ValueError, match=said):
        LocalGateway(**options)


def test_a_customer_is_checked_too():
    with pytest.raises(ValueError, match="a balance is"):
        Customer(balance=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="meters"):
        Customer(meters="abc")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WrongVectors(ODD), "Input should be 'short'"),
        (lambda: Interrupted(how=ODD), "Input should be 'clean'"),
        (lambda: Interrupted(after=-1), "after\\s+Input should be greater"),
        (lambda: Garbage(after=ODD), "after\\s+Input should be a valid integer"),
        (lambda: Slow(-1), "Input should be greater"),
        (lambda: Slow(ODD), "Input should be a valid number"),
        (lambda: Slow(1, then=ODD), "a queued response is"),
        (lambda: Status(99), "greater than or equal to 200"),
        (lambda: Status(600), "less than or equal to 599"),
        (lambda: Status(ODD), "Input should be a valid integer"),
        (lambda: Status(503, retry_after=ODD), "retry_after"),
        (lambda: Status(503, headers={"a": ODD}), "headers.a"),
        (lambda: Status(503, headers={"a": "日"}), "is no header"),
        (lambda: Body(ODD), "can't be written"),
        (lambda: Body([b"a", ODD]), "a step is"),
        (lambda: Body({}, status=7), "greater than or equal to 200"),
    ],
)
def test_a_fault_that_makes_no_sense_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("response", [(1, b"data: {}\n\n"), (True, {}), 99, 600, {"a": ODD}, (b"a", b"b")])
def test_what_no_provider_answers_is_refused_at_once(gateway, response):
    with pytest.raises(ValueError, match=r"200|599|valid integer|written|queued response"):
        gateway.queue(response)
    assert gateway.queued == 0


def test_a_span_is_no_moment_to_retry_at():
    with pytest.raises(ValueError, match="retry_after"):
        Status(503, retry_after=timedelta(seconds=3))  # type: ignore[arg-type]


def test_the_reference_lists_every_option():
    page = Path(__file__).resolve().parents[2] / "docs/reference/gateway.md"
    assert re.findall(r"^\| `(\w+)`", page.read_text(), re.M) == [one.name for one in dataclasses.fields(Options)]
