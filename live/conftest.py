"""The suite talks to the Lava that the environment names, and ends by saying what it has seen there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from lava_mistral import LavaMistral, UsageTotals
from lava_mistral.billing.usage import subscribe, unsubscribe

_seen = pytest.StashKey[dict[str, str]]()
_totals = pytest.StashKey[UsageTotals]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_seen] = {}
    config.stash[_totals] = UsageTotals()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not (os.environ.get("LAVA_SECRET_KEY") or os.environ.get("LAVA_FORWARD_TOKEN")):
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no LAVA_SECRET_KEY or LAVA_FORWARD_TOKEN in the environment"))


@pytest.fixture(scope="session", autouse=True)
def _count_cost(request: pytest.FixtureRequest) -> Any:
    """Every paid request of the suite is summed up."""
    totals = request.config.stash[_totals]
    subscribe(totals)
    yield
    unsubscribe(totals)


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Takes a note of what Lava or Mistral did where either would be right; printed at the end."""

    def note(what: str, value: object) -> None:
        request.config.stash[_seen][what] = str(value)

    return note


@pytest.fixture
def client() -> LavaMistral:
    """A client for whatever the environment names."""
    return LavaMistral()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    terminalreporter.section("seen")
    for what, value in config.stash[_seen].items():
        terminalreporter.write_line(f"{what}: {value}")
    total = config.stash[_totals].total
    terminalreporter.write_line(f"{total.requests} paid requests, {total.total_tokens:,} tokens, ${total.cost:f}")
