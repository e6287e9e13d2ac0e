"""Decode server-sent events. No I/O.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import NamedTuple

# A larger number can't be a wait, and Python refuses to read one of thousands of digits.
_LONGEST_RETRY = 18


class ServerSentEvent(NamedTuple):
    """Hold one event.

    Attributes:
        data: its `data` lines, joined by line feeds.
        event: its type.
        id: the last id seen in the stream up to this event.
        retry: the reconnection time in milliseconds, where one was given since the event before.
    """

    data: str
    event: str = "message"
    id: str = ""
    retry: int | None = None


class SSEDecoder:
    """Decode a stream of bytes, split anywhere, into events. One decoder serves one stream.

    Lines end with LF, CR or CRLF. Invalid UTF-8 becomes U+FFFD. An event whose final blank line never
    comes is dropped, as the specification asks.
    """

    __slots__ = ("_after_cr", "_at_start", "_data", "_event", "_id", "_line", "_retry")

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._after_cr = False
        self._at_start = True
        self._data: list[str] = []
        self._event = ""
        self._id = ""
        self._retry: int | None = None

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that `data` completes, in order."""
        if self._after_cr and data:
            # The CR had ended a line already; an LF that follows it belongs to the same line end.
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines, newline, rest = data.rpartition(b"\n")
        if not newline:
            if rest:
                self._line.append(rest)
            return []
        if self._line:
            lines = b"".join(self._line) + lines
            self._line.clear()
        if rest:
            self._line.append(rest)
        # No character of UTF-8 holds a line feed, so whole lines are decoded at once, whatever the split was.
        text = lines.decode("utf-8", "replace")
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        events: list[ServerSentEvent] = []
        pending = self._data
        for line in text.split("\n"):
            if line:
                if line.startswith("data: "):
                    pending.append(line[6:])
                else:
                    self._field(line)
            elif pending:
                whole = pending[0] if len(pending) == 1 else "\n".join(pending)
                events.append(ServerSentEvent(whole, self._event or "message", self._id, self._retry))
                pending.clear()
                self._event = ""
                self._retry = None
            else:
                self._event = ""
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) <= _LONGEST_RETRY:
                self._retry = int(value)
            case _:
                pass  # Comments (an empty name) and unknown fields.
