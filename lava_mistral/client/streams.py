"""Read a streamed answer from its connection, in sync and in async code."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx

from lava_mistral.calls.call import Call
from lava_mistral.calls.stream_parser import StreamReader
from lava_mistral.errors import LavaError
from lava_mistral.mistral.turn import Delta
from lava_mistral.transport.parting import PARTING, brief_reads, limited


class ChatStream(StreamReader):
    """A streamed answer: iterate for its deltas; `turn`, `usage`, `cost` and `request_id` grow with it.

    Closing it, or leaving its `with` block, before its end closes the connection.

    Raises:
        StreamInterruptedError: while iterating, when the stream ends before the answer does; `partial` holds what came.
    """

    def __init__(self, call: Call, response: httpx.Response) -> None:
        super().__init__(call, response.headers)
        self._response = response
        self._bytes = response.iter_bytes()
        # Not the response's own flag: a transport may give a response that was read, and so closed, before.
        self._over = False

    def prime(self) -> Self:
        """Read until there is something to hand on. A failure before that can still be tried again."""
        while not self.started and not self._over:
            self._pull()
        if not self.started:
            self.raise_failure()
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while not self.ready:
            self.raise_failure()
            if self._over:
                raise StopIteration
            self._pull()
        return self.ready.popleft()

    def _pull(self) -> None:
        try:
            if self.done:
                # The caller has all that came; only now is it worth a moment to get the connection back.
                self._drain()
            else:
                try:
                    began = time.monotonic()
                    data = next(self._bytes, None)
                    self._silence += time.monotonic() - began
                except (httpx.HTTPError, OSError) as error:
                    if not self.finished:
                        raise self.broken(error) from error
                    data = None
                if data is not None:
                    self.feed(data)
                    if self.done:
                        self.settle()
                    return
            self.end()
        except LavaError as error:
            # What had come before it is handed on first.
            self._failure = error
        except BaseException:
            self.close()
            raise
        self.close()

    def _drain(self) -> None:
        """Read on to the end of the body, which gives the connection back to its pool, unless that takes long."""
        deadline = time.monotonic() + PARTING
        wire = self._response.extensions
        # Many streams share a connection of HTTP/2, and its reads.
        own = wire.get("network_stream") if wire.get("http_version") != b"HTTP/2" else None
        with brief_reads(own), suppress(httpx.HTTPError, OSError):
            for _ in self._bytes:
                # Comments that keep the connection alive may go on for as long as the proxy likes.
                if time.monotonic() > deadline:
                    return

    def close(self) -> None:
        """Close the connection, or hand it back to its pool where the answer was read to its end."""
        self._over = True
        self.settle()
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChatStream(StreamReader):
    """A streamed answer in async code; see `ChatStream`."""

    def __init__(self, call: Call, response: httpx.Response) -> None:
        super().__init__(call, response.headers)
        self._response = response
        self._bytes = response.aiter_bytes()
        self._over = False

    async def prime(self) -> Self:
        """Read until there is something to hand on. A failure before that can still be tried again."""
        while not self.started and not self._over:
            await self._pull()
        if not self.started:
            self.raise_failure()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self.ready:
            self.raise_failure()
            if self._over:
                raise StopAsyncIteration
            await self._pull()
        return self.ready.popleft()

    async def _pull(self) -> None:
        try:
            if self.done:
                # The caller has all that came; only now is it worth a moment to get the connection back.
                await self._drain()
            else:
                try:
                    began = time.monotonic()
                    data = await anext(self._bytes, None)
                    self._silence += time.monotonic() - began
                except (httpx.HTTPError, OSError) as error:
                    if not self.finished:
                        raise self.broken(error) from error
                    data = None
                if data is not None:
                    self.feed(data)
                    if self.done:
                        self.settle()
                    return
            self.end()
        except LavaError as error:
            # What had come before it is handed on first.
            self._failure = error
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()

    async def _drain(self) -> None:
        """Read on to the end of the body, which gives the connection back to its pool, unless that takes long."""
        with suppress(httpx.HTTPError, OSError, asyncio.TimeoutError):
            async with limited(PARTING):
                async for _ in self._bytes:
                    pass

    async def aclose(self) -> None:
        """Close the connection, or hand it back to its pool where the answer was read to its end."""
        self._over = True
        self.settle()
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
