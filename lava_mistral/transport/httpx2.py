"""Transports of httpx2 that send whatever its clients ask of Mistral through Lava."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from lava_mistral.billing.credentials import Secret
from lava_mistral.billing.identity import Billing
from lava_mistral.transport.lava import Forwarder, shared_transport


class LavaTransport(httpx2.BaseTransport):
    """Sends whatever an `httpx2.Client` asks of Mistral through Lava.

    Args:
        api_key: Lava's secret key or a forward token: text, a `SecretStr` or a function returning it. By default
            `LAVA_FORWARD_TOKEN`, then `LAVA_SECRET_KEY`, read at each request.
        base_url: by default `LAVA_BASE_URL`, else what the key's prefix says (sandbox or production).
        billing: who pays; `billed_to` blocks lie over it.
        metadata: stored by Lava with each request.
        transport: what carries the bytes; by default a pool shared by the process, without a limit on connections.

    Raises:
        ConfigurationError: from a request for another host, or without a usable credential.
    """

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._forwarder = Forwarder(api_key=api_key, base_url=base_url, billing=billing, metadata=metadata)
        self._inner = transport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request through Lava."""
        forwarded: httpx2.Request = self._forwarder.readdress(httpx2, request)
        inner: httpx2.BaseTransport = self._inner or shared_transport(httpx2, forwarded.url, asynchronous=False)
        return inner.handle_request(forwarded)

    def close(self) -> None:
        """Close the transport that was given; the shared pool stays open for others."""
        if self._inner is not None:
            self._inner.close()


class AsyncLavaTransport(httpx2.AsyncBaseTransport):
    """Sends whatever an `httpx2.AsyncClient` asks of Mistral through Lava; see `LavaTransport`."""

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._forwarder = Forwarder(api_key=api_key, base_url=base_url, billing=billing, metadata=metadata)
        self._inner = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request through Lava."""
        forwarded: httpx2.Request = self._forwarder.readdress(httpx2, request)
        inner: httpx2.AsyncBaseTransport = self._inner or shared_transport(httpx2, forwarded.url, asynchronous=True)
        return await inner.handle_async_request(forwarded)

    async def aclose(self) -> None:
        """Close the transport that was given; the shared pool stays open for others."""
        if self._inner is not None:
            await self._inner.aclose()
