"""A pytest fixture that gives your own tests a local Lava gateway with a simulated Mistral behind it.

pytest finds it by itself where `lava-mistral[gateway]` is installed:

    def test_my_chain(lava_gateway):
        llm = ChatLavaMistral(api_key=lava_gateway.secret_key, base_url=lava_gateway.base_url)
        ...
        assert lava_gateway.requests[0].body["model"] == "mistral-small-2603"

Options of the gateway come from a marker: `@pytest.mark.lava_gateway(balance="0", latency=0.1)`.
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
    """A running `LocalGateway` of its own for each test.

    Raises:
        ImportError: the extra `[gateway]` is not installed.
    """
    # Not before a test asks for it: every pytest run of an environment loads this module.
    from lava_mistral.gateway import LocalGateway

    marker = request.node.get_closest_marker("lava_gateway")
    with LocalGateway(**(marker.kwargs if marker else {})) as gateway:
        yield gateway
