"""Decide what one call of the embedding engine does next. Pure: no I/O, no sleep, no threads, an injected clock.

A driver asks `next` and does what it says: read a text and `push` it, start a batch, hand on a vector, or wait for a
batch to be done and `take` its result. `jobs` has the two kinds of call:
all vectors at the end, or one by one and in order.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

from lava_mistral.billing.identity import BillingContext
from lava_mistral.billing.listeners import notify
from lava_mistral.billing.usage import Listener, RetryStats
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.input_validation import InputValidator
from lava_mistral.embedding.rate_limit import Stopped
from lava_mistral.embedding.results import (
    BatchResult,
    EmbeddingProgress,
    EmbeddingSpec,
    EmbeddingUsage,
    PartialEmbedding,
    UsageTally,
    Vector,
    digest,
)
from lava_mistral.errors import LavaError

HOLD: Final = 0.02
"""Seconds by which reading may take more than half of the time while a vector could be handed on."""


class Step(Enum):
    """What a driver does next, where there is nothing more to say about it."""

    READ = "read a text: then push it, or end the source"
    HAND_ON = "hand on what pop gives"
    DONE = "nothing is left to do"


@dataclass(frozen=True, slots=True)
class Start:
    """Have a batch done; `alone` where it is the only one of the call."""

    batch: Batch
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a result or for the source, so many seconds at most; `None` for any time."""

    seconds: float | None


Action: TypeAlias = Literal[Step.READ, Step.HAND_ON, Step.DONE] | Start | Wait


