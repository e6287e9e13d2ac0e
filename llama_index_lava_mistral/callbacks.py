"""What LlamaIndex used and cost through Lava: an event for each paid request, and a handler that sums them up."""

from __future__ import annotations

import logging
from typing import Annotated, Any, ClassVar

from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import active_span_id
from llama_index_instrumentation import get_dispatcher
from pydantic import ConfigDict, InstanceOf, PlainSerializer

from lava_mistral.billing.usage import LLAMA_INDEX_SPAN, CallRecord
from lava_mistral.billing.usage_totals import UsageTotals, UsageTotalsMixin, listen
from llama_index_lava_mistral._instrumentation import dispatchers_of

_log = logging.getLogger("lava_mistral")

dispatcher = get_dispatcher(__name__)


class LavaCallEvent(BaseEvent):
    """A paid request is over, also a failed one that was charged; `span_id` is that of the call which made it.

    Only handlers with a true attribute `lava_events` get it.
    """

    record: Annotated[InstanceOf[CallRecord], PlainSerializer(CallRecord.as_dict)]

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name."""
        return "LavaCallEvent"


class LavaUsageHandler(UsageTotalsMixin, BaseEventHandler):
    """Tokens and cost of everything that LlamaIndex sends through Lava, by model, customer and metadata.

        usage = LavaUsageHandler()
        get_dispatcher().add_event_handler(usage)
        query_engine.query(…)
        usage.by_customer["c_1"].cost, usage.as_dict(), rich.print(usage)

    It counts what all threads and tasks of the process do; `lava_mistral.track_usage` counts what one block does.
    Handlers may share their `totals`.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    lava_events: ClassVar[bool] = True

    totals: InstanceOf[UsageTotals] = Field(default_factory=UsageTotals)

    @classmethod
    def class_name(cls) -> str:
        """Return the handler's name."""
        return "LavaUsageHandler"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Count the event, where it is one of this package."""
        if isinstance(event, LavaCallEvent):
            self.totals.add(event.record)


def listening() -> listen:
    """Tell the handlers that ask for this package's events of the calls that begin in the block."""
    return listen((_emit,) if _handlers() else (), active_span_id.get())


def traced(metadata: Any) -> dict[str, str]:
    """Return the metadata of a call with the id of the span that it belongs to."""
    span_id = active_span_id.get()
    return {**({} if span_id is None else {LLAMA_INDEX_SPAN: span_id[:255]}), **(metadata or {})}


def _emit(record: CallRecord) -> None:
    event = LavaCallEvent(record=record, span_id=record.run_id)
    for handler in _handlers():
        try:
            handler.handle(event)
        except Exception:  # noqa: BLE001 - as with LlamaIndex's own events, a handler's failure is not the call's
            _log.exception("An event handler failed: %r", handler)


def _handlers() -> list[BaseEventHandler]:
    """Return the handlers that ask for these events; tracers warn of events they don't know."""
    handlers = [handler for each in dispatchers_of(dispatcher) for handler in each.event_handlers]
    return [handler for handler in handlers if getattr(handler, "lava_events", False)]
