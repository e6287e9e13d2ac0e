"""Hold what one call used (`CallRecord`) and sums of it (`Tally`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from lava_mistral.mistral.usage import Usage, cached_tokens
from lava_mistral.pricing.amounts import EXACT

Kind: TypeAlias = Literal["chat", "embedding"]

LANGCHAIN_RUN: Final = "langchain_run_id"
LLAMA_INDEX_SPAN: Final = "llama_index_span_id"
"""Metadata keys of the trace that a call belongs to; every call has a value of its own."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One request that Lava may have charged.

    Attributes:
        model: the model that was asked for; prices go by it.
        request_id: Lava's id of the request; `None` where no answer came.
        usage: tokens as Mistral counted them; `None` where the answer was not seen to its end.
        cost: USD by the catalogue's prices, exact; `None` where `usage` or the prices are not known.
        metadata: what Lava stored with it.
        run_id: LangChain's run id or LlamaIndex's span id of the call.
        complete: whether the answer came to its end.
        duration: seconds from the sending to the end of the answer.
        saved: USD that the prompt's cached tokens would have cost more without Mistral's cache.
    """

    kind: Kind
    model: str
    request_id: str | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    customer_id: str | None = None
    meter_slug: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None
    streamed: bool = False
    complete: bool = True
    duration: float | None = field(default=None, compare=False)
    saved: Decimal = Decimal(0)

    @property
    def input_tokens(self) -> int | None:
        """Tokens of the prompt, cached ones included."""
        return None if self.usage is None else self.usage.get("prompt_tokens") or 0

    @property
    def output_tokens(self) -> int | None:
        """Tokens of the answer, thinking included."""
        return None if self.usage is None else self.usage.get("completion_tokens") or 0

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that came from Mistral's cache."""
        return None if self.usage is None else cached_tokens(self.usage)

    def as_dict(self) -> dict[str, Any]:
        """Return the record in JSON's types; amounts as text, so that no digit is lost."""
        fields = {spec.name: getattr(self, spec.name) for spec in dataclass_fields(self) if spec.name != "usage"}
        return fields | {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "cost": None if self.cost is None else f"{self.cost:f}",
            "saved": f"{self.saved:f}",
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class RetryStats:
    """What a call did beside the requests that are told of: of a chat at each retry, of an embedding when it is over.

    `retries` are requests that repeated a failed one, `duplicates` texts that were not sent, since an equal one was.
    Who it was for is unknown where no answer came.
    """

    model: str
    retries: int = 0
    duplicates: int = 0
    customer_id: str | None = None
    meter_slug: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


Listener: TypeAlias = Callable[[CallRecord], object]
"""Told of each call when it is over, in the thread that ended it; it should be quick and must not block.

One that has a method `add_effort` is told of each `RetryStats` by it."""


@dataclass(slots=True)
class Tally:
    """Sums over some calls: requests that were paid or may have been, their tokens, and USD where they are known.

    Attributes:
        unknown: requests whose tokens are not known here; nothing of them is in the sums.
        unpriced: requests with known tokens of a model without a known price; their cost is not in `cost`.
        retries: requests that repeated a failed one, whether or not they were paid.
        duplicates: texts that were not embedded, since an equal one of the same call was.
        saved: USD that the cached tokens would have cost more without Mistral's cache.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: Decimal = Decimal(0)
    unknown: int = 0
    unpriced: int = 0
    retries: int = 0
    duplicates: int = 0
    saved: Decimal = Decimal(0)

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.input_tokens + self.output_tokens

    @property
    def uncosted(self) -> int:
        """Requests whose cost is not in `cost`."""
        return self.unknown + self.unpriced

    def add(self, told: CallRecord | RetryStats) -> None:
        """Count one request, or retries and duplicates."""
        if isinstance(told, RetryStats):
            self.retries += told.retries
            self.duplicates += told.duplicates
            return
        self.requests += 1
        if told.usage is None:
            self.unknown += 1
            return
        self.input_tokens += told.input_tokens or 0
        self.output_tokens += told.output_tokens or 0
        self.cached_tokens += told.cached_tokens or 0
        self.saved = EXACT.add(self.saved, told.saved)
        if told.cost is None:
            self.unpriced += 1
        else:
            self.cost = EXACT.add(self.cost, told.cost)

    def settle(self, input_tokens: int, output_tokens: int, cost: Decimal) -> None:
        """Count what is known by now of a request that was unknown."""
        self.unknown -= 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost = EXACT.add(self.cost, cost)

    def as_dict(self) -> dict[str, Any]:
        """Return the sums in JSON's types; amounts as text, so that no digit is lost."""
        return asdict(self) | {"total_tokens": self.total_tokens, "cost": f"{self.cost:f}", "saved": f"{self.saved:f}"}
