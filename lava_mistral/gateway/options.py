"""What a gateway can be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lava_mistral.gateway.faults import to_fault
from lava_mistral.gateway.lava.accounts import Amount, Customer, check_texts, to_amount
from lava_mistral.gateway.records import RequestRecord


@dataclass(frozen=True)
class Options:
    """How a gateway behaves; every field can be given to `LocalGateway` by name.

    Attributes:
        secret_key: the key that it accepts and shows as `gateway.secret_key`.
        secret_keys: further keys that it accepts.
        forward_tokens: opaque tokens that it accepts, with the credential that each stands for.
        provider_keys: the own Mistral keys that are accepted; `None` for any.
        balance: the merchant's wallet, in USD.
        customers: the customers that exist, by id, with a balance or a `Customer`; `None` lets any customer in.
        customer_balance: what a customer begins with who is let in so.
        meters: the meters that exist; `None` for any.
        models: names of further models that it knows, beside the catalogue's.
        latency: seconds before the first byte.
        latency_per_token: seconds more for each token, of the prompt and, without a stream, of the answer.
        pace: seconds between the chunks of a stream; 0 sends them as fast as they are taken.
        requests_per_second: the rate limit; `None` for none.
        tokens_per_minute: the rate limit; `None` for none.
        burst: seconds' worth of a rate limit that may be spent at once.
        record_lag: seconds until a finished request is found by Lava's REST interface.
        base64: whether `encoding_format: "base64"` is honoured; else floats come all the same.
        fragment_tool_calls: characters of arguments in one delta of a streamed tool call; `None` for whole calls.
        tokenizer: `"fast"`, the gateway's own count; `"exact"`, Mistral's tokenizers (extra `[tokenizer]`).
        faults: pairs of a rule and what comes instead of the usual answer (all that `queue` takes) where it says so; a
            rule is a probability, or a function of the `RequestRecord`. The first one that applies counts.
        seed: where the drawing of faults begins.
        keep_requests: how many records are kept, the newest.
        keep_bodies: whether records hold the requests' bodies, the newest 64 MB of them.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: its value makes no sense.
    """

    secret_key: str = "aks_test_local_gateway"
    secret_keys: Collection[str] = ()
    forward_tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provider_keys: Collection[str] | None = None
    balance: Amount = "1000"
    customers: Mapping[str, Customer | Amount] | None = None
    customer_balance: Amount = "100"
    meters: Collection[str] | None = None
    models: Collection[str] = ()
    latency: float = 0.0
    latency_per_token: float = 0.0
    pace: float = 0.0
    requests_per_second: float | None = None
    tokens_per_minute: float | None = None
    burst: float = 1.0
    record_lag: float = 0.0
    base64: bool = True
    fragment_tool_calls: int | None = None
    tokenizer: Literal["fast", "exact"] = "fast"
    faults: Sequence[tuple[float | Callable[[RequestRecord], bool], Any]] = ()
    seed: int = 0
    keep_requests: int = 20_000
    keep_bodies: bool = True

    def __post_init__(self) -> None:
        check_texts("the secret keys", [self.secret_key])
        for name in ("secret_keys", "provider_keys", "meters", "models"):
            check_texts(f"the {name.replace('_', ' ')}", getattr(self, name))
        for token, credential in _mapping("forward_tokens", self.forward_tokens).items():
            _mapping(f"forward_tokens[{token!r}]", credential)
        to_amount(self.balance)
        to_amount(self.customer_balance)
        for value in _mapping("customers", {} if self.customers is None else self.customers).values():
            if not isinstance(value, Customer):
                to_amount(value)
        for name in ("latency", "latency_per_token", "pace", "record_lag"):
            _number(name, getattr(self, name))
        for name in ("requests_per_second", "tokens_per_minute", "burst"):
            if getattr(self, name) is not None or name == "burst":
                _number(name, getattr(self, name), zero=False)
        for name in ("fragment_tool_calls", "keep_requests"):
            if getattr(self, name) is not None or name == "keep_requests":
                _whole(name, getattr(self, name))
        if self.tokenizer not in ("fast", "exact"):
            raise ValueError(f'tokenizer is "fast" or "exact", not {self.tokenizer!r}')
        for pair in self.faults:
            _check_rule(pair)


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a mapping, not {type(value).__name__}")
    return value


def _number(name: str, value: Any, *, zero: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise TypeError(f"{name} is a number, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be {'zero or more' if zero else 'above zero'}, not {value}")


def _whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")


def _check_rule(pair: Any) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"faults are pairs of a rule and what comes, not {pair!r}")
    rule, fault = pair
    if not callable(rule):
        _number("the probability of a fault", rule)
        if rule > 1:
            raise ValueError(f"the probability of a fault is at most 1, not {rule}")
    to_fault(fault)
