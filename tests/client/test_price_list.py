"""The catalogue's prices from Lava's public list, with a file and the shipped list to fall back on."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lava_mistral import AsyncLavaMistral, ConfigurationError, LavaMistral, Model, estimate_cost, models, refresh_models
from lava_mistral.gateway import LocalGateway
from lava_mistral.pricing.catalog import add_model, get_model
from lava_mistral.pricing.cost import cost_of
from tests.fakes.http_answers import answering

SMALL = "mistral-small-2603"
CACHED: Any = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "num_cached_tokens": 1_000_000}


def listed(**pricing: Any) -> dict[str, Any]:
    entry = {"id": SMALL, "object": "model", "provider": "mistral", "pricing": {"type": "tokens_1m", **pricing}}
    return {"object": "list", "data": [entry], "providers": []}


def test_todays_prices_flow_into_costs_and_no_credential_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAVA_SECRET_KEY", "aks_live_abcdefgh")
    with answering({"/services": listed(input=0.2, output=0.8, cache_input_read=0.05)}) as lava:
        prices = refresh_models(base_url=lava.base_url, cache=tmp_path / "prices.json")
    assert (prices.source, prices.error) == ("lava", None)
    assert [model.id for model in prices.models] == [SMALL]
    assert len(models()) >= 34
    assert cost_of(CACHED, SMALL) == Decimal("0.05")
    assert estimate_cost("Hello", SMALL, max_tokens=1_000_000).high > Decimal("0.2")  # type: ignore[operator]
    [(method, path, headers)] = lava.asked
    assert (method, path) == ("GET", "/v1/services?provider=mistral")
    assert "authorization" not in {name.lower() for name in headers}


def test_without_an_answer_the_last_list_counts_if_it_is_from_the_same_address(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "prices.json"
    with answering({"/services": listed(input=0.2, output=0.8)}) as lava:
        refresh_models(base_url=lava.base_url, cache=cache)
    add_model(Model(SMALL))
    kept = refresh_models(base_url=lava.base_url, cache=cache)
    assert kept.source == "cache"
    assert kept.read_at is not None
    assert kept.error is not None
    assert get_model(SMALL).input_price == Decimal("0.2")
    with answering({}) as other:
        assert refresh_models(base_url=other.base_url, cache=cache).source == "package"


@pytest.mark.parametrize("kept", ["", "[]", "{", '{"base_url": 1}', None])
@pytest.mark.parametrize("answer", [500, {"data": []}, "<html>", ["no", "list"]])
def test_with_nothing_that_can_be_read_the_shipped_list_counts(tmp_path: Path, kept: str | None, answer: Any) -> None:
    cache = tmp_path / "prices.json"
    with answering({"/services": answer}) as lava:
        if kept is not None:
            cache.write_text(kept.replace("1}", json.dumps(lava.base_url) + "}"))
        prices = refresh_models(base_url=lava.base_url, cache=cache)
    assert prices.source == "package"
    assert prices.error is not None
    assert len(prices.models) >= 34
    assert get_model(SMALL).input_price == Decimal("0.15")


def test_the_cache_is_a_file_of_the_user_and_one_that_cant_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with answering({"/services": listed(input=0.2, output=0.8)}) as lava:
        monkeypatch.setenv("LAVA_BASE_URL", lava.base_url)
        assert refresh_models().source == "lava"
        assert json.loads((tmp_path / "lava-mistral" / "prices.json").read_text())["base_url"] == lava.base_url
        (tmp_path / "file").write_text("")
        assert refresh_models(cache=tmp_path / "file" / "prices.json").source == "lava"
    assert sorted(path.name for path in (tmp_path / "lava-mistral").iterdir()) == ["prices.json"]


def test_a_user_without_a_home_keeps_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with answering({"/services": listed(input=0.2, output=0.8)}) as lava:
        assert refresh_models(base_url=lava.base_url).source == "lava"
    assert refresh_models(base_url=lava.base_url).source == "package"
    assert list(tmp_path.iterdir()) == []


def test_the_gateways_list_is_read(gateway: LocalGateway, tmp_path: Path) -> None:
    prices = refresh_models(base_url=gateway.base_url, cache=tmp_path / "prices.json")
    assert prices.source == "lava"
    assert {model.id for model in prices.models} >= {SMALL, "mistral-embed"}
    assert get_model(SMALL).cached_price == Decimal("0.015")


def test_a_base_url_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="base URL"):
        refresh_models(base_url="lava")


@pytest.mark.parametrize("kind", ["chat", "embeddings"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_model_that_is_not_active_is_told_of_at_its_first_use_alone(
    kind: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, what = f"old-{kind}", frozenset({kind})
    add_model(Model(name, capabilities=what, status="retired", retired_on=date(2026, 5, 31), replacement=SMALL))
    with LocalGateway(models=[name]) as gateway:
        access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
        client, asynchronous = LavaMistral(**access), AsyncLavaMistral(**access)
        for _ in range(2):
            match kind, mode:
                case "chat", "sync":
                    client.chat([{"role": "user", "content": "Hello"}], model=name)
                case "chat", "async":
                    await asynchronous.chat([{"role": "user", "content": "Hello"}], model=name)
                case _, "sync":
                    client.embed(["one", "two"], model=name)
                case _:
                    await asynchronous.embed(["one", "two"], model=name)
    told = [record.getMessage() for record in caplog.records if record.name == "lava_mistral"]
    assert told == [f"{name} is retired since 2026-05-31: use {SMALL}."]
