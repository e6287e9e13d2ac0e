"""`lava-mistral embed`: the estimate, standard input, Ctrl-C, and twenty kills."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lava_mistral import Billing
from lava_mistral.gateway import LocalGateway
from tests.conftest import ROOT
from tests.fakes.command_line import CLI, COMMAND, MAIN, access, run
from tests.fakes.warm_python import WarmPython

# What the command loads where it is installed, and takes long: for pyarrow's tables, and for the estimate.
EMBED = f"{CLI}, pandas, pyarrow.parquet; lava_mistral.count_tokens('', 'mistral-embed')"
WITHOUT = """
import sys

class Without:
    def find_spec(self, name, *rest):
        if name in ("pandas", "mistral_common"):
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Without())
"""


def write(path: Path, count: int, words: int) -> Path:
    lines = (json.dumps({"key": number, "text": f"text {number}" + " word" * words}) for number in range(count))
    path.write_text("\n".join(lines))
    return path


def ids(folder: Path) -> list[Any]:
    found: list[Any] = pq.read_table(folder)["id"].to_pylist()
    return found


def test_it_says_what_it_will_cost_and_starts_with_yes(gateway: LocalGateway, tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", 300, 50), tmp_path / "out"
    command = ("embed", path, "--text", "text", "--id", "key", "--out", out)
    asked = run(*command, **access(gateway))
    assert asked.exit_code == 2
    assert "rows    300\n" in asked.stderr
    assert "at the account's limits" in asked.stderr
    assert "add --yes" in asked.stderr
    assert [request.body["input"] for request in gateway.requests] == [["."]]
    done = run(*command, "--yes", "--customer", "c_1", "--meter", "ingest", **access(gateway))
    assert done.exit_code == 0, done.stderr
    assert "300 rows embedded in" in done.stderr
    assert {request.customer_id for request in gateway.requests[1:]} == {"c_1"}
    assert ids(out) == list(range(300))
    again = run(*command, "--yes", **access(gateway))
    assert "300, 300 of them done before" in again.stderr


def test_a_job_that_goes_on_says_what_is_not_paid_again(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", 1_000, 100), tmp_path / "out"
    command = ("embed", path, "--text", "text", "--out", out, "--max-concurrency", "1")
    with LocalGateway(balance="0.006") as gateway:
        assert run(*command, "--yes", **access(gateway)).exit_code == 1
        paid = sum(request.usage["prompt_tokens"] for request in gateway.requests if request.status == 200)
    with LocalGateway() as gateway:
        again = run(*command, **access(gateway)).stderr
        assert f"goes on: {paid:,} tokens ($" in again
        quoted = int(re.findall(r"^tokens .* ([\d,]+)", again, re.MULTILINE)[0].replace(",", ""))
        done = run(*command, "--yes", **access(gateway))
        assert done.exit_code == 0
        spent = sum(request.usage["prompt_tokens"] for request in gateway.requests[1:])
        assert spent <= quoted < 1.6 * spent
        complete = run(*command, **access(gateway))
        assert "tokens  about 0\n" in complete.stderr or "tokens  at most 0\n" in complete.stderr


def test_a_job_that_does_not_fit_the_folder_is_refused_before_its_quote(gateway: LocalGateway, tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", 3, 5), tmp_path / "out"
    command = ("embed", path, "--text", "text", "--out", out)
    assert run(*command, "--yes", **access(gateway)).exit_code == 0
    before = len(gateway.requests)
    other = run(*command, "--float16", **access(gateway))
    assert other.exit_code == 1
    assert "begun with dtype='float32', not 'float16'" in other.stderr
    assert "rows " not in other.stderr
    assert len(gateway.requests) == before


def test_a_required_customer_is_asked_for_by_option(gateway: LocalGateway, tmp_path: Path) -> None:
    required = {"LAVA_REQUIRE_CUSTOMER": "1", "COLUMNS": "500"} | access(gateway)
    path = write(tmp_path / "in.jsonl", 3, 5)
    command = ("embed", path, "--text", "text", "--out", tmp_path / "out", "--yes")
    refused = run(*command, **required)
    assert refused.exit_code == 2
    assert "say who pays, with --customer … --meter …" in refused.stderr
    alone = run(*command, "--customer", "c_1", **required)
    assert alone.exit_code == 2
    assert "add --meter" in alone.stderr
    assert not gateway.requests
    assert run(*command, "--customer", "c_1", "--meter", "ingest", **required).exit_code == 0
    assert {request.customer_id for request in gateway.requests} == {"c_1"}
    token = Billing(customer_id="c_2", meter_slug="ingest").forward_token(gateway.secret_key)
    by_token = ("embed", path, "--text", "text", "--out", tmp_path / "token", "--yes")
    assert run(*by_token, LAVA_FORWARD_TOKEN=token, **required).exit_code == 0
    assert gateway.requests[-1].customer_id == "c_2"


def test_bad_rows_and_failures_are_told(gateway: LocalGateway, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('text\none\n""\n')
    command = ("embed", path, "--text", "text", "--yes", "--out")
    done = run(*command, tmp_path / "out", **access(gateway))
    assert done.exit_code == 0
    assert "1 row rejected: the reasons are in" in done.stderr
    strict = run(*command, tmp_path / "strict", "--strict", **access(gateway))
    assert strict.exit_code == 1
    assert "row 1 can't be embedded: the text is empty" in strict.stderr
    limited = run(*command, tmp_path / "limited", "--spend-limit", "0", **access(gateway))
    assert limited.exit_code == 1
    assert "spend limit" in limited.stderr
    assert run(*command, tmp_path / "x", "--text", "body", **access(gateway)).exit_code == 1


def test_a_full_disk_stops_it_and_it_goes_on(gateway: LocalGateway, tmp_path: Path) -> None:
    command = ("embed", write(tmp_path / "in.jsonl", 300, 10), "--text", "text", "--out", tmp_path / "out", "--yes")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        full = run(*command, **access(gateway))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert full.exit_code == 1
    assert "The same command goes on from here." in full.stderr
    assert "File too large" in full.stderr
    assert run(*command, **access(gateway)).exit_code == 0
    assert ids(tmp_path / "out") == list(range(300))


@pytest.mark.parametrize("given", [b'{"text": "one"}\n{"text": "two"}\n', b"text,n\none,1\ntwo,2\n"])
def test_standard_input_is_read_and_remembered(
    gateway: LocalGateway, tmp_path: Path, given: bytes, warm_python: Callable[..., WarmPython]
) -> None:
    options = ["--text", "text", "--column", "text", "--out", tmp_path, "--yes"]
    command = partial(warm_python(EMBED).run, MAIN, "embed", "-", *options, **access(gateway))
    for _ in range(2):
        done = command(given=given)
        assert done.returncode == 0, done.stderr
    assert len(gateway.requests) == 1
    assert pq.read_table(tmp_path)["text"].to_pylist() == ["one", "two"]
    done = command(given=given + b"x,3\n")
    assert done.returncode == 1
    assert b"is new or has changed" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_process_manager_stops_it_and_it_goes_on(
    stop: signal.Signals, tmp_path: Path, interruptible: None, warm_python: Callable[..., WarmPython]
) -> None:
    path, out = write(tmp_path / "in.jsonl", 1_500, 100), tmp_path / "out"
    command = [COMMAND, "embed", str(path), "--text", "text", "--out", str(out), "--yes", "--max-concurrency", "2"]
    with LocalGateway(latency=0.1) as gateway:
        with subprocess.Popen(command, env=os.environ | access(gateway), stderr=subprocess.PIPE) as process:
            while len(gateway.requests) < 3:
                time.sleep(0.01)
            process.send_signal(stop)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert b"The same command goes on from here." in said
        assert b"Traceback" not in said
        assert warm_python(EMBED).run(MAIN, *command[1:], **access(gateway)).returncode == 0
    assert ids(out) == list(range(1_500))


@pytest.mark.alone
def test_twenty_kills_lose_nothing_and_only_what_was_in_flight_is_paid_twice(tmp_path: Path) -> None:
    draw = random.Random(12)
    path, out, undisturbed = write(tmp_path / "in.jsonl", 20_000, 100), tmp_path / "out", tmp_path / "undisturbed"
    in_flight = 4
    # What pyarrow and the estimate load where it is installed takes a second of each of the processes.
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    fast = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    options = ["--text", "text", "--id", "key", "--yes", "--rows-per-part", "1000"]
    options += ["--max-concurrency", str(in_flight)]
    with LocalGateway(latency=0.05, keep_requests=1_000_000) as gateway:
        command = [COMMAND, "embed", str(path), *options, "--out", str(out)]
        runs: list[list[list[str]]] = []
        kills = 0
        while True:
            before = len(gateway.requests)
            process = subprocess.Popen(
                command, env=os.environ | access(gateway) | fast, stderr=subprocess.PIPE, start_new_session=True
            )
            if kills < 20:
                wanted = before + draw.randint(0, 10)
                while len(gateway.requests) < wanted and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(draw.uniform(0, 0.06) if wanted > before else draw.uniform(0.2, 0.8))
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    kills += 1
            _, said = process.communicate(timeout=60)
            # What has reached the gateway is answered and paid, although nobody reads it any more.
            while gateway.in_flight:
                time.sleep(0.005)
            runs.append([request.body["input"] for request in gateway.requests[before:] if request.status == 200])
            if process.returncode != -signal.SIGKILL:
                break
        assert (process.returncode, kills) == (0, 20), said
        subprocess.run(
            [COMMAND, "embed", str(path), *options, "--out", str(undisturbed)],
            env=os.environ | access(gateway) | fast,
            check=True,
            stderr=subprocess.PIPE,
        )
    assert pq.read_table(out).equals(pq.read_table(undisturbed))
    assert {part.name for part in out.glob("*.parquet")} == {part.name for part in undisturbed.glob("*.parquet")}
    paid = Counter(text for requests in runs for texts in requests for text in texts)
    assert len(paid) == 20_000
    again: set[str] = set()
    for requests in reversed(runs):
        lost = [texts for texts in requests if again.intersection(texts)]
        assert len(lost) <= in_flight
        again |= {text for texts in requests for text in texts}
    twice = sum(paid.values()) - 20_000
    assert 0 < twice < 20 * in_flight * 140
