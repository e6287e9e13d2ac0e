"""Tells LangChain's `on_retry` callbacks of each new try, whatever way the call came."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from langchain_lava_mistral.errors import to_langchain
from lava_mistral.billing.listeners import Surroundings
from lava_mistral.errors import LavaError

if TYPE_CHECKING:
    from tenacity import RetryCallState


class CallRun:
    """The run of one call, as far as LangChain's own code does not hand it to the model.

    `stream` and `invoke` of a streaming model call `_stream` without a run manager; this takes its place for
    `on_retry`, and keeps the open stream, so that it can be closed the moment the caller stops reading.

    Args:
        manager: LangChain's own, where there is one.
        begun: what `stream` made for the same call, where the answer is not streamed after all.
    """

    def __init__(
        self,
        manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        begun: CallRun | None = None,
    ) -> None:
        self.manager = manager
        self.opened: Any = None
        self._config: RunnableConfig | None = None
        self._callbacks: Any = None
        self._slept = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self.surroundings: Surroundings | None = None if begun is None else begun.surroundings

    def begin(self, config: RunnableConfig | None, callbacks: Any) -> RunnableConfig:
        """The configuration to stream with: the same, under a run id that is known beforehand.

        Args:
            config: the caller's.
            callbacks: the model's own.
        """
        self._config = {**(config or {})}
        self._config["run_id"] = self._config.get("run_id") or uuid7()
        self._callbacks = callbacks
        # The call itself begins when its first chunk is asked for, perhaps outside of the blocks that are around here.
        self.surroundings = Surroundings.here()
        return {**self._config}

    def on_retry(self, error: LavaError, tries: int, wait: float) -> None:
        """Tell the callbacks, in sync code."""
        manager = self._manager(CallbackManagerForLLMRun)
        if manager is not None:
            manager.on_retry(self._state(error, tries, wait))

    def on_retry_soon(self, error: LavaError, tries: int, wait: float) -> None:
        """Tell the callbacks in a task, while the wait goes on."""
        manager = self._manager(AsyncCallbackManagerForLLMRun)
        if manager is not None:
            self._tasks.append(asyncio.ensure_future(manager.on_retry(self._state(error, tries, wait))))

    async def told(self) -> None:
        """Wait until the callbacks have been told all."""
        tasks, self._tasks = self._tasks, []
        if tasks:
            await asyncio.gather(*tasks)

    @property
    def run_id(self) -> str | None:
        """LangChain's id of the run."""
        if self.manager is not None:
            return str(self.manager.run_id)
        return None if self._config is None else str(self._config["run_id"])

    @property
    def handlers(self) -> list[BaseCallbackHandler]:
        """The run's callback handlers."""
        if self.manager is not None:
            return self.manager.handlers
        return [] if self._config is None else self._configured(ensure_config(self._config))[0]

    def close(self) -> None:
        """Close the stream, where one was opened."""
        if self.opened is not None:
            self.opened.close()

    async def aclose(self) -> None:
        """Close the stream, where one was opened."""
        if self.opened is not None:
            await self.opened.aclose()

    def _manager(self, kind: type[Any]) -> Any:
        if self.manager is not None or self._config is None:
            return self.manager
        config = ensure_config(self._config)
        handlers, parent = self._configured(config)
        self.manager = kind(
            run_id=config["run_id"],
            handlers=handlers,
            inheritable_handlers=handlers,
            parent_run_id=parent,
            tags=config.get("tags"),
            metadata=config.get("metadata"),
        )
        return self.manager

    def _configured(self, config: RunnableConfig) -> tuple[list[BaseCallbackHandler], UUID | None]:
        handlers: list[BaseCallbackHandler] = []
        parent = None
        for callbacks in (config.get("callbacks"), self._callbacks):
            if isinstance(callbacks, BaseCallbackManager):
                handlers += callbacks.handlers
                parent = callbacks.parent_run_id or parent
            elif isinstance(callbacks, Sequence):
                handlers += callbacks
        return handlers, parent

    def _state(self, error: LavaError, tries: int, wait: float) -> RetryCallState:
        # LangChain's signature is tenacity's state; it is loaded only when there is something to tell.
        from tenacity import RetryAction, RetryCallState, Retrying

        failure = to_langchain(error)
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = tries
        state.set_exception((type(failure), failure, failure.__traceback__))
        self._slept += wait
        state.upcoming_sleep = wait
        state.next_action = RetryAction(wait)
        state.idle_for = self._slept
        return state
