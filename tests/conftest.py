"""What the tests of all packages share."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from lava_mistral.billing.credentials import Billing
from lava_mistral.billing.scope import resolve_billing
from lava_mistral.gateway import LocalGateway
from lava_mistral.pricing.catalog import reset_models
from tests.fakes.warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
NODE_SDK = ROOT / "build" / "node"
# The same examples in each run: what a run finds, the next one finds too.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")

# Imports and the collection of tests leave no garbage, but a million objects that each collector's run would look at.
gc.disable()

RECORDING = {"vcr", "vcr_markers", "vcr_cassette_dir", "block_network", "record_mode", "disable_recording"}
SDK_PACKAGE = "@lavapayments/nodejs@11.2.0"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Spare each test the fixtures of pytest-recording, which has some around every one."""
    if isinstance(item, pytest.Function) and item.get_closest_marker("vcr") is None:
        item.fixturenames[:] = [name for name in item.fixturenames if name not in RECORDING]


def pytest_collection_finish() -> None:
    """Collect garbage from here on, among what the tests make."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """No test meets a key of the machine it runs on, or the models and prices that another one added."""
    # Nor is it warned of a block that an earlier one left without a call: both run in one context.
    resolve_billing(None, None, call_billing=Billing())
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("LAVA_", "MISTRAL_"))]:
            environment.delenv(name)
        yield
    reset_models()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process and those that it starts, also under `nohup` or a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def gateway() -> Iterator[LocalGateway]:
    """A gateway of this test's own."""
    with LocalGateway() as running:
        yield running


@pytest.fixture(scope="session")
def spawned() -> Iterator[Executor]:
    """A spawned process that began outside of any block: one for all tests, since it takes seconds to begin."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(os.getpid).result()
        yield pool


@pytest.fixture(scope="session")
def warm_python() -> Iterator[Callable[..., WarmPython]]:
    """Makes a `WarmPython`, one for all tests that import the same in the same environment."""
    with ExitStack() as processes:
        yield functools.cache(
            lambda imports="", **environment: processes.enter_context(closing(WarmPython(imports, **environment)))
        )


def recordings(kind: str = "") -> list[Any]:
    """The recorded exchanges as pytest parameters, or one that skips with the reason.

    Args:
        kind: a part of the provider's path: `"chat"` or `"embeddings"`.
    """
    folder = SHARED / "wire"
    if not folder.is_dir():
        reason = "the recorded traffic (../shared/wire) is not beside the project"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    exchanges = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [pytest.param(e, id=e["id"]) for e in exchanges if kind in e["request"]["path"]]


@pytest.fixture(scope="session")
def node_sdk() -> Path:
    """A folder in which Lava's own Node SDK is installed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("Node and npm are not on this machine; Lava's Node SDK can't be asked")
    if not (NODE_SDK / "node_modules" / "@lavapayments" / "nodejs").is_dir():
        NODE_SDK.mkdir(parents=True, exist_ok=True)
        quiet = ["--silent", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run([npm, "install", *quiet, "--prefix", str(NODE_SDK), SDK_PACKAGE], check=True)
    return NODE_SDK


@pytest.fixture
def idle_loop() -> Iterator[None]:
    """An event loop for what LlamaIndex runs in sync code: it takes the thread's own, or leaves one open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    asyncio.set_event_loop(None)
