"""Speak HTTP/1.1 as a client; answers are parsed by llhttp (httptools). Does no I/O."""

from __future__ import annotations

import math
import re
import zlib
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.failures import ConnectionBroken
from lava_mistral.transport.request import Request

LONGEST_HEAD = 256 * 1024
"""Bytes of an answer's headers, or of what else comes without a byte of the body."""

# A request line, and lines of names that are tokens and values without control characters (RFC 9110, section 5).
_HEAD = re.compile(r"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*\r\n)*")

_TIMEOUT = re.compile(r"\btimeout\s*=\s*(\d{1,9})\b", re.I)

_ENCODINGS = ("gzip", "x-gzip", "deflate")  # zlib sees which of them it is


class Http11:
    """The state of one connection; `status` is `None` until the headers of the answer are there."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.restart()

    def restart(self) -> None:
        """Prepare for the next request on the same connection."""
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self._decoder: Any = None
        self._pieces: list[bytes] = []
        self._compressed = self._done = self._stray = self._stays = False
        self._without_body = 0

    def request(self, request: Request) -> bytes:
        """Return the bytes of a request."""
        content, headers = request.content, request.headers
        if content is not None:
            headers = headers | {"content-length": str(len(content))}
        lines = "".join(map("%s: %s\r\n".__mod__, headers.items()))
        head = f"{request.method} {request.url.target} HTTP/1.1\r\n{lines}"
        if _HEAD.fullmatch(head) is None or head.count("\n") != len(headers) + 1:
            raise ConfigurationError(
                "The request has a header whose name or value can't be sent: control characters, or others than those "
                "of Latin-1. Look at the headers of http_client=."
            )
        return head.encode("latin-1") + b"\r\n" + (content or b"")

    def feed(self, data: bytes) -> None:
        """Take bytes that were received, or none at the end of the connection; raises ConnectionBroken."""
        if not data:
            if self.status is None and not self._without_body:
                raise ConnectionBroken("the server closed the connection without an answer")
            if self.status is None or not {"content-length", "transfer-encoding"}.isdisjoint(self.headers):
                raise ConnectionBroken("the server closed the connection before the end of its answer")
            self._done = self._stray = True
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._done:
                raise ConnectionBroken(f"what came is not HTTP/1.1: {error}") from None
            self._stray = True
        self._without_body = 0 if self._pieces else self._without_body + len(data)
        if self._without_body > LONGEST_HEAD:
            raise ConnectionBroken("what came is not HTTP/1.1: the headers have no end")

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._stray = self._done

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status is None:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.status is None and status < 200:
            self.headers.clear()
        elif self.status is None:
            if self._parser.get_http_version() not in ("1.0", "1.1"):
                raise ConnectionBroken("its version is another")
            if self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
                raise ConnectionBroken("its transfer encoding is another than chunked")
            self.status = status
            self._stays = self._parser.should_keep_alive()
            self._compressed = self.headers.get("content-encoding", "").strip().lower() in _ENCODINGS

    def on_body(self, data: bytes) -> None:
        if not self._done:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        self._done = self.status is not None

    def body(self) -> bytes | None:
        """Return the next decoded bytes of the body, none at its end, or `None` where more are needed."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        if data and self._compressed:
            self._decoder = self._decoder or zlib.decompressobj(zlib.MAX_WBITS | 32)
            try:
                data = self._decoder.decompress(data)
            except zlib.error as error:
                raise ConnectionBroken(f"the answer is not compressed as it says: {error}") from None
        if data or not self._done:
            return data or None
        if self._decoder is not None and not self._decoder.eof:
            raise ConnectionBroken("the compressed answer was cut off")
        return b""

    @property
    def stays_open_for(self) -> float:
        """The seconds for which the server keeps the connection, as far as it says so (`Keep-Alive: timeout=5`).

        A second less: it may close it just when a request goes out, and nobody knows then whether it was read.
        """
        said = _TIMEOUT.search(self.headers.get("keep-alive", ""))
        return math.inf if said is None else int(said[1]) - 1.0

    @property
    def in_order(self) -> bool:
        """Whether the answer is whole, another may follow it, and nothing came beyond it."""
        return self._done and self._stays and not self._stray
