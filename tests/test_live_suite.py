"""The live suite runs against the embedded gateway, so that it is known to work when it meets real Lava."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lava_mistral.gateway import LocalGateway
from tests.conftest import ROOT
from tests.fakes.command_line import DEMO
from tests.fakes.warm_python import WarmPython

LIVE = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
Run = Callable[..., str]


@pytest.fixture
def run(warm_python: Callable[..., WarmPython]) -> Run:
    """Runs the suite in a process of its own; its report."""

    def run(*, key: str, url: str) -> str:
        arguments = ("-q", "-p", "no:cacheprovider", "live")
        environment = {"LAVA_SECRET_KEY": key, "LAVA_BASE_URL": url}
        done = warm_python(DEMO["llama-index"]).run(LIVE, *arguments, folder=ROOT, **environment)
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
        return done.stdout.decode()

    return run


def test_it_passes_against_the_gateway(run: Run) -> None:
    with LocalGateway(record_lag=0.2) as gateway:
        report = run(key=gateway.secret_key, url=gateway.base_url)
    assert " passed" in report
    assert "skipped" not in report
    assert "base64 embeddings honoured: True" in report


def test_without_a_key_it_says_that_it_was_not_run(run: Run) -> None:
    report = run(key="", url="")
    assert " passed" not in report
    assert "no LAVA_SECRET_KEY or LAVA_FORWARD_TOKEN in the environment" in report
