"""The rate against simulated accounts, on a virtual clock, and the limiter with real threads and event loops."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.limiter import ConcurrencyLimiter, TaskSignal, ThreadSignal
from lava_mistral.embedding.rate_limit import AdaptiveRateLimiter, Outcome, Permit, Stopped
from lava_mistral.errors import RateLimitError
from lava_mistral.transport.flow import adrive, drive


class SlidingWindow:
    """At most `limit` requests within the last `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds
        self.taken: deque[float] = deque()

    def take(self, now: float) -> tuple[bool, int, float]:
        while self.taken and self.taken[0] <= now - self.seconds:
            self.taken.popleft()
        if len(self.taken) >= self.limit:
            return False, 0, self.taken[0] + self.seconds - now
        self.taken.append(now)
        return True, self.limit - len(self.taken), 0.0


class FixedWindow:
    """At most `limit` requests in each period of `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds
        self.period, self.count = -1, 0

    def take(self, now: float) -> tuple[bool, int, float]:
        period = int(now // self.seconds)
        if period != self.period:
            self.period, self.count = period, 0
        if self.count >= self.limit:
            return False, 0, (period + 1) * self.seconds - now
        self.count += 1
        return True, self.limit - self.count, 0.0


class Bucket:
    """Refills at `limit / seconds`, and holds no more than `burst` seconds of that."""

    def __init__(self, limit: int, seconds: float, burst: float = 1.0) -> None:
        self.limit, self.seconds = limit, seconds
        self.rate = limit / seconds
        self.capacity = self.level = max(1.0, self.rate * burst)
        self.at = 0.0

    def take(self, now: float) -> tuple[bool, int, float]:
        self.level = min(self.capacity, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1.0 - 1e-9:
            return False, int(self.level), (1.0 - self.level) / self.rate
        self.level -= 1.0
        return True, int(self.level), 0.0


Account = SlidingWindow | FixedWindow | Bucket


@dataclass
class Run:
    """What a simulation saw."""

    answered: list[int]
    refused: int = 0
    most_in_flight: int = 0

    @property
    def share_refused(self) -> float:
        return self.refused / (self.refused + sum(self.answered))


def simulate(
    account: Account,
    *,
    processes: int = 1,
    concurrency: int = 16,
    latency: float = 0.4,
    duration: float = 120.0,
    headers: bool = True,
    retry_after: bool = True,
    seed: int = 0,
) -> Run:
    """Processes that always have something to send, each with a rate, against one account."""
    draw = random.Random(seed)
    rates = [AdaptiveRateLimiter(concurrency, draw=draw.uniform) for _ in range(processes)]
    run = Run([0] * processes)
    order = itertools.count()
    agenda: list[tuple[float, int, Callable[[float], None]]] = []

    def at(moment: float, act: Callable[[float], None]) -> None:
        heapq.heappush(agenda, (moment, next(order), act))

    alarms = [math.inf] * processes

    def go(which: int, now: float) -> None:
        rate = rates[which]
        while (wait := rate.wait(now, 1_000)) <= 1e-12:
            permit = rate.start(now, 1_000)
            run.most_in_flight = max(run.most_in_flight, rate.in_flight)
            accepted, left, pause = account.take(now)
            told = {
                f"x-ratelimit-limit-req-{int(account.seconds)}-second": str(account.limit),
                f"x-ratelimit-remaining-req-{int(account.seconds)}-second": str(left),
            }
            outcome: Outcome = "answered" if accepted else "refused"

            def end(
                then: float,
                permit: Permit = permit,
                outcome: Outcome = outcome,
                told: dict[str, str] = told,
                pause: float = pause,
            ) -> None:
                rate.end(
                    permit,
                    then,
                    outcome,
                    headers=told if headers else None,
                    retry_after=pause if retry_after and outcome == "refused" else None,
                )
                if outcome == "answered":
                    run.answered[which] += 1
                else:
                    run.refused += 1
                go(which, then)

            at(now + (latency * draw.uniform(0.8, 1.2) if accepted else 0.02), end)
        if wait != math.inf and alarms[which] > now + wait:
            alarms[which] = now + wait

            def alarm(then: float) -> None:
                alarms[which] = math.inf
                go(which, then)

            at(now + wait, alarm)

    for which in range(processes):
        at(draw.uniform(0, 0.1), partial(go, which))
    while agenda and agenda[0][0] < duration:
        moment, _, act = heapq.heappop(agenda)
        act(moment)
    return run


ACCOUNTS: dict[str, Callable[[], Account]] = {
    "sliding": lambda: SlidingWindow(60, 10),
    "fixed": lambda: FixedWindow(60, 10),
    "bucket": lambda: Bucket(60, 10),
}


@pytest.mark.parametrize("kind", ACCOUNTS)
def test_one_process_uses_the_limit_and_is_hardly_ever_refused(kind: str) -> None:
    run = simulate(ACCOUNTS[kind]())
    assert sum(run.answered) >= 0.85 * 6 * 120
    # The first requests leave before any header has told the limit.
    assert run.refused <= 10
    assert run.most_in_flight == 16


@pytest.mark.parametrize("kind", ACCOUNTS)
@pytest.mark.parametrize("told", ["headers", "Retry-After", "nothing"])
def test_processes_that_share_an_account_converge(kind: str, told: str) -> None:
    run = simulate(
        ACCOUNTS[kind](),
        processes=4,
        headers=told == "headers",
        retry_after=told != "nothing",
        duration=300.0,
        seed=1,
    )
    assert sum(run.answered) >= 0.75 * 6 * 300
    assert run.share_refused <= 0.2
    assert min(run.answered) >= 0.3 * max(run.answered)


def test_without_a_limit_all_lanes_stay_full() -> None:
    run = simulate(SlidingWindow(100_000, 10), latency=0.4)
    assert sum(run.answered) >= 0.95 * 16 / 0.4 * 120
    assert run.refused == 0


def test_a_lane_is_free_again_only_by_the_end_of_a_request() -> None:
    rate = AdaptiveRateLimiter(2)
    first = rate.start(0.0, 10)
    rate.start(0.0, 10)
    assert rate.wait(0.0, 10) == math.inf
    rate.end(first, 1.0, "failed")
    assert rate.wait(1.0, 10) == 0.0


def test_a_refusal_pauses_everyone_for_as_long_as_the_server_asks() -> None:
    rate = AdaptiveRateLimiter(8, draw=lambda low, high: high)
    permits = [rate.start(0.0, 10) for _ in range(4)]
    rate.end(permits[0], 1.0, "refused", retry_after=5.0)
    assert rate.wait(1.0, 10) == pytest.approx(6.0)
    assert rate.width == 4.0
    # The others were under way when the first was refused: one story, told four times.
    for permit in permits[1:]:
        rate.end(permit, 1.0, "refused", retry_after=4.0)
    assert rate.width == 4.0
    assert rate.wait(7.0, 10) == 0.0


def test_pauses_double_while_refusals_follow_each_other_and_begin_anew_after_an_answer() -> None:
    rate = AdaptiveRateLimiter(8, draw=lambda low, high: high)
    now, pauses = 0.0, []
    for _ in range(8):
        rate.end(rate.start(now, 10), now, "refused")
        pauses.append(rate.paused_until - now)
        now = rate.paused_until
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    rate.end(rate.start(now, 10), now, "answered")
    rate.end(rate.start(now, 10), now, "refused")
    assert rate.paused_until - now == 0.5


@pytest.mark.parametrize("most", [1, 2, 16])
def test_a_refusal_never_widens_the_limit_however_long_requests_take(most: int) -> None:
    rate = AdaptiveRateLimiter(most)
    rate.end(rate.start(0.0, 10), 60.0, "answered")
    before = rate.width
    rate.end(rate.start(60.0, 10), 61.0, "refused")
    assert rate.width <= before <= most


def test_no_more_requests_are_useful_than_the_account_keeps_busy() -> None:
    rate = AdaptiveRateLimiter(16)
    assert rate.useful_concurrency == 1
    rate.end(rate.start(0.0, 10), 2.0, "answered")
    assert rate.useful_concurrency == 16
    # Sixty requests in ten seconds, two seconds each: twelve at once.
    rate.end(rate.start(2.0, 10), 4.0, "answered", headers=headers(59))
    assert rate.useful_concurrency == 12


def test_a_pause_beyond_all_patience_is_not_waited_for() -> None:
    rate = AdaptiveRateLimiter(8, longest_wait=300.0)
    rate.end(rate.start(0.0, 10), 0.0, "refused", retry_after=3_600.0)
    assert rate.wait(0.0, 10) == 0.0


def headers(left: int, *, kind: str = "req-10-second", limit: int = 60) -> dict[str, str]:
    return {f"X-RateLimit-Limit-{kind}": str(limit), f"x-ratelimit-remaining-{kind}": str(left)}


@pytest.mark.parametrize("kind", ["req-10-second", "tokens-minute"])
def test_the_gap_grows_as_what_is_left_shrinks(kind: str) -> None:
    tokens = 1 if kind.startswith("req") else 1_000
    limit = 60 * tokens
    gaps = []
    for left in (60, 40, 20, 10, 5, 0):
        rate = AdaptiveRateLimiter(8)
        for told in (60, left):
            rate.end(rate.start(0.0, tokens), 0.0, "answered", headers=headers(told * tokens, kind=kind, limit=limit))
        gaps.append(rate.wait(0.0, tokens))
    assert gaps[:2] == [0.0, 0.0]
    assert gaps == sorted(gaps)
    assert gaps[2] > 0.0
    assert gaps[-1] <= 60.0


def test_what_was_started_after_the_answer_counts_as_used() -> None:
    rate = AdaptiveRateLimiter(60)
    rate.end(rate.start(0.0, 1), 0.0, "answered", headers=headers(59))
    for _ in range(40):
        assert rate.wait(0.0, 1) == 0.0 or rate.in_flight >= 29
        rate.start(0.0, 1)
    assert rate.wait(0.0, 1) > 0.0


def test_old_news_does_not_replace_later_news_and_all_news_expires() -> None:
    rate = AdaptiveRateLimiter(8)
    rate.end(rate.start(0.0, 1), 0.0, "answered", headers=headers(60))
    early, late = rate.start(0.0, 1), rate.start(0.0, 1)
    rate.end(late, 0.1, "answered", headers=headers(2))
    rate.end(early, 0.1, "answered", headers=headers(59))
    assert rate.wait(0.1, 1) > 0.0
    assert rate.wait(11.5, 1) == 0.0


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "x-ratelimit-limit-req-10-second",
                "x-ratelimit-remaining-req-10-second",
                "x-ratelimit-limit-tokens-minute",
                "x-ratelimit-remaining-tokens-minute",
                "x-ratelimit-limit-req-0-second",
                "x-ratelimit-remaining-req-0-second",
                "x-ratelimit-remaining-tokens-month",
                "content-type",
            ]
        ),
        st.one_of(st.sampled_from(["", "-1", "nan", "inf", "1e400", "many", "0", "7"]), st.integers().map(str)),
    )
)
def test_headers_that_make_no_sense_do_no_harm(told: dict[str, str]) -> None:
    rate = AdaptiveRateLimiter(4)
    rate.end(rate.start(0.0, 100), 0.0, "answered", headers=told)
    assert 0.0 <= rate.wait(0.0, 100) <= 72.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["start", "answered", "refused", "failed"]), st.floats(0, 20)), max_size=200),
    st.integers(1, 4),
)
def test_the_limit_holds_and_the_next_start_is_never_far(steps: list[tuple[str, float]], most: int) -> None:
    rate = AdaptiveRateLimiter(most, longest_wait=60.0)
    now, permits = 0.0, list[Permit]()
    for what, amount in steps:
        now += amount
        if what == "start":
            wait = rate.wait(now, 1_000)
            if wait == math.inf:
                assert permits
                continue
            assert wait <= 72.0
            assert rate.useful_concurrency >= 1
            now += wait
            if rate.wait(now, 1_000) <= 1e-9:
                permits.append(rate.start(now, 1_000))
        elif permits:
            outcome: Outcome = what  # type: ignore[assignment]
            retry_after = amount if what == "refused" else None
            rate.end(permits.pop(0), now, outcome, headers=headers(int(amount)), retry_after=retry_after)
        assert len(permits) == rate.in_flight <= most
        assert 0.0 < rate.width <= most


