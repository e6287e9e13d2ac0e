"""Fixtures of the tests that stand for what users have reported in public."""

from __future__ import annotations

import itertools

import pytest

from tests.fakes.frameworks import Framework

WAYS = list(itertools.product(("core", "langchain", "llama_index"), (False, True), (False, True)))


@pytest.fixture(params=WAYS, ids=["-".join([k, "async" * a or "sync", "stream" * s or "whole"]) for k, a, s in WAYS])
def framework(request: pytest.FixtureRequest) -> Framework:
    """The core, LangChain and LlamaIndex, each in sync and async code, streamed and not."""
    return Framework(*request.param)
