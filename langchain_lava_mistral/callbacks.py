"""What LangChain runs used and cost through Lava, and what its callbacks are told of new tries."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.utils.uuid import uuid7

from langchain_lava_mistral.errors import to_langchain
from lava_mistral.billing.scope import scope_of_call
from lava_mistral.billing.usage import LANGCHAIN_RUN
from lava_mistral.billing.usage_totals import UsageTotals, UsageTotalsMixin, listen, track_usage
from lava_mistral.errors import LavaError


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
"""The argument that hands a `CallRun` through LangChain to the model."""


class CallRun:
    """Hold what LangChain does not hand to the model when a call streams: its run, and the blocks that it began in."""

    def __init__(self, manager: Any = None, captured: Any = None, config: RunnableConfig | None = None) -> None:
        self.config: RunnableConfig = config or {}
        self._manager, self._slept = manager, 0.0
        # For the call's beginning: billed where it was asked for, its handlers told what it costs.
        self.block = listen(_totals(manager.handlers), str(manager.run_id), captured) if manager else listen()

    @classmethod
    def begin(cls, config: RunnableConfig | None, callbacks: Any, kind: type[Any]) -> CallRun:
        """Take down where a stream is asked for: it starts when its first chunk is taken, perhaps elsewhere."""
        config = {**(config or {})}
        config["run_id"] = run_id = config.get("run_id") or uuid7()
        handlers: list[BaseCallbackHandler] = []
        for given in (ensure_config(config).get("callbacks"), callbacks):
            handlers += given.handlers if isinstance(given, BaseCallbackManager) else given or ()
        return cls(kind(run_id=run_id, handlers=handlers, inheritable_handlers=handlers), scope_of_call(), config)

    def thread_id(self) -> Any:
        """Return LangGraph's name of the conversation that the call is part of."""
        traced = getattr(self._manager, "metadata", None) or {}
        return (ensure_config(self.config).get("configurable") or {}).get("thread_id", traced.get("thread_id"))

    def on_retry(self, error: LavaError, tries: int, wait: float) -> Awaitable[None] | None:
        """Tell the callbacks of a new try."""
        if self._manager is None:
            return None
        # LangChain's signature is tenacity's state; it is loaded only when there is something to tell.
        from tenacity import RetryAction, RetryCallState, Retrying

        failure = to_langchain(error)
        self._slept += wait
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number, state.idle_for = tries, self._slept
        state.upcoming_sleep, state.next_action = wait, RetryAction(wait)
        state.set_exception((type(failure), failure, failure.__traceback__))
        return cast("Awaitable[None] | None", self._manager.on_retry(state))


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
