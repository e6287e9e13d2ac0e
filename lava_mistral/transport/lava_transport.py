"""Transports of httpx that send whatever its clients ask of Mistral through Lava."""

from __future__ import annotations

from typing import Any, ClassVar

import httpx

from lava_mistral.transport.lava_transport_base import LavaTransportBase


class LavaTransport(LavaTransportBase, httpx.BaseTransport):
    """Sends whatever an `httpx.Client` asks of Mistral through Lava.

    Args:
        api_key: Lava's secret key or a forward token: text, a `SecretStr` or a function returning it. By default
            `LAVA_FORWARD_TOKEN`, then `LAVA_SECRET_KEY`, read at each request.
        base_url: by default `LAVA_BASE_URL`, else what the key's prefix says (sandbox or production).
        billing: who pays; `billed_to` blocks lie over it.
        metadata: stored by Lava with each request.
        transport: what carries the bytes; by default connections shared by the process, or by the event loop, without a
            limit on their number.

    Raises:
        ConfigurationError: from a request for another host, or without a usable credential.
    """

    _library: ClassVar[Any] = httpx
    _shared: ClassVar[Any] = httpx.HTTPTransport


class AsyncLavaTransport(LavaTransportBase, httpx.AsyncBaseTransport):
    """Sends whatever an `httpx.AsyncClient` asks of Mistral through Lava; see `lava_mistral.LavaTransport`."""

    _library: ClassVar[Any] = httpx
    _shared: ClassVar[Any] = httpx.AsyncHTTPTransport
