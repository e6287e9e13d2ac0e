"""Fixtures of the LangChain package's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_tests.conftest import base_vcr_config

from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import Caller


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    """Runs a scenario in sync code, then in async code."""
    return Caller(request.param)


@pytest.fixture(scope="module")
def shared_gateway() -> Iterator[LocalGateway]:
    """A gateway for all tests of a module: for those that look at answers, not at what arrived."""
    with LocalGateway() as running:
        yield running


@pytest.fixture(scope="session")
def vcr_config() -> dict[str, Any]:
    """Recordings hold no credential, and serve whatever port a gateway has."""
    config = base_vcr_config()
    config["cassette_library_dir"] = str(Path(__file__).parent / "cassettes")
    config["match_on"] = ["method", "path", "query", "body"]
    config["before_record_response"] = _without_headers
    return config


def _without_headers(response: dict[str, Any]) -> dict[str, Any]:
    kept = ("content-type", "x-lava-request-id")
    response["headers"] = {name: value for name, value in response["headers"].items() if name.lower() in kept}
    return response
