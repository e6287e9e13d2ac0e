"""httpx and httpx2: transports for the clients of both, clients of both to send with, and neither loaded unasked."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import MistralError

import lava_mistral.httpx2
from lava_mistral import (
    APITimeoutError,
    AsyncLavaMistral,
    Billing,
    ConfigurationError,
    InvalidRequestError,
    LavaMistral,
    RateLimitError,
    billed_to,
)
from lava_mistral.gateway import LocalGateway, Status
from tests.fakes.raw_server import JSON_HEAD, Peer, Server, answer_to, chunked, whole

KEY = "aks_test_not-a-real-key"
URL = "https://api.mistral.ai/v1"
ASK: list[Any] = [{"role": "user", "content": "Hello"}]

libraries = pytest.mark.parametrize("library", ["httpx", "httpx2"])
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def client_of(library: str, asynchronous: bool, transport: Any = None, **more: Any) -> Any:
    module = importlib.import_module(library)
    return (module.AsyncClient if asynchronous else module.Client)(transport=transport, **more)


def lava_transport(library: str, asynchronous: bool, **settings: Any) -> Any:
    module = lava_mistral if library == "httpx" else lava_mistral.httpx2
    return (module.AsyncLavaTransport if asynchronous else module.LavaTransport)(**settings)


async def request(client: Any, asynchronous: bool, method: str, url: str, **more: Any) -> Any:
    if asynchronous:
        async with client:
            return await client.request(method, url, **more)
    with client:
        return client.request(method, url, **more)


@libraries
@both
async def test_a_request_for_mistral_goes_to_lava(library: str, asynchronous: bool) -> None:
    module = importlib.import_module(library)
    sent: list[Any] = []

    def answer(asked: Any) -> Any:
        sent.append(asked)
        return module.Response(200, json={})

    inner = module.MockTransport(answer)
    transport = lava_transport(
        library, asynchronous, api_key=KEY, base_url="http://127.0.0.1:9/v1", metadata={"app": "x"}, transport=inner
    )
    headers = {"authorization": "Bearer mistral-key", "x-own": "kept", "cookie": "no=1"}
    target = "https://someone:password@api.mistral.ai/v1/embeddings?x=1&y=%2F#part"
    with billed_to("c", "m", metadata={"k": "v"}):
        client = client_of(library, asynchronous, transport)
        response = await request(client, asynchronous, "POST", target, json={"input": "a"}, headers=headers)
    [forwarded] = sent
    assert parse_qs(urlsplit(str(forwarded.url)).query) == {"u": [f"{URL}/embeddings?x=1&y=%2F"]}
    assert forwarded.headers["host"] == "127.0.0.1:9"
    assert forwarded.headers["authorization"] == "Bearer " + Billing("c", "m").forward_token(KEY)
    assert json.loads(forwarded.headers["x-lava-metadata"]) == {"app": "x", "k": "v"}
    assert forwarded.headers["x-own"] == "kept"
    assert "cookie" not in forwarded.headers
    assert response.request.url.host == "api.mistral.ai"
    assert KEY not in repr(response.request.headers.raw)


@libraries
@both
@pytest.mark.parametrize("url", ["https://api.openai.com/v1/x", "http://api.mistral.ai/v1/x"])
async def test_other_hosts_are_refused(library: str, asynchronous: bool, url: str) -> None:
    client = client_of(library, asynchronous, lava_transport(library, asynchronous, api_key=KEY))
    with pytest.raises(ConfigurationError, match=r"api\.mistral\.ai"):
        await request(client, asynchronous, "GET", url)


@libraries
@both
async def test_the_shared_connections_carry_any_request(
    gateway: LocalGateway, library: str, asynchronous: bool
) -> None:
    for _ in range(2):
        transport = lava_transport(library, asynchronous, api_key=gateway.secret_key, base_url=gateway.base_url)
        client = client_of(library, asynchronous, transport)
        body = {"model": "mistral-embed", "input": "a"}
        answer = await request(client, asynchronous, "POST", f"{URL}/embeddings", json=body)
        assert len(answer.json()["data"][0]["embedding"]) == 1024
    assert [record.path for record in gateway.requests] == ["/v1/embeddings"] * 2


@pytest.fixture
def sdk(gateway: LocalGateway) -> Iterator[Mistral]:
    """Mistral's own SDK, which runs on httpx2."""
    access = {"api_key": gateway.secret_key, "base_url": gateway.base_url, "billing": Billing("c_1", "m")}
    transport = lava_transport("httpx2", False, **access)
    async_transport = lava_transport("httpx2", True, **access)
    with client_of("httpx2", False, transport) as client:
        yield Mistral(
            api_key="unused", client=client, async_client=client_of("httpx2", True, async_transport), timeout_ms=30_000
        )


