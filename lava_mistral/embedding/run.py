"""Decide what one call of the embedding engine does next. Pure: no I/O, no sleep, no threads, an injected clock.

`jobs` has the two kinds of call; `steps` does what they say, for a driver.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from lava_mistral.billing.usage import Listener, RetryStats, notify
from lava_mistral.embedding.batching import Batch
from lava_mistral.embedding.input_validation import InputValidator
from lava_mistral.embedding.rate_limit import Stopped
from lava_mistral.embedding.results import (
    BatchResult,
    EmbeddingProgress,
    EmbeddingSpec,
    EmbeddingUsage,
    OnProgress,
    PartialEmbedding,
    Vector,
    digest,
)
from lava_mistral.embedding.sources import Source
from lava_mistral.errors import LavaError

if TYPE_CHECKING:
    from tqdm.std import tqdm

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


@dataclass(slots=True, eq=False)
class _Slot:
    """A text, and its vector when it is there; equal texts share one."""

    text: str
    row: Vector | None = None


class EmbeddingRun(ABC):
    """One call: what it has got, and what it does next.

    Attributes:
        under_way: how many batches are started and not taken.
        told: how many of them `report` has told of.
        error: what ended it; its batches in flight are still taken.
    """

    _remembered = 0
    """How many request ids are kept; 0 for all."""
    _recent: float = math.inf
    """Among how many of the latest texts repeated ones are recognised."""

    def __init__(
        self,
        validator: InputValidator,
        spec: EmbeddingSpec,
        *,
        concurrency: int,
        as_numpy: bool = False,
        resume_from: PartialEmbedding | None = None,
        total: int | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if resume_from is not None:
            resume_from.check(spec)
        self.total = total
        self.show_progress = show_progress
        self.listeners = listeners
        self.bar: tqdm[Any] | None = None
        self.under_way = 0
        self.told = 0
        self.error: BaseException | None = None
        self._validator = validator
        self._spec = spec
        self._concurrency = concurrency
        # A few batches wait for a permit, so that the next request leaves when one ends and not when it is planned.
        self._window = concurrency + max(2, concurrency // 2)
        self._as_numpy = as_numpy
        self._resume = resume_from
        self._on_progress = on_progress
        self._usage = EmbeddingUsage()
        self._clock = clock
        self._payer: RetryStats | None = None
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._waiting: list[_Slot] | deque[_Slot] = []
        self._left = self._came = self._duplicates = 0
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
        # Reading keeps the workers busy, so it goes first; but a slow source holds back what is ready.
        if (
            reads
            and readable
            and (not ready or self._spent_reading <= HOLD + (self._clock() - self._handing_on_since) / 2)
        ):
            self._read_at = self._clock()
            if not ready:
                self._handing_on_since, self._spent_reading = self._read_at, 0.0
            return Step.READ
        if ready:
            return Step.HAND_ON
        return Wait(self._linger_left() if reads else None) if reads or self.under_way else Step.DONE

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
        usage = self._usage + result.usage
        self._usage = replace(usage, request_ids=usage.request_ids[-self._remembered :])
        self._payer = self._payer or result.payer
        if result.error is None or self.error is not None or isinstance(result.error, Stopped):
            return False
        self.error = result.error
        return True

    def check_success(self) -> None:
        """Raise what ended the call or its source."""
        error = self.error or self._source_error
        if error is not None:
            raise error

    @property
    def usage(self) -> EmbeddingUsage:
        """What it has taken so far."""
        return replace(self._usage, duplicates=self._duplicates)

    def report(self) -> None:
        """Show how far it has come."""
        self.told = self.done
        if self.bar is not None:
            self.bar.update(self.done - self.bar.n)
        if self._on_progress is not None:
            self._on_progress(EmbeddingProgress(self.done, self.total, self.usage))

    def effort(self) -> RetryStats:
        """Count what it did beside its requests."""
        payer = self._payer or RetryStats(self._spec.model)
        return replace(payer, retries=self._usage.retries, duplicates=self._duplicates)

    def partial(self) -> PartialEmbedding:
        """What is there now and was not handed on, to go on from."""
        held = {self._left + place: slot for place, slot in enumerate(self._waiting) if slot.row is not None}
        rows = {index: slot.row for index, slot in held.items()}
        digests = {index: digest(slot.text) for index, slot in held.items()}
        if self._resume is not None:
            # What an earlier call had got and this one has not come to is kept as well.
            before = {index: row for index, row in self._resume.rows.items() if index >= self._left}
            rows = before | rows
            digests = {index: self._resume.digests[index] for index in before} | digests
        return PartialEmbedding(rows, digests, self._left, self.usage, self._spec)

    @property
    @abstractmethod
    def done(self) -> int:
        """How many of the texts need nothing more."""

    @abstractmethod
    def _due(self) -> Start | None:
        """The next batch, where one is to be started now."""

    @abstractmethod
    def _send(self, index: int, text: str) -> None:
        """Have a text put into a batch."""

    def pop(self) -> tuple[int, Any]:
        """Hand on the next index and vector, after `Step.HAND_ON`."""
        raise NotImplementedError

    def _room(self) -> bool:
        """Whether another text may come."""
        return True

    def _ready(self) -> bool:
        """Whether the next vector in order can be handed on."""
        return False

    def _linger_left(self) -> float | None:
        """Seconds until a batch that is not full leaves."""
        return None

    def _admit(self, given: object) -> None:
        index = self._came
        if index < self._left:
            self._came += 1
            return
        text = self._validator.check(index, given)
        known: Vector | None = None
        if not text:
            known = array("f", bytes(4 * (self._spec.dimensions or 0)))
        elif self._resume is not None:
            known = self._resume.vector(index, text)
        self._came += 1
        slot = self._slots.get(text)
        if slot is not None:
            self._duplicates += 1
        else:
            slot = self._slots[text] = _Slot(text, known)
            if known is None:
                self._send(index, text)
            if len(self._slots) > self._recent:
                # The oldest goes first, even if it was met again: rows of one age share one block of memory.
                self._slots.popitem(last=False)
        self._waiting.append(slot)

    def _fill(self, indexes: list[int], rows: Any) -> None:
        """Take vectors; twice the same does no harm."""
        for index, row in zip(indexes, rows, strict=True):
            self._waiting[index - self._left].row = row


class Workers(Protocol):
    """Threads or tasks that do batches, and the results that nobody has taken."""

    done: deque[BatchResult]

    def start(self, batch: Batch, *, alone: bool) -> None: ...

    def finish(self) -> None:
        """Let the requests in flight end, begin nothing new."""


def steps(run: EmbeddingRun, workers: Workers, source: Source) -> Generator[tuple[int, Any] | Wait | None, None, None]:
    """Do what a run says until nothing is left to do, in the thread or task that iterates.

    Yields:
        Vectors with their indexes, what to wait for, and `None` after each further piece of work.
    """
    while True:
        while workers.done:
            # It stays there until it is filled: the call may end meanwhile.
            if not run.fill(workers.done[0]):
                _take(run, workers)
                run.report()
            yield None
        action = run.next(readable=source.readable)
        if action is Step.READ:
            source.feed(run)
            yield None
        elif action is Step.HAND_ON:
            yield run.pop()
        elif action is Step.DONE:
            break
        elif isinstance(action, Start):
            workers.start(action.batch, alone=action.alone)
        else:
            yield action
    run.check_success()
    if run.told != run.done:
        run.report()


def _take(run: EmbeddingRun, workers: Workers) -> None:
    if run.take(workers.done.popleft()):
        workers.finish()


class BaseStream:
    """What a stream of vectors tells about itself."""

    def __init__(self, job: EmbeddingRun, workers: Workers) -> None:
        self._job = job
        self._workers = workers

    @property
    def usage(self) -> EmbeddingUsage:
        """What the stream has taken so far."""
        return self._job.usage

    def partial(self) -> PartialEmbedding:
        """What is there and was not handed on, to be given as `resume_from=` to a later call over the same source.

        After `close()` of a sync stream it may grow while requests in flight end.
        """
        while self._workers.done:
            _take(self._job, self._workers)
        return self._job.partial()


@contextmanager
def supervised(run: EmbeddingRun, workers: Workers) -> Iterator[None]:
    """Draw the progress bar of a call, give the exception that ends it its `partial`, and tell listeners of retries."""
    if run.show_progress:
        from tqdm.auto import tqdm

        run.bar = tqdm(total=run.total, initial=run.done, unit="text", desc="Embedding")
    try:
        yield
    except GeneratorExit:
        # A stream was left: it can be asked itself.
        raise
    except BaseException as error:
        while workers.done:
            _take(run, workers)
        partial = run.partial()
        if partial.rows or partial.next_index or partial.usage.requests:
            with suppress(AttributeError):
                error.partial = partial  # type: ignore[attr-defined]
        raise
    finally:
        if run.bar is not None:
            run.bar.update(run.done - run.bar.n)
            run.bar.close()
        notify(run.listeners, run.effort())
