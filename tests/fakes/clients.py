"""One scenario on the core's sync client or on its async one."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any

import httpx

from lava_mistral import AsyncLavaMistral, LavaMistral
from lava_mistral.gateway import LocalGateway
from lava_mistral.transport.retry import RetryPolicy

KEY = "aks_test_not-a-real-key"
# Nobody listens there: what is not scripted fails.
BASE = "http://127.0.0.1:9/v1"


def at_once(tries: int) -> RetryPolicy:
    """Further tries without a wait between them."""
    return RetryPolicy(max_retries=tries, initial=0.0)


class Caller:
    """Makes clients of one kind, and does what their kind needs.

    Args:
        asynchronous: which kind.
    """

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous

    def __repr__(self) -> str:
        return "async" if self.asynchronous else "sync"

    def client(self, handler: Any = None, *, gateway: LocalGateway | None = None, **settings: Any) -> Any:
        """A client.

        Args:
            handler: answers its requests in the place of a server.
            gateway: the server that it asks.
            **settings: of the client; it does not try again unless they say so.
        """
        if gateway is not None:
            settings = {"api_key": gateway.secret_key, "base_url": gateway.base_url, **settings}
        if handler is not None:
            http = httpx.AsyncClient if self.asynchronous else httpx.Client
            settings["http_client"] = http(transport=httpx.MockTransport(handler))
        settings = {"api_key": KEY, "base_url": BASE, "max_retries": 0, **settings}
        return AsyncLavaMistral(**settings) if self.asynchronous else LavaMistral(**settings)

    async def do(self, made: Any) -> Any:
        """What a call returns."""
        return await made if inspect.isawaitable(made) else made

    async def take(self, source: Any, count: int | None = None) -> list[Any]:
        """The next items of a stream or a listing; all of them by default."""
        taken: list[Any] = []
        if count == 0:
            return taken
        if isinstance(source, AsyncIterator):
            async for item in source:
                taken.append(item)
                if len(taken) == count:
                    break
        else:
            for item in source:
                taken.append(item)
                if len(taken) == count:
                    break
        return taken

    async def close(self, stream: Any) -> None:
        """Leave a stream."""
        await self.do(stream.aclose() if self.asynchronous else stream.close())
