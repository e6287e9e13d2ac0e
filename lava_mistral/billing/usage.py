"""Hold what one call used (`CallRecord`) and sums of it (`Tally`), and tell listeners of it.

The listeners are those of the context in which the call began. They are told once of each request that Lava may have
charged: every answer with status 200, and every request whose answer the caller never saw, with `usage` and `cost`
`None`; `LavaMistral.reconcile` asks Lava for what it was. A refusal (4xx, 5xx) costs nothing and is not told, nor is
what other libraries send through a `LavaTransport`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from lava_mistral.mistral.usage import Usage, cached_tokens
from lava_mistral.pricing.amounts import EXACT

_log = logging.getLogger("lava_mistral")

Kind: TypeAlias = Literal["chat", "embedding"]
LANGCHAIN_RUN: Final = "langchain_run_id"
LLAMA_INDEX_SPAN: Final = "llama_index_span_id"
TRACES: Final = (LANGCHAIN_RUN, LLAMA_INDEX_SPAN)  # metadata keys whose values differ from call to call


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One request that Lava may have charged.

    Attributes:
        request_id: Lava's id of the request; `None` where no answer came.
        usage: tokens as Mistral counted them; `None` where the answer was not seen to its end.
        cost: USD by the catalogue's prices, exact; `None` where `usage` or the prices are not known.
        run_id: LangChain's run id or LlamaIndex's span id of the call.
        duration: seconds from the sending to the end of the answer.
        saved: USD that the prompt's cached tokens would have cost more without Mistral's cache.
        input_tokens, output_tokens, cached_tokens: of `usage`: cached ones are input too, thinking is output.
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
        return None if self.usage is None else self.usage.get("prompt_tokens") or 0

    @property
    def output_tokens(self) -> int | None:
        return None if self.usage is None else self.usage.get("completion_tokens") or 0

    @property
    def cached_tokens(self) -> int | None:
        return None if self.usage is None else cached_tokens(self.usage)

    def as_dict(self) -> dict[str, Any]:
        """Return the record in JSON's types; amounts as text, so that no digit is lost."""
        names = [spec.name for spec in dataclass_fields(self) if spec.name != "usage"]
        return {name: getattr(self, name) for name in (*names, "input_tokens", "output_tokens", "cached_tokens")} | {
            "cost": None if self.cost is None else f"{self.cost:f}",
            "saved": f"{self.saved:f}",
            "metadata": dict(self.metadata),
        }


# Told of each call when it is over, in the thread that ended it; it should be quick and must not block.
Listener: TypeAlias = Callable[[CallRecord], object]


@dataclass(slots=True)
class Tally:
    """Sums over some calls: requests that were paid or may have been, their tokens, and USD where they are known.

    Attributes:
        unknown: requests whose tokens are not known here; nothing of them is in the sums.
        unpriced: requests with known tokens of a model without a known price; their cost is not in `cost`.
        saved: USD that the cached tokens would have cost more.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: Decimal = Decimal(0)
    unknown: int = 0
    unpriced: int = 0
    saved: Decimal = Decimal(0)

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def uncosted(self) -> int:
        return self.unknown + self.unpriced

    def add(self, told: CallRecord) -> None:
        """Count one request."""
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

    def reconcile(self, input_tokens: int, output_tokens: int, cost: Decimal) -> None:
        """Count what is known by now of a request that was unknown."""
        self.unknown -= 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost = EXACT.add(self.cost, cost)

    def as_dict(self) -> dict[str, Any]:
        """Return the sums in JSON's types; amounts as text, so that no digit is lost."""
        return asdict(self) | {"total_tokens": self.total_tokens, "cost": f"{self.cost:f}", "saved": f"{self.saved:f}"}


# Who is told of the calls of the whole process.
subscribed: dict[Listener, None] = {}


def subscribe(listener: Listener) -> None:
    """Tell a listener of every call of this process that begins from now on; `unsubscribe` ends it."""
    subscribed[listener] = None


def unsubscribe(listener: Listener) -> None:
    """Tell a listener of no further calls; those that have begun are still told of."""
    subscribed.pop(listener, None)


def notify(listeners: Sequence[Listener], record: CallRecord) -> None:
    """Tell listeners of a call; one that fails is logged."""
    for listener in listeners:
        try:
            listener(record)
        except Exception:  # noqa: BLE001 - what a listener does is not the call's fault
            _log.exception("A listener to usage failed: %r", listener)
