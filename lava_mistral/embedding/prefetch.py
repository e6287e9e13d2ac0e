"""Embed ahead of a loop that writes into a vector store, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, TypeAlias, TypeVar

from lava_mistral.errors import ConfigurationError

T = TypeVar("T")
U = TypeVar("U")
Vectors: TypeAlias = AbstractContextManager[Iterable[tuple[int, Any]]]
AsyncVectors: TypeAlias = AbstractAsyncContextManager[AsyncIterable[tuple[int, Any]]]


class Prefetch(Generic[T, U]):
    """Items on their way from a source to the body of a loop; see `EmbeddingEngine.prefetch` for the arguments.

    `windows` is where the vectors of a batch are known, by text, while the loop's body has it.
    """

    def __init__(
        self,
        items: AsyncIterable[T] | Iterable[T],
        text_of: Callable[[T], str],
        embedded: Callable[[T, Any], U],
        batch_size: int,
        windows: list[dict[str, Any]],
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}.")
        self._items = items
        self._text_of = text_of
        self._embedded = embedded
        self._batch_size = batch_size
        self._windows = windows
        self._read: deque[tuple[T, str]] = deque()
        self._left = 0
        self._batch: list[U] = []
        self._window: dict[str, Any] = {}

    def texts(self) -> AsyncIterator[str] | Iterator[str]:
        """The texts of the items."""
        items = self._items
        return (
            (self._take(item) async for item in items) if isinstance(items, AsyncIterable) else map(self._take, items)
        )

    def _take(self, item: T) -> str:
        text = self._text_of(item)
        self._read.append((item, text))
        return text

    def _add(self, index: int, vector: Any) -> Generator[list[U], None, None]:
        """Take the vector of an item, and yield the batch that it completes."""
        # What an earlier loop had got is passed over.
        while self._left <= index:
            item, text = self._read.popleft()
            self._left += 1
        self._window[text] = vector
        self._batch.append(self._embedded(item, vector))
        if len(self._batch) >= self._batch_size:
            yield from self._rest()

    def _rest(self) -> Generator[list[U], None, None]:
        """Yield what is there as a batch, whose vectors are known while the loop's body has it."""
        batch, window = self._batch, self._window
        self._batch, self._window = [], {}
        self._windows.append(window)
        try:
            if batch:
                yield batch
        finally:
            # Not `remove`, which takes the first that is equal.
            self._windows[:] = [other for other in self._windows if other is not window]

    def batches(self, stream: Vectors) -> Generator[list[U], None, None]:
        """Yield the batches; what is there when the stream fails comes before its error."""
        with stream as vectors:
            try:
                for index, vector in vectors:
                    yield from self._add(index, vector)
            except Exception:
                yield from self._rest()
                raise
        yield from self._rest()

    async def abatches(self, stream: AsyncVectors) -> AsyncGenerator[list[U], None]:
        """Yield the same as `batches`, in async code."""
        async with stream as vectors:
            try:
                async for index, vector in vectors:
                    for batch in self._add(index, vector):
                        yield batch
            except Exception:
                for batch in self._rest():
                    yield batch
                raise
        for batch in self._rest():
            yield batch
