"""Embed ahead of a loop that writes into a vector store, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any, Generic, Protocol, TypeVar

from lava_mistral.errors import ConfigurationError

T = TypeVar("T")
U = TypeVar("U")


class VectorStream(Iterator[tuple[int, Any]], AbstractContextManager[Any], Protocol):
    """Vectors and their indexes, to be closed."""


class AsyncVectorStream(AsyncIterable[tuple[int, Any]], AbstractAsyncContextManager[Any], Protocol):
    """The same in async code."""


class Prefetch(Generic[T, U]):
    """Items on their way from a source to the body of a loop.

    Args:
        items: what to embed; read once, a bounded number of items ahead of the loop.
        text_of: gives the text of an item.
        embedded: makes what the loop gets of an item and its vector.
        batch_size: items that the loop gets at once.
        windows: where the vectors of a batch are known, by text, while the loop's body has it.

    Raises:
        ConfigurationError: `batch_size` is less than 1.
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
        self._failure: Exception | None = None

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

    def _full(self, index: int, vector: Any) -> bool:
        """Take the vector of an item; whether that completes a batch."""
        # What an earlier loop had got is passed over.
        while self._left <= index:
            item, text = self._read.popleft()
            self._left += 1
        self._window[text] = vector
        self._batch.append(self._embedded(item, vector))
        return len(self._batch) >= self._batch_size

    @contextmanager
    def _handing_on(self) -> Iterator[list[U]]:
        batch, window = self._batch, self._window
        self._batch, self._window = [], {}
        self._windows.append(window)
        try:
            yield batch
        finally:
            # Not `remove`, which takes the first that is equal.
            self._windows[:] = [other for other in self._windows if other is not window]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Keep an error for later: what was there before it is handed on first."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised when all before was handed on
            self._failure = error

    def batches(self, stream: VectorStream) -> Generator[list[U], None, None]:
        """Yield the batches; what is there when the stream fails comes before its error."""
        with self._reading(), stream:
            for index, vector in stream:
                if self._full(index, vector):
                    with self._handing_on() as batch:
                        yield batch
        if self._batch:
            with self._handing_on() as batch:
                yield batch
        if self._failure is not None:
            raise self._failure

    async def abatches(self, stream: AsyncVectorStream) -> AsyncGenerator[list[U], None]:
        """Yield the same as `batches`, in async code."""
        with self._reading():
            async with stream:
                async for index, vector in stream:
                    if self._full(index, vector):
                        with self._handing_on() as batch:
                            yield batch
        if self._batch:
            with self._handing_on() as batch:
                yield batch
        if self._failure is not None:
            raise self._failure
