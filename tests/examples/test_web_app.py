"""The web app of examples/: streamed to a page, billed to the customer of the request, closed with the tab."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from selenium import webdriver

from lava_mistral.gateway import LocalGateway
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


DELTA = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Well, "}, "finish_reason": None}]}
ENDLESS = (200, [f"data: {json.dumps(DELTA)}\n\n", 0.1] * 600)


APP = ROOT / "examples" / "web_app" / "app.py"


def load_app(path: Path = APP) -> Any:
    spec = importlib.util.spec_from_file_location("web_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.create_app()


@pytest.fixture
def slow_gateway() -> Iterator[LocalGateway]:
    with LocalGateway(pace=0.05) as gateway:
        yield gateway


@pytest.fixture
def site(slow_gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in slow_gateway.environ.items():
        monkeypatch.setenv(name, value)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(load_app(), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(site: str, customer: str, text: str, thread: str = "t") -> list[tuple[str, Any]]:
    response = httpx.post(
        f"{site}/chat", json={"text": text, "thread": thread}, headers={"x-customer": customer}, timeout=60
    )
    response.raise_for_status()
    events = [event.split("\n") for event in response.text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in events]


def test_each_request_is_billed_to_its_customer_whose_cost_is_shown(site: str, slow_gateway: LocalGateway) -> None:
    for customer in ("cus_1", "cus_2"):
        events = ask(site, customer, "My name is Ada. Say hello.")
        assert "".join(data["text"] for kind, data in events if kind == "text")
        spent = sum(request.cost for request in slow_gateway.requests if request.customer_id == customer)
        assert events[-1] == ("cost", {"total": f"{spent:f}"})
    assert {request.customer_id for request in slow_gateway.requests} == {"cus_1", "cus_2"}


def test_a_question_that_lost_its_customer_fails_and_is_not_paid(
    slow_gateway: LocalGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slow_gateway.environ.items():
        monkeypatch.setenv(name, value)
    source, block = APP.read_text("utf-8"), "billed_to(x_customer, METER)(answer)"
    assert block in source
    (tmp_path / "app.py").write_text(source.replace(block, "answer"), "utf-8")
    app = load_app(tmp_path / "app.py")

    async def visit() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as browser:
            question = {"text": "Hello", "thread": "t"}
            return (await browser.post("/chat", json=question, headers={"x-customer": "cus_1"})).text

    assert "No customer is named for this call" in asyncio.run(visit())
    assert not slow_gateway.requests


def test_a_thread_is_remembered_for_its_customer_alone(site: str, slow_gateway: LocalGateway) -> None:
    ask(site, "cus_1", "First question")
    ask(site, "cus_1", "Second question")
    ask(site, "cus_2", "Third question")
    texts = [json.dumps(request.body["messages"]) for request in slow_gateway.requests]
    assert "First question" in texts[-2]
    assert "First question" not in texts[-1]


def test_an_empty_wallet_is_said_on_the_page(site: str, slow_gateway: LocalGateway) -> None:
    slow_gateway.queue((402, {"error": {"message": "Insufficient balance"}}))
    [(kind, data), _] = ask(site, "cus_1", "Hello")
    assert kind == "failed"
    assert "cus_1" in data["advice"]


def test_a_closed_tab_closes_the_upstream_stream(site: str, slow_gateway: LocalGateway) -> None:
    slow_gateway.queue(ENDLESS)
    question = {"text": "Tell me everything", "thread": "t"}
    with httpx.stream("POST", f"{site}/chat", json=question, headers={"x-customer": "cus_1"}, timeout=60) as response:
        # Kept: an iterator of httpx that is dropped closes the response.
        texts = response.iter_text()
        first = next(texts)
        assert first.startswith("event: text"), first
        wait_until(lambda: slow_gateway.in_flight == 1)
        assert next(texts).startswith("event: text")
    wait_until(lambda: slow_gateway.in_flight == 0)
    [request] = slow_gateway.requests
    assert request.outcome == "error"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless", "no-sandbox", "disable-gpu", f"user-data-dir={tmp_path}", "window-size=800,600"):
        options.add_argument(f"--{argument}")
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


def test_the_page_in_a_browser(site: str, slow_gateway: LocalGateway, browser: Any) -> None:
    def shown(name: str) -> str:
        return str(browser.find_element("css selector", name).text)

    browser.get(f"{site}/?customer=cus_7&ask=Hello%20there")
    wait_until(lambda: shown("#cost") != "$0")
    spent = sum(request.cost for request in slow_gateway.requests)
    assert (shown("#customer"), shown("#cost")) == ("cus_7", f"${spent:f}")
    assert shown(".assistant")
    picture = ROOT / "build" / "web_app.png"
    picture.parent.mkdir(exist_ok=True)
    browser.save_screenshot(str(picture))
    slow_gateway.queue(ENDLESS)
    browser.find_element("id", "text").send_keys("Go on\n")
    wait_until(lambda: slow_gateway.in_flight == 1)
    browser.find_element("id", "cancel").click()
    wait_until(lambda: slow_gateway.in_flight == 0)
    assert shown(".failed") == "Cancelled."
