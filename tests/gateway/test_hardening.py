"""The gateway as a server: whom it answers, how long it waits, how much it keeps."""

from __future__ import annotations

import socket
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from lava_mistral.gateway import LocalGateway, Status
from lava_mistral.gateway.request_log import RequestLog, RequestRecord
from tests.fakes.waiting import PATIENCE


def models(gateway: LocalGateway, host: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {gateway.secret_key}", "host": host}
    return httpx.get(f"{gateway.base_url}/models", headers=headers)


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:1", "[::1]:9", "127.8.8.8"])
def test_it_answers_to_loopback_names(gateway, host):
    assert models(gateway, host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "[", "169.254.1.1:80"])
def test_it_answers_to_no_other_name(gateway, host):
    refused = models(gateway, host)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert "hosts=" in refused.json()["error"]["message"]


def test_other_names_can_be_allowed():
    with LocalGateway(hosts=["gateway.test"]) as gateway:
        assert [models(gateway, host).status_code for host in ("gateway.test:80", "other.test")] == [200, 403]
    with LocalGateway(hosts=["*"]) as gateway:
        assert models(gateway, "other.test").status_code == 200


def test_it_answers_to_the_address_that_it_listens_on():
    with LocalGateway(host="0.0.0.0") as gateway, socket.create_connection(("127.0.0.1", gateway.port)) as wire:
        address = wire.getpeername()[0]
        assert httpx.get(f"http://{address}:{gateway.port}/v1/services").status_code == 200


def ends(wire: socket.socket) -> bool:
    """Wait until the server closes the connection."""
    wire.settimeout(PATIENCE)
    while wire.recv(65_536):
        pass
    return True


@pytest.mark.parametrize("head", [b"", b"GET /v1/mod", b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_end_is_cut_off(head):
    with (
        LocalGateway(read_timeout=0.3) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as wire,
    ):
        wire.sendall(head)
        assert ends(wire)
        assert httpx.get(f"{gateway.base_url}/services").status_code == 200


def test_a_head_that_drips_is_cut_off():
    with (
        LocalGateway(read_timeout=0.5) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as wire,
    ):
        begun = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe
            while time.monotonic() - begun < PATIENCE:
                wire.sendall(b"GET / HTTP/1.1\r\n" if time.monotonic() - begun < 0.1 else b"x: y\r\n")
                time.sleep(0.05)


def test_a_body_that_does_not_end_is_refused():
    with (
        LocalGateway(read_timeout=0.3) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as wire,
    ):
        wire.sendall(b"POST /v1/forward?u=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        wire.settimeout(PATIENCE)
        answer = b""
        while part := wire.recv(65_536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer


def test_a_slow_answer_is_not_cut_off(connect):
    with LocalGateway(read_timeout=0.2, latency=0.6) as gateway:
        forward = connect(gateway)
        assert [forward.chat().status_code for _ in range(2)] == [200, 200]
        assert gateway.connections == 1


def test_the_memory_of_records_is_bounded():
    log = RequestLog(keep=500)
    headers = tuple((b"x-header-%d" % at, b"value" * 4) for at in range(10))

    def add(number: int) -> None:
        for at in range(number):
            record = RequestRecord(f"req_{at}_{time.monotonic_ns()}", "POST", headers, 0.0, raw_body=b"x" * 2_000)
            log.add(record)

    add(1_000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    add(10_000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(log.all()) == 500
    assert grown < 3_000_000


def test_answers_are_queued_for_one_kind_of_request(forward, gateway):
    gateway.queue(Status(503), path="embeddings")
    gateway.queue(429)
    gateway.queue(418, path="chat")
    assert [forward.chat().status_code for _ in range(3)] == [429, 418, 200]
    assert [forward.embed("a").status_code for _ in range(2)] == [503, 200]
    gateway.queue(500, path="models")
    assert forward.chat().status_code == 200
    assert forward("/v1/models").status_code == 500
    with pytest.raises(ValueError, match="path is one of chat, embeddings"):
        gateway.queue(500, path="chats")  # type: ignore[arg-type]


def test_queued_answers_reach_many_clients_once_each(forward, gateway):
    gateway.queue(*[429] * 20, path="chat")
    gateway.queue(*[503] * 10, path="embeddings")
    with ThreadPoolExecutor(16) as pool:
        chats = [pool.submit(forward.chat) for _ in range(40)]
        embeddings = [pool.submit(forward.embed, "a") for _ in range(40)]
        statuses = [[one.result().status_code for one in asked] for asked in (chats, embeddings)]
    assert [sorted(found) for found in statuses] == [[200] * 20 + [429] * 20, [200] * 30 + [503] * 10]
    assert gateway.queued == 0
