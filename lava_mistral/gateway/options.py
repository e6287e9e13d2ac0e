"""What a gateway can be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from lava_mistral.gateway.faults import STRICT, to_fault
from lava_mistral.gateway.records import RequestRecord


def to_amount(value: Any) -> Decimal:
    """Return USD as an exact number.

    Raises:
        ValueError: it is a float, or nothing that holds an amount.
    """
    try:
        amount = None if isinstance(value, bool | float) else Decimal(value)
    except (ArithmeticError, TypeError, ValueError):
        amount = None
    if amount is None or not amount.is_finite():
        raise ValueError(f'a balance is a Decimal, an int or a str such as "12.50", not {value!r}')
    return amount


Amount: TypeAlias = Annotated[Decimal | int | str, BeforeValidator(to_amount)]
"""USD; never a float, which could not be exact."""
_Text: TypeAlias = Annotated[str, Field(min_length=1)]
# Not any collection: a text is one, of which every letter would be a member.
_Texts: TypeAlias = list[_Text] | tuple[_Text, ...] | set[_Text] | frozenset[_Text]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count: TypeAlias = Annotated[int, Field(ge=1)]
_Rule: TypeAlias = Annotated[float, Field(ge=0, le=1)] | Callable[[RequestRecord], bool]


@dataclass(frozen=True, config=STRICT)
class Customer:
    """One of the merchant's customers.

    Args:
        balance: USD on the customer's plan.
        meters: the meters that the plan holds; `None` for all of them.
    """

    balance: Amount = Decimal(100)
    meters: _Texts | None = None


@dataclass(frozen=True, config=STRICT)
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
        keep_bodies: whether records hold the requests' bodies, the newest 32 MB of them.
        hosts: names in `Host` that it answers to, beside loopback names and its own address; `"*"` for any.
        read_timeout: seconds that a client may take to send the head of a request, and again its body.

    Raises:
        ValueError: an option is unknown, of the wrong type, or makes no sense.
    """

    secret_key: _Text = "aks_test_local_gateway"
    secret_keys: _Texts = ()
    forward_tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provider_keys: _Texts | None = None
    balance: Amount = Decimal(1000)
    customers: Mapping[str, Customer | Amount] | None = None
    customer_balance: Amount = Decimal(100)
    meters: _Texts | None = None
    models: _Texts = ()
    latency: _Seconds = 0.0
    latency_per_token: _Seconds = 0.0
    pace: _Seconds = 0.0
    requests_per_second: _Rate | None = None
    tokens_per_minute: _Rate | None = None
    burst: _Rate = 1.0
    record_lag: _Seconds = 0.0
    base64: bool = True
    fragment_tool_calls: _Count | None = None
    tokenizer: Literal["fast", "exact"] = "fast"
    faults: Sequence[tuple[_Rule, Annotated[Any, AfterValidator(to_fault)]]] = ()
    seed: int = 0
    keep_requests: _Count = 20_000
    keep_bodies: bool = True
    hosts: _Texts = ()
    read_timeout: _Rate = 60.0
