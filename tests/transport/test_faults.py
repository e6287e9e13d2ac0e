"""Faults of connections and servers: each call ends in time, with its own answer or the right error."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack, suppress
from decimal import Decimal
from typing import Any

import pytest

from lava_mistral import (
    APIConnectionError,
    APITimeoutError,
    AsyncLavaMistral,
    ConfigurationError,
    LavaError,
    LavaMistral,
    ServerError,
    SpendLimit,
    StreamInterruptedError,
    StreamStalledError,
)
from lava_mistral.transport.connections import failure_of
from lava_mistral.transport.failures import ConnectionBroken, DeadlineExceeded
from tests.fakes.clients import KEY, at_once
from tests.fakes.raw_server import (
    END,
    JSON_HEAD,
    LAST,
    STREAM_HEAD,
    WORD,
    Peer,
    RawServer,
    Server,
    answer_to,
    chunked,
    whole,
)
from tests.fakes.wire import event

LIMIT = 0.3
"""Seconds for a call that shall not succeed."""
GAP = 0.2
"""Seconds between two chunks of a stream that shall not come to its end."""
SLACK = 10.0
"""Seconds that a loaded machine may add."""
SILENCE = 60.0
"""Seconds for which a server says nothing: longer than any limit."""
ASKS = ("chat", "tools", "stream", "embed")

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
Serve = Callable[[Callable[[Peer], None]], Server]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def settings(server: Server, **more: Any) -> dict[str, Any]:
    """A client with all the time that a loaded machine may need."""
    given = {"api_key": KEY, "base_url": server.url, "timeout": SLACK, "stream_chunk_timeout": SLACK, "max_retries": 0}
    return given | more


def hasty(server: Server, **more: Any) -> dict[str, Any]:
    """A client that soon gives up."""
    return settings(server) | {"timeout": LIMIT, "stream_chunk_timeout": GAP} | more


async def all_at_once(one: Callable[[str], Awaitable[None]], asks: Iterable[str] = ASKS) -> None:
    """Run a test for each kind of call, side by side, since most of it is waiting."""
    async with asyncio.TaskGroup() as group:
        for ask in asks:
            group.create_task(one(ask), name=ask)  # type: ignore[arg-type]


async def call(ask: str, asynchronous: bool, client: dict[str, Any], text: str = "Hello") -> Any:
    """Make a call of a kind: its text, or its vectors."""
    messages: list[Any] = [{"role": "user", "content": text}]
    if asynchronous:
        return await _acall(ask, AsyncLavaMistral(**client), messages)
    return await asyncio.to_thread(_call, ask, LavaMistral(**client), messages)


def _call(ask: str, client: LavaMistral, messages: list[Any]) -> Any:
    if ask == "embed":
        return client.embed([messages[0]["content"]], model="codestral-embed", dimensions=8).vectors
    if ask == "stream":
        with client.stream(messages) as stream:
            return "".join(delta.text for delta in stream)
    return client.chat(messages, **({"tools": [WEATHER]} if ask == "tools" else {})).text


async def _acall(ask: str, client: AsyncLavaMistral, messages: list[Any]) -> Any:
    if ask == "embed":
        return (await client.embed([messages[0]["content"]], model="codestral-embed", dimensions=8)).vectors
    if ask == "stream":
        async with await client.stream(messages) as stream:
            return "".join([delta.text async for delta in stream])
    return (await client.chat(messages, **({"tools": [WEATHER]} if ask == "tools" else {}))).text


async def fails(
    kind: type[LavaError], ask: str, asynchronous: bool, client: dict[str, Any], text: str = "Hello"
) -> Any:
    """Make a call that must fail in time: the error."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        await call(ask, asynchronous, client, text)
    assert time.monotonic() - began < client["timeout"] + SLACK
    return caught.value


def left(server: Server, times: int = 1) -> bool:
    """Whether the client has closed so many connections by itself."""
    return all(server.ended.acquire(timeout=SLACK) for _ in range(times))


# Framing


