"""What LangChain runs used and cost through Lava, and what its callbacks are told of new tries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.utils.uuid import uuid7

from lava_mistral.billing.scope import capture_blocks, scope_of_call
from lava_mistral.billing.usage import LANGCHAIN_RUN
from lava_mistral.billing.usage_totals import UsageTotals, UsageTotalsMixin, listen, track_usage


class LavaUsageCallbackHandler(UsageTotalsMixin, BaseCallbackHandler):
    """Tokens and cost of what runs under it through Lava, by model, customer and metadata. Safe in threads.

        usage = LavaUsageCallbackHandler()
        agent.invoke(…, config={"callbacks": [usage]})
        usage.by_customer["c_1"].cost, usage.as_dict(), rich.print(usage)

    It counts every paid request of this package's models that runs under it, once: failed tries that were charged and
    streams that were left early too, and nothing for an answer from LangChain's cache. Embeddings have no callbacks of
    their own; they are counted inside a chain, a tool or a retriever that has the handler. For those that are called
    alone there is `get_lava_usage_callback`. Handlers may share the `totals` that they count in.
    """

    # In the caller's own context, so that what a retriever embeds is found to be its own.
    run_inline = True
    # Calls tell what they cost by themselves; only retrievers are listened to.
    ignore_llm = ignore_chat_model = ignore_chain = ignore_agent = ignore_retry = ignore_custom_event = True

    def __init__(self, totals: UsageTotals | None = None) -> None:
        self.totals = UsageTotals() if totals is None else totals
        self._retrieving: set[UUID] = set()

    def __repr__(self) -> str:
        return f"<LavaUsageCallbackHandler {self.totals!r}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> LavaUsageCallbackHandler:
        # A copy of a configuration counts where the original does.
        return self

    def on_retriever_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        """Count what is embedded in this context until the retriever ends."""
        self._retrieving.add(run_id)
        _retrieving.set([*_open(), (self, run_id)])

    def on_retriever_end(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        """Count no more of the retriever."""
        self._retrieving.discard(run_id)

    on_retriever_error = on_retriever_end


_retrieving: ContextVar[Sequence[tuple[LavaUsageCallbackHandler, UUID]]] = ContextVar("retrieving", default=())


def _open() -> list[tuple[LavaUsageCallbackHandler, UUID]]:
    """Return this context's retrievers that have not ended. LangChain hands their callbacks to nothing inside them."""
    return [(handler, run_id) for handler, run_id in _retrieving.get() if run_id in handler._retrieving]


@contextmanager
def get_lava_usage_callback() -> Iterator[LavaUsageCallbackHandler]:
    """Count everything that goes through Lava in the block, whatever starts it: chat and embeddings.

        with get_lava_usage_callback() as usage:
            index(documents, record_manager, vector_store)
        usage.cost

    The handler may be given to a run as well; nothing is counted twice.
    """
    handler = LavaUsageCallbackHandler()
    with track_usage(handler.totals):
        yield handler


RUN = "_run"
"""The argument that hands the block of a call through LangChain to the model."""


def run_block(manager: Any) -> listen:
    """Return the block for the beginning of a run's call: its handlers are told what it costs."""
    return listen(_totals(manager.handlers), str(manager.run_id)) if manager else listen()


def stream_block(config: RunnableConfig | None, callbacks: Any) -> tuple[RunnableConfig, listen]:
    """Return a configuration that names the run of a stream, and the block for the beginning of its call.

    The call starts when the first chunk is taken, perhaps elsewhere, but is billed where the stream was asked for.
    LangChain tells the model nothing of the run then.
    """
    config = {**(config or {})}
    config["run_id"] = run_id = config.get("run_id") or uuid7()
    handlers: list[BaseCallbackHandler] = []
    for given in (ensure_config(config).get("callbacks"), callbacks):
        handlers += given.handlers if isinstance(given, BaseCallbackManager) else given or ()
    return config, listen(_totals(handlers), str(run_id), capture_blocks())


def thread_id() -> Any:
    """Return LangGraph's name of the conversation that the call is part of."""
    return ((var_child_runnable_config.get() or {}).get("configurable") or {}).get("thread_id")


def counted_embedding() -> listen:
    """Return the block for the beginning of an embedding call: the handlers around it are told what it costs."""
    retrievers = _open()
    run_id = retrievers[-1][1] if retrievers else None
    callbacks: Any = (var_child_runnable_config.get() or {}).get("callbacks") or ()
    if isinstance(callbacks, BaseCallbackManager):
        run_id = run_id or callbacks.parent_run_id
        callbacks = callbacks.handlers
    return listen(_totals([*(handler for handler, _ in retrievers), *callbacks]), str(run_id) if run_id else None)


def traced(metadata: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return the metadata of a call within one of these blocks, with the run that it belongs to, where there is one."""
    run_id = scope_of_call().run_id
    return metadata if run_id is None else {LANGCHAIN_RUN: run_id, **(metadata or {})}


def _totals(handlers: Iterable[BaseCallbackHandler]) -> list[UsageTotals]:
    return [handler.totals for handler in handlers if isinstance(handler, LavaUsageCallbackHandler)]
