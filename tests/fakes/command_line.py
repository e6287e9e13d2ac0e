"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from lava_mistral.__main__ import app
from lava_mistral.gateway import LocalGateway

FRAMEWORKS = ["langchain", "llama-index"]
COMMAND = str(Path(sys.executable).with_name("lava-mistral"))


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def spawn(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def access(gateway: LocalGateway) -> dict[str, str]:
    return {"LAVA_SECRET_KEY": gateway.secret_key, "LAVA_BASE_URL": gateway.base_url}
