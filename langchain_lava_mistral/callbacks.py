"""What LangChain runs used and cost through Lava: a callback handler, and a block that needs none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

from lava_mistral.billing.listeners import present_watch, track_usage, watching
from lava_mistral.billing.usage import LANGCHAIN_RUN
from lava_mistral.billing.usage_totals import CountsInTotals, UsageTotals

if TYPE_CHECKING:
    from langchain_lava_mistral._retries import CallRun


class LavaUsageCallbackHandler(CountsInTotals, BaseCallbackHandler):
    """Tokens and cost of what runs under it through Lava, by model, customer and metadata. Safe in threads.

        usage = LavaUsageCallbackHandler()
        agent.invoke(…, config={"callbacks": [usage]})
        usage.by_customer["c_1"].cost, usage.as_dict(), rich.print(usage)

    It counts every paid request of the models and embeddings of this package that run under it, once: failed tries that
    were charged and streams that were left early too, which no message tells of, and nothing for an answer from
    LangChain's cache. Embeddings have no callbacks of their own in LangChain; they are counted inside a chain, a tool
    or a retriever that has the handler. For those that are called alone there is `get_lava_usage_callback`.

    Args:
        totals: what to count in; by default a new `UsageTotals`. Handlers may share one.

    Attributes:
        totals: the sums, and `reconcile`-able: see `LavaMistral.reconcile`.
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
        """A retriever begins: what is embedded in its context until it ends is counted."""
        self._retrieving.add(run_id)
        _retrieving.set((*_open(), (self, run_id)))

    def on_retriever_end(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        """A retriever ended."""
        self._retrieving.discard(run_id)

    def on_retriever_error(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        """A retriever failed."""
        self._retrieving.discard(run_id)


_retrieving: ContextVar[tuple[tuple[LavaUsageCallbackHandler, UUID], ...]] = ContextVar(
    "langchain_lava_mistral_retrieving", default=()
)


def _open() -> tuple[tuple[LavaUsageCallbackHandler, UUID], ...]:
    """The retrievers of this context that have not ended. LangChain hands their callbacks to nothing inside them."""
    return tuple((handler, run_id) for handler, run_id in _retrieving.get() if run_id in handler._retrieving)


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


@contextmanager
def counted(run: CallRun) -> Iterator[None]:
    """A block for the beginning of a chat call, billed where it was asked for: its handlers are told what it costs."""
    with (
        nullcontext() if run.surroundings is None else run.surroundings.again(),
        watching(_totals(run.handlers), run.run_id),
    ):
        yield


def counted_embedding() -> AbstractContextManager[None]:
    """A block for the beginning of an embedding call: the handlers of what it is part of are told what it costs."""
    config = var_child_runnable_config.get() or {}
    callbacks = config.get("callbacks")
    retrievers = _open()
    handlers: list[Any] = [handler for handler, _ in retrievers]
    run_id = retrievers[-1][1] if retrievers else None
    if isinstance(callbacks, BaseCallbackManager):
        handlers += callbacks.handlers
        run_id = run_id or callbacks.parent_run_id
    else:
        handlers += callbacks or ()
    return watching(_totals(handlers), None if run_id is None else str(run_id))


def traced(metadata: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """The metadata of a call within one of these blocks, with the run that it belongs to, where there is one."""
    run_id = present_watch().run_id
    return metadata if run_id is None else {LANGCHAIN_RUN: run_id, **(metadata or {})}


def _totals(handlers: Iterable[BaseCallbackHandler]) -> list[UsageTotals]:
    return [handler.totals for handler in handlers if isinstance(handler, LavaUsageCallbackHandler)]
