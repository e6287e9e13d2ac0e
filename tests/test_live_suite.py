"""The live suite runs against the embedded gateway, so that it is known to work when it meets real Lava."""

from __future__ import annotations

import os
import subprocess
import sys

from lava_mistral.gateway import LocalGateway
from tests.conftest import ROOT

LIVE = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "live"]


def run(*, key: str, url: str) -> str:
    environment = {**os.environ, "LAVA_SECRET_KEY": key, "LAVA_BASE_URL": url}
    done = subprocess.run(LIVE, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_against_the_gateway():
    with LocalGateway(record_lag=0.2) as gateway:
        report = run(key=gateway.secret_key, url=gateway.base_url)
    assert " passed" in report
    assert "skipped" not in report
    assert "base64 embeddings honoured: True" in report


def test_without_a_key_it_says_that_it_was_not_run():
    report = run(key="", url="")
    assert " passed" not in report
    assert "no LAVA_SECRET_KEY or LAVA_FORWARD_TOKEN in the environment" in report
