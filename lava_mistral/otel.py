"""Report usage as OpenTelemetry metrics, by the semantic conventions for generative AI (extra `[otel]`).

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/ names the metrics `gen_ai.client.token.usage` and
`gen_ai.client.operation.duration`; `lava.client.cost` is this package's own. There are no spans here: the frameworks'
own tracing makes those.
"""

from __future__ import annotations

from typing import Any, Final

from lava_mistral.billing.usage import CallRecord, Listener, subscribe, unsubscribe

try:
    from opentelemetry import metrics
except ImportError as error:
    raise ImportError('Metrics need OpenTelemetry: pip install "lava-mistral[otel]".') from error

_OPERATIONS: Final = {"chat": "chat", "embedding": "embeddings"}
_instrumented: list[Listener] = []


def instrument(meter_provider: metrics.MeterProvider | None = None, *, customers: bool = True) -> None:
    """Record the usage of every call of this process that begins from now on; a second call replaces the first.

    The provider is the global one by default. `customers` tells the cost by customer, each a time series of its own.
    """
    meter = metrics.get_meter("lava_mistral", meter_provider=meter_provider)
    # The bounds are those that the conventions ask for.
    bounds: dict[str, Any] = {"explicit_bucket_boundaries_advisory": [4**power for power in range(14)]}
    tokens_used = meter.create_histogram("gen_ai.client.token.usage", "{token}", "Tokens.", **bounds)
    what = "Seconds from the sending of a request to the end of its answer."
    bounds = {"explicit_bucket_boundaries_advisory": [0.01 * 2**power for power in range(14)]}
    duration = meter.create_histogram("gen_ai.client.operation.duration", "s", what, **bounds)
    cost = meter.create_counter("lava.client.cost", "USD", "What requests cost by the catalogue's prices.")

    def measure(record: CallRecord) -> None:
        what: dict[str, Any] = {
            "gen_ai.operation.name": _OPERATIONS[record.kind],
            "gen_ai.provider.name": "mistral_ai",
            "gen_ai.request.model": record.model,
        }
        for kind, tokens in (("input", record.input_tokens), ("output", record.output_tokens)):
            if tokens is not None and (tokens or record.kind == "chat"):
                tokens_used.record(tokens, what | {"gen_ai.token.type": kind})
        if record.duration is not None:
            duration.record(record.duration, what if record.complete else what | {"error.type": "incomplete"})
        if record.cost is not None:
            who = {"lava.customer_id": record.customer_id, "lava.meter_slug": record.meter_slug}
            named = {name: value for name, value in who.items() if value is not None and customers}
            cost.add(float(record.cost), what | named)

    uninstrument()
    _instrumented.append(measure)
    subscribe(measure)


def uninstrument() -> None:
    """Record no further calls."""
    while _instrumented:
        unsubscribe(_instrumented.pop())
