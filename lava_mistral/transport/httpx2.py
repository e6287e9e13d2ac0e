"""Transports of httpx2 that send whatever its clients ask of Mistral through Lava."""

from __future__ import annotations

import httpx2

from lava_mistral.transport.forwarding import AsyncForwarding, SyncForwarding


class LavaTransport(SyncForwarding, httpx2.BaseTransport):
    """Sends whatever an `httpx2.Client` asks of Mistral through Lava; see `lava_mistral.LavaTransport`."""

    _library = httpx2


class AsyncLavaTransport(AsyncForwarding, httpx2.AsyncBaseTransport):
    """Sends whatever an `httpx2.AsyncClient` asks of Mistral through Lava; see `lava_mistral.LavaTransport`."""

    _library = httpx2
