"""A server that repeats the key wherever it can: no error, log, or report of an error shows it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sentry_sdk
from rich.traceback import Traceback
from sentry_sdk.scrubber import EventScrubber
from sentry_sdk.transport import Transport

from lava_mistral.errors import LavaError
from tests.chaos import callers
from tests.chaos.callers import CREDENTIAL, run_sync
from tests.chaos.matrix import errors_of, shows
from tests.fakes.raw_server import Peer, Server

PERCENT = "".join(f"%{ord(letter):02X}" for letter in CREDENTIAL)
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in CREDENTIAL)
BEHIND = base64.b64encode(f"Bearer: {CREDENTIAL}".encode()).decode()
# What may be seen nowhere.
FORMS = {
    "plain": CREDENTIAL,
    "base64": base64.b64encode(CREDENTIAL.encode()).decode().rstrip("="),
    "base64 behind a word": BEHIND[12:].rstrip("="),
    "percent-encoded": PERCENT,
    "percent-encoded in small letters": PERCENT.lower(),
    "escaped in JSON": ESCAPED,
}
ECHO = " | ".join((CREDENTIAL, FORMS["base64"], BEHIND, PERCENT, PERCENT.lower(), ESCAPED, f"Bearer {CREDENTIAL}"))
HEADERS = (
    f"x-lava-request-id: {ECHO}\r\nx-echo: {ECHO}\r\nset-cookie: key={ECHO}\r\nx-ratelimit-limit: {ECHO}\r\n"
    f"retry-after: {ECHO}\r\nlocation: https://{CREDENTIAL}@lava.example/{PERCENT}?key={ECHO}\r\n"
)
STREAM = f"HTTP/1.1 200 {ECHO}\r\ncontent-type: text/event-stream\r\n{HEADERS}connection: close\r\n\r\n"
DELTA = json.dumps({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hello"}}]})


def answer(status: int, body: str, kind: str = "application/json") -> str:
    """An answer whose status line and headers repeat the key."""
    length = len(body.encode())
    return f"HTTP/1.1 {status} {ECHO}\r\ncontent-type: {kind}\r\n{HEADERS}content-length: {length}\r\n\r\n{body}"


def said(message: Any) -> str:
    """An error of the server's, which repeats the key as values and as a name."""
    return json.dumps({"message": message, "type": ECHO, "code": ECHO, "request_id": ECHO, ECHO: {"detail": [ECHO]}})


# What each server sends before it closes the connection; `None`: it stays silent.
FAULTS: dict[str, str | None] = {
    **{f"status {status}": answer(status, said(ECHO)) for status in (302, 401, 429, 500)},
    "an error in Lava's form": answer(403, json.dumps({"error": {"message": ECHO, "code": ECHO, "status": 403}})),
    "a list of details": answer(422, json.dumps({"detail": [{"loc": [ECHO], "msg": ECHO, "input": ECHO}]})),
    "JSON with escapes": answer(400, f'{{"message": "{ESCAPED}"}}'),
    "a page": answer(403, f"<html>{ECHO}</html>", "text/html"),
    "text": answer(500, ECHO, f"text/plain; charset={CREDENTIAL}"),
    "no JSON": answer(200, ECHO),
    "JSON of another shape": answer(200, said(ECHO)),
    "an odd choice": answer(200, json.dumps({"choices": [{"message": {"content": {"key": ECHO}}}], "model": ECHO})),
    "odd vectors": answer(200, json.dumps({"data": [{"index": 0, "embedding": ECHO}], "model": ECHO, "usage": {}})),
    "no HTTP": f"{ECHO}\r\n\r\n",
    "a broken header": f"HTTP/1.1 200 OK\r\n{ECHO}\x00\r\n\r\n",
    "a cut body": answer(500, said(ECHO))[:-20],
    "a broken chunk": f"HTTP/1.1 200 OK\r\n{HEADERS}transfer-encoding: chunked\r\n\r\nzz{ECHO}\r\n",
    "an error event": f"{STREAM}data: {DELTA}\n\nevent: error\ndata: {said(ECHO)}\n\n",
    "an error event at once": f"{STREAM}data: {said(ECHO)}\n\n",
    "an event that is no JSON": f"{STREAM}data: {DELTA}\n\ndata: {ECHO}\n\n",
    "an odd event": f"{STREAM}data: {DELTA}\n\ndata: {json.dumps({'choices': ECHO})}\n\n",
    "a stream that is cut": f"{STREAM}data: {DELTA}\n\n",
    "a page for a stream": f"{STREAM}<html>{ECHO}</html>",
    "nothing": "",
    "silence": None,
}
SURFACES: dict[str, Callable[..., Any]] = {
    "core": callers.core,
    "langchain": callers.langchain,
    "llama_index": callers.llama_index,
}
SETTINGS: dict[str, Any] = {"max_retries": 0, "timeout": 0.6}


