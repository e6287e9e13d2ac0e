"""The command line, run in this process, in one of its own, or in a fork of one that has imported it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from lava_mistral.__main__ import app
from lava_mistral.gateway import LocalGateway

COMMAND = str(Path(sys.executable).with_name("lava-mistral"))


# A script for a `WarmPython`, and what that may have imported.
MAIN = "from lava_mistral.__main__ import main; main()"
CLI = "import lava_mistral.__main__"
DEMO = {
    "langchain": f"{CLI}, uvicorn, langchain_lava_mistral.chat_models, langchain_lava_mistral.embeddings",
    "llama-index": f"{CLI}, uvicorn, llama_index_lava_mistral.llms, llama_index_lava_mistral.embeddings",
}


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def spawn(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def access(gateway: LocalGateway) -> dict[str, str]:
    return {"LAVA_SECRET_KEY": gateway.secret_key, "LAVA_BASE_URL": gateway.base_url}
