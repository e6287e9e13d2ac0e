"""Show how far an ingestion has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lava_mistral.embedding.results import OnProgress
from lava_mistral.embedding.run import EmbeddingRun

if TYPE_CHECKING:
    from tqdm.std import tqdm


class ProgressReporter:
    """Draw a progress bar where `show` is set, and call `on_progress` of the caller's."""

    def __init__(self, call: EmbeddingRun, show: bool, on_progress: OnProgress | None) -> None:
        self._call = call
        self._on_progress = on_progress
        self._reported = 0
        self._bar: tqdm[Any] | None = None
        if show:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=call.total, initial=call.done, unit="text", desc="Embedding")

    def update(self) -> None:
        """Report that the call has come further."""
        if self._bar is not None:
            self._bar.update(self._call.done - self._bar.n)
        if self._on_progress is not None:
            self._reported = self._call.done
            self._on_progress(self._call.progress())

    def finish(self) -> None:
        """Report all of it: the call has succeeded."""
        if self._call.done != self._reported:
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.update(self._call.done - self._bar.n)
            self._bar.close()
