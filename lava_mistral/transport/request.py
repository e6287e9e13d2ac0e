"""Hold a request as it is sent, and say what its answer is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.failures import Deadline
from lava_mistral.transport.flow import Flow

_PORTS = {"https": 443, "http": 80}


class Url(NamedTuple):
    """An address: where to connect to, and what to ask for there."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(text: str) -> Url:
    """Parse an http or https URL; user, password and fragment are left out."""
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS[parts.scheme]
        host = parts.hostname or ""
        # Also refuses empty labels and those of more than 63 characters.
        host = host if ":" in host else host.encode("idna").decode("ascii")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        target.encode("ascii")
    except (ValueError, KeyError):
        host = ""
    if not host:
        raise ConfigurationError("The base URL is not an address of http:// or https:// with a valid host name.")
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == _PORTS[parts.scheme] else f"{shown}:{port}"
    return Url(parts.scheme, host, port, authority, target)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to Lava.

    Attributes:
        target: the address as the caller knows it, the provider's.
        headers: by lower-case name, the credential among them; never shown.
        chunk_timeout: seconds between two reads of a streamed body; for clients that take one limit for all of them.
    """

    method: str
    url: Url
    target: str
    headers: dict[str, str] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)
    chunk_timeout: float | None = None


class Headers(dict[str, str]):
    """An answer's headers by their names in lower case, found under them in any case."""

    def __missing__(self, name: str) -> str:
        if name.islower():
            raise KeyError(name)
        return self[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value under the name, in any case."""
        return super().get(name.lower(), default)


class Response(Protocol):
    """An answer whose headers are there, by lower-case name; several of one name are joined by commas.

    Where a step fails, or it is dropped early, its connection is closed.
    """

    status: int
    headers: dict[str, str]

    def receive(self, deadline: Deadline) -> Flow[bytes]: ...
    def close(self) -> Any: ...


def read(response: Response, deadline: Deadline) -> Flow[bytes]:
    """Wait for the whole body of an answer."""
    pieces = []
    while data := (yield from response.receive(deadline)):
        pieces.append(data)
    return b"".join(pieces)
