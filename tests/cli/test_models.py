"""`lava-mistral models`."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from lava_mistral.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.gateway import LocalGateway
from lava_mistral.pricing.catalog import models
from tests.fakes.command_line import run, spawn
from tests.fakes.http_answers import answering


def rows(output: str) -> dict[str, list[str]]:
    """The table by its first column; notices follow after an empty line."""
    table = output.split("\n\n")[1]
    return {line.split()[0]: line.split() for line in table.splitlines()}


def test_the_table_has_every_model_with_its_prices_and_status() -> None:
    result = run("models")
    assert result.exit_code == 0
    listed = rows(result.stdout)
    for model in models():
        assert listed[model.id][1] == str(model.input_price)
        assert listed[model.id][3] == f"{model.context_window:,}"
        assert listed[model.id][-1] == model.status
        assert model.notice in result.stdout
    assert listed["mistral-embed"][2] == "free"
    assert f"A chat that names no model goes to {DEFAULT_CHAT_MODEL}." in result.stdout
    assert "pixtral-large-2411 is retired since 2026-05-31: use mistral-medium-2604." in result.stdout


def test_it_fits_into_eighty_columns() -> None:
    done = spawn("models", COLUMNS="80")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_an_id_is_not_cut_in_a_narrow_terminal() -> None:
    done = spawn("models", COLUMNS="40")
    assert done.returncode == 0
    assert "mistral-large-pixtral-2411" in done.stdout


def test_json_is_exact_and_complete() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert [entry["id"] for entry in listed] == [model.id for model in models()]
    first, model = listed[0], models()[0]
    assert Decimal(first["output_price"]) == model.output_price
    assert first["capabilities"] == sorted(model.capabilities)
    assert first["sources"] == model.sources
    [retired] = [entry for entry in listed if entry["id"] == "pixtral-large-2411"]
    assert (retired["status"], retired["retired_on"], retired["replacement"]) == (
        "retired",
        "2026-05-31",
        "mistral-medium-2604",
    )


def test_refreshed_prices_are_shown_and_kept(gateway: LocalGateway, tmp_path: Path) -> None:
    entry = {"id": "mistral-next", "provider": "mistral", "pricing": {"type": "tokens_1m", "input": 7, "output": 9}}
    with answering({"/services": {"data": [entry]}}) as lava:
        told = {"LAVA_BASE_URL": lava.base_url, "XDG_CACHE_HOME": str(tmp_path)}
        result = run("models", "--refresh", **told)
        assert result.exit_code == 0
        assert rows(result.stdout)["mistral-next"][1:3] == ["7", "9"]
        assert "Prices are Lava's, read now." in result.stderr
    result = run("models", "--refresh", "--json", **told)
    assert "mistral-next" in {entry["id"] for entry in json.loads(result.stdout)}
    assert "Lava's price list can't be read" in result.stderr
    assert "Prices are Lava's of 20" in result.stderr


@pytest.mark.parametrize("arguments", [("--refresh",), ("--refresh", "--json")])
def test_without_network_and_cache_the_shipped_list_is_shown(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run("models", *arguments, LAVA_BASE_URL="http://127.0.0.1:9/v1", XDG_CACHE_HOME=str(tmp_path))
    assert result.exit_code == 0
    assert "mistral-large-pixtral-2411" in result.stdout
    assert "shipped with this package" in result.stderr
