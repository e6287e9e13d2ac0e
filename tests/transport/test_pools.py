"""The shared connection pools: per process and event loop, without a queue, through the environment's proxy."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lava_mistral import APIConnectionError, AsyncLavaMistral, LavaMistral
from lava_mistral.gateway import LocalGateway, Stall
from lava_mistral.transport import pools
from lava_mistral.transport.environment import Proxy, proxy_for
from tests.fakes.raw_server import END, LAST, STREAM_HEAD, WORD, Peer, Server, answer_to, whole
from tests.fakes.waiting import aeventually
from tests.fakes.wire import event

ASK: list[Any] = [{"role": "user", "content": "Hello"}]


def settings(gateway: LocalGateway) -> dict[str, str]:
    return {"api_key": gateway.secret_key, "base_url": gateway.base_url}


@pytest.fixture(autouse=True)
def _fresh_pools() -> Iterator[None]:
    pools.close_sync_pools()
    yield
    pools.close_sync_pools()


def test_clients_share_their_connections_and_open_others_after_these_were_closed(
    serve: Callable[[Callable[[Peer], None]], Server],
) -> None:
    def answers(peer: Peer) -> None:
        while request := peer.request():
            peer.send(whole(answer_to(request)))

    server = serve(answers)
    for closed in (False, True):
        for _ in range(3):
            LavaMistral(api_key="aks_test_x", base_url=server.url).chat(ASK)
        assert server.connections == 1 + closed
        pools.close_sync_pools()
        assert server.ended.acquire(timeout=10)


@pytest.mark.parametrize(
    ("said", "connections"),
    [("timeout=1", 2), ("max=99, Timeout = 1", 2), ("timeout=60, max=9", 1), ("max=1", 1), ("timeout=long", 1)],
)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_connection_is_not_kept_as_long_as_the_server_says_that_it_keeps_it(
    serve: Callable[[Callable[[Peer], None]], Server], said: str, connections: int, asynchronous: bool
) -> None:
    def answers(peer: Peer) -> None:
        while request := peer.request():
            peer.send(whole(answer_to(request), headers=f"keep-alive: {said}\r\n".encode()))

    server = serve(answers)
    make = AsyncLavaMistral if asynchronous else LavaMistral
    client: Any = make(api_key="aks_test_x", base_url=server.url, max_retries=0)
    for _ in range(2):
        answer = client.chat(ASK)
        assert (await answer if asynchronous else answer).text == "Hello"
    assert server.connections == connections


def test_each_event_loop_has_its_pool_and_closes_it(gateway: LocalGateway) -> None:
    client = AsyncLavaMistral(**settings(gateway))
    held: list[Any] = []

    async def chat() -> None:
        await asyncio.gather(*(client.chat(ASK) for _ in range(5)))
        held.append(pools.async_pool())
        assert pools.async_pool() is held[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            asyncio.run(chat())
        gc.collect()
    assert len(set(map(id, held))) == 3
    assert all(pool.closed for pool in held)


def test_loops_in_threads_do_not_disturb_each_other(gateway: LocalGateway) -> None:
    client = AsyncLavaMistral(**settings(gateway))

    def work(_: int) -> str:
        return asyncio.run(client.chat(ASK)).text

    with ThreadPoolExecutor(8) as executor:
        assert len(set(executor.map(work, range(24)))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_uses_connections_of_its_own(gateway: LocalGateway) -> None:
    client = LavaMistral(**settings(gateway))
    client.chat(ASK)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        ok = b"0"
        try:
            ok = b"1" if client.chat(ASK).text else b"0"
        finally:
            os.write(write, ok)
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    assert client.chat(ASK).text
    assert len(gateway.requests) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_connection_that_was_in_use_at_a_fork_carries_no_call_of_the_child(
    serve: Callable[[Callable[[Peer], None]], Server],
) -> None:
    def answers(peer: Peer) -> None:
        while request := peer.request():
            peer.send(STREAM_HEAD + WORD + LAST + END if b'"stream":true' in request else whole(answer_to(request)))

    server = serve(answers)
    client = LavaMistral(api_key="aks_test_x", base_url=server.url)
    stream = client.stream(ASK)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert "".join(delta.text for delta in stream) == "Hello"
            assert client.chat(ASK).text == "Hello"
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    stream.close()
    assert server.connections == 2


def test_a_client_works_in_a_spawned_process(gateway: LocalGateway) -> None:
    program = (
        "import pickle, sys; client = pickle.load(sys.stdin.buffer); "
        "print(client.chat([{'role': 'user', 'content': 'Hello'}]).text)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        input=pickle.dumps(LavaMistral(**settings(gateway))),
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip()
    assert not done.stderr


async def test_200_streams_run_at_once_through_one_client(gateway: LocalGateway) -> None:
    client = AsyncLavaMistral(**settings(gateway))
    # Each says a word, and then nothing for as long as it is kept.
    gateway.queue(*[[event("Hello"), Stall()]] * 200)
    streams = await asyncio.gather(*(client.stream(ASK) for _ in range(200)))
    assert gateway.in_flight == gateway.max_in_flight == 200
    await asyncio.gather(*(stream.aclose() for stream in streams))
    await aeventually(lambda: not gateway.in_flight)

    async def read() -> str | None:
        async with await client.stream(ASK) as stream:
            _ = [delta async for delta in stream]
        return stream.turn.finish_reason

    assert await asyncio.gather(*(read() for _ in range(200))) == ["stop"] * 200


class RefusingProxy(BaseHTTPRequestHandler):
    """A proxy that answers every request itself, and says what it was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = b'{"data": [{"id": "through-the-proxy"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (RefusingProxy,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_environments_proxy_is_used(
    proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    address, asked = proxy
    monkeypatch.setenv("HTTPS_PROXY", address)
    make = AsyncLavaMistral if asynchronous else LavaMistral
    client: Any = make(api_key="aks_test_x", base_url="https://lava.example/v1", max_retries=0)
    # The tunnel is refused, so the call fails; what counts is who was asked for it.
    with pytest.raises(Exception, match="502"):
        await client.models() if asynchronous else client.models()
    assert asked == ["lava.example:443"]
    monkeypatch.setenv("NO_PROXY", "lava.example")
    assert proxy_for("https", "lava.example") is None
    assert proxy_for("https", "other.example") == Proxy("127.0.0.1", int(address.rpartition(":")[2]))
    assert proxy_for("http", "127.0.0.1") is None


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_proxy_that_is_mended_in_the_environment_is_used_by_the_next_call(
    proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    address, asked = proxy
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{taken.getsockname()[1]}")
    make = AsyncLavaMistral if asynchronous else LavaMistral
    client: Any = make(api_key="aks_test_x", base_url="https://lava.example/v1", max_retries=0)
    for mended in (False, True):
        if mended:
            monkeypatch.setenv("HTTPS_PROXY", address)
        with pytest.raises(APIConnectionError, match="502" if mended else "Lava"):
            await client.models() if asynchronous else client.models()
    assert asked == ["lava.example:443"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_address_where_nobody_ever_answers_is_given_up_soon(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    settings: dict[str, Any] = {"api_key": "aks_test_1", "base_url": url}
    with caplog.at_level("INFO", "lava_mistral"), pytest.raises(APIConnectionError):
        if asynchronous:
            asyncio.run(AsyncLavaMistral(**settings).embed(["a", "b"]))
        else:
            LavaMistral(**settings).embed(["a", "b"])
    # An embedding's requests are tried eleven times otherwise.
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "retry 2 of 2 in" in caplog.text
    assert "aks_test_1" not in caplog.text
