"""Send requests with a caller's own client of httpx or httpx2, sync or async. Loads neither library."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.connections import CONNECT_TIMEOUT
from lava_mistral.transport.failures import (
    ConnectionBroken,
    ConnectTimeout,
    Deadline,
    DeadlineExceeded,
    NotConnected,
    TransportError,
)
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.request import Request

_T = TypeVar("_T")


class ClientTransport:
    """Sends with a caller's client of httpx or httpx2, which stays the caller's to close."""

    def __init__(self, client: Any, *, asynchronous: bool) -> None:
        self._client, self.asynchronous = client, asynchronous
        kind = "AsyncClient" if asynchronous else "Client"
        loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
        own = [library for library in loaded if isinstance(client, getattr(library, kind))]
        if not own:
            given = type(client).__name__
            raise ConfigurationError(f"http_client must be an httpx.{kind} or httpx2.{kind}, not {given}.")
        self.library: Any = own[0]

    def send(self, request: Request, deadline: Deadline) -> Flow[ClientResponse]:
        """Send a request and wait for the headers of its answer."""
        timeouts = _StepTimeouts(deadline)
        own = {"headers": request.headers, "content": request.content, "extensions": {"timeout": timeouts}}
        native = self.library.Request(request.method, str(request.url), **own)
        try:
            sending = self._client.send(native, stream=True, auth=None, follow_redirects=False)
            response = yield _in_time(sending, deadline) if self.asynchronous else sending
        except self.library.HTTPStatusError as error:
            # A hook of the caller's client raises for what is an answer.
            response = error.response
        except RuntimeError as error:
            if "loop" not in str(error) and "closed" not in str(error):
                raise
            # The connections of a client stay in the event loop that they were opened in.
            raise ConfigurationError(
                f"The client of {self.library.__name__} that was given is closed, or was used in another event loop "
                f"before ({error}). Keep it open as long as calls are made, and make one for each asyncio.run; or "
                "leave it out: each event loop then gets connections of its own."
            ) from error
        except (self.library.HTTPError, self.library.InvalidURL, OSError) as error:
            raise self.translated(error, request) from error
        timeouts.chunk_timeout = request.chunk_timeout
        return ClientResponse(self, request, response)

    def translated(self, error: Exception, request: Request) -> TransportError:
        """Return the failure that an exception of either library stands for; both use the same names."""
        text = str(error) or type(error).__name__
        names = {kind.__name__ for kind in type(error).__mro__}
        if "RequestError" in names:
            # The caller may look at it, and the one that was sent holds the credential.
            error.request = self.library.Request(request.method, request.target)  # type: ignore[attr-defined]
        if names & {"ConnectTimeout", "PoolTimeout"}:
            return ConnectTimeout(text)
        if names & {"TimeoutException", "TimeoutError"}:
            return DeadlineExceeded(text)
        if names & {"UnsupportedProtocol", "InvalidURL"}:
            raise ConfigurationError(f"the base URL can't be used: {text}")
        if names & {"ConnectError", "ProxyError", "LocalProtocolError"}:
            return NotConnected(text)
        return ConnectionBroken(text)


class ClientResponse:
    """An answer to a client's request; its body is read piece by piece."""

    def __init__(self, transport: ClientTransport, request: Request, response: Any) -> None:
        self.status: int = response.status_code
        headers = response.headers.copy()
        # As of this library's own connections: whatever the bytes, they can be given back.
        headers.encoding = "latin-1"
        self.headers: dict[str, str] = dict(headers.items())
        self._transport, self._request, self._response = transport, request, response
        self._asynchronous = transport.asynchronous
        self._body = response.aiter_bytes() if self._asynchronous else response.iter_bytes()

    def receive(self, deadline: Deadline) -> Flow[bytes]:
        """Wait for the next bytes of the body; none at its end."""
        library = self._transport.library
        if deadline.over:
            yield self.close()
        deadline.left()
        data = b""
        try:
            while data is not None and not data:
                following: Any = anext(self._body, None) if self._asynchronous else next(self._body, None)
                data = yield _in_time(following, deadline) if self._asynchronous else following
        except library.StreamError:
            # A hook of the caller's client has closed the answer unread.
            return b""
        except (library.HTTPError, OSError) as error:
            raise self._transport.translated(error, self._request) from error
        return data or b""

    def close(self) -> Any:
        """Close the connection, or hand it back to its pool where the answer was read to its end."""
        return self._response.aclose() if self._asynchronous else self._response.close()


class _StepTimeouts(dict[str, float | None]):
    """The timeouts of a request's steps as both libraries read them, each when its step begins."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(dict.fromkeys(("connect", "read", "write", "pool")))
        self._deadline = deadline
        self.chunk_timeout: float | None = None

    def __getitem__(self, name: str) -> float | None:
        if name == "read" and self.chunk_timeout is not None:
            return self.chunk_timeout
        try:
            left = self._deadline.left()
        except DeadlineExceeded:
            return 0.001
        return min(left, CONNECT_TIMEOUT) if left is not None and name in ("connect", "pool") else left

    def get(self, name: str, default: Any = None) -> Any:
        """Return the seconds for a step."""
        return self[name]


async def _in_time(step: Coroutine[Any, Any, _T], deadline: Deadline) -> _T:
    async with asyncio.timeout(deadline.left()):
        return await step
