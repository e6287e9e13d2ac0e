"""Options and faults are checked when they are given, not when a request meets them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lava_mistral.gateway import Body, Customer, Garbage, Interrupted, LocalGateway, Slow, Status, WrongVectors

ODD: Any = object()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"secret_key": ""}, "the secret keys are texts that are not empty"),
        ({"secret_keys": "abc"}, "the secret keys are a list of texts"),
        ({"secret_keys": [""]}, "the secret keys are texts that are not empty"),
        ({"provider_keys": "abc"}, "the provider keys are a list of texts"),
        ({"meters": "abc"}, "the meters are a list of texts"),
        ({"meters": [7]}, "the meters are texts"),
        ({"models": "acme-1"}, "the models are a list of texts"),
        ({"forward_tokens": ["a"]}, "forward_tokens is a mapping, not list"),
        ({"forward_tokens": {"a": "key"}}, "forward_tokens\\['a'\\] is a mapping, not str"),
        ({"balance": 1.5}, "a balance is a Decimal"),
        ({"balance": "much"}, "a balance is an amount"),
        ({"balance": "NaN"}, "a balance is an amount"),
        ({"customer_balance": True}, "a balance is a Decimal"),
        ({"customers": ["a"]}, "customers is a mapping, not list"),
        ({"customers": {"a": 1.5}}, "a balance is a Decimal"),
        ({"latency": -1}, "latency must be zero or more"),
        ({"latency_per_token": float("nan")}, "latency_per_token must be zero or more"),
        ({"pace": "slow"}, "pace is a number, not str"),
        ({"record_lag": -0.1}, "record_lag must be zero or more"),
        ({"requests_per_second": 0}, "requests_per_second must be above zero"),
        ({"tokens_per_minute": 0}, "tokens_per_minute must be above zero"),
        ({"burst": 0}, "burst must be above zero"),
        ({"burst": None}, "burst is a number"),
        ({"fragment_tool_calls": 0}, "fragment_tool_calls must be 1 or more"),
        ({"fragment_tool_calls": 1.5}, "fragment_tool_calls is a whole number"),
        ({"keep_requests": 0}, "keep_requests must be 1 or more"),
        ({"keep_requests": None}, "keep_requests is a whole number"),
        ({"tokenizer": "zz"}, 'tokenizer is "fast" or "exact"'),
        ({"faults": [503]}, "faults are pairs"),
        ({"faults": [(2, 503)]}, "at most 1"),
        ({"faults": [("often", 503)]}, "the probability of a fault is a number"),
        ({"faults": [(0.5, object)]}, "a queued response"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        LocalGateway(**options)


def test_a_customer_is_checked_too():
    with pytest.raises(TypeError, match="a balance is"):
        Customer(balance=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a customer's meters are a list of texts"):
        Customer(meters="abc")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WrongVectors(ODD), "WrongVectors knows 'short'"),
        (lambda: Interrupted(how=ODD), "Interrupted knows 'clean'"),
        (lambda: Interrupted(after=-1), "after is a number of events"),
        (lambda: Garbage(after=ODD), "after is a number of events"),
        (lambda: Slow(-1), "can't come -1 seconds late"),
        (lambda: Slow(ODD), "a number of seconds"),
        (lambda: Slow(1, then=ODD), "a queued response is"),
        (lambda: Status(99), "from 200 to 599"),
        (lambda: Status(600), "from 200 to 599"),
        (lambda: Status(ODD), "status is an int"),
        (lambda: Status(503, retry_after=ODD), "retry_after is seconds"),
        (lambda: Status(503, headers={"a": ODD}), "headers map names to values"),
        (lambda: Status(503, headers={"a": "日"}), "headers map names to values"),
        (lambda: Body(ODD), "can't be written as JSON"),
        (lambda: Body([b"a", ODD]), "a step is"),
        (lambda: Body({}, status=7), "from 200 to 599"),
    ],
)
def test_a_fault_that_makes_no_sense_is_named(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


@pytest.mark.parametrize("response", [(1, b"data: {}\n\n"), (True, {}), 99, 600, {"a": ODD}, (b"a", b"b")])
def test_what_no_provider_answers_is_refused_at_once(gateway, response):
    with pytest.raises((TypeError, ValueError), match=r"from 200 to 599|status is an int|JSON|queued response"):
        gateway.queue(response)
    assert gateway.queued == 0


def test_a_span_is_no_moment_to_retry_at():
    with pytest.raises(TypeError, match="seconds, a datetime or text, not timedelta"):
        Status(503, retry_after=timedelta(seconds=3))  # type: ignore[arg-type]