def test_mistrals_sdk_through_lava(sdk: Mistral, gateway: LocalGateway) -> None:
    messages: Any = [{"role": "user", "content": "Is the sky blue?"}]
    assert sdk.chat.complete(model="mistral-small-2603", messages=messages).choices[0].message
    with sdk.chat.stream(model="mistral-small-2603", messages=messages) as stream:
        assert [event.data.choices[0].delta.content for event in stream][1:]
    assert len(sdk.embeddings.create(model="mistral-embed", inputs=["a"]).data) == 1
    gateway.queue(Status(422))
    with pytest.raises(MistralError):
        sdk.chat.complete(model="mistral-small-2603", messages=messages)
    assert {record.customer_id for record in gateway.requests} == {"c_1"}


async def test_mistrals_sdk_through_lava_in_async_code(sdk: Mistral, gateway: LocalGateway) -> None:
    messages: Any = [{"role": "user", "content": "Is the sky blue?"}]
    answer = await sdk.chat.complete_async(model="mistral-small-2603", messages=messages)
    assert answer.choices[0].message
    async with await sdk.chat.stream_async(model="mistral-small-2603", messages=messages) as stream:
        assert [event.data.choices[0].delta.content async for event in stream][1:]
    assert (await sdk.embeddings.create_async(model="mistral-embed", inputs=["a"])).data
    assert {record.customer_id for record in gateway.requests} == {"c_1"}


@pytest.fixture(params=["httpx", "httpx2"])
async def own(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[bool], Any]]:
    """Make a client of either library, with a header of its own."""
    made: list[tuple[bool, Any]] = []

    def make(asynchronous: bool) -> Any:
        made.append((asynchronous, client_of(request.param, asynchronous, headers={"x-own": "kept"})))
        return made[-1][1]

    yield make
    for asynchronous, client in made:
        await client.aclose() if asynchronous else client.close()


@both
async def test_calls_over_a_client_of_ones_own(
    own: Callable[[bool], Any], gateway: LocalGateway, asynchronous: bool
) -> None:
    settings: dict[str, Any] = {"api_key": gateway.secret_key, "base_url": gateway.base_url, "max_retries": 0}
    http = own(asynchronous)
    client: Any = (AsyncLavaMistral if asynchronous else LavaMistral)(**settings, http_client=http)
    answer = await client.chat(ASK) if asynchronous else client.chat(ASK)
    if asynchronous:
        async with await client.stream(ASK) as stream:
            text = "".join([delta.text async for delta in stream])
        vectors = (await client.embed(["a", "b"])).vectors
    else:
        with client.stream(ASK) as stream:
            text = "".join(delta.text for delta in stream)
        vectors = client.embed(["a", "b"]).vectors
    assert answer.text == text
    assert len(vectors) == 2
    assert {record.headers["x-own"] for record in gateway.requests} == {"kept"}
    assert {record.headers["user-agent"].partition("/")[0] for record in gateway.requests} == {"lava-mistral"}
    gateway.queue(Status(429))
    with pytest.raises(RateLimitError) as caught:
        await client.chat(ASK) if asynchronous else client.chat(ASK)
    assert caught.value.response.request.url == f"{URL}/chat/completions"
    assert not http.is_closed


@pytest.mark.parametrize(
    ("what", "asynchronous"),
    # In sync code each read has the limit that was left when the reading began; only the body's are added up.
    [("headers", True), ("body", True), ("body", False), ("silence", True), ("silence", False)],
)
async def test_the_timeout_holds_over_a_client_of_ones_own(
    own: Callable[[bool], Any], serve: Callable[[Callable[[Peer], None]], Server], asynchronous: bool, what: str
) -> None:
    drip = [step for byte in b"HTTP/1.1 200 OK\r\n" + b"x-slow: 1\r\n" * 20 for step in (bytes([byte]), 0.1)]
    steps = {"headers": drip, "body": [JSON_HEAD, *[chunked(b" "), 0.1] * 200], "silence": [30.0]}[what]
    server = serve(lambda peer: peer.request() and peer.send(*steps) and None)
    settings: dict[str, Any] = {"api_key": KEY, "base_url": server.url, "max_retries": 0, "timeout": 0.4}
    began = time.monotonic()
    with pytest.raises(APITimeoutError):
        if asynchronous:
            await AsyncLavaMistral(**settings, http_client=own(True)).chat(ASK)
        else:
            await asyncio.to_thread(LavaMistral(**settings, http_client=own(False)).chat, ASK)
    assert time.monotonic() - began < 4
    assert await asyncio.to_thread(server.ended.acquire, timeout=10)


