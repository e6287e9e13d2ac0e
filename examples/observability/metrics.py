"""Print OpenTelemetry metrics of every call, and the spans that the framework's own tracing makes, to the console.

    pip install ".[langchain,otel,cli,gateway]" opentelemetry-sdk
    python examples/observability/metrics.py

Run it from the root of a checkout, with LAVA_SECRET_KEY set, or a `lava-mistral gateway` running and its two exports.
Put your exporter in the place of the console's (OTLP to Grafana, Datadog, Langfuse …); nothing else changes.
"""

from __future__ import annotations

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.prompts import ChatPromptTemplate
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral import billed_to
from lava_mistral.otel import instrument


class Spans(BaseCallbackHandler):
    """Make a span of each run of LangChain; OpenInference's or LangSmith's instrumentation does the same and more."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._open: dict[object, trace.Span] = {}

    def on_chat_model_start(self, serialized: object, messages: object, *, run_id: object, **_: object) -> None:
        self._open[run_id] = self._tracer.start_span("chat", attributes={"gen_ai.provider.name": "mistral_ai"})

    def on_llm_end(self, response: object, *, run_id: object, **_: object) -> None:
        self._open.pop(run_id).end()

    def on_llm_error(self, error: BaseException, *, run_id: object, **_: object) -> None:
        span = self._open.pop(run_id)
        span.record_exception(error)
        span.end()


def main() -> None:
    """Make two calls for two customers and print what was measured."""
    meters = MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter())])
    instrument(meters)
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    chain = ChatPromptTemplate.from_messages([("user", "Say hello to {name}.")]) | ChatLavaMistral(max_tokens=50)
    for customer, name in (("cus_1", "Ada"), ("cus_2", "Grace")):
        with billed_to(customer, "chat"):
            chain.invoke({"name": name}, {"callbacks": [Spans(tracers.get_tracer("example"))]})
    meters.shutdown()


if __name__ == "__main__":
    main()
