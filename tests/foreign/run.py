"""Run the agent tests of other projects with `ChatLavaMistral` in the place of their scripted models: `make foreign`.

LangGraph's prebuilt agents and the supervisor publish their tests in their sdists. deepagents does not: its agents are
run by our own tests in `deep_agents.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "build" / "foreign"
PYTHON = HERE / "venv" / "bin" / "python"
PACKAGES = (
    "deepagents",
    "langgraph-supervisor",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "psycopg[binary]",
    "pytest",
    "pytest-asyncio",
    "pytest-mock",
    "syrupy",
)
# The distribution → the modules of its tests that define scripted models, and those models.
SUITES = {
    "langgraph-prebuilt": {"model": ("FakeToolCallingModel",)},
    "langgraph-supervisor": {
        "test_supervisor": ("FakeChatModel", "FakeChatModelWithAssertion"),
        "test_supervisor_functional_api": ("FakeModel",),
    },
}

# OpenAI's tool that runs an MCP server there: Mistral has none, and its API refuses it too.
LEFT_OUT = ("tests/test_react_agent.py::test_model_with_tools[True",)


def install(uv: str) -> None:
    """Make the environment, once."""
    if not PYTHON.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(HERE / "venv")], check=True)
        command = [uv, "pip", "install", "--quiet", "--python", str(PYTHON), *PACKAGES]
        subprocess.run([*command, "-e", f"{ROOT}[langchain,gateway]"], check=True)
        # Only pip fetches sdists; it runs in an environment of uv's.
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(PYTHON), "pip"], check=True)


def unpack(name: str) -> Path:
    """Return the folder of the installed version's sdist, with its scripted models replaced."""
    version = subprocess.run(
        [str(PYTHON), "-c", f"from importlib.metadata import version; print(version({name!r}))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    folder = HERE / f"{name.replace('-', '_')}-{version}"
    archive = folder.with_name(f"{folder.name}.tar.gz")
    if not archive.exists():
        command = [str(PYTHON), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", str(HERE), f"{name}=={version}"], check=True)
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(HERE, filter="data")
    # The installed package is tested; Python would find the folder of the sdist first.
    for package in folder.glob("lang*"):
        shutil.rmtree(package)
    for module, models in SUITES[name].items():
        lines = "".join(f"{model} = behind({model})\n" for model in models)
        with (folder / "tests" / f"{module}.py").open("a", encoding="utf-8") as source:
            source.write(f"\nfrom substitute import behind  # noqa: E402\n{lines}")
    return folder


def main(uv: str, *arguments: str) -> int:
    """Run all suites, each in a process of its own.

    Args:
        uv: the command that makes the environment.
        *arguments: further ones of pytest.
    """
    HERE.mkdir(parents=True, exist_ok=True)
    install(uv)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    failed = 0
    for name in SUITES:
        print(f"== {name}", flush=True)
        command = [str(PYTHON), "-m", "pytest", "-q", "--no-header", "-o", "addopts="]
        command += [*(f"--deselect={test}" for test in LEFT_OUT), *arguments, "tests"]
        failed |= subprocess.run(command, cwd=unpack(name), env=environment, check=False).returncode
    print("== deepagents (its sdist holds no tests; these are ours)", flush=True)
    ours = Path(__file__).with_name("deep_agents.py")
    command = [str(PYTHON), "-m", "pytest", "-q", "--no-header", "--noconftest", "-c", os.devnull]
    command += ["-o", "asyncio_mode=auto"]
    return failed | subprocess.run([*command, *arguments, str(ours)], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
