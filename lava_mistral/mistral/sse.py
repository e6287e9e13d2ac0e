"""Decode server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). No I/O."""

from __future__ import annotations

from typing import NamedTuple


class ServerSentEvent(NamedTuple):
    """Hold one event: its `data` lines, joined by line feeds, and its type."""

    data: str
    event: str = "message"


class SSEDecoder:
    """Decode a stream of bytes, split anywhere, into events. One decoder serves one stream.

    An event whose final blank line never comes is dropped, as the specification asks. Ids and reconnection times are
    not read: nobody resumes an answer.
    """

    __slots__ = ("_after_cr", "_at_start", "_data", "_event", "_line")

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._after_cr = False
        self._at_start = True
        self._data: list[str] = []
        self._event = ""

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
        if newline:
            lines = b"".join((*self._line, lines))
            self._line.clear()
        if rest:
            self._line.append(rest)
        if not newline:
            return []
        # No character of UTF-8 holds a line feed, so whole lines are decoded at once, whatever the split was.
        text = lines.decode("utf-8", "replace")
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        events: list[ServerSentEvent] = []
        pending = self._data
        for line in text.split("\n"):
            if line.startswith("data: "):
                pending.append(line[6:])
            elif line:
                name, _, value = line.partition(":")
                if name == "data":
                    pending.append(value.removeprefix(" "))
                elif name == "event":
                    self._event = value.removeprefix(" ")
            else:
                if pending:
                    events.append(ServerSentEvent("\n".join(pending), self._event or "message"))
                    pending.clear()
                self._event = ""
        return events
