"""An httpx transport for async code on top of aiohttp.

aiohttp reads a stream's chunk at half the cost of httpx's own async transport and gives a turn to each of many streams,
where the other lets some wait for seconds: `benchmarks/chat.py` shows both figures for 200 streams at once.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from yarl import URL

# More special ones first. What aiohttp tells apart and httpx has a name for.
_ERRORS: tuple[tuple[type[BaseException], type[httpx.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (TimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientProxyConnectionError, httpx.ProxyError),
    (aiohttp.ClientHttpProxyError, httpx.ProxyError),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ClientSSLError, httpx.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.ClientError, httpx.ReadError),
    (ConnectionError, httpx.ReadError),
)


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        kind = next(theirs for ours, theirs in _ERRORS if isinstance(error, ours))
        # aiohttp's own exceptions carry the request, and with it the credential: only their words go on.
        raise kind(str(error) or type(error).__name__) from None


class _Body(httpx.AsyncByteStream):
    """A response's body as it arrives, one piece a read."""

    def __init__(self, response: aiohttp.ClientResponse, timeout: dict[str, float | None]) -> None:
        self._response = response
        self._timeout = timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            # From here on the limit is the one between two reads, which may differ from the one before the headers.
            connection.protocol.read_timeout = self._timeout.get("read")
            connection.protocol.start_timeout()
        with _as_httpx_errors():
            async for data in self._response.content.iter_any():
                yield data

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Carries httpx requests over an aiohttp session that never makes one wait for a connection.

    Args:
        verify: certificates to trust.
        proxy: an http proxy to go through.
        keepalive: seconds that an idle connection is kept.
    """

    def __init__(self, *, verify: ssl.SSLContext, proxy: str | None, keepalive: float) -> None:
        self._proxy = proxy
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=verify, keepalive_timeout=keepalive),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    @property
    def closed(self) -> bool:
        """Whether its connections are closed."""
        return self._session.closed

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; the response's headers are here, its body is not."""
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        with _as_httpx_errors():
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=[
                    (name.decode("ascii"), value.decode("latin-1"))
                    for name, value in request.headers.raw
                    if name.lower() != b"transfer-encoding"
                ],
                data=await request.aread() or None,
                allow_redirects=False,
                proxy=self._proxy,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=limits.get("connect"), sock_read=limits.get("read")
                ),
            )
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response, limits),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()
