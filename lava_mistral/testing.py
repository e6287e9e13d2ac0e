"""A pytest fixture that gives your own tests a local Lava gateway with a simulated Mistral behind it.

Install `lava-mistral[gateway]` and write `pytest_plugins = ["lava_mistral.testing"]` in your `conftest.py`. Then a test
asks for `lava_gateway`; options of the gateway come from `@pytest.mark.lava_gateway(balance="0", latency=0.1)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lava_mistral.gateway import LocalGateway


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, so that `--strict-markers` knows it."""
    config.addinivalue_line("markers", "lava_gateway(**options): options of the lava_gateway fixture's LocalGateway.")


@pytest.fixture
def lava_gateway(request: pytest.FixtureRequest) -> Iterator[LocalGateway]:
    """A running `LocalGateway` of its own for each test; it needs the extra `[gateway]`."""
    # Not before a test asks for it: a run without such tests need not load a server.
    from lava_mistral.gateway import LocalGateway

    marker = request.node.get_closest_marker("lava_gateway")
    if marker is not None and marker.args:
        raise TypeError(f'@pytest.mark.lava_gateway takes options by name, such as balance="0", not {marker.args[0]!r}')
    with LocalGateway(**(marker.kwargs if marker else {})) as gateway:
        yield gateway
