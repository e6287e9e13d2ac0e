"""Transports for clients of httpx and httpx2 that send requests for Mistral through Lava."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lava_mistral.billing.scope import resolve_billing
from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.environment import environment_proxy, ssl_context
from lava_mistral.transport.pools import KEEPALIVE_EXPIRY, per_loop, per_process
from lava_mistral.transport.route import MISTRAL_HOST, MISTRAL_URL, LavaRoute
from lava_mistral.transport.sockets import SOCKET_OPTIONS

# Set anew for Lava, or meaningless there.
_REPLACED = frozenset({b"host", b"authorization", b"x-lava-metadata", b"cookie"})


@dataclass(kw_only=True, eq=False, repr=False)
class LavaTransportBase(LavaRoute):
    """What the transports of both libraries are made of; `lava_mistral.LavaTransport` tells of the arguments."""

    transport: Any = None
    _library: ClassVar[Any]
    # What carries the bytes where no transport is given.
    _shared: ClassVar[Any]

    def _forwarded(self, request: Any) -> tuple[Any, Any]:
        """Return the transport to send with, and the request to Lava for one for Mistral, which stays untouched."""
        url, library = request.url, self._library
        if url.host != MISTRAL_HOST or url.scheme != "https" or url.port is not None:
            raise ConfigurationError(
                f"This transport forwards requests for https://{MISTRAL_HOST} alone; this one is for "
                f"{url.scheme}://{url.netloc.decode('ascii')}. Point the client at {MISTRAL_URL}: "
                "the transport itself finds the way to Lava."
            )
        billing_context = resolve_billing(self.billing, self.metadata, api_key=self.api_key, customer_required=False)
        if billing_context.limits:
            raise ConfigurationError(
                "A spend limit can't be kept for requests through a LavaTransport, whose cost is not known beforehand. "
                "Leave spend_limit= out of the billed_to blocks around them, or make the call with LavaMistral or one "
                "of the framework packages."
            )
        # Neither user and password nor a fragment of the address go with it.
        target = f"https://{MISTRAL_HOST}{url.raw_path.decode('ascii')}"
        address, _, headers = self.address(target, billing_context)
        kept = [(name, value) for name, value in request.headers.raw if name.lower() not in _REPLACED]
        forwarded = library.Request(
            request.method,
            str(address),
            headers=[*((name.encode(), value.encode()) for name, value in headers.items()), *kept],
            stream=request.stream,
            extensions=dict(request.extensions),
        )
        if self.transport is not None:
            return self.transport, forwarded
        proxy = environment_proxy(address.scheme, address.host)

        def make() -> Any:
            # Never makes a request wait for a connection.
            limits = library.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY
            )
            return self._shared(verify=ssl_context(), limits=limits, proxy=proxy, socket_options=SOCKET_OPTIONS)

        held = per_loop if hasattr(self._shared, "aclose") else per_process
        return held((library, proxy), make), forwarded

    def handle_request(self, request: Any) -> Any:
        """Send the request through Lava."""
        transport, forwarded = self._forwarded(request)
        return transport.handle_request(forwarded)

    async def handle_async_request(self, request: Any) -> Any:
        """Send the request through Lava."""
        transport, forwarded = self._forwarded(request)
        return await transport.handle_async_request(forwarded)

    def close(self) -> None:
        """Close the transport that was given; the shared connections stay open for others."""
        if self.transport is not None:
            self.transport.close()

    async def aclose(self) -> None:
        """Close the transport that was given; the shared connections stay open for others."""
        if self.transport is not None:
            await self.transport.aclose()