@libraries
def test_an_error_gives_back_headers_of_any_characters(library: str) -> None:
    module = importlib.import_module(library)
    refusal = module.Response(400, json={"message": "no"}, headers=[(b"x-note", "5 €".encode())])
    client = client_of(library, False, module.MockTransport(lambda _: refusal))
    with pytest.raises(InvalidRequestError) as caught:
        LavaMistral(api_key=KEY, http_client=client).chat(ASK)
    assert caught.value.response is not None
    assert ("x-note", "5 €") in caught.value.response.headers.multi_items()


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="this system does not show a connection's timers")
@pytest.mark.parametrize("library", [None, "httpx", "httpx2"])
@both
async def test_a_connection_that_is_silent_for_long_is_kept_alive(
    library: str | None, asynchronous: bool, serve: Callable[[Callable[[Peer], None]], Server]
) -> None:
    def answers(peer: Peer) -> None:
        while request := peer.request():
            peer.send(whole(answer_to(request)))

    server = serve(answers)
    settings: dict[str, Any] = {"api_key": KEY, "base_url": server.url}
    if library is None:
        client: Any = (AsyncLavaMistral if asynchronous else LavaMistral)(**settings)
        answer = client.chat(ASK)
    else:
        http = client_of(library, asynchronous, lava_transport(library, asynchronous, **settings))
        answer = http.post(f"{URL}/chat/completions", json={"messages": ASK})
    await answer if asynchronous else answer
    text = await asyncio.to_thread(Path("/proc/net/tcp").read_text)
    rows = [line.split() for line in text.splitlines()[1:]]
    timers = [row[5].partition(":")[0] for row in rows if row[2].endswith(f":{server.port:04X}") and row[3] == "01"]
    assert timers == ["02"]  # a keepalive timer


@libraries
@both
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_is_closed_is_refused(library: str, asynchronous: bool, streamed: bool) -> None:
    http = client_of(library, asynchronous)
    await http.aclose() if asynchronous else http.close()
    make: Any = AsyncLavaMistral if asynchronous else LavaMistral
    client = make(api_key=KEY, http_client=http, spend_limit="10")
    with pytest.raises(ConfigurationError, match="closed"):
        answer = client.stream(ASK) if streamed else client.chat(ASK)
        await answer if asynchronous else answer
    # Nothing was sent, so that nothing can have been charged.
    assert client.spend_limit.left == 10


@pytest.mark.parametrize("given", ["text", "async for sync", "sync for async"])
def test_a_client_that_can_not_send_is_refused(given: str) -> None:
    if given == "sync for async":
        with client_of("httpx2", False) as client, pytest.raises(ConfigurationError, match="AsyncClient"):
            AsyncLavaMistral(http_client=client)
        return
    client = given if given == "text" else client_of("httpx", True)
    with pytest.raises(ConfigurationError, match=r"httpx\.Client or httpx2\.Client"):
        LavaMistral(http_client=client)


def test_calls_load_neither_library(serve: Callable[[Callable[[Peer], None]], Server]) -> None:
    def answers(peer: Peer) -> None:
        while request := peer.request():
            peer.send(whole(answer_to(request)))

    program = f"""
import asyncio, sys
from lava_mistral import AsyncLavaMistral, LavaError, LavaMistral
settings = dict(api_key="aks_test_x", base_url="{serve(answers).url}")
ask = [{{"role": "user", "content": "Hi"}}]
print(asyncio.run(AsyncLavaMistral(**settings).chat(ask)).text)
print(LavaMistral(**settings).chat(ask).text)
print([name for name in ("httpx", "httpx2", "httpcore", "aiohttp", "rich", "click") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["Hello", "Hello", "[]"]
