"""A pytest fixture that gives your own tests a local Lava gateway with a simulated Mistral behind it.

Install `lava-mistral[gateway]` and name it in your `conftest.py`:

    pytest_plugins = ["lava_mistral.testing"]

Then a test asks for `lava_gateway`:

    def test_my_chain(lava_gateway):
        llm = ChatLavaMistral(api_key=lava_gateway.secret_key, base_url=lava_gateway.base_url)
        ...
        assert lava_gateway.requests[0].body["model"] == "mistral-small-2603"

Code that reads its settings from the environment is led to it by `monkeypatch.setenv` with `lava_gateway.environ`.
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
        TypeError: the marker has an argument without a name, or an unknown one.
    """
    # Not before a test asks for it: a run without such tests need not load a server.
    from lava_mistral.gateway import LocalGateway

    marker = request.node.get_closest_marker("lava_gateway")
    if marker is not None and marker.args:
        raise TypeError(f'@pytest.mark.lava_gateway takes options by name, such as balance="0", not {marker.args[0]!r}')
    with LocalGateway(**(marker.kwargs if marker else {})) as gateway:
        yield gateway
