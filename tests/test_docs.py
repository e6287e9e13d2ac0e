"""The code of the README and of every page runs, in order, against the local gateway; what pages name exists."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import griffe
import httpx
import pytest
import typer
from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
from llama_index.embeddings.mistralai import MistralAIEmbedding
from llama_index.llms.mistralai import MistralAI

from lava_mistral import AsyncLavaMistral, LavaMistral
from lava_mistral.__main__ import app
from lava_mistral.gateway import Interrupted, LocalGateway, Status
from tests.conftest import ROOT
from tests.fakes.command_line import DEMO, MAIN
from tests.fakes.pdf_file import pdf
from tests.fakes.warm_python import WarmPython

# A block is fenced at the margin or inside an indented tab. `python` blocks run, `bash` blocks line by line, the `sh`
# block of the README as one script; `text` shows output.
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
# What differs from run to run in an output: ids of requests and of tool calls, durations; and pydantic's version.
VARYING = re.compile(r"\breq_[0-9a-f]+|(?<='id': ')\w{9}(?=')|(?<=duration )[\d.e-]+|(?<=pydantic\.dev/)[\d.]+")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Without an end of their own, for another machine, or run by tests of their own.
NOT_RUN = re.compile(
    r"^(pip|uv|git|make|cd|export|unset|source|python3? -m venv|docker|bash|pytest|uvicorn|curl|lava-mistral gateway)\b"
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


def shell_environment(home: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(ROOT), **more}


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("idle_loop")
@pytest.mark.parametrize("page", pages_with("python"))
def test_the_python_of_a_page_runs(
    page: Path, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "your.pdf").write_bytes(pdf("The lighthouse of Skagen is 46 metres", "high. It was built in 1858."))
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)
    names: dict[str, object] = {"__name__": "docs"}
    shown, printed = [], []
    found = blocks(page)
    for number, (language, text) in enumerate(found):
        if language == "python":
            with redirect_stdout(StringIO()) as said:
                exec(compile(text, f"{page.name}, block {number + 1}", "exec"), names)
            if said.getvalue() and found[number + 1 :] and found[number + 1][0] == "text":
                shown.append(VARYING.sub("…", found[number + 1][1]))
                printed.append(VARYING.sub("…", said.getvalue()))
    names.clear()
    assert printed == shown
    # What a page leaves open is reported here, not in another test.
    gc.collect()


def titled(page: str, title: str) -> str:
    """Return the block that a page shows as a file of this name."""
    return (ROOT / page).read_text("utf-8").split(f'```python title="{title}"\n', 1)[1].split("```", 1)[0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["The lighthouse of Skagen is 46 metres", "high."],
            "The lighthouse of Skagen is 46 metres high. [your.pdf, p. 1]",
        ),
        ([], "your.pdf: no text found; is it a scan?"),
    ],
)
def test_the_script_for_a_pdf_stands_alone(
    lines: list[str], said: str, gateway: LocalGateway, tmp_path: Path, warm_python: Callable[..., WarmPython]
) -> None:
    (tmp_path / "your.pdf").write_bytes(pdf(*lines))
    script = titled("docs/guides/rag.md", "ask_pdf.py")
    done = warm_python(DEMO["langchain"]).run(script, folder=tmp_path, **gateway.environ)
    assert said in (done.stdout + done.stderr).decode()
    assert done.returncode == (0 if lines else 1)
    assert (b"USD" in done.stdout) is bool(lines)


def test_the_web_app_streams_with_its_cost_and_answers_what_is_wrong_by_status_or_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names: dict[str, Any] = {"__name__": "app"}
    exec(titled("docs/guides/billing.md", "app.py"), names)
    monkeypatch.setenv("LAVA_REQUIRE_CUSTOMER", "1")

    async def visit(customer: str, gateway: LocalGateway, *answers: object) -> httpx.Response:
        gateway.queue(*answers)
        transport = httpx.ASGITransport(app=names["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
            return await browser.get("/ask", params={"question": "Water is wet. Is water wet?", "customer": customer})

    with LocalGateway(customers={"cus_42": "1", "cus_poor": "0"}) as gateway:
        for name, value in gateway.environ.items():
            monkeypatch.setenv(name, value)
        good, poor = (asyncio.run(visit(customer, gateway)) for customer in ("cus_42", "cus_poor"))
        refused = [
            asyncio.run(visit("cus_42", gateway, *answers)).status_code
            for answers in ([(403, {"error": {"message": "not on the plan"}})], [Status(400)], [Status(503)] * 3)
        ]
        empty = [asyncio.run(visit(customer, gateway)).status_code for customer in ("", " ")]
        early = asyncio.run(visit("cus_42", gateway, Interrupted()))
    [*words, cost] = good.text.strip().split("\n\n")
    assert "".join(json.loads(word.removeprefix("data: ")) for word in words) == "Water is wet."
    assert cost.startswith("event: cost\ndata: 0.0000")
    assert (good.status_code, poor.status_code) == (200, 402)
    assert (refused, empty) == ([403, 502, 503], [422, 422])
    assert early.text.startswith("data: ")
    assert early.text.endswith('event: failed\ndata: "The answer ended early."\n\n')


@pytest.mark.parametrize("page", pages_with("bash"))
def test_the_commands_of_a_page_run(
    page: Path, gateway: LocalGateway, tmp_path: Path, warm_python: Callable[..., WarmPython]
) -> None:
    (tmp_path / "notes.md").write_text("Lava charges each request to a wallet or to a customer's plan.\n")
    text = "".join(text for language, text in blocks(page) if language == "bash").replace("\\\n", " ")
    for line in text.splitlines():
        command = shlex.split(line, comments=True)
        if command and not NOT_RUN.match(line):
            assert command[0] == "lava-mistral", line
            done = warm_python(DEMO["langchain"]).run(
                MAIN, *command[1:], folder=tmp_path, HOME=str(tmp_path), **gateway.environ
            )
            assert done.returncode == 0, f"{line}\n{(done.stdout + done.stderr).decode()}"


def test_the_block_to_paste_prints_what_the_readme_shows(tmp_path: Path) -> None:
    """All of it but the installation, on a free port."""
    found = blocks(ROOT / "README.md")
    at = next(number for number, (language, _) in enumerate(found) if language == "sh")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    installing = re.compile(r"^(git|pip|python3 -m venv)\b.*\n", flags=re.MULTILINE)
    script = installing.sub("", found[at][1]).replace("8788", port)
    # What is installed there counts tokens quickly.
    command = f"{sys.executable} -m lava_mistral gateway --tokenizer fast --port {port}"
    script = script.replace("lava-mistral gateway", command)
    done = subprocess.run(
        ["bash", "-c", f"{script}\nkill $!"],
        cwd=tmp_path,
        env=shell_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == (found[at + 1][1], 0), done.stderr


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "docs/contributing/architecture.md", "docs/contributing/private-apis.md"]
)
def test_files_and_tests_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"`((?:(?:\w+_)?lava_mistral|tests|docs)/[^`:]+)(?:::(\w+))?`", text)
    assert named
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text("utf-8"), test


def section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text("utf-8")
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def fields_of(*classes: type) -> list[str]:
    return [name for each in classes for name in each.model_fields]


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("From langchain-mistralai", fields_of(ChatMistralAI, MistralAIEmbeddings)),
        (
            "From llama-index-llms-mistralai",
            [
                *inspect.signature(MistralAI.__init__).parameters,
                *fields_of(MistralAI, MistralAIEmbedding),
            ],
        ),
    ],
)
def test_every_parameter_of_another_package_has_a_row(heading: str, names: list[str]) -> None:
    table = section("docs/guides/moving.md", heading)
    assert [name for name in names if name != "self" and f"`{name}`" not in table] == []


def test_every_option_of_the_command_line_is_on_its_page() -> None:
    text = (ROOT / "docs/reference/command-line.md").read_text("utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"## {name}\n" in text
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if option not in text] == []


def test_the_reference_shows_each_method_of_the_clients() -> None:
    flows = griffe.load_extensions(str(ROOT / "docs" / "contributing" / "griffe_flows.py"))
    clients: Any = griffe.load("lava_mistral", search_paths=[ROOT], extensions=flows)["client.clients"]
    for kind in (LavaMistral, AsyncLavaMistral):
        for name in [name for name in dir(kind) if name[0] != "_" and callable(getattr(kind, name))]:
            shown = clients[kind.__name__].all_members[name]
            assert shown.is_function, name
            assert shown.docstring, name
            assert inspect.signature(getattr(kind, name)).return_annotation == str(shown.returns)
