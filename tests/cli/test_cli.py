from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from lava_mistral import Billing, LavaMistral
from lava_mistral.cli.app import app
from lava_mistral.gateway import Interrupted, LocalGateway
from lava_mistral.pricing.catalog import models
from tests.conftest import ROOT

FRAMEWORKS = ["langchain", "llama-index"]
UNMETERED = base64.b64encode(b'{"secret_key":"aks_live_abcdefgh","customer_id":"c_1"}').decode()
COMMAND = str(Path(sys.executable).with_name("lava-mistral"))


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def spawn(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def before(folder: Path) -> str:
    """A path of modules with a folder before this project."""
    return f"{folder}{os.pathsep}{ROOT}"


def access(gateway: LocalGateway) -> dict[str, str]:
    return {"LAVA_SECRET_KEY": gateway.secret_key, "LAVA_BASE_URL": gateway.base_url}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two texts, and with much that is none."""
    (tmp_path / "bees.md").write_text(
        "# Bees\n\nA bee colony has one queen.\n\nThe beekeeper Ada Novak harvests honey in July.\n"
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "ships.TXT").write_text("The ship Aurora sails from Oslo every Monday.")
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\0\0\1")
    (tmp_path / "old.md").write_bytes("Übergröße".encode("latin-1"))
    (tmp_path / "huge.md").write_text("x" * 2_000_001)
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "table.csv").write_text("Csv;is;no;text;to;read")
    for hidden in (".git", "node_modules"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "inside.md").write_text("Nobody should read this.")
    return tmp_path


class TestDemo:
    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_without_a_key_the_first_line_says_that_it_is_simulated(self, framework: str) -> None:
        result = run("demo", "--framework", framework)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].startswith("SIMULATED: ")
        assert "not Mistral" in lines[0]
        assert "README.md" in lines[1]
        assert "Question: How do I bill a call to one of my customers?" in result.stdout

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_it_answers_from_the_users_files_with_sources_and_cost(
        self, framework: str, folder: Path, gateway: LocalGateway
    ) -> None:
        question = "When does Ada Novak harvest honey?"
        result = run("demo", folder, "--question", question, "--framework", framework, **access(gateway))
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"Talking to the gateway on this machine, {gateway.base_url}")
        answer = result.stdout.split("Answer of mistral-small-2603:")[1].split("Sources")[0]
        assert "July" in answer
        assert "[1] bees.md: " in result.stdout

        *paid, asked = gateway.requests
        assert all(request.path == "/v1/embeddings" for request in paid)
        assert asked.path == "/v1/chat/completions"
        assert asked.streamed
        assert question in json.dumps(asked.body["messages"][-1])
        for request in gateway.requests:
            assert request.request_id in result.stdout
        total = next(line for line in result.stdout.splitlines() if line.startswith("total"))
        assert Decimal(total.split("$")[1]) == sum(request.cost for request in gateway.requests)

    def test_what_is_no_text_is_skipped_and_named(self, folder: Path, gateway: LocalGateway) -> None:
        result = run("demo", folder, **access(gateway))
        assert result.exit_code == 0, result.output
        for reason in (
            "photo.txt (binary)",
            "old.md (not UTF-8 text)",
            "huge.md (larger than 2 MB)",
            "gone.md (No such file or directory)",
        ):
            assert f"Skipped {reason}." in result.stdout
        sent = json.dumps([request.body for request in gateway.requests])
        assert "Aurora" in sent
        assert "Nobody should read this" not in sent
        assert "Csv" not in sent

    def test_one_file_will_do(self, folder: Path, gateway: LocalGateway) -> None:
        result = run("demo", folder / "bees.md", "-q", "Who harvests honey?", **access(gateway))
        assert result.exit_code == 0, result.output
        assert "Ada Novak" in result.stdout

    def test_an_empty_folder_is_named(self, tmp_path: Path) -> None:
        result = run("demo", tmp_path)
        assert result.exit_code == 1
        assert f"no text or Markdown file to read in {tmp_path}" in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize(
        "arguments",
        [("/no/such/folder",), ("--question", " "), ("--framework", "haystack"), ("--colour", "red")],
    )
    def test_a_wrong_call_exits_with_2(self, arguments: tuple[str, ...]) -> None:
        assert run("demo", *arguments).exit_code == 2

    def test_a_failed_call_ends_in_a_sentence(self, folder: Path) -> None:
        with LocalGateway(balance="0") as gateway:
            result = run("demo", folder, **access(gateway))
        assert result.exit_code == 1
        assert "merchant's wallet" in result.stderr
        assert "HTTP 402" in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize(
        ("missing", "framework", "advice"),
        [
            ("langchain_core", "langchain", 'pip install "lava-mistral[langchain]"'),
            ("langchain_text_splitters", "langchain", 'pip install "lava-mistral[langchain]"'),
            ("llama_index", "llama-index", "lava-mistral[llama-index]"),
            ("uvicorn", "langchain", 'pip install "lava-mistral[gateway]"'),
        ],
    )
    def test_a_missing_extra_is_named(self, missing: str, framework: str, advice: str, tmp_path: Path) -> None:
        # Python's own way to say that a module is not there.
        (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
        done = spawn("demo", "--framework", framework, PYTHONPATH=before(tmp_path))
        assert done.returncode == 1, done.stderr
        assert advice in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("missing", ["langchain_core", "langchain_text_splitters"])
    def test_it_takes_the_framework_that_is_installed(
        self, tmp_path: Path, folder: Path, gateway: LocalGateway, missing: str
    ) -> None:
        hidden = tmp_path / "hidden"
        hidden.mkdir()
        (hidden / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
        done = spawn("demo", folder, PYTHONPATH=before(hidden), **access(gateway))
        assert done.returncode == 0, done.stderr
        assert "through LlamaIndex" in done.stdout

    def test_without_any_framework_it_says_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\nsys.modules |= {'langchain_core': None, 'llama_index': None}\n"
        )
        done = spawn("demo", PYTHONPATH=before(tmp_path))
        assert done.returncode == 1
        assert 'pip install "lava-mistral[langchain]" (or [llama-index])' in done.stderr

    def test_an_installed_package_reads_the_readme_that_it_carries(self, tmp_path: Path) -> None:
        site = tmp_path / "site-packages"
        for package in ("lava_mistral", "langchain_lava_mistral"):
            shutil.copytree(ROOT / package, site / package)
        script = (
            "from lava_mistral.cli import demo; library = demo.own_documentation(); print(library.place, library.texts)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONPATH": str(site)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("the README of the installed package")
        assert "# lava-mistral" in done.stdout

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_the_instruction_is_no_part_of_the_answer(
        self, framework: str, tmp_path: Path, gateway: LocalGateway
    ) -> None:
        (tmp_path / "ok.md").write_text("The capital of France is Paris.")
        result = run("demo", tmp_path, "-q", "What is the capital?", "-f", framework, **access(gateway))
        assert result.exit_code == 0, result.output
        answer = result.stdout.split("Answer of mistral-small-2603:")[1].split("Sources")[0]
        assert "The capital of France is Paris." in answer
        assert "passages" not in answer
        instruction = gateway.requests[-1].body["messages"][0]["content"]
        assert "\n\n[1] ok.md\nThe capital of France is Paris." in instruction

    def test_a_failure_in_the_middle_of_the_answer_stands_on_its_own_line(self, folder: Path) -> None:
        with LocalGateway(faults=[(lambda record: record.streamed, Interrupted(after=3))]) as gateway:
            done = subprocess.run(
                [COMMAND, "demo", str(folder), "-q", "When does Ada Novak harvest honey?"],
                env=os.environ | access(gateway),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
            )
        assert done.returncode == 1
        lines = done.stdout.split("Answer of mistral-small-2603:\n")[1].splitlines()
        assert lines[0] == "The beekeeper"
        assert lines[2].startswith("Failed: ")

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_a_file_name_may_be_no_text(self, framework: str, tmp_path: Path, gateway: LocalGateway) -> None:
        folder = os.fsencode(tmp_path) + b"/caf\xe9"
        os.mkdir(folder)
        for name, content in ((b"th\xe9.md", b"Tea is a drink."), (b"bin\xe9.md", b"\0")):
            with open(folder + b"/" + name, "wb") as file:
                file.write(content)
        done = subprocess.run(
            [COMMAND, "demo", folder, "-q", "What is tea?", "-f", framework],
            env=os.environ | access(gateway),
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout.decode()
        assert "[1] th\N{REPLACEMENT CHARACTER}.md: Tea is a drink." in said
        assert "Skipped bin\N{REPLACEMENT CHARACTER}.md (binary)." in said
        os.remove(folder + b"/th\xe9.md")
        done = subprocess.run([COMMAND, "demo", folder], env=os.environ | access(gateway), capture_output=True)
        assert done.returncode == 1
        assert "caf\N{REPLACEMENT CHARACTER}" in done.stderr.decode()

    def test_as_a_process(self, folder: Path, gateway: LocalGateway) -> None:
        done = spawn("demo", folder, "--question", "Where does the ship Aurora sail from?", **access(gateway))
        assert done.returncode == 0, done.stderr
        assert "Oslo" in done.stdout


class TestModels:
    def test_the_table_has_every_model_with_its_prices(self) -> None:
        result = run("models")
        assert result.exit_code == 0
        rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
        for model in models():
            assert rows[model.id][1] == str(model.input_price)
            assert rows[model.id][3] == f"{model.context_window:,}"
        assert rows["mistral-embed"][2] == "free"

    def test_json_is_exact_and_complete(self) -> None:
        listed = json.loads(run("models", "--json").stdout)
        assert [entry["id"] for entry in listed] == [model.id for model in models()]
        first, model = listed[0], models()[0]
        assert Decimal(first["output_price"]) == model.output_price
        assert first["capabilities"] == sorted(model.capabilities)
        assert first["sources"] == model.sources

    def test_as_a_process_in_a_narrow_terminal(self) -> None:
        done = spawn("models", COLUMNS="40")
        assert done.returncode == 0
        assert "mistral-large-pixtral-2411" in done.stdout


class TestDoctor:
    def test_all_is_well(self, gateway: LocalGateway) -> None:
        result = run("doctor", **access(gateway))
        assert result.exit_code == 0, result.output
        assert gateway.secret_key not in result.stdout
        for check in ("Python", "key", "base URL", "network", "credential", "model"):
            assert f"ok       {check}: " in result.stdout
        assert [request.path for request in gateway.requests] == ["/v1/models"]
        assert gateway.wallet.merchant == 1000

    def test_it_spends_only_when_it_is_told_to(self, gateway: LocalGateway) -> None:
        result = run("doctor", "--spend", **access(gateway))
        assert result.exit_code == 0, result.output
        embedded = gateway.requests[-1]
        assert embedded.path == "/v1/embeddings"
        assert embedded.request_id in result.stdout
        assert gateway.wallet.merchant == 1000 - embedded.cost < 1000

    def test_json(self, gateway: LocalGateway) -> None:
        result = run("doctor", "--json", **access(gateway))
        report = json.loads(result.stdout)
        assert report["ok"] is True
        assert {finding["check"] for finding in report["findings"]} >= {"Python", "key", "network", "model"}
        assert gateway.secret_key not in result.stdout

    @pytest.mark.parametrize(
        ("environment", "check", "said"),
        [
            ({}, "key", "neither LAVA_SECRET_KEY nor LAVA_FORWARD_TOKEN is set"),
            ({"LAVA_SECRET_KEY": "aks_live_abcdefgh\n"}, "key", "white space or a line break"),
            ({"LAVA_SECRET_KEY": "lava_sk_abcdefgh"}, "key", "spend key"),
            ({"LAVA_FORWARD_TOKEN": UNMETERED}, "key", "customer_id and no meter_slug"),
            ({"LAVA_SECRET_KEY": UNMETERED}, "key", "customer_id and no meter_slug"),
            (
                {"LAVA_SECRET_KEY": "aks_live_abcdefgh", "LAVA_BASE_URL": "http://10.0.0.1/v1"},
                "base URL",
                "unencrypted",
            ),
        ],
    )
    def test_what_is_wrong_is_said_with_what_to_do(self, environment: dict[str, str], check: str, said: str) -> None:
        environment = {"LAVA_BASE_URL": "http://127.0.0.1:9/v1"} | environment
        result = run("doctor", "--json", **environment)
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        failed = next(finding for finding in report["findings"] if finding["check"] == check)
        assert failed["outcome"] == "failed"
        assert said in failed["detail"]
        assert "abcdefgh" not in result.output
        later = {finding["check"]: finding["outcome"] for finding in report["findings"]}
        assert later["credential"] == "skipped"
        assert later["model"] == "ok"

    def test_a_network_that_does_not_answer(self) -> None:
        result = run("doctor", LAVA_SECRET_KEY="aks_live_abcdefgh", LAVA_BASE_URL="http://127.0.0.1:9/v1")
        assert result.exit_code == 1
        assert "failed   network: http://127.0.0.1:9/v1 can't be reached" in result.stdout
        assert "HTTPS_PROXY" in result.stdout

    def test_a_key_that_is_not_accepted(self, gateway: LocalGateway) -> None:
        result = run("doctor", LAVA_SECRET_KEY="aks_test_someone_elses", LAVA_BASE_URL=gateway.base_url)
        assert result.exit_code == 1
        assert "failed   credential: " in result.stdout
        assert "someone_elses" not in result.output

    def test_a_web_server_that_is_no_lava_is_not_printed_whole(self) -> None:
        page = "<!doctype html>\n<title>Shop</title>\n" + "<p>Buy our shoes.</p>\n" * 2_000

        class Shop(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(page)))
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/v1"
            result = run("doctor", LAVA_SECRET_KEY="aks_live_abcdefgh", LAVA_BASE_URL=address)
            server.shutdown()
        assert result.exit_code == 1
        failed = next(line for line in result.stdout.splitlines() if "credential: " in line)
        assert failed.endswith("…")
        assert len(result.stdout) < 2_500

    def test_an_embedding_that_fails(self) -> None:
        with LocalGateway(balance="0") as gateway:
            result = run("doctor", "--spend", **access(gateway))
        assert result.exit_code == 1
        assert "failed   embedding: " in result.stdout

    @pytest.mark.parametrize(("model", "offered"), [("mistral-tiny-9000", False), ("acme-1", True)])
    def test_a_model_that_is_not_on_the_price_list(self, model: str, offered: bool) -> None:
        with LocalGateway(models=["acme-1"]) as gateway:
            result = run("doctor", "--model", model, **access(gateway))
        assert result.exit_code == (0 if offered else 1)
        expected = f"ok       model: {model} is offered" if offered else f"failed   model: {model} is not offered"
        assert (expected.replace("ok  ", "note") if offered else expected) in result.stdout
        result = run("doctor", "--model", model, LAVA_BASE_URL="http://127.0.0.1:9/v1")
        assert f"note     model: {model} is not on Lava's price list" in result.stdout

    @pytest.mark.parametrize(
        ("name", "token", "said"),
        [
            ("LAVA_FORWARD_TOKEN", {}, "a forward token of the merchant"),
            ("LAVA_FORWARD_TOKEN", {"customer_id": "c_1", "meter_slug": "m"}, "with customer_id, meter_slug"),
            ("LAVA_SECRET_KEY", {}, "LAVA_SECRET_KEY holds a forward token"),
        ],
    )
    def test_a_forward_token_is_told_by_what_it_holds(
        self, gateway: LocalGateway, name: str, token: dict[str, str], said: str
    ) -> None:
        value = base64.b64encode(json.dumps({"secret_key": gateway.secret_key, **token}).encode()).decode()
        result = run("doctor", LAVA_BASE_URL=gateway.base_url, **{name: value})
        assert result.exit_code == 0, result.output
        assert said in result.stdout
        assert value not in result.output
        assert gateway.secret_key not in result.output

    def test_an_opaque_token_wins_over_a_key_and_is_not_shown(self) -> None:
        with LocalGateway(forward_tokens={"opaque-0123456789": {"secret_key": "aks_test_local_gateway"}}) as gateway:
            result = run("doctor", LAVA_FORWARD_TOKEN="opaque-0123456789", **access(gateway))
        assert result.exit_code == 0, result.output
        assert "an opaque forward token (17 characters)" in result.stdout
        assert "LAVA_SECRET_KEY is set too and not used" in result.stdout
        assert "0123456789" not in result.output

    def test_a_key_that_looks_like_none_is_noted(self, gateway: LocalGateway) -> None:
        with LocalGateway(secret_keys=["unusual-key"]) as gateway:
            result = run("doctor", LAVA_SECRET_KEY="unusual-key", LAVA_BASE_URL=gateway.base_url)
        assert "note     key: LAVA_SECRET_KEY does not look like a secret key (11 characters)" in result.stdout
        assert "unusual-key" not in result.output

    def test_as_a_process(self, gateway: LocalGateway) -> None:
        done = spawn("doctor", **access(gateway))
        assert done.returncode == 0, done.stderr
        assert gateway.secret_key not in done.stdout + done.stderr


class TestGateway:
    @pytest.fixture
    def process(self, interruptible: None) -> Iterator[subprocess.Popen[str]]:
        command = [COMMAND, "gateway", "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            yield running
            running.kill()

    @pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
    def test_it_serves_until_it_is_stopped(self, process: subprocess.Popen[str], stop: signal.Signals) -> None:
        assert process.stdout is not None
        access: dict[str, Any] = json.loads(process.stdout.readline())
        client = LavaMistral(api_key=access["secret_key"], base_url=access["base_url"])
        assert client.chat([{"role": "user", "content": "Hello"}]).text
        process.send_signal(stop)
        assert process.wait(timeout=30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(access["base_url"])

    def test_a_port_that_is_taken_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = run("gateway", "--port", str(port))
        assert result.exit_code == 1
        assert f"can't listen on port {port}" in result.stderr
        assert "--port" in result.stderr

    @pytest.mark.parametrize("port", ["-1", "70000", "http"])
    def test_what_is_no_port_exits_with_2(self, port: str) -> None:
        assert run("gateway", "--port", port).exit_code == 2


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

    def spawn(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
        command = [COMMAND, *map(str, arguments)]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=120)

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_for_people_what_it_lacks_is_replaced(
        self, encoding: dict[str, str], folder: Path, gateway: LocalGateway
    ) -> None:
        told = encoding | access(gateway)
        demo = self.spawn("demo", folder, "-q", "What is the capital of Japan?", **told)
        assert (demo.returncode, demo.stderr) == (0, b"")
        assert b"is the capital of Japan" in demo.stdout
        LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).chat(
            [{"role": "user", "content": "Hello"}], billing=Billing(customer_id="日本", meter_slug="chat")
        )
        used = self.spawn("usage", **told)
        assert (used.returncode, used.stderr) == (0, b"")
        examined = self.spawn("doctor", "--model", "日本", **told)
        assert (examined.returncode, examined.stderr) == (1, b"")
        refused = self.spawn("demo", folder, **(told | {"LAVA_SECRET_KEY": "aks_test_→"}))
        assert refused.returncode == 1
        assert refused.stderr.startswith(b"Failed: ")
        helped = self.spawn("--help", **encoding)
        assert (helped.returncode, helped.stderr) == (0, b"")

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_for_programs_json_is_always_utf_8(self, encoding: dict[str, str], gateway: LocalGateway) -> None:
        told = encoding | access(gateway)
        LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url).chat(
            [{"role": "user", "content": "Hello"}], billing=Billing(customer_id="日本 é", meter_slug="chat")
        )
        used = json.loads(self.spawn("usage", "--json", **told).stdout.decode("utf-8"))
        assert [item["name"] for item in used["items"]] == ["日本 é"]
        examined = json.loads(self.spawn("doctor", "--json", "--model", "日本", **told).stdout.decode("utf-8"))
        assert any("日本" in finding["detail"] for finding in examined["findings"])


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("lava-mistral 0.")


@pytest.mark.parametrize("command", [(), ("demo",), ("gateway",), ("doctor",), ("models",)])
def test_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_an_unknown_command_exits_with_2() -> None:
    assert run("dance").exit_code == 2
    assert run().exit_code == 2


def test_help_imports_neither_framework_nor_gateway() -> None:
    script = (
        "import sys\n"
        "from lava_mistral.cli import main\n"
        "sys.argv = ['lava-mistral', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'langchain_core', 'llama_index', 'uvicorn', 'numpy', 'mistral_common'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL)
