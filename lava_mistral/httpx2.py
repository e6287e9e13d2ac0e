"""`LavaTransport` and `AsyncLavaTransport` for clients of httpx2; those for httpx are in `lava_mistral` itself."""

from __future__ import annotations

from typing import Any, ClassVar

try:
    import httpx2
except ModuleNotFoundError as error:
    raise ImportError(
        f'the transports for httpx2 need {error.name}, which is not installed: pip install "lava-mistral[httpx2]"',
        name=error.name,
    ) from error

from lava_mistral.transport.lava_transport_base import LavaTransportBase

__all__ = ["AsyncLavaTransport", "LavaTransport"]


class LavaTransport(LavaTransportBase, httpx2.BaseTransport):
    """Sends whatever an `httpx2.Client` asks of Mistral through Lava; see `lava_mistral.LavaTransport`."""

    _library: ClassVar[Any] = httpx2
    _shared: ClassVar[Any] = httpx2.HTTPTransport


class AsyncLavaTransport(LavaTransportBase, httpx2.AsyncBaseTransport):
    """Sends whatever an `httpx2.AsyncClient` asks of Mistral through Lava; see `lava_mistral.LavaTransport`."""

    _library: ClassVar[Any] = httpx2
    _shared: ClassVar[Any] = httpx2.AsyncHTTPTransport
