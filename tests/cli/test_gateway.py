"""`lava-mistral gateway`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from lava_mistral import (
    Billing,
    InsufficientBalanceError,
    LavaMistral,
    RateLimitError,
    estimate_cost,
)
from tests.fakes.command_line import COMMAND, run


class TestGateway:
    @pytest.fixture
    def process(self, interruptible: None) -> Iterator[subprocess.Popen[str]]:
        command = [COMMAND, "gateway", "--port", "0", "--tokenizer", "fast", "--json"]
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

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--faults", "0.5=explosion"], "reset, slow, garbage, interrupted"),
            (["--faults", "often=429"], "often"),
            (["--faults", "7=429"], "--faults"),
            *(
                (["--faults", odd], "PROBABILITY=WHAT")
                for odd in ("", "429", "0.1", "nan=429", "=429", "0.1=99", "0.1=²")
            ),
            (["--customers", "c_1=much"], "much"),
            *((["--customers", odd], "ID=USD") for odd in ("", "cus_1", "=5", "a=", "a=5,", "a=inf", "a=1=2e")),
            (["--tokenizer", "slow"], "exact"),
            (["--latency", "-1"], "latency"),
            (["--latency", "inf"], "latency"),
            (["--customrs", "c_1"], "--customers"),
        ],
    )
    def test_what_makes_no_sense_exits_with_2(self, arguments: list[str], said: str) -> None:
        result = run("gateway", "--port", "0", *arguments)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.output

    def test_options(self, interruptible: None) -> None:
        options = ["--customers", "rich=5,poor=0", "--faults", "1=429", "--latency", "0.2", "--tokenizer", "fast"]
        with serving(*options) as client:
            with pytest.raises(InsufficientBalanceError):
                client.chat(ASK, billing=Billing(customer_id="poor", meter_slug="chat"))
            began = time.monotonic()
            with pytest.raises(RateLimitError):
                client.chat(ASK, billing=Billing(customer_id="rich", meter_slug="chat"))
            assert time.monotonic() - began >= 0.2
            assert client.subscription("rich").total_remaining == 5  # type: ignore[union-attr]
            assert client.subscription("stranger") is None

    def test_by_default_it_bills_what_an_exact_estimate_says(self, interruptible: None) -> None:
        tool: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
        with serving() as client:
            for model, tools in (("mistral-small-2603", None), ("mistral-large-latest", [tool])):
                estimate = estimate_cost(ASK, model, tools=tools)
                assert estimate.exact
                answer = client.chat(ASK, model=model, **({"tools": tools} if tools else {}))
                assert answer.usage is not None
                assert answer.usage["prompt_tokens"] == estimate.input_tokens
            estimate = estimate_cost("Hello there", "mistral-embed")
            embedded = client.embedding_request(["Hello there"])
            assert embedded.response["usage"]["prompt_tokens"] == estimate.input_tokens

    @pytest.mark.parametrize(("tokenizer", "said"), [("exact", "as exact estimates are"), ("fast", "differ")])
    def test_it_says_whether_bills_agree_with_exact_estimates(
        self, tokenizer: str, said: str, interruptible: None
    ) -> None:
        command = [COMMAND, "gateway", "--port", "0", "--tokenizer", tokenizer]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            told = [running.stdout.readline() for _ in range(6)]
            running.send_signal(signal.SIGINT)
            running.stdout.read()
        assert said in told[5]


ASK: Any = [{"role": "user", "content": "Hello"}]


@contextmanager
def serving(*options: str) -> Iterator[LavaMistral]:
    """A client of a gateway in a process of its own."""
    command = [COMMAND, "gateway", "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        told: dict[str, Any] = json.loads(running.stdout.readline())
        try:
            yield LavaMistral(api_key=told["secret_key"], base_url=told["base_url"], max_retries=0)
        finally:
            running.kill()
