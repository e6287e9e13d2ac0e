"""Transports for clients of httpx and httpx2 that send requests for Mistral through Lava."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lava_mistral.billing.identity import Billing, Secret
from lava_mistral.transport.lava import Forwarder
from lava_mistral.transport.pools import KEEPALIVE, environment_proxy, per_loop, per_process, ssl_context


class Forwarding:
    """What the transports of both libraries are made of; `lava_mistral.LavaTransport` tells of the arguments."""

    _library: Any
    _shared: str

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
        transport: Any = None,
    ) -> None:
        self._forwarder = Forwarder(api_key=api_key, base_url=base_url, billing=billing, metadata=metadata)
        self._given = transport

    def _inner(self, url: Any) -> Any:
        """Return the transport that was given, or the library's own, which never makes a request wait."""
        if self._given is not None:
            return self._given
        library, proxy = self._library, environment_proxy(url.scheme, url.host)

        def make() -> Any:
            limits = library.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE)
            return getattr(library, self._shared)(verify=ssl_context(), limits=limits, proxy=proxy)

        held = per_loop if self._shared.startswith("Async") else per_process
        return held((library, proxy), make)


class SyncForwarding(Forwarding):
    """A transport for sync clients."""

    _shared = "HTTPTransport"

    def handle_request(self, request: Any) -> Any:
        """Send the request through Lava."""
        forwarded = self._forwarder.readdress(self._library, request)
        return self._inner(forwarded.url).handle_request(forwarded)

    def close(self) -> None:
        """Close the transport that was given; the shared connections stay open for others."""
        if self._given is not None:
            self._given.close()


class AsyncForwarding(Forwarding):
    """A transport for async clients."""

    _shared = "AsyncHTTPTransport"

    async def handle_async_request(self, request: Any) -> Any:
        """Send the request through Lava."""
        forwarded = self._forwarder.readdress(self._library, request)
        return await self._inner(forwarded.url).handle_async_request(forwarded)

    async def aclose(self) -> None:
        """Close the transport that was given; the shared connections stay open for others."""
        if self._given is not None:
            await self._given.aclose()
