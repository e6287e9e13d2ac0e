"""How the gateway's tests talk to it: plainly, and through clients that know nothing of Lava."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from lava_mistral.gateway import LocalGateway

MISTRAL = "https://api.mistral.ai"


class Forward:
    """Sends requests for Mistral to a gateway, by hand.

    Args:
        gateway: where to.
    """

    def __init__(self, gateway: LocalGateway) -> None:
        self.gateway = gateway
        self.client = httpx.Client(timeout=20, verify=False)

    def __call__(
        self, path: str, body: Any = None, *, bearer: str | None = None, method: str | None = None, **headers: str
    ) -> httpx.Response:
        """One request to `path` of Mistral; a GET where there is no body."""
        key = self.gateway.secret_key if bearer is None else bearer
        return self.client.request(
            method or ("GET" if body is None else "POST"),
            f"{self.gateway.base_url}/forward",
            params={"u": f"{MISTRAL}{path}"},
            content=body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {key}",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )

    def chat(self, content: Any = "Hello", *, bearer: str | None = None, **parameters: Any) -> httpx.Response:
        """A chat request with one user message, or with the messages given."""
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        body = {"model": "mistral-small-2603", "messages": messages, **parameters}
        return self("/v1/chat/completions", body, bearer=bearer)

    def embed(self, texts: Any, **parameters: Any) -> httpx.Response:
        """An embeddings request."""
        return self("/v1/embeddings", {"model": "mistral-embed", "input": texts, **parameters})

    def rest(self, path: str, **query: Any) -> httpx.Response:
        """A request to Lava's own interface."""
        bearer = {"authorization": f"Bearer {self.gateway.secret_key}"}
        return self.client.get(f"{self.gateway.base_url}{path}", params=query, headers=bearer)


@pytest.fixture
def connect() -> Iterator[Callable[[LocalGateway], Forward]]:
    """Makes a `Forward` for a gateway."""
    made: list[Forward] = []

    def make(gateway: LocalGateway) -> Forward:
        made.append(Forward(gateway))
        return made[-1]

    yield make
    for forward in made:
        forward.client.close()


@pytest.fixture
def forward(gateway: LocalGateway, connect: Callable[[LocalGateway], Forward]) -> Forward:
    """Requests to the test's own gateway."""
    return connect(gateway)


def events(text: str) -> list[Any]:
    """The parsed events of a stream, `[DONE]` as it is."""
    datas = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


class ForwardTransport(httpx.BaseTransport):
    """Re-addresses requests for Mistral to a gateway; nothing of the library under test is in it."""

    def __init__(self, gateway: LocalGateway) -> None:
        self._gateway = gateway
        self._inner = httpx.HTTPTransport(verify=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._inner.handle_request(_readdressed(request, self._gateway))

    def close(self) -> None:
        self._inner.close()


class AsyncForwardTransport(httpx.AsyncBaseTransport):
    """The same for asynchronous clients."""

    def __init__(self, gateway: LocalGateway) -> None:
        self._gateway = gateway
        self._inner = httpx.AsyncHTTPTransport(verify=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._inner.handle_async_request(_readdressed(request, self._gateway))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _readdressed(request: httpx.Request, gateway: LocalGateway) -> httpx.Request:
    url = httpx.URL(f"{gateway.base_url}/forward", params={"u": str(request.url)})
    headers = {**request.headers, "host": url.netloc.decode(), "authorization": f"Bearer {gateway.secret_key}"}
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
