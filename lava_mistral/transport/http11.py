"""Speak HTTP/1.1 as a client, on h11. Does no I/O."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import h11

from lava_mistral.transport.failures import ConnectionBroken
from lava_mistral.transport.request import Headers, Request

LONGEST_HEAD = 256 * 1024
"""Bytes of an answer's headers in all."""


class Head(NamedTuple):
    """The beginning of an answer."""

    status: int
    headers: Headers


class Http11:
    """The state of one connection, which carries one request after another."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self._decoder: _Decoder | None = None

    def request(self, request: Request) -> bytes:
        """Return the bytes of a request."""
        headers = list(request.headers)
        if request.content is not None:
            headers.append((b"Content-Length", b"%d" % len(request.content)))
        return self._send(request.method, request.url.target, headers, request.content)

    def connect(self, authority: str, authorization: bytes | None) -> bytes:
        """Return the bytes that ask a proxy for a tunnel to `host:port`."""
        headers = [(b"Host", authority.encode("ascii"))]
        if authorization is not None:
            headers.append((b"Proxy-Authorization", authorization))
        return self._send("CONNECT", authority, headers, None)

    def _send(self, method: str, target: str, headers: list[tuple[bytes, bytes]], content: bytes | None) -> bytes:
        pieces = [self._h11.send(h11.Request(method=method, target=target, headers=headers))]
        if content:
            pieces.append(self._h11.send(h11.Data(data=content)))
        pieces.append(self._h11.send(h11.EndOfMessage()))
        return b"".join(filter(None, pieces))

    def feed(self, data: bytes) -> None:
        """Take bytes that were received; none mean that the connection has ended.

        Raises:
            ConnectionBroken: it has ended before anything of an answer came.
        """
        if not data and self._h11.their_state is h11.SEND_RESPONSE:
            raise ConnectionBroken("the server closed the connection without an answer")
        self._h11.receive_data(data)

    def head(self) -> Head | None:
        """Return the beginning of the answer, or `None` where more bytes are needed.

        Raises:
            ConnectionBroken: what came is no answer to the request.
        """
        while True:
            event = self._next()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Response):
                headers = Headers.read(event.headers)
                self._decoder = _decoder(headers.get("content-encoding", ""))
                return Head(event.status_code, headers)
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                raise ConnectionBroken("the server wants to speak another protocol than HTTP/1.1")

    def body(self) -> bytes | None:
        """Return the next decoded bytes of the body, none at its end, or `None` where more are needed.

        Raises:
            ConnectionBroken: the connection ended before the body did, or what came breaks the framing or the encoding.
        """
        pieces: list[bytes] = []
        while self._h11.their_state is h11.SEND_BODY:
            event = self._next()
            if isinstance(event, h11.Data):
                pieces.append(event.data if self._decoder is None else self._decoder.decode(event.data))
            elif event is h11.NEED_DATA:
                return b"".join(pieces) or None
        if self._decoder is not None:
            pieces.append(self._decoder.end())
        return b"".join(pieces)

    def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise ConnectionBroken(f"what came is not HTTP/1.1: {error}") from None

    @property
    def in_order(self) -> bool:
        """Whether request and answer are whole and nothing came beyond them."""
        states = (self._h11.our_state, self._h11.their_state)
        return states == (h11.DONE, h11.DONE) and self._h11.trailing_data == (b"", False)

    def restart(self) -> None:
        """Prepare for the next request on the same connection."""
        self._h11.start_next_cycle()


class _Decoder:
    """Decompresses a body as it comes."""

    def __init__(self, bits: int) -> None:
        self._zlib = zlib.decompressobj(bits)
        # Some servers mean bare deflate data by "deflate", without zlib's header.
        self._bare = bits == zlib.MAX_WBITS
        self._fed = False

    def decode(self, data: bytes) -> bytes:
        """Return the next bytes of the text.

        Raises:
            ConnectionBroken: the data is not compressed as the headers say.
        """
        self._fed = self._fed or bool(data)
        try:
            text = self._zlib.decompress(data)
            self._bare = False
            return text
        except zlib.error as error:
            if not self._bare:
                raise ConnectionBroken(f"the answer is not compressed as it says: {error}") from None
        self._bare, self._zlib = False, zlib.decompressobj(-zlib.MAX_WBITS)
        return self.decode(data)

    def end(self) -> bytes:
        """Return what is left of the text.

        Raises:
            ConnectionBroken: the compressed data was cut off.
        """
        if self._fed and not self._zlib.eof:
            raise ConnectionBroken("the compressed answer was cut off")
        return b""


def _decoder(encoding: str) -> _Decoder | None:
    match encoding.strip().lower():
        case "gzip" | "x-gzip":
            return _Decoder(zlib.MAX_WBITS | 16)
        case "deflate":
            return _Decoder(zlib.MAX_WBITS)
        case _:
            return None