ANSWERED = EmbeddingAnswer(response={}, headers={}, request_id=None)  # type: ignore[typeddict-item]


def acquire(limiter: ConcurrencyLimiter, tokens: int, stop: threading.Event | None = None) -> Permit:
    return drive(limiter.acquire(tokens, ThreadSignal(stop or threading.Event())))


async def aacquire(limiter: ConcurrencyLimiter, tokens: int) -> Permit:
    return await adrive(limiter.acquire(tokens, TaskSignal()))


class Room:
    """Counts who is inside."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1


def test_threads_and_event_loops_share_one_gate() -> None:
    limiter, room = ConcurrencyLimiter(AdaptiveRateLimiter(3)), Room()
    passed: list[int] = []

    def thread() -> None:
        for _ in range(20):
            permit = acquire(limiter, 10)
            with room:
                time.sleep(0.0005)
            limiter.release(permit, ANSWERED)
            passed.append(1)

    async def task() -> None:
        permit = await aacquire(limiter, 10)
        with room:
            await asyncio.sleep(0.0005)
        limiter.release(permit, ANSWERED)
        passed.append(1)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(50)))

    threads = [threading.Thread(target=thread) for _ in range(6)]
    threads += [threading.Thread(target=asyncio.run, args=(tasks(),)) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(passed) == 6 * 20 + 2 * 50
    assert room.most == 3
    assert limiter.rate.in_flight == 0


def test_a_pause_ends_by_itself_for_threads_and_tasks() -> None:
    limiter = ConcurrencyLimiter(AdaptiveRateLimiter(4, draw=lambda low, high: low))
    limiter.release(acquire(limiter, 10), RateLimitError("no", retry_after=0.15))
    began = time.monotonic()
    others = [threading.Thread(target=lambda: limiter.release(acquire(limiter, 10), ANSWERED)) for _ in range(2)]
    for each in others:
        each.start()

    async def task() -> None:
        limiter.release(await aacquire(limiter, 10), ANSWERED)

    asyncio.run(asyncio.wait_for(task(), 10))
    for each in others:
        each.join(10)
    assert 0.14 <= time.monotonic() - began < 5


def test_a_cancelled_task_leaves_its_place_in_the_queue() -> None:
    limiter = ConcurrencyLimiter(AdaptiveRateLimiter(1))

    async def main() -> None:
        held = await aacquire(limiter, 10)
        given_up = asyncio.create_task(aacquire(limiter, 10))
        patient = asyncio.create_task(aacquire(limiter, 10))
        await asyncio.sleep(0.01)
        given_up.cancel()
        limiter.release(held, ANSWERED)
        limiter.release(await asyncio.wait_for(patient, 5), ANSWERED)
        assert given_up.cancelled() or isinstance(
            (await asyncio.gather(given_up, return_exceptions=True))[0], asyncio.CancelledError
        )

    asyncio.run(main())
    assert limiter.rate.in_flight == 0


def test_a_loop_that_was_closed_does_not_keep_others_waiting() -> None:
    limiter = ConcurrencyLimiter(AdaptiveRateLimiter(1))
    held = acquire(limiter, 10)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(aacquire(limiter, 10))
    loop.run_until_complete(asyncio.sleep(0.01))
    # Closing a loop under its tasks is a fault of the program; asyncio complains, and nobody else suffers.
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    limiter.release(held, ANSWERED)
    limiter.release(acquire(limiter, 10), ANSWERED)
    assert limiter.rate.in_flight == 0
    waiting.get_coro().close()  # type: ignore[union-attr]


def test_a_stopped_call_leaves_the_queue() -> None:
    limiter, stop = ConcurrencyLimiter(AdaptiveRateLimiter(1)), threading.Event()
    held = acquire(limiter, 10, stop)
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            acquire(limiter, 10, stop)
        except Stopped as error:
            ended.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for each in threads:
        each.start()
    time.sleep(0.02)
    stop.set()
    for each in threads:
        each.join(5)
    assert ended == [Stopped] * 3
    limiter.release(held, ANSWERED)
    assert limiter.rate.in_flight == 0


def test_a_call_that_ends_on_top_of_the_gates_own_frame_does_not_wait_for_itself() -> None:
    permits: list[Permit] = []

    def clock() -> float:
        # Asked for under the limiter's lock. The garbage collector may end a stream or a task there, as on any frame.
        if len(permits) == 1:
            limiter.release(permits.pop(), None)
        return time.monotonic()

    limiter = ConcurrencyLimiter(AdaptiveRateLimiter(2), clock)
    first, second = acquire(limiter, 10), acquire(limiter, 10)
    permits.append(second)
    leaving = threading.Thread(target=lambda: limiter.release(first, ANSWERED), daemon=True)
    leaving.start()
    leaving.join(5)
    assert not leaving.is_alive()
    assert (permits, limiter.rate.in_flight) == ([], 0)
