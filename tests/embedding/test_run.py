"""What a run of the engine decides, on a virtual clock: order, back-pressure, lingering, fairness, errors."""

from __future__ import annotations

import itertools
import math
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lava_mistral.embedding.batch_packing import Batch, Batcher, TokenRatio
from lava_mistral.embedding.input_validation import InputValidator
from lava_mistral.embedding.results import BatchResult, EmbeddingSpec
from lava_mistral.embedding.run import LINGER, EmbedJob, StreamJob
from lava_mistral.errors import InsufficientBalanceError, LavaError

SPEC = EmbeddingSpec("mistral-embed", 1)


def ten_a_batch(text: str) -> int:
    return 1_600


class World:
    """A clock, a source and workers, all virtual: drives a run until it is done.

    Args:
        run: the run.
        texts: what the source gives.
        reading: seconds that each text takes to read.
        working: seconds that a batch takes, by its number.
        consuming: seconds that the consumer takes with each vector.
        failing: numbers of the batches that fail.
        late: seconds until the source has its last text; it is read ahead by others.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], float]], StreamJob],
        texts: list[Any],
        *,
        reading: Callable[[int], float] = lambda index: 0.0,
        working: Callable[[int], float] = lambda number: 1.0,
        consuming: float = 0.0,
        failing: tuple[int, ...] = (),
        late: float = 0.0,
    ) -> None:
        self.now = 0.0
        self.run = make(lambda: self.now)
        self._texts = texts
        self._reading = reading
        self._working = working
        self._consuming = consuming
        self._failing = failing
        self._late = late
        self.read = 0
        self.started: list[tuple[float, Batch]] = []
        self.alone: list[bool] = []
        self.handed_on: list[tuple[float, int]] = []
        self.most_ahead = self.most_under_way = 0
        self.finishing = False
        self._due: list[tuple[float, int, Batch]] = []
        self.done: deque[BatchResult] = deque()
        self.error: BaseException | None = None

    def drive(self) -> World:
        try:
            for step in self.run.steps(self, self):  # type: ignore[arg-type]
                if isinstance(step, tuple):
                    index, vector = step
                    assert vector == [float(index)]
                    self.now += self._consuming
                    self.handed_on.append((self.now, index))
                elif step is not None:
                    self._wait(step)
                while self._due and self._due[0][0] <= self.now:
                    self._finish()
        except LavaError as error:
            self.error = error
        assert not self._due
        return self

    @property
    def readable(self) -> bool:
        return self.read < len(self._texts) - 1 or self.now >= self._late

    def take(self) -> object:
        if self.read == len(self._texts):
            raise StopIteration
        self.now += self._reading(self.read)
        self.read += 1
        self.most_ahead = max(self.most_ahead, self.read - len(self.handed_on))
        return self._texts[self.read - 1]

    def start(self, batch: Batch, *, alone: bool) -> None:
        number = len(self.started)
        self.started.append((self.now, batch))
        self.alone.append(alone)
        self._due.append((self.now + self._working(number), number, batch))
        self._due.sort(key=lambda due: due[:2])
        self.most_under_way = max(self.most_under_way, len(self._due))

    def finish(self) -> None:
        self.finishing = True

    def _finish(self) -> None:
        _, number, batch = self._due.pop(0)
        result = BatchResult()
        if number in self._failing:
            result.error = InsufficientBalanceError("empty")
        else:
            result.pieces.append((batch.indexes, [array("f", [index]) for index in batch.indexes]))
        self.done.append(result)

    def _wait(self, seconds: float) -> None:
        moments = [moment for moment, _, _ in self._due[:1]] + [self.now + seconds]
        if not self.readable:
            moments.append(self._late)
        assert min(moments) < math.inf, "it waits for nothing"
        self.now = max(self.now, min(moments))


def batches(characters: int = 0) -> Batcher:
    return Batcher(ten_a_batch, TokenRatio())


def stream(concurrency: int = 4, **settings: Any) -> Callable[[Callable[[], float]], StreamJob]:
    def make(clock: Callable[[], float]) -> StreamJob:
        validator = InputValidator(len)
        return StreamJob(validator, SPEC, batches, concurrency=concurrency, clock=clock, **settings)

    return make


def job(total: int, concurrency: int = 4) -> Callable[[Callable[[], float]], EmbedJob]:
    def make(clock: Callable[[], float]) -> EmbedJob:
        validator = InputValidator(len)
        return EmbedJob(
            validator,
            SPEC,
            batches,
            total=total,
            concurrency=concurrency,
            clock=clock,
        )

    return make


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


@given(st.integers(0, 120), st.lists(st.sampled_from([0.0, 0.3, 1.0, 7.0]), min_size=1, max_size=20), st.integers(1, 5))
def test_vectors_leave_in_order_whatever_order_batches_end_in(count: int, times: list[float], concurrency: int) -> None:
    world = World(stream(concurrency), texts(count), working=lambda number: times[number % len(times)]).drive()
    assert [index for _, index in world.handed_on] == list(range(count))
    assert sum(len(batch.texts) for _, batch in world.started) == count


@given(st.integers(0, 120), st.lists(st.sampled_from([0.0, 0.3, 1.0, 7.0]), min_size=1, max_size=20), st.integers(1, 5))
def test_a_job_ends_with_all_vectors_in_their_places(count: int, times: list[float], concurrency: int) -> None:
    world = World(job(count, concurrency), texts(count), working=lambda number: times[number % len(times)]).drive()
    assert isinstance(world.run, EmbedJob)
    assert world.run.result().vectors == [[float(index)] for index in range(count)]


def test_a_job_counts_the_tokens_of_its_first_request_alone_before_it_starts() -> None:
    counted: list[str] = []
    counted_at_start: list[int] = []

    class Watching(World):
        def start(self, batch: Batch, *, alone: bool) -> None:
            counted_at_start.append(len(counted))
            super().start(batch, alone=alone)

    def count(text: str) -> int:
        counted.append(text)
        return ten_a_batch(text)

    def make(clock: Callable[[], float]) -> EmbedJob:
        counting = partial(Batcher, count, TokenRatio())
        return EmbedJob(InputValidator(len), SPEC, counting, total=400, concurrency=4, clock=clock)

    Watching(make, texts(400)).drive()
    assert counted_at_start[0] == 11
    assert len(counted) == 400


def test_reading_stops_where_enough_is_under_way() -> None:
    """A batch that takes for ever holds back what comes after it; no more than the window is held."""
    world = World(stream(2), texts(1_000), working=lambda number: 100.0 if number == 0 else 0.1).drive()
    # Two are done at once and two wait; then the first one is not handed on, and no fifth begins.
    assert world.most_ahead <= 50
    assert world.started[4][0] >= 100.0


def test_a_slow_consumer_gets_full_batches() -> None:
    world = World(stream(2), texts(400), consuming=0.1).drive()
    assert [len(batch.texts) for _, batch in world.started] == [10] * 40


def test_all_workers_are_kept_busy_before_vectors_are_handed_on_where_the_source_is_quick() -> None:
    world = World(stream(4), texts(200), consuming=0.5).drive()
    assert [moment for moment, _ in world.started[:4]] == [0.0] * 4


def test_a_batch_that_is_not_full_leaves_after_a_moment_where_the_source_pauses() -> None:
    world = World(stream(), texts(25), reading=lambda index: 5.0 if index == 13 else 0.0).drive()
    sizes = [len(batch.texts) for _, batch in world.started]
    # The source itself is read here: what it cut off leaves as soon as it has given its next text.
    assert sizes == [10, 4, 10, 1]
    assert [moment for moment, index in world.handed_on if index < 10] == [5.0] * 10


def test_what_waits_for_a_batch_to_be_full_waits_for_a_moment_only() -> None:
    world = World(stream(), texts(13), late=10.0).drive()
    assert [(moment, len(batch.texts)) for moment, batch in world.started] == [(0.0, 10), (LINGER, 2), (10.0, 1)]
    assert [moment for moment, _ in world.handed_on] == [1.0] * 10 + [1.0 + LINGER] * 2 + [11.0]


def test_a_batch_that_is_not_full_does_not_leave_while_every_worker_is_busy() -> None:
    world = World(stream(1), texts(13), late=10.0).drive()
    assert [(moment, len(batch.texts)) for moment, batch in world.started] == [(0.0, 10), (1.0, 2), (10.0, 1)]


def test_a_slow_source_holds_back_what_is_ready_for_less_than_half_of_the_time() -> None:
    world = World(stream(16), texts(2_000), reading=lambda index: 0.001, working=lambda number: 0.01).drive()
    ready = {index: moment for moment, index in world.handed_on}
    for number, (started, batch) in enumerate(world.started[:50]):
        assert ready[batch.indexes[0]] - started <= 0.01 + 0.06, number


def test_a_slow_consumer_and_a_slow_source_share_the_time() -> None:
    world = World(stream(16), texts(400), reading=lambda index: 0.01, working=lambda number: 0.01, consuming=0.01)
    moments = [moment for moment, _ in world.drive().handed_on]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert sorted(gaps)[len(gaps) // 2] <= 0.03


def test_repeated_texts_do_not_wait_for_a_batch_that_can_not_get_full() -> None:
    world = World(stream(1), ["same"] * 20_000)
    for _ in zip(range(30_000), world.run.steps(world, world), strict=False):  # type: ignore[arg-type]
        if world.started:
            break
    assert world.started
    assert world.read < 20_000


def test_an_error_lets_batches_in_flight_end_and_begins_nothing_new() -> None:
    world = World(stream(3), texts(500), working=lambda number: 1.0 + number, failing=(1,)).drive()
    assert [index for _, index in world.handed_on] == list(range(10))
    assert len(world.started) == 6
    assert isinstance(world.error, InsufficientBalanceError)
    assert world.finishing
    partial = world.run.partial()
    assert (partial.next_index, sorted(partial.rows)) == (10, list(range(20, 60)))


def test_a_bad_text_ends_a_stream_when_all_before_it_is_handed_on() -> None:
    world = World(stream(), [*texts(13), "", *texts(5)]).drive()
    assert [index for _, index in world.handed_on] == list(range(13))
    assert "input 13 is empty" in str(world.error)


def test_a_bad_text_ends_a_job_before_anything_is_sent() -> None:
    world = World(job(19), [*texts(13), "", *texts(5)]).drive()
    assert world.started == []
    assert "input 13 is empty" in str(world.error)
    assert not world.run.partial()


@pytest.mark.parametrize(("count", "alone"), [(7, [True]), (17, [False, False]), (0, [])])
def test_one_batch_alone_needs_no_worker(count: int, alone: list[bool]) -> None:
    assert World(job(count), texts(count)).drive().alone == alone
