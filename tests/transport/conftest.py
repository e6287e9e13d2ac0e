"""Servers for the tests of the transport, closed after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.fakes.raw_server import Peer, Server


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Peer], None]], Server]]:
    """Start a server that gives each connection to a function."""
    servers: list[Server] = []

    def start(handler: Callable[[Peer], None]) -> Server:
        servers.append(Server(handler))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
