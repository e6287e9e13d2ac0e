"""Embed ahead of a loop that writes into a vector store, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, TypeVar
from weakref import ReferenceType

from lava_mistral.embedding.drivers import EmbeddingStream, Stream
from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.flow import Flow, adrive, drive

T = TypeVar("T")
U = TypeVar("U")


class Prefetch(Stream[list[U]]):
    """Batches of items whose texts have been embedded; for the arguments see `EmbeddingEngine.prefetch`.

    Attributes:
        window: the vectors of the latest batch, by text; `among` has a reference to this object while it lives.
    """

    def __init__(
        self,
        embed: Callable[[Any], EmbeddingStream],
        items: AsyncIterable[T] | Iterable[T],
        text_of: Callable[[T], str],
        embedded: Callable[[T, Any], U],
        batch_size: int,
        among: list[ReferenceType[Prefetch[Any]]],
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}.")
        read: deque[tuple[T, str]] = deque()

        def take(item: T) -> str:
            text = text_of(item)
            read.append((item, text))
            return text

        texts = (take(item) async for item in items) if isinstance(items, AsyncIterable) else map(take, items)
        self.window: dict[str, Any] = {}
        super().__init__(embed(texts))
        self._read = read
        self._embedded: Callable[[Any, Any], U] = embedded
        self._batch_size = batch_size
        self._left = 0
        self._error: Exception | None = None
        among.append(ReferenceType(self, among.remove))

    def _next(self, advance: Callable[..., Any]) -> Flow[list[U]]:
        """Fill a batch; an empty one is the end. What is there when the stream fails comes before its error."""
        batch: list[U] = []
        self.window = {}
        try:
            while self._error is None and len(batch) < self._batch_size:
                pair = yield advance(self._source, None)
                if pair is None:
                    break
                # What an earlier loop had got is passed over.
                while self._left <= pair[0]:
                    item, text = self._read.popleft()
                    self._left += 1
                self.window[text] = pair[1]
                batch.append(self._embedded(item, pair[1]))
        except Exception as error:  # noqa: BLE001 - raised again
            self._error = error
        if self._error is not None and not batch:
            raise self._error
        return batch

    def __next__(self) -> list[U]:
        if batch := drive(self._next(next)):
            return batch
        raise StopIteration

    async def __anext__(self) -> list[U]:
        if batch := await adrive(self._next(anext)):
            return batch
        raise StopAsyncIteration
