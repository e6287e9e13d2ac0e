"""The example prints a span a call, tokens, durations and the cost by customer."""

from __future__ import annotations

import os
import subprocess
import sys

from lava_mistral.gateway import LocalGateway
from tests.conftest import ROOT


def test_metrics_and_spans_are_printed(gateway: LocalGateway) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "observability" / "metrics.py")],
        env={**os.environ, **gateway.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for name in ("gen_ai.client.token.usage", "gen_ai.client.operation.duration", "lava.client.cost", "cus_1", "cus_2"):
        assert name in done.stdout
    assert done.stdout.count('"name": "chat"') == 2
    assert gateway.secret_key not in done.stdout + done.stderr
