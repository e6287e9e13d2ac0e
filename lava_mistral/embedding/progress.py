"""Shows how far an ingestion has come."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from lava_mistral.embedding.results import EmbeddingProgress

if TYPE_CHECKING:
    from tqdm.std import tqdm

OnProgress: TypeAlias = Callable[[EmbeddingProgress], object]


class Watched(Protocol):
    """A call that knows how far it has come."""

    done: int
    total: int | None

    def progress(self) -> EmbeddingProgress: ...


class Watch:
    """Tells a progress bar and a function of the caller's."""

    def __init__(self, call: Watched, show: bool, tell: OnProgress | None) -> None:
        self._call = call
        self._tell = tell
        self._told = 0
        self._bar: tqdm[Any] | None = None
        if show:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=call.total, initial=call.done, unit="text", desc="Embedding")

    def update(self) -> None:
        """The call has come further."""
        if self._bar is not None:
            self._bar.update(self._call.done - self._bar.n)
        if self._tell is not None:
            self._told = self._call.done
            self._tell(self._call.progress())

    def finish(self) -> None:
        """The call is over, and has succeeded: the last that is told is all of it."""
        if self._call.done != self._told:
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._call.done - self._bar.n)
            self._bar.close()
