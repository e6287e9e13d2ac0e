"""The forward proxy: httpx transports that re-address a request for Mistral to Lava.

`LavaTransport` is not a client. It stands around another httpx transport, turns a request for
`https://api.mistral.ai/…` into one for `{base}/forward?u=…`, sets the credential and the metadata, and refuses any
other host. Whatever library takes an `httpx.Client` can be sent through Lava by giving that client this transport.
The request that the library made stays untouched, so `response.request` still names Mistral and holds no credential.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

import httpx

from lava_mistral.billing.credentials import Secret, hidden
from lava_mistral.billing.identity import Billing, check_metadata, resolve_access, to_billing
from lava_mistral.billing.scope import Identity, identify
from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.pools import async_pool, sync_pool

MISTRAL_HOST = "api.mistral.ai"
MISTRAL_URL = f"https://{MISTRAL_HOST}/v1"

# Set anew for Lava, or meaningless there.
_REPLACED = frozenset({b"host", b"authorization", b"x-lava-metadata", b"cookie"})


@lru_cache(maxsize=512)
def forward_url(base_url: str, target: str) -> httpx.URL:
    """The address at Lava that stands for a provider's address."""
    return httpx.URL(f"{base_url}/forward?u={quote(target, safe='')}")


def lava_headers(bearer: str, metadata: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers that Lava itself reads."""
    headers = [(b"Authorization", b"Bearer " + bearer.encode("ascii"))]
    if metadata:
        # ASCII escapes: a header can't hold other characters.
        headers.append((b"x-lava-metadata", json.dumps(dict(metadata), separators=(",", ":")).encode("ascii")))
    return headers


class Forwarder:
    """The settings of one way through Lava, and what they make of a request. Does no I/O."""

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.api_key = hidden(api_key)
        self.base_url = base_url
        self.billing = to_billing(billing)
        self.metadata = check_metadata(metadata)

    def request(
        self,
        method: str,
        target: str,
        *,
        identity: Identity,
        headers: list[tuple[bytes, bytes]],
        content: bytes | None = None,
        stream: httpx.SyncByteStream | httpx.AsyncByteStream | None = None,
        extensions: dict[str, object] | None = None,
    ) -> httpx.Request:
        """The request to send to Lava for one to the provider address `target`."""
        access = resolve_access(self.api_key, self.base_url)
        url = forward_url(access.base_url, target)
        # httpx adds the host itself, but not to a request whose body is a stream.
        own = [(b"Host", url.netloc), *lava_headers(access.bearer(identity.billing), identity.metadata)]
        return httpx.Request(
            method,
            url,
            headers=[*own, *headers],
            content=content,
            stream=stream,
            extensions=extensions,
        )

    def readdress(self, request: httpx.Request) -> httpx.Request:
        """The request to send to Lava for one that a library made for Mistral.

        Raises:
            ConfigurationError: it is for another host than Mistral's, there is no usable credential, or a spend limit
                holds.
        """
        url = request.url
        if url.host != MISTRAL_HOST or url.scheme != "https" or url.port is not None:
            raise ConfigurationError(
                f"This transport forwards requests for https://{MISTRAL_HOST} alone; this one is for "
                f"{url.scheme}://{url.netloc.decode('ascii')}. Point the client at {MISTRAL_URL}: "
                "the transport itself finds the way to Lava."
            )
        identity = identify(self.billing, self.metadata, api_key=self.api_key)
        if identity.limits:
            raise ConfigurationError(
                "A spend limit can't be kept for requests through a LavaTransport, whose cost is not known beforehand. "
                "Leave spend_limit= out of the billed_to blocks around them, or make the call with LavaMistral or one "
                "of the framework packages."
            )
        return self.request(
            request.method,
            str(url),
            identity=identity,
            headers=[(name, value) for name, value in request.headers.raw if name.lower() not in _REPLACED],
            stream=request.stream,
            extensions=dict(request.extensions),
        )


class LavaTransport(httpx.BaseTransport):
    """Sends whatever an `httpx.Client` asks of Mistral through Lava.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._forwarder = Forwarder(api_key=api_key, base_url=base_url, billing=billing, metadata=metadata)
        self._inner = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request through Lava."""
        forwarded = self._forwarder.readdress(request)
        inner = self._inner if self._inner is not None else sync_pool(forwarded.url)
        return inner.handle_request(forwarded)

    def close(self) -> None:
        """Close the transport that was given; the shared pool stays open for others."""
        if self._inner is not None:
            self._inner.close()


class AsyncLavaTransport(httpx.AsyncBaseTransport):
    """Sends whatever an `httpx.AsyncClient` asks of Mistral through Lava; see `LavaTransport`."""

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._forwarder = Forwarder(api_key=api_key, base_url=base_url, billing=billing, metadata=metadata)
        self._inner = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request through Lava."""
        forwarded = self._forwarder.readdress(request)
        inner = self._inner if self._inner is not None else await async_pool(forwarded.url)
        return await inner.handle_async_request(forwarded)

    async def aclose(self) -> None:
        """Close the transport that was given; the shared pool stays open for others."""
        if self._inner is not None:
            await self._inner.aclose()
