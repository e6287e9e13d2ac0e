"""Decide when a silent stream is given up: after `stream_chunk_timeout` seconds that told the caller nothing."""

from __future__ import annotations

from lava_mistral.errors import StreamStalledError
from lava_mistral.mistral.turn import Delta, Turn


class Silence:
    """Adds up the seconds of reads that told the caller nothing. What the caller takes between reads does not count.

    Args:
        longest: seconds; `None` for no limit.
    """

    def __init__(self, longest: float | None) -> None:
        self.longest = longest
        self.lasted = 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the stream is given up."""
        return None if self.longest is None else max(self.longest - self.lasted, 0.0)

    def heard(self, delta: Delta) -> bool:
        """Whether a delta tells the caller something, which ends the silence: text, calls or an end, but not usage."""
        told = bool(delta.text or delta.parts or delta.tool_calls or delta.finish_reason)
        if told:
            self.lasted = 0.0
        return told

    def error(self, request_id: str | None, partial: Turn) -> StreamStalledError:
        """The error for a stream that is given up."""
        limit = "" if self.longest is None else f": no chunk came within {self.longest:g} s"
        return StreamStalledError(
            f"the stream went silent{limit}",
            request_id=request_id,
            origin="mistral",
            partial=partial,
            advice="stream_chunk_timeout= sets how long to wait for a chunk.",
        )
