"""What all commands have in common: help, wrong calls, encodings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lava_mistral import Billing, LavaMistral
from lava_mistral.gateway import LocalGateway
from tests.fakes.command_line import DEMO, MAIN, access, run
from tests.fakes.warm_python import WarmPython

Spawn = Callable[..., subprocess.CompletedProcess[bytes]]

ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


class TestEncodings:
    """What is printed where standard output can't hold every sign."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "日本.md").write_text("日本の首都は東京です → 「東京」 is the capital of Japan…", encoding="utf-8")
        return tmp_path

    @pytest.fixture(params=ENCODINGS, ids=str)
    def spawn(self, request: pytest.FixtureRequest, warm_python: Callable[..., WarmPython]) -> Spawn:
        """Runs a command in a process with an encoding of its own."""
        return partial(warm_python(DEMO["langchain"], **request.param).run, MAIN)

    def test_for_people_what_it_lacks_is_replaced(self, spawn: Spawn, folder: Path, gateway: LocalGateway) -> None:
        told = access(gateway)
        demo = spawn("demo", folder, "-q", "What is the capital of Japan?", **told)
        assert (demo.returncode, demo.stderr) == (0, b"")
        assert b"is the capital of Japan" in demo.stdout
        LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).chat(
            [{"role": "user", "content": "Hello"}], billing=Billing(customer_id="日本", meter_slug="chat")
        )
        used = spawn("usage", **told)
        assert (used.returncode, used.stderr) == (0, b"")
        examined = spawn("doctor", "--model", "日本", **told)
        assert (examined.returncode, examined.stderr) == (1, b"")
        refused = spawn("demo", folder, **(told | {"LAVA_SECRET_KEY": "aks_test_→"}))
        assert refused.returncode == 1
        assert refused.stderr.startswith(b"Failed: ")
        helped = spawn("--help")
        assert (helped.returncode, helped.stderr) == (0, b"")

    def test_for_programs_json_is_always_utf_8(self, spawn: Spawn, gateway: LocalGateway) -> None:
        told = access(gateway)
        LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).chat(
            [{"role": "user", "content": "Hello"}], billing=Billing(customer_id="日本 é", meter_slug="chat")
        )
        used = json.loads(spawn("usage", "--json", **told).stdout.decode("utf-8"))
        assert [item["name"] for item in used["items"]] == ["日本 é"]
        examined = json.loads(spawn("doctor", "--json", "--model", "日本", **told).stdout.decode("utf-8"))
        assert any("日本" in finding["detail"] for finding in examined["findings"])


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("lava-mistral 0.")


@pytest.mark.parametrize("command", [(), ("demo",), ("embed",), ("gateway",), ("doctor",), ("models",)])
def test_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize(("command", "extra"), [("gateway", "tokenizer"), ("demo", "documents")])
def test_help_names_the_extra(command: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # In square brackets it is taken for markup and left out.
    monkeypatch.setenv("COLUMNS", "200")
    assert f"the extra {extra} " in run(command, "--help").stdout


def test_an_unknown_command_exits_with_2() -> None:
    assert run("dance").exit_code == 2
    assert run().exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["modles"], "models"),
        (["doctr"], "doctor"),
        (["models", "--jsn"], "--json"),
        (["demo", "--questio"], "--question"),
    ],
)
def test_a_typo_gets_a_suggestion(arguments: list[str], meant: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert meant in result.stderr.rpartition("Error")[2]


def test_help_imports_neither_framework_nor_gateway() -> None:
    script = (
        "import sys\n"
        "from lava_mistral.__main__ import main\n"
        "sys.argv = ['lava-mistral', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'langchain_core', 'llama_index', 'uvicorn', 'numpy', 'mistral_common', 'pyarrow', 'ray'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL)