class EmbeddingRun(ABC):
    """One call: what it has got, and what it does next.

    Attributes:
        done: how many of the texts need nothing more.
        under_way: how many batches are started and not taken.
        error: what ended it; its batches in flight are still taken.
    """

    _remembered: int | None = None
    """How many request ids are kept; `None` for all."""

    def __init__(
        self,
        validator: InputValidator,
        spec: EmbeddingSpec,
        *,
        concurrency: int,
        as_numpy: bool = False,
        resume_from: PartialEmbedding | None = None,
        total: int | None = None,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if resume_from is not None:
            resume_from.check(spec)
        self.total = total
        self.listeners = listeners
        self.done = 0
        self.under_way = 0
        self.error: BaseException | None = None
        self._validator = validator
        self._spec = spec
        self._concurrency = concurrency
        # A few batches wait for a permit, so that the next request leaves when one ends and not when it is planned.
        self._window = concurrency + max(2, concurrency // 2)
        self._as_numpy = as_numpy
        self._resume = resume_from
        self._clock = clock
        self._tally = UsageTally(request_ids=deque(maxlen=self._remembered))
        self._identity: BillingContext | None = None
        self._came = 0
        self._reading = True
        self._source_error: BaseException | None = None
        self._read_at = self._handing_on_since = self._spent_reading = 0.0

    def next(self, *, readable: bool = True) -> Action:
        """Say what to do next; `readable` where the source has a text or its end, at once or when it is asked."""
        start = self._due() if self.error is None else None
        if start is not None:
            self.under_way += 1
            return start
        reads = self._reading and self.error is None and self._room()
        ready = self._ready()
        if reads and readable and (not ready or self._may_read()):
            self._read_at = self._clock()
            if not ready:
                self._handing_on_since, self._spent_reading = self._read_at, 0.0
            return Step.READ
        if ready:
            return Step.HAND_ON
        return Wait(self._linger_left() if reads else None) if reads or self.under_way else Step.DONE

    def _may_read(self) -> bool:
        # Reading keeps the workers busy, so it goes first; but a slow source holds back what is ready.
        return self._spent_reading <= HOLD + (self._clock() - self._handing_on_since) / 2

    def push(self, text: object) -> None:
        """Take in the text that was read; one that can't be embedded ends the source with an error."""
        try:
            self._admit(text)
        except LavaError as error:
            self.end_of_source(error)
        self._spent_reading += self._clock() - self._read_at

    def end_of_source(self, error: BaseException | None = None) -> None:
        """Note that no further text will come; an error is raised when all that came before is handed on."""
        self._reading = False
        self._source_error = error

    def fill(self, result: BatchResult) -> bool:
        """Take a few of the vectors of a result; whether there were any. `take` takes all that are left."""
        if not result.pieces:
            return False
        self._fill(*result.pieces[-1])
        # Not before: Ctrl-C may come in between.
        result.pieces.pop()
        return True

    def take(self, result: BatchResult) -> bool:
        """Take the result of a batch; whether it ends the call, so that nothing new must begin."""
        while self.fill(result):
            pass
        self.under_way -= 1
        self._tally.add(result)
        self._identity = self._identity or result.identity
        if result.error is None or self.error is not None or isinstance(result.error, Stopped):
            return False
        self.error = result.error
        return True

    def check_success(self) -> None:
        """Raise what ended the call or its source."""
        error = self.error or self._source_error
        if error is not None:
            raise error

    def progress(self) -> EmbeddingProgress:
        """How far it has come."""
        return EmbeddingProgress(self.done, self.total, EmbeddingUsage(**self._tally.facts()))

    def effort(self) -> RetryStats:
        """Count what it did beside its requests."""
        who = self._identity or BillingContext()
        billing, tally = who.billing, self._tally
        return RetryStats(
            self._spec.model, tally.retries, tally.duplicates, billing.customer_id, billing.meter_slug, who.metadata
        )

    def pop(self) -> tuple[int, Any]:
        """Hand on the next index and vector, after `Step.HAND_ON`."""
        raise NotImplementedError

    @abstractmethod
    def partial(self) -> PartialEmbedding | None:
        """What is there now, to go on from; `None` where it is nothing."""

    @abstractmethod
    def _admit(self, text: object) -> None:
        """Take in the next text, or raise why it can't be embedded."""

    @abstractmethod
    def _due(self) -> Start | None:
        """The next batch, where one is to be started now."""

    @abstractmethod
    def _fill(self, indexes: list[int], rows: Any) -> None:
        """Take vectors; twice the same does no harm."""

    def _room(self) -> bool:
        """Whether another text may come."""
        return True

    def _ready(self) -> bool:
        """Whether the next vector in order can be handed on."""
        return False

    def _linger_left(self) -> float | None:
        """Seconds until a batch that is not full leaves."""
        return None

    def _known(self, index: int, text: str) -> Vector | None:
        """The vector of a text that needs no request."""
        if not text:
            return array("f", bytes(4 * (self._spec.dimensions or 0)))
        return None if self._resume is None else self._resume.vector(index, text)

    def _partial(self, rows: dict[int, Vector], texts: Mapping[int, str], next_index: int) -> PartialEmbedding:
        digests = {index: digest(text) for index, text in texts.items()}
        if self._resume is not None:
            # What an earlier call had got and this one has not come to is kept as well.
            before = {index: row for index, row in self._resume.rows.items() if index >= next_index}
            rows = before | rows
            digests = {index: self._resume.digests[index] for index in before} | digests
        return PartialEmbedding(rows, digests, next_index, EmbeddingUsage(**self._tally.facts()), self._spec)


class Workers(Protocol):
    """Threads or tasks that do batches."""

    def finished(self) -> Iterator[BatchResult]:
        """The results that are there."""

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""


def take_finished(run: EmbeddingRun, workers: Workers) -> None:
    """Take the results that nobody has taken yet."""
    for result in workers.finished():
        if run.take(result):
            workers.finish()


class BaseStream:
    """What a stream of vectors tells about itself."""

    _job: EmbeddingRun
    _workers: Workers

    @property
    def usage(self) -> EmbeddingUsage:
        """What the stream has taken so far."""
        return self._job.progress().usage

    def partial(self) -> PartialEmbedding:
        """What is there and was not handed on, to be given as `resume_from=` to a later call over the same source.

        After `close()` of a sync stream it may grow while requests in flight end.
        """
        take_finished(self._job, self._workers)
        return cast("PartialEmbedding", self._job.partial())


@contextmanager
def supervised(run: EmbeddingRun, workers: Workers) -> Iterator[None]:
    """A block around one call: whatever exception leaves it has `partial`, and listeners are told of retries."""
    try:
        yield
    except GeneratorExit:
        # A stream was left: it can be asked itself.
        raise
    except BaseException as error:
        take_finished(run, workers)
        partial = run.partial()
        if partial is not None:
            with suppress(AttributeError):
                error.partial = partial  # type: ignore[attr-defined]
        raise
    finally:
        notify(run.listeners, run.effort())
