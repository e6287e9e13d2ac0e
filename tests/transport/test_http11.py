"""HTTP/1.1 without a socket: what is sent, how each form of an answer is read, and what is refused."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.failures import ConnectionBroken
from lava_mistral.transport.http11 import LONGEST_HEAD, Http11
from lava_mistral.transport.request import Headers, Request, parse_url

TEXT = b"The quick brown fox jumps over the lazy dog. " * 50
URL = parse_url("http://127.0.0.1:9/v1/forward?u=x")
HEAD = b"HTTP/1.1 200 OK\r\nX-Own: 1\r\nx-own: 2\r\n"


def asked(content: bytes | None = b"{}") -> tuple[Http11, bytes]:
    http = Http11()
    return http, http.request(Request("GET" if content is None else "POST", URL, "t", {"host": "h"}, content))


def answer(*pieces: bytes) -> tuple[Http11, Headers, bytes]:
    """Read an answer that comes in pieces: the connection's state, the headers, the body."""
    http, _ = asked()
    left = list(pieces)
    while http.status is None:
        http.feed(left.pop(0))
    body = []
    while (data := http.body()) != b"":
        if data is None:
            http.feed(left.pop(0))
        else:
            body.append(data)
    return http, Headers(http.headers), b"".join(body)


def with_length(body: bytes, extra: bytes = b"") -> bytes:
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces)


def test_a_request_is_written_with_its_length() -> None:
    assert asked()[1] == b"POST /v1/forward?u=x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"
    assert asked(None)[1] == b"GET /v1/forward?u=x HTTP/1.1\r\nhost: h\r\n\r\n"
    assert asked(b"")[1].endswith(b"content-length: 0\r\n\r\n")


@given(st.data())
def test_an_answer_may_come_in_any_pieces(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([with_length(TEXT), chunked(TEXT, 100) + b"0\r\n\r\n"]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    http, headers, body = answer(*pieces)
    assert body == TEXT
    assert headers["X-Own"] == headers["x-own"] == headers.get("X-OWN") == "1, 2"
    assert "X-own" in headers
    assert http.in_order


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        (b"gzip", gzip.compress(TEXT)),
        (b"deflate", zlib.compress(TEXT)),
        (b"GZIP", gzip.compress(b"")),
        (b"gzip", b""),
        (b"identity", TEXT),
    ],
    ids=["gzip", "deflate", "gzip of nothing", "gzip without data", "none"],
)
def test_compressed_bodies_are_decompressed(encoding: bytes, data: bytes) -> None:
    _, _, body = answer(with_length(data, b"Content-Encoding: " + encoding + b"\r\n"))
    assert body in (TEXT, b"")
    assert (body == TEXT) == (len(data) > 40)


@pytest.mark.parametrize(
    "data", [gzip.compress(TEXT)[:-20], TEXT, b"\x1f\x8b\x08\x00" + b"\xff" * 50], ids=["cut", "plain", "broken"]
)
def test_a_body_that_is_not_compressed_as_it_says_is_refused(data: bytes) -> None:
    with pytest.raises(ConnectionBroken, match="compressed"):
        answer(with_length(data, b"Content-Encoding: gzip\r\n"))


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [HEAD, b""],
        [with_length(TEXT)[:-1], b""],
        [chunked(TEXT, 100), b""],
        [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
        [b"\x15\x03\x01\x00\x02\x02\x28"],
        [HEAD + b"Content-Length: abc\r\n\r\n"],
        [HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"],
        [HEAD + b"X-Zero: a\0b\r\n\r\n"],
        [HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
        [HEAD + b"Transfer-Encoding: gzip\r\n\r\nhello", b""],
        [b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"],
        [HEAD + b"x: " + b"a" * LONGEST_HEAD],
    ],
)
def test_what_is_no_answer_is_refused(pieces: list[bytes]) -> None:
    with pytest.raises(ConnectionBroken):
        answer(*pieces)


def test_informational_answers_are_passed_over() -> None:
    informed = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3
    assert answer(informed + with_length(b"{}"))[2] == b"{}"


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    http, _, body = answer(b"HTTP/1.0 200 OK\r\n\r\nHello", b"")
    assert body == b"Hello"
    assert not http.in_order


@pytest.mark.parametrize(
    "whole",
    [
        with_length(b"{}") + b"HTTP/1.1 408 Request Timeout\r\n\r\n",
        with_length(b"{}", b"Connection: close\r\n"),
        with_length(b"{}", b"Connection: close\r\n") + b"x",
        chunked(b"{}", 9) + b"0\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
)
def test_a_connection_is_used_again_only_where_nothing_is_left_over(whole: bytes) -> None:
    http, _, body = answer(whole)
    assert body in (b"{}", b"")
    assert not http.in_order


@pytest.mark.parametrize("headers", [{"x-own": "a\r\nx-other: b"}, {"x own": "a"}, {"x-own": "a\0"}, {"x-own": "ł"}])
def test_a_header_that_would_break_the_request_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="header"):
        Http11().request(Request("POST", URL, "t", headers, b"{}"))


def test_a_connection_carries_one_request_after_another() -> None:
    http, _, _ = answer(with_length(b"one"))
    for text in (b"two", b"three"):
        http.restart()
        http.request(Request("POST", URL, "t", {"host": "h"}, b"{}"))
        http.feed(with_length(text))
        assert http.status == 200
        assert http.body() == text
        assert http.body() == b""


@pytest.mark.parametrize(
    ("text", "authority", "shown"),
    [
        ("https://api.lava.so/v1?x=1#y", "api.lava.so", "https://api.lava.so/v1?x=1"),
        ("https://user:secret@api.lava.so:443", "api.lava.so", "https://api.lava.so/"),
        ("http://[::1]:8080/v1", "[::1]:8080", "http://[::1]:8080/v1"),
        ("https://bücher.example/v1", "xn--bcher-kva.example", "https://xn--bcher-kva.example/v1"),
    ],
)
def test_an_address_is_read(text: str, authority: str, shown: str) -> None:
    url = parse_url(text)
    assert url.authority == authority
    assert str(url) == shown


@pytest.mark.parametrize(
    "text", ["https://" + "a" * 64 + ".example", "https://a..b", "ftp://a.example", "https://", "https://a:b", "a", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_url(text)
