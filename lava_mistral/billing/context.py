"""Begin a call in the `billed_to` and `track_usage` blocks of another point of the program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lava_mistral.billing.scope import Entry, entries
from lava_mistral.billing.usage import Listener, Listening, listening


class watching:
    """Tell further listeners of the calls that begin in the block, and of the framework's run they belong to.

    Args:
        listeners: each is told once of a call, also where it listens by another way.
        run_id: LangChain's run id or LlamaIndex's span id; the outer block's by default.
        inside: blocks to begin the calls in, instead of those around this one.
    """

    __slots__ = ("_inside", "_listeners", "_outer", "_run_id")

    def __init__(
        self, listeners: Sequence[Listener] = (), run_id: str | None = None, inside: CapturedContext | None = None
    ) -> None:
        self._listeners, self._run_id, self._inside = listeners, run_id, inside

    def __enter__(self) -> None:
        self._outer = outer = (entries.get(), listening.get())
        blocks, watch = self._inside or outer
        if self._listeners or self._run_id is not None:
            joined = tuple(dict.fromkeys((*watch.listeners, *self._listeners)))
            watch = Listening(joined, watch.run_id if self._run_id is None else self._run_id)
        entries.set(blocks)
        listening.set(watch)

    def __exit__(self, *failure: object) -> None:
        blocks, watch = self._outer
        entries.set(blocks)
        listening.set(watch)


class CapturedContext(NamedTuple):
    """The `billed_to` and `track_usage` blocks around a point, to begin a call later as if there."""

    blocks: tuple[Entry, ...]
    watch: Listening

    @classmethod
    def here(cls) -> CapturedContext:
        return cls(entries.get(), listening.get())
