"""The code blocks of the README and of every page under docs/ run, in order, against the local gateway."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lava_mistral.gateway import LocalGateway
from tests.conftest import ROOT

# A block is fenced at the margin or inside an indented tab; `python` and `bash` blocks run, `text` shows output.
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Without an end of their own, for another machine, or run by tests of their own.
NOT_RUN = re.compile(
    r"^(pip|uv|git|make|cd|export|source|python -m venv|docker|bash|pytest|uvicorn|lava-mistral gateway)\b"
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """List the language and the text of each block."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [(language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def pages_with(language: str) -> list[object]:
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if any(found == language for found, _ in blocks(page))
    ]


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("idle_loop")
@pytest.mark.parametrize("page", pages_with("python"))
def test_the_python_of_a_page_runs(
    page: Path, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)
    names: dict[str, object] = {"__name__": "docs"}
    for number, (language, text) in enumerate(blocks(page)):
        if language == "python":
            exec(compile(text, f"{page.name}, block {number + 1}", "exec"), names)


@pytest.mark.parametrize("page", pages_with("bash"))
def test_the_commands_of_a_page_run(page: Path, gateway: LocalGateway, tmp_path: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path), **gateway.environ}
    (tmp_path / "notes.md").write_text("Lava charges each request to a wallet or to a customer's plan.\n")
    text = "".join(text for language, text in blocks(page) if language == "bash").replace("\\\n", " ")
    for line in text.splitlines():
        command = shlex.split(line, comments=True)
        if command and not NOT_RUN.match(line):
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_there_are_pages_with_code() -> None:
    assert len(pages_with("python")) >= 1
