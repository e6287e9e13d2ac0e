"""Installs the built wheel with each extra in an environment of its own and checks what came, and what did not.

Usage: python tests/extras.py UV PYTHON
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LANGCHAIN = "import langchain_lava_mistral as p; p.ChatLavaMistral; p.LavaMistralEmbeddings"
LLAMA_INDEX = "import llama_index_lava_mistral as p; p.ChatLavaMistral; p.LavaMistralEmbeddings"
GATEWAY = "from lava_mistral.gateway import LocalGateway\nwith LocalGateway() as g: print(g.base_url)"
CLI = "import sys; sys.argv[1:] = ['models', '--json']; from lava_mistral.__main__ import main; main()"
HTTPX2 = "import lava_mistral.httpx2"
CORE = "import lava_mistral; assert len(lava_mistral.models()) >= 34; print(lava_mistral.count_tokens('Hello'))"

# extra: (what works, what names its missing extra, what must not have come along)
CASES: dict[str, tuple[list[str], dict[str, str], list[str]]] = {
    "": (
        [CORE],
        {
            LANGCHAIN: "lava-mistral[langchain]",
            LLAMA_INDEX: "lava-mistral[llama-index]",
            GATEWAY: "lava-mistral[gateway]",
            CLI: "lava-mistral[cli]",
            HTTPX2: "lava-mistral[httpx2]",
        },
        ["langchain_core", "llama_index", "starlette", "mistral_common", "rich", "click", "typer", "aiohttp"],
    ),
    "httpx2": ([CORE, HTTPX2], {}, ["langchain_core", "llama_index", "starlette"]),
    "cli": ([CORE, CLI], {LANGCHAIN: "lava-mistral[langchain]"}, ["langchain_core", "llama_index", "starlette"]),
    "langchain": ([CORE, LANGCHAIN], {LLAMA_INDEX: "lava-mistral[llama-index]"}, ["llama_index"]),
    "llama-index": ([CORE, LLAMA_INDEX], {LANGCHAIN: "lava-mistral[langchain]"}, ["langchain_core", "langchain"]),
    "gateway": ([CORE, GATEWAY], {LANGCHAIN: "lava-mistral[langchain]"}, ["langchain_core", "llama_index"]),
}


def run(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-W", "error::ImportWarning", "-c", code], capture_output=True, text=True, check=False
    )


def main(uv: str, interpreter: str) -> None:
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", place, ROOT], check=True)
        [wheel] = place.glob("*.whl")
        for extra, (works, names, absent) in CASES.items():
            venv = place / f"venv-{extra}"
            python = venv / "bin" / "python"
            subprocess.run([uv, "venv", "--quiet", "--python", interpreter, venv], check=True)
            what = f"{wheel}[{extra}]" if extra else str(wheel)
            install = [uv, "pip", "install", "--quiet", "--constraints", ROOT / "constraints.txt", "--python", python]
            subprocess.run([*install, what], check=True)
            for code in works:
                done = run(python, code)
                if done.returncode:
                    failures.append(f"[{extra}] {code}\n{done.stderr}")
            for code, name in names.items():
                done = run(python, code)
                if done.returncode == 0 or name not in done.stderr:
                    failures.append(f"[{extra}] {code} should name {name}\n{done.stderr}")
            for module in absent:
                done = run(
                    python, f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is not None)"
                )
                if done.returncode:
                    failures.append(f"[{extra}] brought {module}")
            print(f"extra [{extra}]: {len(works)} imports work, {len(names)} name their extra, {len(absent)} absent")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main(*sys.argv[1:])
