"""`lava-mistral usage`: what Lava recorded, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lava_mistral import Billing, LavaMistral, RequestRecord, UsageReport
from lava_mistral.__main__ import app
from lava_mistral.cli.usage_report import Spending, by_day, by_name, draw, name_of, parse_moment
from lava_mistral.gateway import LocalGateway

NOW = datetime(2026, 8, 20, 12, tzinfo=UTC)
ASK: list[Any] = [{"role": "user", "content": "Hello there"}]


def run(gateway: LocalGateway, *arguments: str) -> Result:
    environment = {"LAVA_SECRET_KEY": gateway.secret_key, "LAVA_BASE_URL": gateway.base_url, "COLUMNS": "200"}
    return CliRunner().invoke(app, ["usage", *arguments], env=environment)


@pytest.fixture
def used(gateway: LocalGateway) -> LocalGateway:
    """A gateway with some calls behind it."""
    client = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    for number in range(6):
        billing = Billing(customer_id=f"c_{number % 2}", meter_slug="chat") if number else None
        client.chat(ASK, billing=billing, lava_metadata={"team": "red"} if number < 4 else None)
    client.chat([{"role": "user", "content": "long " * 2000}], model="mistral-large-latest")
    return gateway


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("customer", [None, "c_0", "c_1"]),
        ("model", ["mistral-large-latest", "mistral-small-2603"]),
        ("meter", [None, "chat"]),
        ("metadata:team", [None, "red"]),
    ],
)
def test_sums_by_each_name_agree_with_the_ledger(used: LocalGateway, by: str, names: list[str]) -> None:
    result = run(used, "--by", by, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert sorted((item["name"] for item in told["items"]), key=lambda name: name or "") == names
    total = sum(request.cost for request in used.requests)
    assert Decimal(told["totals"]["cost"]) == total == sum(Decimal(item["cost"]) for item in told["items"])
    assert told["totals"]["requests"] == 7
    costs = [Decimal(item["cost"]) for item in told["items"]]
    assert costs == sorted(costs, reverse=True)


def test_days_are_lavas_own_sums(used: LocalGateway) -> None:
    told = json.loads(run(used, "--by", "day", "--json").stdout)
    assert [item["name"] for item in told["items"]] == [datetime.now(UTC).date().isoformat()]
    assert Decimal(told["totals"]["cost"]) == sum(request.cost for request in used.requests)


def test_the_table_is_for_people(used: LocalGateway) -> None:
    result = run(used, "--since", "12h")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["customer", "requests", "tokens", "cost", "charged"]
    assert lines[-1].split()[:2] == ["total", "7"]
    assert {line.split()[0] for line in lines[1:-1]} == {"–", "c_0", "c_1"}


def test_filters_and_spans(used: LocalGateway) -> None:
    told = json.loads(run(used, "--customer", "c_0", "--meter", "chat", "--json").stdout)
    assert [(item["name"], item["requests"]) for item in told["items"]] == [("c_0", 2)]
    yesterday = (date.today() - timedelta(days=2)).isoformat()
    for by in ("customer", "day"):
        told = json.loads(run(used, "--until", yesterday, "--since", "2020-01-01", "--by", by, "--json").stdout)
        assert told["totals"] == {"requests": 0, "tokens": 0, "cost": "0", "charge": "0"}
    assert run(used, "--until", yesterday, "--since", "2020-01-01").stdout.splitlines()[-1].split()[0] == "total"


def test_a_misspelt_sum_gets_a_suggestion(gateway: LocalGateway) -> None:
    result = run(gateway, "--by", "custmer")
    assert result.exit_code == 2
    assert "did you mean customer?" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "wrong",
    [
        ["--since", "yesterday"],
        ["--by", "colour"],
        ["--by", "metadata:"],
        ["--by", "model:x"],
        ["--since", "2d", "--until", "2020-01-01"],
        ["--plot", "picture.gif"],
        ["--customer", ""],
        ["--customer", " "],
        ["--meter", ""],
    ],
)
def test_a_wrong_call_ends_with_2(gateway: LocalGateway, wrong: list[str]) -> None:
    assert run(gateway, *wrong).exit_code == 2


def test_a_refusal_ends_with_1_and_shows_no_key(gateway: LocalGateway) -> None:
    environment = {"LAVA_SECRET_KEY": "aks_test_wrong", "LAVA_BASE_URL": gateway.base_url}
    result = CliRunner().invoke(app, ["usage"], env=environment)
    assert result.exit_code == 1
    assert "aks_test_wrong" not in result.output


@pytest.mark.parametrize("by", ["customer", "day", "model"])
@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_drawn(used: LocalGateway, tmp_path: Path, by: str, ending: str, start: bytes) -> None:
    picture = tmp_path / f"spent.{ending}"
    result = run(used, "--by", by, "--plot", str(picture))
    assert result.exit_code == 0
    assert picture.read_bytes().startswith(start)
    assert f"Drawn to {picture}" in result.stderr


def test_many_names_odd_names_and_none_are_drawn(tmp_path: Path) -> None:
    names = ["$x$", "a_{", "very long " * 20, *(f"customer {n}" for n in range(40))]
    records = [record(f"r{n}", customer_id=name, cost=str(n + 1)) for n, name in enumerate(names)]
    many = by_name(records, "customer", name_of("customer"), NOW - timedelta(days=1), NOW)
    draw(many, tmp_path / "many.svg")
    text = (tmp_path / "many.svg").read_text()
    assert "24 others" in text
    assert "customer 39" in text
    nothing = by_name([], "customer", name_of("customer"), NOW, NOW)
    draw(nothing, tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").stat().st_size > 1000


def test_without_matplotlib_the_extra_is_named(
    used: LocalGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(used, "--plot", str(tmp_path / "x.png"))
    assert result.exit_code == 1
    assert "lava-mistral[plot]" in result.stderr
    assert "c_0" in result.stdout


def record(request_id: str, at: datetime = NOW - timedelta(hours=1), **fields: Any) -> RequestRecord:
    wire = {"request_id": request_id, "status": "completed", "created_at": at.isoformat(), "cost": "0.5"}
    return RequestRecord.from_wire({**wire, "model_usage": {"total_tokens": 10}, "charge": {"amount": "0.7"}, **fields})


def test_reading_stops_where_all_is_older() -> None:
    read: list[str] = []

    def newest_first() -> Any:
        moments = [NOW, NOW - timedelta(hours=1), *[NOW - timedelta(days=3)] * 50, NOW - timedelta(hours=2)]
        for number, at in enumerate([*moments, *[NOW - timedelta(days=3)] * 1000]):
            read.append(str(number))
            yield record(str(number), at)

    spent = by_name(newest_first(), "model", name_of("model"), NOW - timedelta(days=1), NOW)
    # The newest is from the end itself, which is not within; one stands among older ones.
    assert (spent.total.requests, spent.total.cost, spent.total.charge) == (2, Decimal(1), Decimal("1.4"))
    assert len(read) < 200


def test_a_record_without_a_moment_counts() -> None:
    undated = RequestRecord.from_wire({"request_id": "r", "cost": "0.1"})
    spent = by_name([undated], "customer", name_of("customer"), NOW - timedelta(days=1), NOW)
    assert spent.items == ((None, spent.total),)
    assert spent.total.cost == Decimal("0.1")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("12h", NOW - timedelta(hours=12)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-08-01", datetime(2026, 8, 1, tzinfo=UTC)),
        ("2026-08-01T10:00:00Z", datetime(2026, 8, 1, 10, tzinfo=UTC)),
        ("2026-08-01T10:00:00+02:00", datetime(2026, 8, 1, 8, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "7", "d", "7y", "-3d", "99999d", "tomorrow", "2026-13-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="no span"):
        parse_moment(text, NOW)


def test_days_keep_their_order() -> None:
    days = [{"date": f"2026-08-0{n}", "total_cost": str(10 - n), "total_requests": 1} for n in range(1, 5)]
    spent = by_day(UsageReport.from_wire({"items": days, "totals": {"total_cost": "30"}}), NOW, NOW)
    assert isinstance(spent, Spending)
    assert [name for name, _ in spent.items] == [day["date"] for day in days]
    assert spent.total.cost == 30
