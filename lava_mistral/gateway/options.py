"""What a gateway can be told."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from lava_mistral.gateway.faults import STRICT, to_fault
from lava_mistral.gateway.request_log import RequestRecord


def to_amount(value: Any) -> Decimal:
    """Return USD as an exact number; a float, or what holds no amount, is a `ValueError`."""
    with suppress(ArithmeticError, TypeError, ValueError):
        if not isinstance(value, bool | float) and (amount := Decimal(value)).is_finite():
            return amount
    raise ValueError(f'a balance is a Decimal, an int or a str such as "12.50", not {value!r}')


Amount: TypeAlias = Annotated[Decimal | int | str, BeforeValidator(to_amount)]
_Text: TypeAlias = Annotated[str, Field(min_length=1)]
_Texts: TypeAlias = list[_Text] | tuple[_Text, ...] | set[_Text] | frozenset[_Text]  # A text is a collection too.
_Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Rule: TypeAlias = Annotated[float, Field(ge=0, le=1)] | Callable[[RequestRecord], bool]


@dataclass(frozen=True, config=STRICT)
class Customer:
    """One of the merchant's customers: USD on the plan, and the meters that it holds (`None` for all of them)."""

    balance: Amount = Decimal(100)
    meters: _Texts | None = None


_Balance = BeforeValidator(lambda value: value if isinstance(value, Customer) else Customer(balance=value))


@dataclass(frozen=True, config=STRICT)
class Options:
    """How a gateway behaves; every field can be given to `LocalGateway` by name. Times are in seconds, money in USD."""

    secret_key: _Text = "aks_test_local_gateway"  # What it accepts and shows as `gateway.secret_key`.
    secret_keys: _Texts = ()  # Further keys that it accepts.
    forward_tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # Opaque ones, with their credential.
    provider_keys: _Texts | None = None  # Own Mistral keys that are accepted; None for any.
    balance: Amount = Decimal(1000)  # Of the merchant's wallet.
    # Those that exist, by id, with a balance or as `Customer`s; None lets any customer in.
    customers: Mapping[str, Annotated[Customer, _Balance]] | None = None
    customer_balance: Amount = Decimal(100)  # What a customer begins with who is let in so.
    meters: _Texts | None = None  # Those that exist; None for any.
    models: _Texts = ()  # Further models, beside the catalogue's.
    latency: _Seconds = 0.0  # Until the first byte.
    latency_per_token: _Seconds = 0.0  # More for each token of the prompt and, without a stream, of the answer.
    pace: _Seconds = 0.0  # Between the chunks of a stream; 0 sends them as fast as they are taken.
    requests_per_second: _Rate | None = None  # The rate limit; None for none.
    tokens_per_minute: _Rate | None = None  # The rate limit; None for none.
    burst: _Rate = 1.0  # Seconds' worth of a rate limit that may be spent at once.
    record_lag: _Seconds = 0.0  # Until a finished request is found by Lava's REST interface.
    base64: bool = True  # Whether `encoding_format: "base64"` is honoured; else floats come all the same.
    tokenizer: Literal["fast", "exact"] = "fast"  # The gateway's own count, or Mistral's (extra `[tokenizer]`).
    # Pairs of a rule (a probability, or a function of the `RequestRecord`) and what comes instead of the usual answer
    # (all that `queue` takes) where it says so; the first one that applies counts.
    faults: Sequence[tuple[_Rule, Annotated[Any, AfterValidator(to_fault)]]] = ()
    seed: int = 0  # Where the drawing of faults begins.
    keep_requests: Annotated[int, Field(ge=1)] = (
        20_000  # Records that are kept, the newest; of their bodies the newest 32 MB.
    )
    hosts: _Texts = ()  # Names in `Host` that are served, beside loopback and its own address; "*" for any.
    read_timeout: _Rate = 60.0  # For the head of a request, and again for its body.
