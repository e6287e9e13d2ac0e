"""Begin a call in the `billed_to` and `track_usage` blocks of another point of the program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar, cast

from lava_mistral.billing.generators import astepped, stepped
from lava_mistral.billing.listeners import Listening, listening
from lava_mistral.billing.scope import BillingScope, in_scope, present_scope
from lava_mistral.billing.usage import Listener

_T = TypeVar("_T")


class watching:
    """Tell further listeners of the calls that begin in the block, and of the framework's run they belong to.

    Args:
        listeners: each is told once of a call, also where it listens by another way.
        run_id: LangChain's run id or LlamaIndex's span id; the outer block's by default.
        inside: blocks to begin the calls in, instead of those around this one.
    """

    __slots__ = ("_inside", "_listeners", "_outer", "_run_id", "_scope")

    def __init__(
        self, listeners: Sequence[Listener] = (), run_id: str | None = None, inside: CapturedContext | None = None
    ) -> None:
        self._listeners, self._run_id, self._inside = listeners, run_id, inside

    def __enter__(self) -> None:
        self._outer = outer = listening.get()
        self._scope: AbstractContextManager[None] | None = None
        if self._inside is not None:
            outer = self._inside.watch
            if self._inside.scope is not present_scope():
                self._scope = in_scope(self._inside.scope)
                self._scope.__enter__()
        if self._listeners or self._run_id is not None:
            joined = tuple(dict.fromkeys((*outer.listeners, *self._listeners)))
            outer = Listening(joined, outer.run_id if self._run_id is None else self._run_id)
        listening.set(outer)

    def __exit__(self, *failure: Any) -> None:
        listening.set(self._outer)
        if self._scope is not None:
            self._scope.__exit__(*failure)


class CapturedContext(NamedTuple):
    """The `billed_to` and `track_usage` blocks around a point, to begin a call later as if there."""

    scope: BillingScope | None
    watch: Listening

    @classmethod
    def here(cls) -> CapturedContext:
        """Those around this point."""
        return cls(present_scope(), listening.get())

    def again(self) -> watching:
        """A block inside them, whatever is around it."""
        return watching(inside=self)

    def steps(self, generator: Generator[_T, Any, Any]) -> Generator[_T, Any, Any]:
        """The generator, each of whose steps is taken inside them, wherever it is read."""
        return cast("Generator[_T, Any, Any]", stepped(self.again, lambda: generator)())

    def asteps(self, generator: AsyncGenerator[_T, Any]) -> AsyncGenerator[_T, Any]:
        """The async generator, each of whose steps is taken inside them, wherever it is read."""
        return cast("AsyncGenerator[_T, Any]", astepped(self.again, lambda: generator)())