@both
@pytest.mark.parametrize(
    "broken",
    [b"zz\r\nhello\r\n", b"-5\r\nhello\r\n", b"f" * 40 + b"\r\nhello\r\n", b"400\r\ntoo short"],
    ids=["garbage", "negative", "huge", "longer than what comes"],
)
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_chunk_framing_that_breaks_is_an_error(
    serve: Serve, asynchronous: bool, broken: bytes, when: str
) -> None:
    def breaks(peer: Peer) -> None:
        while peer.request():
            peer.send(JSON_HEAD)
            if when == "later":
                peer.send(chunked(b" "), 0.1)
            peer.send(broken)
            return

    async def one(ask: str) -> None:
        kind = (APIConnectionError, StreamInterruptedError)
        await fails(kind, ask, asynchronous, settings(serve(breaks)))  # type: ignore[arg-type]

    await all_at_once(one)


@both
async def test_a_request_that_failed_gives_its_place_to_the_next(serve: Serve, asynchronous: bool) -> None:
    def breaks_once(peer: Peer) -> None:
        while request := peer.request():
            if b"first" in request:
                peer.send(JSON_HEAD, b"zz\r\n")
                return
            peer.send(whole(answer_to(request)))

    server = serve(breaks_once)
    client: Any = (AsyncLavaMistral if asynchronous else LavaMistral)(**settings(server))
    how: dict[str, Any] = {"model": "codestral-embed", "dimensions": 8, "max_concurrency": 1}
    for text in ("first", "second", "first", "third"):
        try:
            done = client.embed([text], **how)
            done = await done if asynchronous else done
            assert text in ("second", "third")
        except APIConnectionError:
            assert text == "first"


# An answer that nobody asked for


@both
@pytest.mark.parametrize("how", ["later", "with the answer before", "in part with the answer before"])
async def test_an_answer_that_nobody_asked_for_is_not_the_answer_to_the_next_call(
    serve: Serve, asynchronous: bool, how: str
) -> None:
    stray = whole(answer_to(b'\r\n\r\n{"messages": []}', text="for another customer"))
    sent = threading.Semaphore(0)

    def answers_twice(peer: Peer) -> None:
        while request := peer.request():
            good = whole(
                answer_to(request, text=json.loads(request.partition(b"\r\n\r\n")[2])["messages"][0]["content"])
            )
            match how:
                case "later":
                    said = [good, 0.05, stray]
                case "with the answer before":
                    said = [good + stray]
                case _:
                    said = [good + stray[:30], 0.05, stray[30:]]
            try:
                peer.send(*said)
            finally:
                sent.release()

    server = serve(answers_twice)
    client: Any = (AsyncLavaMistral if asynchronous else LavaMistral)(**settings(server))
    for text in ("one", "two", "three"):
        answer = client.chat([{"role": "user", "content": text}])
        assert (await answer if asynchronous else answer).text == text
        assert await asyncio.to_thread(lambda: sent.acquire(timeout=SLACK))


@both
async def test_a_connection_that_the_server_closed_is_not_used_again(serve: Serve, asynchronous: bool) -> None:
    def answers_once(peer: Peer) -> None:
        request = peer.request()
        assert request is not None
        peer.send(whole(answer_to(request)))

    server = serve(answers_once)
    for _ in range(3):
        assert await call("chat", asynchronous, settings(server)) == "Hello"
        assert await asyncio.to_thread(left, server)
    assert server.connections == 3


# Headers


