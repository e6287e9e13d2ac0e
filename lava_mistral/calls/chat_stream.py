"""Read a streamed answer: parse its bytes into deltas, and decide whether it is complete."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from decimal import Decimal
from typing import Any, Final, Self

from lava_mistral.calls.call import Call, chained
from lava_mistral.calls.error_mapping import error_from_event, parse_body, read_error_body, shorten, shown_id
from lava_mistral.errors import LavaError, Origin, ServerError, StreamInterruptedError, StreamStalledError
from lava_mistral.mistral.json_codec import from_json
from lava_mistral.mistral.sse import SSEDecoder
from lava_mistral.mistral.turn import Delta, Turn
from lava_mistral.mistral.turn_accumulator import TurnAccumulator
from lava_mistral.pricing.cost import cost_of
from lava_mistral.transport.failures import Deadline, DeadlineExceeded, TransportError
from lava_mistral.transport.flow import Flow, adrive, drive
from lava_mistral.transport.request import Headers, Response, read

_LONGEST_PRELUDE = 2_000
_OF_ANSWER = re.compile(r'"(?:choices|usage|error)"|\[DONE\]')
END_TIMEOUT: Final = 0.25
"""Seconds to wait, after `[DONE]` or the usage of a finished answer, for the end, which frees the connection."""


class StreamReader(TurnAccumulator):
    """Turn a streamed answer into deltas, and know whether it came to its end; what waits is a flow."""

    def __init__(self, call: Call, response: Response, deadline: Deadline) -> None:
        super().__init__(call.names, model=call.model)
        self.call = call
        self.headers = Headers(response.headers)
        self.request_id = shown_id(response.headers, call.without_secrets)
        self._response = response
        # Until the first delta is there.
        self._deadline: Deadline | None = deadline
        self.ready: deque[Delta] = deque()
        self.done = False
        # Whether a delta has told the caller something.
        self.started = False
        self.silent_for = 0.0
        self._over = False
        self._request_meter = call.request_meter
        self._failure: LavaError | None = None
        self._decoder = SSEDecoder()
        # What came instead of events: for the error, or a whole answer; `None` once an event came.
        self._prelude: bytes | None = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; the deltas in them join `ready`. Raises LavaError for what is no chunk."""
        events = self._decoder.feed(data)
        if events:
            self._prelude = None
        elif self._prelude is not None and (len(self._prelude) < _LONGEST_PRELUDE or self._prelude.startswith(b"{")):
            self._prelude += data
        for text, kind in events:
            if self.done or not text or (kind not in ("message", "error") and not _OF_ANSWER.search(text)):
                # Pings have a name of their own.
                continue
            if text == "[DONE]":
                self.done, deltas = True, self.end()
            else:
                try:
                    chunk = from_json(text)
                except ValueError as error:
                    raise self._interrupted("an event that is not JSON came") from error
                if not isinstance(chunk, dict):
                    raise self._interrupted(f"an event came that is a JSON {type(chunk).__name__}")
                if kind == "error" or chunk.get("error") or ("choices" not in chunk and "usage" not in chunk):
                    said = self.call.without_secrets(text)
                    raise error_from_event(said, request_id=self.request_id, partial=self.turn)
                deltas = self.add(chunk)
            for delta in deltas:
                if delta.text or delta.parts or delta.tool_calls or delta.finish_reason:
                    if delta.finish_reason == "error":
                        raise self._given_up()
                    self.started, self.silent_for = True, 0.0
                elif delta.usage:
                    self.started = True
            self.ready += deltas

    def read_more(self) -> Flow[Self]:
        """Read on until there is a delta, at first one that tells something, or the end.

        Raises LavaError for a failure before the first delta: the request can still be tried again.
        """
        while not self._over and not (self.ready if self._deadline is None else self.started):
            began, data = time.monotonic(), b""
            try:
                try:
                    if self.done:
                        # The caller has all that came; only now is it worth a moment to get the connection back.
                        yield from read(self._response, Deadline(END_TIMEOUT))
                    else:
                        # Some gateways send neither `[DONE]` nor the end of the body after a whole answer. Where
                        # tools run on Mistral's side, each message may have a finish reason and usage.
                        over = self.usage and self.finished and not self.has_steps
                        limit = END_TIMEOUT if over else self.call.chunk_timeout
                        patience = None if limit is None else max(limit - self.silent_for, 0.0)
                        data = yield from self._response.receive(Deadline(patience, self._deadline))
                except TransportError as error:
                    if not self.finished:
                        self._failure = self.broken(error)
                self.silent_for += time.monotonic() - began
                if data:
                    self.feed(data)
                    if self.done:
                        self._end_request()
                    continue
                if self._failure is None:
                    self._check_end()
            except LavaError as error:
                # What had come before it is handed on first; without the frames and the chain, which hold what came.
                told = self._interrupted(f"a chunk makes no sense: {error.message}")
                self._failure = told if type(error) is ServerError else error.with_traceback(None)
                error.__cause__ = error.__context__ = told.__context__ = None
            except GeneratorExit:
                self._end_request()
                raise
            except BaseException:
                if not self.finished:
                    # By a `wait_for` around a delta: who goes on reading must not take what has come for the answer.
                    self._failure = self._interrupted("the wait for a delta was cancelled, which closes it")
                yield self._leave()
                raise
            yield self._leave()
        if not self.started:
            self.raise_failure()
        self._deadline = None
        return self

    def _leave(self) -> Any:
        self._over = True
        self._end_request()
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

    def _check_end(self) -> None:
        """Raise StreamInterruptedError where the connection has ended before the answer did."""
        why = "it ended without a finish reason and without [DONE]"
        if self._prelude:
            text, body = self._prelude.decode("utf-8", "replace"), None
            with suppress(ValueError):
                body = from_json(text)
            if isinstance(body, dict) and body.get("choices"):
                # Some gateways send a whole answer instead of a stream.
                deltas = self.add_whole(body)
                self.started = deltas[0].finish_reason != "error"
                if any(delta.finish_reason == "error" for delta in deltas):
                    raise self._given_up()
                self.ready += deltas
                self.done = True
            said = parse_body(self.call.without_secrets(text))
            why = f"what came was no event stream: {read_error_body(said).message or shorten(str(said))}"
        if not self.finished:
            raise self._interrupted(why)
        if all(turn.is_empty for turn in self.turns):
            raise self._interrupted("it held no answer")

    def _end_request(self) -> None:
        """Nothing more is read: what the call cost is what is known of it now."""
        complete = self._failure is None and (self.done or self.finished)
        self._request_meter.end(self.usage, self.request_id, answered_by=self.model, complete=complete)

    def broken(self, error: TransportError) -> LavaError:
        """Return the error for a read that failed."""
        if not isinstance(error, DeadlineExceeded):
            return chained(self._interrupted(f"the connection broke ({self.call.without_secrets(str(error))})"), error)
        if self._deadline is not None and self._deadline.over:
            return self.call.unanswered(error, self.request_id)
        limit = self.call.chunk_timeout
        stalled = StreamStalledError(
            "the stream went silent" + (f": no chunk came within {limit:g} s" if limit else ""),
            request_id=self.request_id,
            origin="mistral",
            partial=self.turn,
            advice="stream_chunk_timeout= sets how long to wait for a chunk.",
        )
        return chained(stalled, error)

    def _given_up(self) -> StreamInterruptedError:
        return self._interrupted("the model stopped with finish reason 'error'", "mistral")

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
        return self.done or (self.complete and len(self.turns) >= wanted)

    @property
    def turn(self) -> Turn:
        """The first choice's turn as far as it has come."""
        return self.turns[0] if self.turns else Turn()

    @property
    def cost(self) -> Decimal | None:
        """What the call cost in USD by the catalogue's prices, once the usage is known."""
        return cost_of(self.usage, self.call.model, self.model)


class ChatStream(StreamReader, Iterator[Delta], AbstractContextManager["ChatStream"]):
    """A streamed answer: iterate for its deltas; `turn`, `usage`, `cost` and `request_id` grow with it.

    Closing it, or leaving its `with` block, before its end closes the connection.

    Raises:
        StreamInterruptedError: while iterating, when the stream ends before the answer does; `partial` holds what came.
    """

    def __next__(self) -> Delta:
        if not self.ready and not drive(self.read_more()).ready:
            self.raise_failure()
            raise StopIteration
        return self.ready.popleft()

    def close(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        self._leave()

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream(StreamReader, AsyncIterator[Delta], AbstractAsyncContextManager["AsyncChatStream"]):
    """A streamed answer in async code; see `ChatStream`."""

    async def __anext__(self) -> Delta:
        if not self.ready and not (await adrive(self.read_more())).ready:
            self.raise_failure()
            raise StopAsyncIteration
        return self.ready.popleft()

    async def aclose(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        closing = self._leave()
        if closing is not None:
            await closing

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
