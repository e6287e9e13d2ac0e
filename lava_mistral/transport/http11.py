"""Speak HTTP/1.1 as a client; answers are parsed by llhttp (httptools). Does no I/O."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.failures import ConnectionBroken
from lava_mistral.transport.request import Headers, Request

LONGEST_HEAD = 256 * 1024
"""Bytes of an answer's headers, or of what else comes without a byte of the body."""

# A request line, and lines of names that are tokens and values without control characters (RFC 9110, section 5).
_HEAD = re.compile(r"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*\r\n)*")


class Head(NamedTuple):
    """The beginning of an answer."""

    status: int
    headers: Headers


class Http11:
    """The state of one connection, which carries one request after another.

    Attributes:
        head: the beginning of the answer; `None` until it is there.
    """

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.restart()

    def restart(self) -> None:
        """Prepare for the next request on the same connection."""
        self.head: Head | None = None
        self._decoder: _Decoder | None = None
        self._lines: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._begun = self._done = self._stray = self._stays = False
        self._without_event = 0

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
        """Take bytes that were received; none mean that the connection has ended.

        Raises:
            ConnectionBroken: it has ended before the answer did, or what came breaks the rules of HTTP/1.1.
        """
        if not data:
            if not self._begun:
                raise ConnectionBroken("the server closed the connection without an answer")
            if self.head is None or not {"content-length", "transfer-encoding"}.isdisjoint(self.head.headers):
                raise ConnectionBroken("the server closed the connection before the end of its answer")
            self._done, self._stray = True, True
            return
        self._begun = True
        self._without_event += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._done:
                raise ConnectionBroken(f"what came is not HTTP/1.1: {error}") from None
            self._stray = True
        if self._without_event > LONGEST_HEAD:
            raise ConnectionBroken("what came is not HTTP/1.1: the headers have no end")
        if self._done and self.head is not None:
            # llhttp passes over line ends after an answer without a word.
            by_length = self._pieces and dict.__contains__(self.head.headers, "content-length")
            stray = not data.endswith(self._pieces[-1]) if by_length else data.endswith((b"\n\r\n\r\n", b"\n\n"))
            self._stray = self._stray or stray

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._stray = self._done

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:
            self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        self._without_event = 0
        status = self._parser.get_status_code()
        if status < 200:
            self._lines.clear()
        elif self.head is None:
            headers = Headers.read(self._lines)
            if self._parser.get_http_version() not in ("1.0", "1.1"):
                raise ConnectionBroken("its version is another")
            if dict.get(headers, "transfer-encoding", "chunked").lower() != "chunked":
                raise ConnectionBroken("its transfer encoding is another than chunked")
            self.head = Head(status, headers)
            self._stays = self._parser.should_keep_alive()
            encoding = dict.get(headers, "content-encoding")
            self._decoder = None if encoding is None else _decoder(encoding)

    def on_body(self, data: bytes) -> None:
        self._without_event = 0
        if not self._done:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        self._done = self.head is not None

    def body(self) -> bytes | None:
        """Return the next decoded bytes of the body, none at its end, or `None` where more are needed.

        Raises:
            ConnectionBroken: the body is not compressed as the headers say.
        """
        data = b"".join(self._pieces)
        self._pieces.clear()
        if data and self._decoder is not None:
            data = self._decoder.decode(data)
        if data or not self._done:
            return data or None
        if self._decoder is not None:
            self._decoder.end()
        return b""

    @property
    def in_order(self) -> bool:
        """Whether the answer is whole, another may follow it, and nothing came beyond it."""
        return self._done and self._stays and not self._stray


class _Decoder:
    """Decompresses a body as it comes."""

    def __init__(self, bits: int) -> None:
        self._zlib = zlib.decompressobj(bits)
        # Some servers mean bare deflate data by "deflate", without zlib's header.
        self._bare = bits == zlib.MAX_WBITS
        self._fed = False

    def decode(self, data: bytes) -> bytes:
        """Return the next bytes of the text."""
        self._fed = True
        try:
            text = self._zlib.decompress(data)
        except zlib.error as error:
            if not self._bare:
                raise ConnectionBroken(f"the answer is not compressed as it says: {error}") from None
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
            self._bare = False
            return self.decode(data)
        self._bare = False
        return text

    def end(self) -> None:
        """Check that the compressed data is whole."""
        if self._fed and not self._zlib.eof:
            raise ConnectionBroken("the compressed answer was cut off")


def _decoder(encoding: str) -> _Decoder | None:
    match encoding.strip().lower():
        case "gzip" | "x-gzip":
            return _Decoder(zlib.MAX_WBITS | 16)
        case "deflate":
            return _Decoder(zlib.MAX_WBITS)
        case _:
            return None