@both
@pytest.mark.parametrize("shape", ["9 KB in a line", "130 lines"])
async def test_long_headers_are_read(serve: Serve, asynchronous: bool, shape: str) -> None:
    many = b"".join(b"x-header-%d: value\r\n" % number for number in range(130))
    headers = b"x-policy: " + b"a" * 9000 + b"\r\n" if shape == "9 KB in a line" else many

    def answers(peer: Peer) -> None:
        while request := peer.request():
            if b'"stream":true' in request:
                peer.send(STREAM_HEAD.replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n"), WORD, LAST, END)
            else:
                peer.send(whole(answer_to(request), headers=headers))

    async def one(ask: str) -> None:
        answer = await call(ask, asynchronous, settings(serve(answers)))
        assert answer == ([[0.5] * 8] if ask == "embed" else "Hello")

    await all_at_once(one)


# Time


@both
@pytest.mark.parametrize(
    "steps",
    [
        [SILENCE],
        [step for byte in b"HTTP/1.1 200 OK\r\n" + b"x-slow: 1\r\n" * 20 for step in (bytes([byte]), 0.1)],
        [b"HTTP/1.1 102 Processing\r\n\r\n", 0.1] * 200,
        [b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", 0.1] * 200,
        [b"HTTP/1.1 400 Bad Request\r\ncontent-length: 500\r\n\r\n", *[b"x", 0.1] * 200],
        [b"HTTP/1.1 500 Oops\r\ncontent-length: 500\r\n\r\n", SILENCE],
    ],
    ids=["silence", "headers drip", "102", "103", "error body drips", "error body is silent"],
)
async def test_the_timeout_holds_for_all_that_comes_before_the_answer(
    serve: Serve, asynchronous: bool, steps: list[bytes | float]
) -> None:
    def slow(peer: Peer) -> None:
        if peer.request():
            peer.send(*steps)

    async def one(ask: str) -> None:
        server = serve(slow)
        await fails(APITimeoutError, ask, asynchronous, hasty(server))
        # The connection is closed at once.
        assert await asyncio.to_thread(left, server)

    await all_at_once(one)


@both
async def test_the_timeout_holds_for_a_body_that_drips(serve: Serve, asynchronous: bool) -> None:
    async def one(ask: str) -> None:
        server = serve(lambda peer: peer.request() and peer.send(JSON_HEAD, *[chunked(b" "), 0.1] * 200) and None)
        await fails(APITimeoutError, ask, asynchronous, hasty(server))
        assert await asyncio.to_thread(left, server)

    await all_at_once(one, ("chat", "tools", "embed"))


@both
@pytest.mark.parametrize("ask", ["chat", "stream"])
async def test_the_timeout_holds_for_a_request_that_nobody_reads(serve: Serve, ask: str, asynchronous: bool) -> None:
    server = serve(lambda peer: peer.left_within(SILENCE) and None)
    await fails(APITimeoutError, ask, asynchronous, hasty(server), text="x" * 12_000_000)


@both
@pytest.mark.parametrize("ask", ["chat", "stream"])
async def test_the_timeout_holds_for_a_tls_handshake_that_nobody_answers(
    serve: Serve, ask: str, asynchronous: bool
) -> None:
    server = serve(lambda peer: peer.left_within(SILENCE) and None)
    client = hasty(server, base_url=f"https://127.0.0.1:{server.port}/v1")
    await fails(APITimeoutError, ask, asynchronous, client)


@both
async def test_a_call_without_limits_waits(serve: Serve, asynchronous: bool) -> None:
    def slow(peer: Peer) -> None:
        while request := peer.request():
            peer.send(0.3, whole(answer_to(request)))

    assert await call("chat", asynchronous, settings(serve(slow), timeout=None)) == "Hello"


NOTHING_SAID = {
    "comments": b": ping\n\n",
    "empty data": b"data:\n\n",
    "no choices": b'data: {"id": "c", "choices": []}\n\n',
    "a role": event().replace(b'"content": ""', b'"role": "assistant", "content": ""'),
    "usage alone": b'data: {"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "total_tokens": 1}}\n\n',
}


@both
@pytest.mark.parametrize("what", NOTHING_SAID)
@pytest.mark.parametrize("where", ["at the beginning", "after a word"])
async def test_only_what_tells_the_caller_something_ends_a_silence(
    serve: Serve, asynchronous: bool, what: str, where: str
) -> None:
    words = [WORD] if where == "after a word" else []
    server = serve(
        lambda peer: (
            peer.request() and peer.send(STREAM_HEAD, *words, *[chunked(NOTHING_SAID[what]), 0.1] * 200) and None
        )
    )
    # With the longer limit of the call, the gap is what ends it.
    error = await fails(StreamStalledError, "stream", asynchronous, hasty(server, timeout=SLACK))
    assert error.partial.text == ("Hello" if words else "")
    assert await asyncio.to_thread(left, server)


@both
async def test_the_timeout_holds_until_the_first_word_and_not_after_it(serve: Serve, asynchronous: bool) -> None:
    role = chunked(NOTHING_SAID["a role"])
    server = RawServer(STREAM_HEAD, *[role, 0.1] * 200)
    try:
        error = await fails(APITimeoutError, "stream", asynchronous, hasty(server, stream_chunk_timeout=SILENCE))
        assert not isinstance(error, StreamStalledError)
    finally:
        server.close()
    server = RawServer(STREAM_HEAD, *[WORD, 0.1] * 12, LAST, END)
    try:
        assert await call("stream", asynchronous, settings(server, timeout=1.0)) == "Hello" * 12
    finally:
        server.close()


# What is left behind


@both
async def test_a_stream_that_is_dropped_closes_its_connection(serve: Serve, asynchronous: bool) -> None:
    server = serve(lambda peer: peer.request() and peer.send(STREAM_HEAD, WORD, SILENCE) and None)
    client: Any = (AsyncLavaMistral if asynchronous else LavaMistral)(**settings(server))

    async def look_at_one_word() -> None:
        if asynchronous:
            async for _ in await client.stream([{"role": "user", "content": "Hi"}]):
                break
        else:
            for _ in client.stream([{"role": "user", "content": "Hi"}]):
                break

    gc.disable()
    try:
        for _ in range(30):
            await look_at_one_word()
        assert await asyncio.to_thread(left, server, 30)
    finally:
        gc.enable()


@both
async def test_a_call_that_is_too_late_reserves_nothing_any_more(serve: Serve, asynchronous: bool) -> None:
    server = serve(lambda peer: peer.left_within(SILENCE) and None)
    limit = SpendLimit("1")
    # Nothing can have been charged where there was no connection.
    client = hasty(server, base_url=f"https://127.0.0.1:{server.port}/v1", spend_limit=limit)
    with pytest.raises(APITimeoutError):
        await call("chat", asynchronous, client)
    assert limit.left == Decimal(1)


async def test_a_cancelled_call_closes_its_connection_at_once(serve: Serve) -> None:
    asked = threading.Event()

    def silent(peer: Peer) -> None:
        peer.request()
        asked.set()
        peer.left_within(SILENCE)

    server = serve(silent)
    task = asyncio.create_task(call("chat", True, settings(server, timeout=SILENCE)))
    assert await asyncio.to_thread(asked.wait, SLACK)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(left, server)


# Proxies


@both
@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ([SILENCE], APITimeoutError),
        ([b"HTTP/1.1 200 OK\r\n\r\n", SILENCE], APITimeoutError),
        ([b"HTTP/1.1 200 OK\r\n\r\n"], APIConnectionError),
        ([b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"], ConfigurationError),
        ([b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"], APIConnectionError),
        ([b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n"], ConfigurationError),
        ([b"not HTTP\r\n\r\n"], APIConnectionError),
        ([], APIConnectionError),
    ],
    ids=["silence", "silence in the tunnel", "closes the tunnel", "403", "502", "407", "garbage", "closes"],
)
async def test_a_proxy_that_fails(
    serve: Serve,
    asynchronous: bool,
    says: list[bytes | float],
    kind: type[LavaError],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[bytes] = []

    def proxy(peer: Peer) -> None:
        asked.append(peer.request() or b"")
        peer.send(*says)

    server = serve(proxy)
    monkeypatch.setenv("HTTPS_PROXY", f"http://someone:p%40ss@127.0.0.1:{server.port}")
    caplog.set_level(logging.DEBUG, "lava_mistral")
    limit = LIMIT if SILENCE in says else SLACK
    client = settings(server, base_url="https://lava.example/v1", retry=at_once(1), timeout=limit)
    error = await fails(kind, "chat", asynchronous, client)
    assert f"127.0.0.1:{server.port}" in str(error)
    assert len(asked) == (1 if kind is ConfigurationError else 2)
    assert asked[0].startswith(b"CONNECT lava.example:443 HTTP/1.1\r\n")
    assert b"proxy-authorization: Basic c29tZW9uZTpwQHNz\r\n" in asked[0]
    assert KEY.encode() not in b"".join(asked)
    for secret in ("p%40ss", "p@ss", "c29tZW9uZTpwQHNz"):
        assert secret not in shown(error)
        assert secret not in caplog.text


@both
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "https://user:secret@127.0.0.1:9"])
async def test_a_proxy_that_needs_a_client_of_ones_own_is_a_matter_of_configuration(
    asynchronous: bool, proxy: str, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    client = settings(serve(lambda _: None), base_url="https://lava.example/v1")
    error = await fails(ConfigurationError, "chat", asynchronous, client)
    assert "http_client=" in str(error)
    assert "secret" not in str(error)


@both
@pytest.mark.parametrize("rest", ["sec/ret@127.0.0.1:9", "secret@127.0.0.1:nine", "secret@proxy..example:9", "secret@"])
async def test_a_proxy_whose_address_is_none_is_a_matter_of_configuration(
    asynchronous: bool, rest: str, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{rest}")
    client = settings(serve(lambda _: None), base_url="https://lava.example/v1")
    error = await fails(ConfigurationError, "chat", asynchronous, client)
    assert "HTTPS_PROXY" in str(error)
    assert "sec" not in "".join(map(repr, chain(error)))


# Secrets


def chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is not None and link not in found:
            found.append(link)
            todo += [link.__cause__, link.__context__]
    return found


def shown(error: BaseException) -> str:
    """All that a tracker of errors shows of one: texts, attributes, and the locals of the frames, chain included."""
    texts = []
    for link in chain(error):
        texts += [str(link), repr(link), repr(vars(link))]
        trace = link.__traceback__
        while trace is not None:
            if "lava_mistral" in trace.tb_frame.f_code.co_filename:
                texts += [repr(value) for value in trace.tb_frame.f_locals.values()]
            trace = trace.tb_next
    return "\n".join(texts)


@both
@pytest.mark.parametrize(
    "steps",
    [[], [JSON_HEAD, b"zz\r\n"], [SILENCE], [JSON_HEAD, SILENCE], [whole(b"{}", "401 Unauthorized")], [whole(b"null")]],
    ids=["closed", "garbage", "silence", "half", "401", "null"],
)
async def test_no_error_keeps_the_credential(serve: Serve, asynchronous: bool, steps: list[bytes | float]) -> None:
    async def one(ask: str) -> None:
        server = serve(lambda peer: peer.request() and peer.send(*steps) and None)
        error = await fails(LavaError, ask, asynchronous, (hasty if SILENCE in steps else settings)(server))
        own = "\n".join(line for line in shown(error).splitlines() if "'api_key'" not in line)
        assert KEY not in own

    await all_at_once(one)


@both
async def test_what_a_server_repeats_in_a_header_is_hidden(serve: Serve, asynchronous: bool) -> None:
    echo = f"x-debug: Bearer {KEY}\r\n".encode()
    server = serve(lambda peer: peer.request() and peer.send(whole(b"{}", "401 Unauthorized", echo)) and None)
    error = await fails(LavaError, "chat", asynchronous, settings(server))
    assert error.response.headers["x-debug"] == "Bearer [redacted]"
    assert error.response.request.url == "https://api.mistral.ai/v1/chat/completions"
    assert error.headers["X-Debug"] == "Bearer [redacted]"


# Connecting


def test_a_peer_that_the_system_gave_up_is_not_a_timeout_of_the_call() -> None:
    gone = failure_of(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
    assert (type(gone), str(gone)) == (ConnectionBroken, "Connection timed out")
    assert type(failure_of(TimeoutError("timed out"))) is DeadlineExceeded


@both
async def test_another_address_of_a_host_is_tried(
    serve: Serve, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(peer: Peer) -> None:
        while request := peer.request():
            peer.send(whole(answer_to(request)))

    server = serve(answers)
    real = socket.getaddrinfo

    def two_addresses(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != "localhost":
            return real(host, port, *args, **more)
        found = real("127.0.0.1", port, type=socket.SOCK_STREAM)
        return [(*found[0][:4], ("127.0.0.2", port)), *found]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    client = settings(server, base_url=f"http://localhost:{server.port}/v1")
    assert await call("chat", asynchronous, client) == "Hello"


@both
async def test_the_timeout_holds_for_a_resolver_that_hangs(
    serve: Serve, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    over = threading.Event()

    def hangs(host: Any, *args: Any, **more: Any) -> Any:
        if host == "localhost" and not more.get("flags"):
            over.wait(SILENCE)
        return real(host, *args, **more)

    server = serve(lambda _: None)
    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    client = hasty(server, base_url=f"http://localhost:{server.port}/v1")
    try:
        await fails(APITimeoutError, "chat", asynchronous, client)
    finally:
        over.set()


@both
async def test_an_address_that_leads_nowhere_costs_its_time_once(
    serve: Serve, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(peer: Peer) -> None:
        peer.send(whole(answer_to(peer.request() or b""), headers=b"connection: close\r\n"))

    server = serve(answers)
    real = socket.getaddrinfo

    def two_addresses(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        found = real("127.0.0.1" if host == "localhost" else host, port, *args, **more)
        return [(*found[0][:4], ("127.0.0.2", port)), *found] if host == "localhost" else found

    client = settings(server, base_url=f"http://localhost:{server.port}/v1", timeout=3.0)
    with socket.socket() as silent, ExitStack() as stack:
        silent.bind(("127.0.0.2", server.port))
        silent.listen(0)
        # Its queue is full: what else wants to connect hears nothing.
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", server.port))
        monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
        took = []
        for _ in range(2):
            began = time.monotonic()
            assert await call("chat", asynchronous, client) == "Hello"
            took.append(time.monotonic() - began)
    assert took[1] < 1.4 < took[0]


@pytest.mark.parametrize("calls", [1, 20])
def test_a_resolver_that_hangs_holds_up_nothing_but_the_calls(
    serve: Serve, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, over, lookups = socket.getaddrinfo, threading.Event(), []

    def hangs(host: Any, *args: Any, **more: Any) -> Any:
        if host == "localhost" and not more.get("flags"):
            lookups.append(host)
            over.wait(SILENCE)
        return real(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    client = AsyncLavaMistral(**hasty(serve(lambda _: None), base_url="http://localhost:9/v1"))
    asks: list[Any] = [{"role": "user", "content": "Hello"}]

    async def main() -> list[Any]:
        failed = await asyncio.gather(*(client.chat(asks) for _ in range(calls)), return_exceptions=True)
        # The loop's threads are free for others.
        await asyncio.gather(*(asyncio.to_thread(time.monotonic) for _ in range(100)))
        return failed

    began = time.monotonic()
    try:
        assert {type(error) for error in asyncio.run(main())} == {APITimeoutError}
        assert time.monotonic() - began < SLACK
        assert len(lookups) == 1
    finally:
        over.set()


async def test_a_certificate_file_that_is_none_is_a_matter_of_configuration(tmp_path: Any) -> None:
    # In a process of its own, since certificates are read once.
    program = (
        "import asyncio; from lava_mistral import LavaMistral, AsyncLavaMistral, ConfigurationError\n"
        "settings = dict(api_key='aks_test_x', base_url='https://127.0.0.1:PORT/v1', max_retries=3)\n"
        "for ask in (LavaMistral(**settings).models, lambda: asyncio.run(AsyncLavaMistral(**settings).models())):\n"
        "    try:\n        ask()\n    except ConfigurationError as error:\n        print('SSL_CERT_FILE' in str(error))"
    )
    (tmp_path / "none.pem").write_text("not a certificate")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        code = program.replace("PORT", str(listening.getsockname()[1]))
        environment = os.environ | {"SSL_CERT_FILE": str(tmp_path / "none.pem")}
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, env=environment, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await child.communicate()
    assert said.split() == [b"True", b"True"]


@both
async def test_an_answer_that_comes_before_a_large_request_is_read_counts(serve: Serve, asynchronous: bool) -> None:
    def refuses(peer: Peer) -> None:
        peer.send(whole(b'{"object": "error", "message": "too much"}', "413 Too Large", b"connection: close\r\n"))
        peer.left_within(SILENCE)

    client = (settings if asynchronous else hasty)(serve(refuses))
    error = await fails(LavaError, "chat", asynchronous, client, text="x" * 12_000_000)
    # In sync code the answer is looked at when all is sent: the limit of the call ends that.
    assert isinstance(error, APITimeoutError) if not asynchronous else error.status_code == 413
    assert not isinstance(error, ServerError)