class Captured(Transport):
    """Keeps what Sentry would send."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def capture_envelope(self, envelope: Any) -> None:
        self.text += envelope.serialize().decode("utf-8", "replace")


def of_sentry(error: BaseException) -> str:
    """The report that Sentry's SDK sends of an error, with the locals of all frames and nothing scrubbed."""
    transport = Captured()
    client = sentry_sdk.Client(
        dsn="http://k@sentry.example/1",
        transport=transport,
        default_integrations=False,
        include_local_variables=True,
        max_value_length=1_000_000,
        event_scrubber=EventScrubber(denylist=[], pii_denylist=[]),
    )
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(client)
        sentry_sdk.capture_exception(error)
    client.close()
    assert "exception" in transport.text
    return transport.text


def of_rich(error: BaseException) -> str:
    """What rich's traceback of an error shows beside lines of code: messages and the locals of frames."""
    options: dict[str, Any] = {"show_locals": True, "locals_max_length": None, "locals_max_string": None}
    stacks = Traceback.extract(type(error), error, error.__traceback__, **options).stacks
    frames = [frame for stack in stacks for frame in stack.frames]
    shown = [f"{name} = {value}" for frame in frames for name, value in (frame.locals or {}).items()]
    assert shown
    return "\n".join([stack.exc_value for stack in stacks] + shown)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What this project logs, at DEBUG and with tracebacks."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [
        logging.getLogger(name) for name in ("lava_mistral", "langchain_lava_mistral", "llama_index_lava_mistral")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield stream
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def leaks(error: BaseException) -> set[str]:
    """The forms of the key that an error shows, and where."""
    reports = {"Sentry": of_sentry(error), "rich": of_rich(error), "pickled": repr(error.__reduce__())}
    found = set()
    for form, secret in FORMS.items():
        # What is printed within a text within a text has its backslashes doubled, each time.
        doubled = [secret, *(secret.replace("\\", "\\" * times) for times in (2, 4, 8))]
        for text in set(doubled):
            found |= {f"{form} in {place}" for place in shows(error, text)}
            found |= {f"{form} in {name}" for name, report in reports.items() if text in report}
    return found


def run(surface: str, base_url: str) -> list[tuple[str, BaseException]]:
    """Make every kind of call, and return the errors."""
    acts = SURFACES[surface](base_url, **SETTINGS)
    errors: list[tuple[str, BaseException]] = []
    for (operation, is_async), act in acts.items():
        if operation not in ("chat", "stream", "few"):
            continue
        try:
            asyncio.run(act("Hello")) if is_async else run_sync(act, "Hello")
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not show the key
            errors.append((f"{surface}, {operation}, {'async' if is_async else 'sync'}", error))
    return errors


def check(errors: list[tuple[str, BaseException]], log: str) -> None:
    """Nothing of the errors, and nothing in the log, shows the key."""
    assert errors
    for _, error in errors:
        assert any(isinstance(link, LavaError) for link in errors_of(error)), repr(error)
    assert {name: found for name, error in errors if (found := leaks(error))} == {}
    assert [form for form, secret in FORMS.items() if secret in log] == []


# The frameworks hand on the core's errors: for them one fault of each kind.
CELLS = [(fault, "core") for fault in FAULTS]
CELLS += [(fault, name) for fault in ("status 429", "no JSON", "odd vectors") for name in ("langchain", "llama_index")]


@pytest.mark.parametrize(("fault", "surface"), CELLS)
def test_no_error_shows_a_key_that_the_server_repeats(fault: str, surface: str, logged: io.StringIO) -> None:
    sent = FAULTS[fault]

    def serve(peer: Peer) -> None:
        if peer.request() is None:
            return
        if sent is None:
            peer.left_within(5)
        else:
            peer.send(sent.encode())

    server = Server(serve)
    try:
        check(run(surface, server.url), logged.getvalue())
    finally:
        server.close()


@pytest.mark.parametrize(
    ("status", "surface"), [("403", "core"), ("502", "core"), *(("407", surface) for surface in SURFACES)]
)
def test_no_error_of_a_proxy_shows_its_password_or_the_key(
    status: str, surface: str, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(answer(int(status), ECHO).encode())

    server = Server(serve)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{CREDENTIAL}@127.0.0.1:{server.port}")
    try:
        check(run(surface, "https://lava.example/v1"), logged.getvalue())
    finally:
        server.close()


@pytest.mark.parametrize("surface", SURFACES)
def test_no_error_of_a_refused_connection_shows_the_key(surface: str, logged: io.StringIO) -> None:
    server = Server(lambda peer: None)
    server.close()
    check(run(surface, server.url), logged.getvalue())
