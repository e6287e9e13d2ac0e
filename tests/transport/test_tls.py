"""TLS, directly and through a proxy, with certificates that the environment names."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.raw_server import LAST, STREAM_HEAD, WORD, Peer, Server, answer_to, whole

# A process of its own reads the certificates anew; it asks three times in either way, and prints what it got.
PROGRAM = """
import asyncio, sys
from lava_mistral import AsyncLavaMistral, LavaMistral, LavaError
settings = dict(api_key="aks_test_x", base_url=sys.argv[1], max_retries=0)
ask = [{"role": "user", "content": "Hi"}]
def run():
    client = LavaMistral(**settings)
    for _ in range(2):
        print("sync", client.chat(ask).text)
    print("sync", "".join(delta.text for delta in client.stream(ask)))
async def arun():
    client = AsyncLavaMistral(**settings)
    for _ in range(2):
        print("async", (await client.chat(ask)).text)
    print("async", "".join([delta.text async for delta in await client.stream(ask)]))
for mode in (run, lambda: asyncio.run(arun())):
    try:
        mode()
    except LavaError as error:
        print(type(error).__name__, error)
"""
ANSWERS = ["sync Hello"] * 3 + ["async Hello"] * 3


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `lava.example` and 127.0.0.1, with its key in the same file."""
    folder = tmp_path_factory.mktemp("certificate")
    names = "subjectAltName=DNS:lava.example,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lava.example"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem"), "-addext", names]
    subprocess.run([*command, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


@pytest.fixture
def tls_server(certificate: Path, serve: Callable[[Callable[[Peer], None]], Server]) -> Server:
    """A server that answers over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def answers(peer: Peer) -> None:
        with suppress(ssl.SSLError), context.wrap_socket(peer.socket, server_side=True) as secure:
            inner = Peer(secure, threading.Event())
            while request := inner.request():
                streamed = b'"stream":true' in request
                inner.send(STREAM_HEAD + WORD + LAST + b"0\r\n\r\n" if streamed else whole(answer_to(request)))

    return serve(answers)


def run(url: str, environment: dict[str, str]) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_tls_to_a_certificate_that_the_environment_names(tls_server: Server, certificate: Path) -> None:
    url = f"https://127.0.0.1:{tls_server.port}/v1"
    assert run(url, {"SSL_CERT_FILE": str(certificate)}) == ANSWERS
    assert tls_server.connections == 2


def test_a_certificate_that_nobody_trusts_is_refused(tls_server: Server) -> None:
    said = run(f"https://127.0.0.1:{tls_server.port}/v1", {})
    assert len(said) == 2
    for line in said:
        assert line.startswith("ConfigurationError")
        assert "CERTIFICATE_VERIFY_FAILED" in line
        assert "SSL_CERT_FILE" in line
        assert "Trying again" not in line


def test_tls_through_a_proxy(
    tls_server: Server, certificate: Path, serve: Callable[[Callable[[Peer], None]], Server]
) -> None:
    asked = []

    def tunnel(peer: Peer) -> None:
        asked.append(peer.request() or b"")
        with socket.create_connection(("127.0.0.1", tls_server.port)) as upstream:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

            def back() -> None:
                with suppress(OSError):
                    while data := upstream.recv(65536):
                        peer.socket.sendall(data)

            thread = threading.Thread(target=back, daemon=True)
            thread.start()
            with suppress(OSError):
                while data := peer.socket.recv(65536):
                    upstream.sendall(data)
            with suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    proxy = serve(tunnel)
    environment = {"SSL_CERT_FILE": str(certificate), "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
    assert run("https://lava.example/v1", environment) == ANSWERS
    assert [request.split(b"\r\n")[0] for request in asked] == [b"CONNECT lava.example:443 HTTP/1.1"] * 2
