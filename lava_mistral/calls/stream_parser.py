"""Read a streamed answer: parse its bytes into deltas, and decide whether it is complete."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, Self

from lava_mistral.calls.call import Call, caused
from lava_mistral.calls.error_mapping import error_from_event, parse_body, read_error_body, shorten, shown_id
from lava_mistral.errors import LavaError, Origin, StreamInterruptedError, StreamStalledError
from lava_mistral.mistral.json_codec import from_json
from lava_mistral.mistral.sse import SSEDecoder
from lava_mistral.mistral.turn import Delta, Turn
from lava_mistral.mistral.turn_accumulator import TurnAccumulator
from lava_mistral.mistral.usage import Usage
from lava_mistral.pricing.cost import cost_of
from lava_mistral.transport.failures import Deadline, DeadlineExceeded, TransportError
from lava_mistral.transport.flow import Flow, adrive, drive
from lava_mistral.transport.request import Headers, Response, read

_LONGEST_PRELUDE = 2_000
LONGEST_END: Final = 0.25
"""Seconds to wait, after `[DONE]`, for the end of the body, which gives the connection back to its pool."""


class StreamReader:
    """Turn a streamed answer into deltas, and know whether it came to its end; what waits is a flow.

    `id`, `model` and `created` (POSIX seconds) are those of the first chunk.
    """

    def __init__(self, call: Call, response: Response, deadline: Deadline) -> None:
        self.call = call
        self.headers = Headers(response.headers)
        self.request_id = shown_id(response.headers, call.without_secrets)
        self._response, self._deadline = response, deadline
        self.id, self.model, self.created = "", call.model, 0
        self.ready: deque[Delta] = deque()
        self.done = False
        # Whether a delta has told the caller something.
        self.started = False
        self.silent_for = 0.0
        self._over = False
        self._charge = call.charge
        self._failure: LavaError | None = None
        self._decoder = SSEDecoder()
        self._accumulator = TurnAccumulator(call.names)
        self._heard = False
        # What came instead of events: for the error, or a whole answer.
        self._prelude = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; the deltas in them join `ready`. Raises StreamInterruptedError for what is none."""
        events = self._decoder.feed(data)
        if not events:
            if not self._heard and (len(self._prelude) < _LONGEST_PRELUDE or self._prelude.startswith(b"{")):
                self._prelude += data
            return
        self._heard = True
        for event in events:
            text = event.data
            if self.done or not text:
                continue
            if text == "[DONE]":
                self.done = True
                self._take(None)
                continue
            try:
                chunk = from_json(text)
            except ValueError as error:
                raise self._interrupted("an event that is not JSON came") from error
            if not isinstance(chunk, dict):
                raise self._interrupted(f"an event came that is a JSON {type(chunk).__name__}")
            if event.event == "error" or "choices" not in chunk:
                if "choices" in chunk or "usage" not in chunk or "error" in chunk:
                    said = parse_body(self.call.without_secrets(text))
                    raise error_from_event(said, request_id=self.request_id, partial=self.turn)
                chunk["choices"] = []
            self._take(chunk)

    def _take(self, chunk: Any, *, whole: bool = False) -> None:
        """Hand on what a chunk brings, or a whole answer in its place; `None` is the end."""
        accumulator = self._accumulator
        try:
            if chunk is None:
                deltas = accumulator.end()
            else:
                deltas = accumulator.add_whole(chunk) if whole else accumulator.add(chunk)
        except LavaError as error:
            raise self._interrupted(f"a chunk makes no sense: {error.message}") from error
        if not self.id:
            self.id, self.created = accumulator.id, accumulator.created
            self.model = accumulator.model or self.model
        for delta in deltas:
            if delta.finish_reason == "error":
                raise self._interrupted("the model stopped with finish reason 'error'", "mistral")
            if delta.text or delta.parts or delta.tool_calls or delta.finish_reason:
                self.started, self.silent_for = True, 0.0
            elif delta.usage:
                self.started = True
        self.ready.extend(deltas)

    def begin(self) -> Flow[Self]:
        """Read until there is something to hand on. A failure before that can still be tried again."""
        while not self.started and not self._over:
            yield from self._pull()
        if not self.started:
            self.raise_failure()
        self._deadline = Deadline(None)
        return self

    def _next(self) -> Flow[Delta | None]:
        """Read until there is a delta, or `None` at the end."""
        while not self.ready:
            self.raise_failure()
            if self._over:
                return None
            yield from self._pull()
        return self.ready.popleft()

    def _pull(self) -> Flow[None]:
        began, data = time.monotonic(), b""
        try:
            try:
                if self.done:
                    # The caller has all that came; only now is it worth a moment to get the connection back.
                    yield from read(self._response, Deadline(LONGEST_END))
                else:
                    patience = None if self.call.gap is None else max(self.call.gap - self.silent_for, 0.0)
                    data = yield from self._response.receive(Deadline(patience, self._deadline))
            except TransportError as error:
                if not self.finished:
                    self._failure = self.broken(error, late=self._deadline.over)
            self.silent_for += time.monotonic() - began
            if data:
                self.feed(data)
                if self.done:
                    self.settle()
                return
            if self._failure is None:
                self.end()
        except LavaError as error:
            # What had come before it is handed on first; without the frames and the chain, which hold what came.
            error.__cause__ = error.__context__ = None
            self._failure = error.with_traceback(None)
        except GeneratorExit:
            self.settle()
            raise
        except BaseException:
            yield self._leave()
            raise
        yield self._leave()

    def _leave(self) -> Any:
        self._over = True
        self.settle()
        return self._response.close()

    def raise_failure(self) -> None:
        """Raise what ended the stream, where something did, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                # Without the frames that read it: they hold what the server sent, which may repeat the key.
                raise failure.with_traceback(None)
            finally:
                # An exception that its own frames hold would keep all the frames below alive, and with them whatever
                # stream their caller is about to leave, until the garbage collector finds them.
                del failure

    def end(self) -> None:
        """The connection has ended; raises StreamInterruptedError where that was before the answer did."""
        why = "it ended without a finish reason and without [DONE]"
        if self._prelude and not self._heard:
            text, body = self._prelude.decode("utf-8", "replace"), None
            with suppress(ValueError):
                body = from_json(text)
            if isinstance(body, dict) and body.get("choices"):
                # Some gateways send a whole answer instead of a stream.
                self._take(body, whole=True)
                self.done = True
            said = parse_body(self.call.without_secrets(text))
            why = f"what came was no event stream: {read_error_body(said).message or shorten(str(said))}"
        if not self.finished:
            raise self._interrupted(why)
        if all(turn.is_empty for turn in self.turns):
            raise self._interrupted("it held no answer")

    def settle(self) -> None:
        """Nothing more is read: what the call cost is what is known of it now."""
        complete, read = self.finished and self._failure is None, self._accumulator
        self._charge.end(read.usage, self.request_id, answered_by=read.model, complete=complete)

    def broken(self, error: TransportError, *, late: bool) -> LavaError:
        """Return the error for a read that failed; `late` where the time to the first delta is over."""
        if not isinstance(error, DeadlineExceeded):
            return caused(self._interrupted(f"the connection broke ({self.call.without_secrets(str(error))})"), error)
        if late:
            return self.call.unanswered(error, self.request_id)
        stalled = StreamStalledError(
            "the stream went silent" + (f": no chunk came within {self.call.gap:g} s" if self.call.gap else ""),
            request_id=self.request_id,
            origin="mistral",
            partial=self.turn,
            advice="stream_chunk_timeout= sets how long to wait for a chunk.",
        )
        return caused(stalled, error)

    def _interrupted(self, why: str, origin: Origin = "lava") -> StreamInterruptedError:
        return StreamInterruptedError(
            f"the stream was interrupted: {why}; what had come is in .partial",
            request_id=self.request_id,
            origin=origin,
            partial=self.turn,
        )

    @property
    def finished(self) -> bool:
        """Whether the answer has come to its end, by a finish reason or by `[DONE]`."""
        wanted = (self.call.body or {}).get("n") or 1
        return self.done or (self._accumulator.complete and len(self.turns) >= wanted)

    @property
    def turns(self) -> list[Turn]:
        """The turns assembled so far, one a choice."""
        return self._accumulator.turns

    @property
    def turn(self) -> Turn:
        """The first choice's turn as far as it has come."""
        return self.turns[0] if self.turns else Turn()

    @property
    def usage(self) -> Usage | None:
        """Tokens, once the last chunk has come."""
        return self._accumulator.usage

    @property
    def cost(self) -> Decimal | None:
        """What the call cost in USD by the catalogue's prices, once the usage is known."""
        return cost_of(self.usage, self.call.model, self.model)


class ChatStream(StreamReader):
    """A streamed answer: iterate for its deltas; `turn`, `usage`, `cost` and `request_id` grow with it.

    Closing it, or leaving its `with` block, before its end closes the connection.

    Raises:
        StreamInterruptedError: while iterating, when the stream ends before the answer does; `partial` holds what came.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        if self.ready:
            return self.ready.popleft()
        delta = drive(self._next())
        if delta is None:
            raise StopIteration
        return delta

    def close(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream(StreamReader):
    """A streamed answer in async code; see `ChatStream`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self.ready:
            return self.ready.popleft()
        delta = await adrive(self._next())
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def aclose(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        closing = self._leave()
        if closing is not None:
            await closing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
