"""Starting and stopping: quick, complete, in any surroundings."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import httpx
import pytest

from lava_mistral.gateway import Interrupted, LocalGateway, Slow, Stall
from tests.fakes.waiting import PATIENCE, eventually


def run(code: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def ping(gateway: LocalGateway) -> int:
    headers = {"authorization": f"Bearer {gateway.secret_key}"}
    return httpx.get(f"{gateway.base_url}/models", headers=headers, timeout=10).status_code


def test_it_starts_and_stops_quickly():
    begun = time.monotonic()
    for _ in range(10):
        with LocalGateway() as gateway:
            assert ping(gateway) == 200
    # A tenth of it on an idle machine.
    assert time.monotonic() - begun < 10


def test_start_and_stop_may_be_called_twice_and_again():
    gateway = LocalGateway()
    assert repr(gateway) == "LocalGateway(stopped)"
    with pytest.raises(RuntimeError, match="not running"):
        _ = gateway.base_url
    for _ in range(2):
        assert gateway.start() is gateway.start()
        assert ping(gateway) == 200
        assert gateway.base_url in repr(gateway)
        url = gateway.base_url
        gateway.stop()
        gateway.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_a_port_may_be_chosen_and_is_free_again_at_once():
    with LocalGateway() as gateway:
        port = gateway.port
        with pytest.raises(OSError, match="in use"):
            LocalGateway(port=port).start()
        ping(gateway)
    with LocalGateway(port=port) as gateway:
        assert gateway.port == port
        assert ping(gateway) == 200


def test_it_listens_on_ipv6():
    try:
        with LocalGateway(host="::1") as gateway:
            assert gateway.base_url.startswith("http://[::1]:")
            assert ping(gateway) == 200
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match="latancy"):
        LocalGateway(latancy=1)


async def test_it_serves_asynchronous_code():
    async with LocalGateway() as gateway:
        headers = {"authorization": f"Bearer {gateway.secret_key}"}
        async with httpx.AsyncClient(headers=headers) as client:
            answers = await asyncio.gather(*(client.get(f"{gateway.base_url}/models") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
    with LocalGateway() as inner:
        assert await asyncio.to_thread(ping, inner) == 200


@pytest.mark.parametrize("fault", [Interrupted(how="stalled"), [Stall()], Slow(3_600), [0.1, 3_600]])
def test_it_stops_while_streams_stand_still(fault, caplog):
    with LocalGateway() as gateway:
        gateway.queue(*[fault] * 5)
        ended: list[Exception] = []

        def wait() -> None:
            body = {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
            url = f"{gateway.base_url}/forward?u=https://api.mistral.ai/v1/chat/completions"
            try:
                httpx.post(
                    url, json=body, headers={"authorization": f"Bearer {gateway.secret_key}"}, timeout=4 * PATIENCE
                )
            except httpx.HTTPError as error:
                ended.append(error)

        threads = [threading.Thread(target=wait) for _ in range(5)]
        for thread in threads:
            thread.start()
        eventually(lambda: gateway.in_flight == 5)
        time.sleep(0.05)
        begun = time.monotonic()
    assert time.monotonic() - begun < PATIENCE
    for thread in threads:
        thread.join(PATIENCE)
    assert len(ended) == 5
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_a_client_that_goes_away_is_noticed(caplog):
    with LocalGateway(pace=0.05) as gateway:
        body = {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        url = f"{gateway.base_url}/forward?u=https://api.mistral.ai/v1/chat/completions"
        headers = {"authorization": f"Bearer {gateway.secret_key}"}
        with httpx.stream("POST", url, json=body, headers=headers) as response:
            next(response.iter_raw())
        eventually(lambda: not gateway.in_flight)
        [record] = gateway.requests
        assert (gateway.in_flight, record.outcome, record.cost) == (0, "error", 0)
        assert gateway.wallet.merchant == 1000
    assert not [one for one in caplog.records if one.name.startswith("uvicorn")]


def test_it_stops_while_clients_come_and_go(caplog):
    body = b'{"model":"mistral-embed","input":"a"}'
    for turn in range(12):
        with LocalGateway(pace=0.001) as gateway:
            request = (
                b"POST /v1/forward?u=https://api.mistral.ai/v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"
                b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
                % (gateway.secret_key.encode(), len(body))
                + body
            )
            wires = [socket.create_connection(("127.0.0.1", gateway.port), timeout=5) for _ in range(20)]
            for wire in wires:
                wire.sendall(request)
            time.sleep(turn * 0.001)
            leaving = threading.Thread(target=lambda wires=wires: [wire.close() for wire in wires])
            leaving.start()
        leaving.join()
        assert gateway.in_flight == 0
    gc.collect()
    assert not [one for one in caplog.records if one.name.startswith(("uvicorn", "asyncio"))]


def test_many_threads_and_many_records():
    with LocalGateway() as gateway:
        headers = {"authorization": f"Bearer {gateway.secret_key}"}

        def work(number: int) -> None:
            with httpx.Client(headers=headers) as client:
                for turn in range(20):
                    body = {"model": "mistral-embed", "input": f"{number} {turn}"}
                    url = f"{gateway.base_url}/forward?u=https://api.mistral.ai/v1/embeddings"
                    assert client.post(url, json=body).status_code == 200
                    assert gateway.requests

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        records = gateway.requests
        assert len({record.request_id for record in records}) == 160
        assert {record.body["input"] for record in records} == {f"{n} {t}" for n in range(8) for t in range(20)}
        assert 1000 - gateway.wallet.merchant == sum(record.cost for record in records) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_forked_child_leaves_the_parents_gateway_alone():
    done = run(
        """
        import os, socket, sys, traceback
        import httpx
        from lava_mistral.gateway import LocalGateway

        gateway = LocalGateway().start()
        headers = {"authorization": "Bearer " + gateway.secret_key}
        url = gateway.base_url + "/models"

        def ask(url):
            assert httpx.get(url, headers=headers, timeout=30).status_code == 200

        child = os.fork()
        if child == 0:
            # The child may call the parent's gateway, run one of its own, and stop both.
            try:
                ask(url)
                with LocalGateway() as own:
                    ask(own.base_url + "/models")
                gateway.stop()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        ask(url)
        read, write = os.pipe()
        second = os.fork()
        if second == 0:
            os.read(read, 1)
            os._exit(0)
        port = gateway.port
        gateway.stop()
        # Though a child lives on, nobody listens any more.
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            sys.exit("the port is still open")
        except ConnectionRefusedError:
            pass
        os.write(write, b"x")
        assert os.waitpid(second, 0)[1] == 0
        """,
        "-W",
        "ignore::DeprecationWarning",
    )
    assert done.returncode == 0, done.stderr


def test_it_leaves_nothing_open():
    done = run(
        """
        import gc
        from lava_mistral.gateway import LocalGateway
        for _ in range(3):
            with LocalGateway():
                pass
            gc.collect()
        """,
        "-X",
        "dev",
        "-W",
        "error",
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_a_program_ends_though_its_gateway_runs():
    done = run("from lava_mistral.gateway import LocalGateway; gateway = LocalGateway().start()")
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_import_says_what_to_install():
    done = run(
        """
        import importlib, sys
        import lava_mistral
        for missing in ("pydantic", "uvicorn", "numpy"):
            sys.modules[missing] = None
            try:
                importlib.import_module("lava_mistral.gateway")
                sys.exit(f"it needs no {missing}")
            except ImportError as error:
                assert 'pip install "lava-mistral[gateway]"' in str(error), error
                assert missing in str(error), error
            del sys.modules[missing]
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("interruptible")
def test_it_can_be_waited_for():
    code = """
        from lava_mistral.gateway import LocalGateway
        with LocalGateway(secret_key="aks_test_x") as gateway:
            print(gateway.base_url, flush=True)
            try:
                gateway.wait()
            except KeyboardInterrupt:
                print("stopped")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert httpx.get(f"{url}/models", headers={"authorization": "Bearer aks_test_x"}).status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "stopped\n"
            assert process.wait(20) == 0
        finally:
            process.kill()
