"""How streams end, over real sockets: at `[DONE]`, whatever the connection does after it; when a caller leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from lava_mistral import (
    APITimeoutError,
    AsyncLavaMistral,
    Billing,
    ConfigurationError,
    InsufficientBalanceError,
    LavaError,
    LavaMistral,
    StreamInterruptedError,
    StreamStalledError,
    track_usage,
)
from lava_mistral.calls.chat_stream import END_TIMEOUT
from tests.fakes.clients import KEY
from tests.fakes.frameworks import Framework, user
from tests.fakes.raw_server import END, JSON_HEAD, LAST, STREAM_HEAD, USAGE, WORD, RawServer, chunked
from tests.fakes.waiting import PATIENCE, aeventually
from tests.fakes.wire import event

ASK: list[Any] = [{"role": "user", "content": "Hello"}]
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(*script: bytes | float) -> RawServer:
        servers.append(RawServer(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


async def texts(
    server: RawServer, asynchronous: bool, *, pause: float = 0.0, taken: list[str] | None = None, **settings: Any
) -> list[str]:
    """The texts of a stream, put into `taken` by a consumer that needs `pause` seconds for the first one."""
    settings = {"api_key": KEY, "base_url": server.url, "max_retries": 0, **settings}
    taken = [] if taken is None else taken
    if asynchronous:
        async with await AsyncLavaMistral(**settings).stream(ASK) as stream:
            async for delta in stream:
                taken.append(delta.text)
                await asyncio.sleep(pause if len(taken) == 1 else 0)
        return taken

    def run() -> None:
        with LavaMistral(**settings).stream(ASK) as stream:
            for delta in stream:
                taken.append(delta.text)
                time.sleep(pause if len(taken) == 1 else 0)

    await asyncio.to_thread(run)
    return taken


@both
async def test_the_answer_ends_at_done_though_the_body_does_not(serve: Any, asynchronous: bool) -> None:
    server = serve(STREAM_HEAD, WORD, LAST, 2 * PATIENCE, END)
    began = time.monotonic()
    assert await texts(server, asynchronous) == ["Hello", ""]
    assert time.monotonic() - began < PATIENCE
    # Nobody waits for the rest: the connection is closed.
    assert await asyncio.to_thread(lambda: server.ended.acquire(timeout=PATIENCE))


@both
async def test_a_step_that_has_its_own_finish_reason_and_usage_is_not_the_end(serve: Any, asynchronous: bool) -> None:
    """A search on Mistral's side takes longer than the end of a body may."""
    search = {"id": "search001", "index": 0, "function": {"name": "web_search", "arguments": "{}"}}
    deltas = [
        ({"role": "assistant", "index": 0, "tool_calls": [search]}, "tool_calls"),
        ({"role": "assistant", "index": 1, "content": "Found."}, "stop"),
    ]
    chunks = [
        {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": USAGE}
        for delta, reason in deltas
    ]
    first, last = (chunked(f"data: {json.dumps(each)}\n\n".encode()) for each in chunks)
    server = serve(STREAM_HEAD, first, 2 * END_TIMEOUT, last, chunked(b"data: [DONE]\n\n"), END)
    tools: Any = {"tools": [{"type": "web_search"}]}
    settings: Any = {"api_key": KEY, "base_url": server.url}
    if asynchronous:
        async with await AsyncLavaMistral(**settings).stream(ASK, **tools) as stream:
            text = "".join([delta.text async for delta in stream])
    else:
        with LavaMistral(**settings).stream(ASK, **tools) as stream:
            text = "".join(delta.text for delta in stream)
    assert text == "Found."


@both
@pytest.mark.parametrize("last", ["together", "apart"])
@pytest.mark.parametrize("kind", ["core", "langchain", "llama_index"])
async def test_the_answer_ends_with_finish_reason_and_usage_where_neither_done_nor_an_end_comes(
    serve: Any, asynchronous: bool, kind: str, last: str
) -> None:
    """The last chunk too is there at once; of a stream that says more in that moment nothing is lost."""
    usage = b'data: {"id": "c", "choices": [], "usage": %s}\n\n' % json.dumps(USAGE).encode()
    ends = [event("", "stop", usage=USAGE)] if last == "together" else [event("", "stop"), usage]
    late = chunked(b": keep-alive\n\n"), usage.replace(b"1000", b"1001").replace(b"1500", b"1501")
    server = serve(STREAM_HEAD, WORD, *map(chunked, ends), 0.01, late[0], chunked(late[1]), 2 * PATIENCE, END)
    framework = Framework(kind, asynchronous, streamed=True)
    access: Any = SimpleNamespace(secret_key=KEY, base_url=server.url)
    began = time.monotonic()
    with track_usage() as tracked:
        reply = await asyncio.to_thread(framework.send, access, [user()])
    assert time.monotonic() - began < PATIENCE
    assert reply.text == "Hello"
    assert (tracked.total.input_tokens, tracked.total.output_tokens, tracked.total.unknown) == (1001, 500, 0)
    assert await asyncio.to_thread(lambda: server.ended.acquire(timeout=PATIENCE))


@both
async def test_what_came_with_done_is_handed_on_before_the_end_of_the_body_is_waited_for(
    serve: Any, asynchronous: bool
) -> None:
    server = serve(STREAM_HEAD, chunked(event("Hello", "stop", usage=USAGE) + b"data: [DONE]\n\n"), PATIENCE, END)
    settings: dict[str, Any] = {"api_key": KEY, "base_url": server.url}
    if asynchronous:
        async with await AsyncLavaMistral(**settings).stream(ASK) as stream:
            assert (await anext(stream)).text == "Hello"
            assert not await asyncio.to_thread(lambda: server.ended.acquire(timeout=0.1))
            assert [delta async for delta in stream] == []
        return
    with await asyncio.to_thread(LavaMistral(**settings).stream, ASK) as lines:
        assert next(lines).text == "Hello"
        assert not server.ended.acquire(timeout=0.1)
        assert list(lines) == []


@both
async def test_a_whole_answer_instead_of_a_stream_keeps_every_word(serve: Any, asynchronous: bool) -> None:
    """A text that looks like a credential is the model's all the same."""
    said = "A token begins with eyJhbGciOiJIUzI1NiIsInR5cCI6, a key with aks_live_0123456789abcdef."
    whole = {"id": "c", "model": "m", "choices": [{"index": 0, "message": {"content": said}, "finish_reason": "stop"}]}
    server = serve(JSON_HEAD, chunked(json.dumps(whole).encode()), END)
    assert await texts(server, asynchronous) == [said]


@both
async def test_a_whole_answer_instead_of_a_stream_may_be_cut_in_a_surrogate_pair(
    serve: Any, asynchronous: bool
) -> None:
    whole = rb'{"choices": [{"message": {"content": "Hi \ud83d"}, "finish_reason": "length"}]}'
    server = serve(JSON_HEAD, chunked(whole), END)
    assert await texts(server, asynchronous) == ["Hi \ufffd"]


@both
async def test_comments_after_done_hold_nobody(serve: Any, asynchronous: bool) -> None:
    server = serve(STREAM_HEAD, WORD, LAST, *[chunked(b": keep\n\n"), 0.05] * 1200, END)
    began = time.monotonic()
    assert await texts(server, asynchronous) == ["Hello", ""]
    assert time.monotonic() - began < PATIENCE


@both
async def test_an_answer_of_two_choices_is_not_whole_after_one(serve: Any, asynchronous: bool) -> None:
    server = serve(STREAM_HEAD, chunked(event("Hello", "stop")), END)
    with pytest.raises(StreamInterruptedError):
        settings: dict[str, Any] = {"api_key": KEY, "base_url": server.url, "max_retries": 0}
        if asynchronous:
            async with await AsyncLavaMistral(**settings).stream(ASK, n=2) as stream:
                _ = [delta async for delta in stream]
        else:
            list(await asyncio.to_thread(lambda: LavaMistral(**settings).stream(ASK, n=2)))


@both
async def test_a_body_that_ends_soon_gives_its_connection_back(serve: Any, asynchronous: bool) -> None:
    server = serve(STREAM_HEAD, WORD, LAST, 0.02, END)
    for _ in range(3):
        assert await texts(server, asynchronous) == ["Hello", ""]
    assert (server.requests, server.connections) == (3, 1)


@both
async def test_a_slow_consumer_is_no_silent_server(serve: Any, asynchronous: bool) -> None:
    # One event in two pieces, and a comment: reads that bring no event, long after the one before.
    half = event(" world")
    server = serve(STREAM_HEAD, WORD, chunked(b": keep-alive\n\n"), chunked(half[:20]), chunked(half[20:]), LAST, END)
    assert await texts(server, asynchronous, pause=0.5, stream_chunk_timeout=0.4) == ["Hello", " world", ""]


@both
@pytest.mark.parametrize("data", ['{"type": "ping"}', "ping", "2026-11-30"])
async def test_pings_say_nothing(serve: Any, asynchronous: bool, data: str) -> None:
    ping = chunked(f"event: ping\ndata: {data}\n\n".encode())
    server = serve(STREAM_HEAD, ping, WORD, ping, LAST, END)
    assert await texts(server, asynchronous) == ["Hello", ""]


@both
async def test_what_is_no_ping_counts_under_any_name(serve: Any, asynchronous: bool) -> None:
    usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    told = chunked(f"event: usage\ndata: {json.dumps(usage)}\n\nevent: done\ndata: [DONE]\n\n".encode())
    assert await texts(serve(STREAM_HEAD, WORD, told, END), asynchronous) == ["Hello", ""]
    failed = chunked(b'event: failed\ndata: {"error": "The provider refused it"}\n\n')
    with pytest.raises(StreamInterruptedError, match="The provider refused it"):
        await texts(serve(STREAM_HEAD, WORD, failed, END), asynchronous)


@both
@pytest.mark.parametrize("choices", [[], [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]])
async def test_an_error_beside_choices_is_told(serve: Any, asynchronous: bool, choices: Any) -> None:
    error = {"code": 400, "message": "The provider refused it"}
    ending = {"id": "c", "object": "chat.completion.chunk", "choices": choices, "error": error}
    server = serve(STREAM_HEAD, WORD, chunked(f"data: {json.dumps(ending)}\n\n".encode()), END)
    with pytest.raises(StreamInterruptedError, match="The provider refused it") as caught:
        await texts(server, asynchronous)
    assert (caught.value.status_code, caught.value.retryable) == (400, False)
    assert caught.value.partial.text == "Hello"


@both
async def test_comments_do_not_keep_a_silent_stream_alive(serve: Any, asynchronous: bool) -> None:
    server = serve(STREAM_HEAD, WORD, *[0.05, chunked(b": ping\n\n")] * 100, LAST, END)
    with pytest.raises(StreamStalledError) as caught:
        await texts(server, asynchronous, stream_chunk_timeout=0.25)
    assert caught.value.partial.text == "Hello"


@both
async def test_a_word_ends_the_silence_before_it(serve: Any, asynchronous: bool) -> None:
    # In all, far more silence than the gap allows at once.
    server = serve(STREAM_HEAD, WORD, *[0.15, chunked(b": ping\n\n"), 0.03, WORD] * 4, LAST, END)
    assert await texts(server, asynchronous, stream_chunk_timeout=0.6) == ["Hello"] * 5 + [""]


@pytest.mark.parametrize("step", ["before the first delta", "in the middle"])
async def test_a_cancelled_stream_closes_its_connection_at_once(serve: Any, step: str) -> None:
    server = serve(STREAM_HEAD, chunked(b": thinking\n\n"), *([WORD] if step == "in the middle" else []), 2 * PATIENCE)
    taken: list[str] = []
    asked = asyncio.create_task(texts(server, True, taken=taken))
    await aeventually(lambda: taken if step == "in the middle" else server.requests)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await asyncio.to_thread(lambda: server.ended.acquire(timeout=PATIENCE))


@both
async def test_an_answer_that_drips_ends_at_the_timeout(serve: Any, asynchronous: bool) -> None:
    server = serve(JSON_HEAD, *[chunked(b" "), 0.1] * 100, END)
    settings: dict[str, Any] = {"api_key": KEY, "base_url": server.url, "max_retries": 0, "timeout": 0.3}
    with pytest.raises(APITimeoutError):
        if asynchronous:
            await AsyncLavaMistral(**settings).chat(ASK)
        else:
            await asyncio.to_thread(LavaMistral(**settings).chat, ASK)


@both
async def test_the_timeout_counts_from_the_sending(serve: Any, asynchronous: bool) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    body = json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": USAGE}).encode()
    # The headers are in time, and the body in time after them; both together are not.
    server = serve(0.2, JSON_HEAD, 0.9, chunked(b" "), 0.05, chunked(body), END)
    settings: dict[str, Any] = {"api_key": KEY, "base_url": server.url, "max_retries": 0, "timeout": 1.0}
    with pytest.raises(APITimeoutError, match="had begun"):
        if asynchronous:
            await AsyncLavaMistral(**settings).chat(ASK)
        else:
            await asyncio.to_thread(LavaMistral(**settings).chat, ASK)


@both
async def test_the_time_until_a_stream_begins_counts_from_the_sending(serve: Any, asynchronous: bool) -> None:
    # The headers are in time, and the first word in time after them; both together are not.
    server = serve(0.3, STREAM_HEAD, 1.35, chunked(b": thinking\n\n"), 0.05, WORD, LAST, END)
    with pytest.raises(APITimeoutError, match=r"no answer within 1\.5 s"):
        await texts(server, asynchronous, timeout=1.5)


@both
async def test_an_answer_that_is_no_stream_is_quoted(serve: Any, asynchronous: bool) -> None:
    body = b'{"error": {"message": "the wallet of own-mistral-key is empty"}}'
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    server = serve(head + body)
    with pytest.raises(StreamInterruptedError, match=r"no event stream: the wallet of \[redacted\] is empty"):
        await texts(server, asynchronous, billing=Billing(provider_key="own-mistral-key"))
    with pytest.raises(LavaError, match=r"without choices: the wallet of \[redacted\] is empty") as caught:
        LavaMistral(
            api_key=KEY, base_url=server.url, max_retries=0, billing=Billing(provider_key="own-mistral-key")
        ).chat(ASK)
    assert caught.value.body == {"error": {"message": "the wallet of [redacted] is empty"}}


@both
async def test_no_key_is_in_the_error_of_a_stream(serve: Any, asynchronous: bool) -> None:
    said = {"object": "error", "message": "Invalid key own-mistral-key", "type": "x", "raw_status_code": 401}
    server = serve(STREAM_HEAD, WORD, chunked(f"data: {json.dumps(said)}\n\n".encode()), END)
    with pytest.raises(StreamInterruptedError, match=r"Invalid key \[redacted\]") as caught:
        await texts(server, asynchronous, billing=Billing(provider_key="own-mistral-key"))
    assert "own-mistral-key" not in repr(caught.value.body)
    server = serve(STREAM_HEAD, WORD, 0.01)
    http: Any = httpx.AsyncClient() if asynchronous else httpx.Client()
    with pytest.raises(StreamInterruptedError) as caught:
        await texts(server, asynchronous, http_client=http, stream_chunk_timeout=0.2)
    cause = caught.value.__cause__
    if isinstance(cause, httpx.RequestError):
        assert cause.request.url.host == "api.mistral.ai"
        assert "authorization" not in cause.request.headers
    await http.aclose() if asynchronous else http.close()


@both
async def test_a_client_that_raises_for_a_status_gives_the_same_errors(serve: Any, asynchronous: bool) -> None:
    server = serve(b"HTTP/1.1 402 Payment Required\r\ncontent-length: 2\r\n\r\n{}")

    def hook(response: httpx.Response) -> None:
        response.raise_for_status()

    async def ahook(response: httpx.Response) -> None:
        response.raise_for_status()

    settings: dict[str, Any] = {"api_key": KEY, "base_url": server.url, "max_retries": 2}
    with pytest.raises(InsufficientBalanceError) as caught:
        if asynchronous:
            async with httpx.AsyncClient(event_hooks={"response": [ahook]}) as http:
                await AsyncLavaMistral(http_client=http, **settings).chat(ASK)
        else:
            with httpx.Client(event_hooks={"response": [hook]}) as client:
                LavaMistral(http_client=client, **settings).chat(ASK)
    assert server.requests == 1
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["stream", "metadata", "spend_limit", "api_key"])
def test_what_is_no_field_of_the_request_is_refused_before_it_is_paid(serve: Any, name: str) -> None:
    server = serve(END)
    with pytest.raises(ConfigurationError, match=name):
        LavaMistral(api_key=KEY, base_url=server.url).chat(ASK, **{name: "1"})
    assert server.requests == 0


