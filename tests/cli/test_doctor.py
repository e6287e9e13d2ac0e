"""`lava-mistral doctor`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from lava_mistral.gateway import LocalGateway
from lava_mistral.pricing.catalog import get_model
from tests.fakes.command_line import access, run, spawn
from tests.fakes.http_answers import answering

SANDBOX_TOKEN = base64.b64encode(b'{"secret_key":"aks_test_abcdefgh"}').decode()
UNMETERED = base64.b64encode(b'{"secret_key":"aks_live_abcdefgh","customer_id":"c_1"}').decode()


class TestDoctor:
    def test_all_is_well(self, gateway: LocalGateway) -> None:
        result = run("doctor", **access(gateway))
        assert result.exit_code == 0, result.output
        assert gateway.secret_key not in result.stdout
        for check in ("key", "base URL", "network", "credential", "model"):
            assert f"ok       {check}: " in result.stdout
        assert "it may be a simulated gateway, whose answers are not Mistral's" in result.stdout
        assert [request.path for request in gateway.requests] == ["/v1/models"]
        assert gateway.wallet.merchant == 1000

    def test_a_required_customer_is_told_and_not_asked_of_the_checks(
        self, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LAVA_REQUIRE_CUSTOMER", "1")
        result = run("doctor", **access(gateway))
        assert result.exit_code == 0, result.output
        assert "ok       customer: LAVA_REQUIRE_CUSTOMER is on" in result.stdout
        assert "ok       credential: accepted" in result.stdout
        assert gateway.requests[-1].path == "/v1/models"

    def test_json(self, gateway: LocalGateway) -> None:
        result = run("doctor", "--json", **access(gateway))
        report = json.loads(result.stdout)
        assert report["ok"] is True
        assert {finding["check"] for finding in report["findings"]} >= {"key", "network", "model"}
        assert gateway.secret_key not in result.stdout

    @pytest.mark.parametrize(
        ("environment", "check", "said"),
        [
            ({}, "key", "neither LAVA_SECRET_KEY nor LAVA_FORWARD_TOKEN is set"),
            ({"LAVA_SECRET_KEY": "aks_live_abcdefgh\n"}, "key", "white space"),
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

    def test_a_gateway_that_is_not_running(self) -> None:
        result = run("doctor", LAVA_SECRET_KEY="aks_live_abcdefgh", LAVA_BASE_URL="http://127.0.0.1:9/v1")
        assert result.exit_code == 1
        first = result.stdout.splitlines()[0]
        assert first.startswith("failed   network: http://127.0.0.1:9/v1 can't be reached")
        assert first.endswith("→ Is a gateway running there? Start one: lava-mistral gateway --port 9")

    def test_a_network_that_does_not_answer(self) -> None:
        result = run("doctor", LAVA_SECRET_KEY="aks_live_abcdefgh", LAVA_BASE_URL="https://nowhere.invalid/v1")
        assert result.exit_code == 1
        assert "failed   network: https://nowhere.invalid/v1 can't be reached" in result.stdout
        assert "HTTPS_PROXY" in result.stdout

    def test_failures_come_first_one_line_each(self) -> None:
        result = run("doctor", LAVA_SECRET_KEY="aks_live_abcdefgh", LAVA_BASE_URL="http://127.0.0.1:9/v1")
        outcomes = [line.split()[0] for line in result.stdout.splitlines()]
        assert set(outcomes) <= {"failed", "note", "skipped", "ok"}
        assert outcomes == sorted(outcomes, key=["failed", "note", "skipped", "ok"].index)

    def test_the_network_is_reached_through_the_proxy_of_calls_and_its_password_is_not_shown(self) -> None:
        with answering({}, otherwise=407) as proxy:
            host = proxy.base_url.removeprefix("http://").removesuffix("/v1")
            result = run(
                "doctor",
                LAVA_SECRET_KEY="aks_live_abcdefgh",
                HTTPS_PROXY=f"http://ada:enchantress@{host}",
                NO_PROXY="",
                no_proxy="",
            )
        assert result.exit_code == 1
        assert proxy.asked[0][:2] == ("CONNECT", "api.lava.so:443")
        assert f"ok       proxy: calls go through {host}" in result.stdout
        assert "failed   network: " in result.stdout
        assert "407" in result.stdout
        assert "enchantress" not in result.output

    @pytest.mark.parametrize(
        ("environment", "check", "said"),
        [
            ({"HTTPS_PROXY": "socks5://ada:enchantress@127.0.0.1:9"}, "proxy", "socks5"),
            ({"HTTPS_PROXY": "http://ada:enchantress@127.0.0.1:many"}, "proxy", ""),
            ({"LAVA_BASE_URL": "https://ada:enchantress@api.lava.so/v1"}, "base URL", "plain scheme, host and path"),
            ({"LAVA_BASE_URL": "ftp://ada:enchantress@api.lava.so/v1"}, "base URL", "plain scheme, host and path"),
        ],
    )
    @pytest.mark.parametrize("key", ["aks_live_abcdefgh", ""])
    def test_a_setting_that_cant_be_used_is_a_finding_without_its_password(
        self, environment: dict[str, str], check: str, said: str, key: str
    ) -> None:
        result = run("doctor", "--json", LAVA_SECRET_KEY=key, NO_PROXY="", no_proxy="", **environment)
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        [failed] = [each for each in report["findings"] if (each["check"], each["outcome"]) == (check, "failed")]
        assert said in failed["detail"]
        assert "enchantress" not in result.output
        assert "Traceback" not in result.output

    def test_certificates_that_cant_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "broken.pem").write_text("no certificate")
        done = spawn("doctor", "--json", LAVA_SECRET_KEY="aks_live_a", SSL_CERT_FILE=str(tmp_path / "broken.pem"))
        assert done.returncode == 1
        findings = json.loads(done.stdout)["findings"]
        [failed] = [each for each in findings if (each["check"], each["outcome"]) == ("certificates", "failed")]
        assert "SSL_CERT_FILE" in failed["detail"]

    def test_a_variable_that_only_requests_reads_is_noted(
        self, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        result = run("doctor", REQUESTS_CA_BUNDLE="/etc/ca.pem", **access(gateway))
        assert "note     certificates: REQUESTS_CA_BUNDLE is set and not read" in result.stdout

    @pytest.mark.parametrize(
        ("key", "base_url", "place"),
        [
            ("aks_test_abcdefgh", "https://api.lava.so/v1", "production"),
            ("aks_live_abcdefgh", "https://sandbox-api.lavapayments.com/v1", "sandbox"),
            (SANDBOX_TOKEN, "https://api.lavapayments.com/v1", "production"),
        ],
    )
    def test_a_key_of_the_other_place_is_told(self, key: str, base_url: str, place: str) -> None:
        result = run("doctor", LAVA_SECRET_KEY=key, LAVA_BASE_URL=base_url)
        assert result.exit_code == 1
        [line] = [line for line in result.stdout.splitlines() if line.startswith("failed   base URL: ")]
        assert f"LAVA_BASE_URL names {place}" in line
        assert "Unset LAVA_BASE_URL" in line
        assert "abcdefgh" not in result.output

    @pytest.mark.parametrize("name", ["MISTRAL_API_KEY", "LAVA_API_KEY"])
    def test_a_key_under_another_name_is_told(self, name: str) -> None:
        result = run("doctor", LAVA_BASE_URL="http://127.0.0.1:9/v1", **{name: "abcdefgh"})
        [line] = [line for line in result.stdout.splitlines() if line.startswith("failed   key: ")]
        assert f"{name} is, but" in line
        assert "lava-mistral gateway" in line
        assert "abcdefgh" not in result.output

    def test_an_empty_wallet(self) -> None:
        with LocalGateway(balance="0") as gateway:
            result = run("doctor", **access(gateway))
        assert result.exit_code == 1
        assert result.stdout.startswith("failed   wallet: $0.00 left")
        assert "ok       credential: accepted" in result.stdout

    def test_the_wallets_balance(self) -> None:
        with LocalGateway(balance="12.50") as gateway:
            result = run("doctor", **access(gateway))
        assert result.exit_code == 0
        assert "ok       wallet: $12.50 left" in result.stdout

    @pytest.mark.parametrize("model", ["pixtral-large-2411", "mistral-medium-2505"])
    def test_a_model_that_is_not_active_is_noted(self, gateway: LocalGateway, model: str) -> None:
        result = run("doctor", "--model", model, **access(gateway))
        assert result.exit_code == 0
        assert f"note     model: {get_model(model).notice}" in result.stdout

    def test_a_misspelt_model(self, gateway: LocalGateway) -> None:
        result = run("doctor", "--model", "mistral-smal-2603", **access(gateway))
        assert result.exit_code == 1
        assert "failed   model: mistral-smal-2603 is not offered → Did you mean mistral-small-2603?" in result.stdout

    def test_a_key_that_is_not_accepted(self, gateway: LocalGateway) -> None:
        result = run("doctor", LAVA_SECRET_KEY="aks_test_someone_elses", LAVA_BASE_URL=gateway.base_url)
        assert result.exit_code == 1
        assert "failed   credential: " in result.stdout
        assert "someone_elses" not in result.output
        assert "Spend keys (lava_sk_…) are not for the forward proxy." in result.stdout
        assert "lava-mistral doctor" not in result.stdout

    def test_a_web_server_that_is_no_lava_is_not_printed_whole(self) -> None:
        page = "<!doctype html>\n<title>Shop</title>\n" + "<p>Buy our shoes.</p>\n" * 2_000
        with answering({}, otherwise=page) as shop:
            result = run("doctor", LAVA_SECRET_KEY="aks_live_abcdefgh", LAVA_BASE_URL=shop.base_url)
        assert result.exit_code == 1
        assert "failed   credential: " in result.stdout
        assert len(result.stdout) < 2_500

    @pytest.mark.parametrize("answer", [None, 500, {"data": None}, {"data": [{}]}, ["odd"], {"balance": "much"}])
    def test_answers_that_make_no_sense_are_findings(self, answer: Any) -> None:
        with answering({}, otherwise=answer) as odd:
            result = run("doctor", "--json", LAVA_SECRET_KEY="aks_live_abcdefgh", LAVA_BASE_URL=odd.base_url)
        assert {finding["check"] for finding in json.loads(result.stdout)["findings"]} >= {"network", "credential"}
        assert "Traceback" not in result.output

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
