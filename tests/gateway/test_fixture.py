"""The pytest fixture for users' own tests."""

from __future__ import annotations

import subprocess
import sys

from lava_mistral.gateway import LocalGateway
from lava_mistral.testing import lava_gateway  # noqa: F401

pytest_plugins = ["pytester"]


def test_the_fixture_is_a_gateway(lava_gateway):  # noqa: F811
    assert isinstance(lava_gateway, LocalGateway)
    assert lava_gateway.base_url.startswith("http://127.0.0.1:")


def test_the_fixture_gives_each_test_a_gateway(pytester, monkeypatch):
    # The other plugins of this environment take seconds to load.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest('pytest_plugins = ["lava_mistral.testing"]')
    pytester.makepyfile(
        """
        import httpx
        import pytest

        def ask(gateway):
            return httpx.post(
                f"{gateway.base_url}/forward?u=https://api.mistral.ai/v1/chat/completions",
                json={"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hello"}]},
                headers={"authorization": f"Bearer {gateway.secret_key}"},
            )

        def test_one(lava_gateway):
            assert ask(lava_gateway).status_code == 200
            assert lava_gateway.requests[0].path == "/v1/chat/completions"

        @pytest.mark.lava_gateway(balance=0)
        def test_two(lava_gateway):
            assert lava_gateway.requests == []
            assert ask(lava_gateway).status_code == 402

        @pytest.mark.lava_gateway("0")
        def test_three(lava_gateway):
            pass
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "--strict-markers", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*TypeError: @pytest.mark.lava_gateway takes options by name*"])


def test_loading_the_plugin_loads_no_server():
    code = (
        "import sys; import pytest; before = set(sys.modules); import lava_mistral.testing; "
        "heavy = {'starlette', 'uvicorn', 'numpy', 'langchain_core', 'llama_index'} & (set(sys.modules) - before); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