def test_a_model_under_another_name_is_priced_by_the_one_that_answered(serve: Any) -> None:
    body = json.dumps(
        {
            "id": "c",
            "model": "mistral-small-2603",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
            "usage": USAGE,
            "created": "not a number",
        }
    ).encode()
    server = serve(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    with track_usage() as usage:
        answer = LavaMistral(api_key=KEY, base_url=server.url).chat(ASK, model="mistral-small")
    assert answer.cost == usage.cost > 0
    assert answer.created == 0


async def test_a_stream_whose_next_delta_was_waited_for_in_vain_is_not_taken_for_whole(
    serve: Callable[..., RawServer],
) -> None:
    server = serve(STREAM_HEAD + WORD, PATIENCE, WORD + LAST + END)
    stream = await AsyncLavaMistral(api_key=KEY, base_url=server.url).stream(ASK)
    assert (await anext(stream)).text == "Hello"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.1)
    with pytest.raises(StreamInterruptedError, match="cancelled") as caught:
        await anext(stream)
    assert caught.value.partial.text == "Hello"
    assert [delta async for delta in stream] == []


async def test_two_tasks_that_read_one_stream_are_told(serve: Callable[..., RawServer]) -> None:
    server = serve(STREAM_HEAD + WORD, PATIENCE, WORD + LAST + END)
    stream = await AsyncLavaMistral(api_key=KEY, base_url=server.url).stream(ASK)
    assert (await anext(stream)).text == "Hello"
    reading = asyncio.gather(anext(stream), anext(stream), return_exceptions=True)
    failed = await asyncio.wait_for(reading, PATIENCE / 2)
    assert {type(error) for error in failed} == {ConfigurationError, StreamInterruptedError}
