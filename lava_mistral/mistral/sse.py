"""Decode server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class SSEDecoder:
    """Decode a stream of bytes, split anywhere, into events. One decoder serves one stream.

    An event whose final blank line never comes is dropped, as the specification asks. Ids and reconnection times are
    not read: nobody resumes an answer.
    """

    _pieces: list[bytes] = field(default_factory=list)
    _at_start: bool = True

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Return the events that `data` completes, in order: of each its lines of data, and its type."""
        self._pieces.append(data)
        if b"\n" not in data and b"\r" not in data:
            return []
        whole = b"".join(self._pieces)
        # A CR at the end may be half of a line end.
        half = b"\r" if whole.endswith(b"\r") else b""
        whole = whole.removesuffix(half).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        blocks, blank, rest = whole.rpartition(b"\n\n")
        self._pieces = [rest + half]
        if not blank:
            return []
        # No character of UTF-8 holds a line feed, so whole lines are decoded at once, whatever the split was.
        text = blocks.decode("utf-8", "replace")
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        events: list[tuple[str, str]] = []
        for block in text.split("\n\n"):
            if block.startswith("data: ") and "\n" not in block:
                events.append((block[6:], "message"))
                continue
            lines, kind = [], ""
            for name, _, value in (line.partition(":") for line in block.split("\n")):
                if name == "data":
                    lines.append(value.removeprefix(" "))
                elif name == "event":
                    kind = value.removeprefix(" ")
            if lines:
                events.append(("\n".join(lines), kind or "message"))
        return events
