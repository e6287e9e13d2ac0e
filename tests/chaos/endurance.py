"""Run random schedules of faults, cancellations and left streams, and check that nothing is wrong, lost or left.

    python -m tests.chaos.endurance [--count 10000] [--in-flight 20] [--seed 1]
    python -m tests.chaos.endurance --minutes 10 --in-flight 50

A schedule is a call with a fault for each of its first requests. Each ends with the right result, an error of this
library, or its cancellation; at the end nothing is reserved, what was spent is what the usage cost, to the last digit,
and no socket, thread or task is left. With `--minutes` memory, sockets and threads are watched too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from lava_mistral import AsyncLavaMistral, LavaError, SpendLimit, UsageTotals, billed_to, track_usage
from lava_mistral.transport.pools import close_sync_pools
from tests.chaos.callers import CREDENTIAL, GAP, KIND, OURS, is_right
from tests.chaos.faults import FAULTS, OK
from tests.chaos.matrix import counts, errors_of, fault_server, sockets

NUMBERS = {
    kind: [place for place, fault in enumerate(FAULTS.values()) if kind in fault.expect and fault.seconds <= 0]
    for kind in ("chat", "stream", "embed")
}
OPERATIONS = ("chat", "tools", "structured", "stream", "tool stream", "few", "left stream")
PARSING = ("OutputParserException", "ValueError", "ValidationError")
SETTINGS = {"timeout": 1.0, "embedding": {"model": "mistral-embed"}}


class Endurance:
    """Run schedules and keep what went wrong."""

    def __init__(self, ports: dict[str, int], seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.violations: list[str] = []
        self.limit, self.usage = SpendLimit("1000000"), UsageTotals(metadata_keys=())
        self._address = f"http://127.0.0.1:{ports['faults']}/f"
        self._seed = seed

    async def run(self, number: int) -> None:
        """Run one schedule."""
        draw = random.Random(f"{self._seed}/{number}")
        operation = draw.choice(OPERATIONS)
        kind = KIND.get(operation, "stream")
        faults = [draw.choice(NUMBERS[kind]) for _ in range(draw.choice((0, 1, 1, 1, 2)))]
        address = f"{self._address}/{','.join(map(str, faults))},/{self._seed}-{number}/v1"
        surface, asynchronous = draw.choice(list(OURS)), draw.random() < 0.7
        cancel_after = draw.uniform(0, 0.4) if draw.random() < 0.3 and asynchronous else None
        prompt = f"schedule {number}"
        what = f"seed {self._seed}, schedule {number}: {surface}, {operation}, {[list(FAULTS)[f] for f in faults]}"
        block = billed_to(f"cus_{number % 7}", "chat", spend_limit=self.limit)
        try:
            with block, track_usage(self.usage):
                async with asyncio.timeout(cancel_after):
                    if operation == "left stream":
                        await self._leave(address, prompt, draw.randrange(3))
                        self.outcomes["left"] += 1
                        return
                    act = OURS[surface](address, **SETTINGS)[operation, asynchronous]
                    result = await (act(prompt) if asynchronous else asyncio.to_thread(act, prompt))
        except TimeoutError as error:
            self.outcomes["cancelled" if not isinstance(error, LavaError) else type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
            self.outcomes[type(error).__name__] += 1
            allowed = isinstance(error, LavaError) or type(error).__name__ in (
                "OutputParserException",
                "ValueError",
                "ValidationError",
            )
            if not allowed:
                self.violations.append(f"{what}: {''.join(traceback.format_exception(error))[-1500:]}")
            if any(CREDENTIAL in f"{link!r} {link}" for link in errors_of(error)):
                self.violations.append(f"{what}: the credential in {type(error).__name__}")
        else:
            self.outcomes["right"] += 1
            exact = all(list(FAULTS.values())[fault].expect[kind] == {OK} for fault in faults)
            if not is_right(operation, prompt, result, exact=exact):
                self.violations.append(f"{what}: {str(result)[:200]}")

    async def _leave(self, address: str, prompt: str, after: int) -> None:
        """Read some deltas of a stream and leave it, closed or not."""
        client = AsyncLavaMistral(
            api_key=CREDENTIAL, base_url=address, timeout=1.0, stream_chunk_timeout=GAP, max_retries=1
        )
        stream = await client.stream([{"role": "user", "content": prompt}])
        async for _ in stream:
            if after == 0:
                break
            after -= 1
        if after % 2:
            await stream.aclose()

    def check_money(self) -> None:
        """Check that nothing is reserved and that the limit and the usage agree."""
        if self.limit.reserved:
            self.violations.append(f"{self.limit.reserved} is still reserved")
        if self.limit.spent != self.usage.cost:
            self.violations.append(f"{self.limit.spent} was spent, and the usage cost {self.usage.cost}")


def memory() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def endure(endurance: Endurance, options: argparse.Namespace) -> list[tuple[float, int, int]]:
    """Keep the schedules running; gives samples of memory, sockets and threads."""
    numbers = iter(range(sys.maxsize if options.minutes else options.count))
    ends = time.monotonic() + options.minutes * 60 if options.minutes else None
    samples: list[tuple[float, int, int]] = []

    async def work() -> None:
        for number in numbers:
            if ends is not None and time.monotonic() > ends:
                return
            await endurance.run(number)

    async def watch() -> None:
        while True:
            await asyncio.sleep(5)
            gc.collect()
            samples.append((memory(), sockets(), threading.active_count()))

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(work() for _ in range(options.in_flight)))
    watching.cancel()
    await asyncio.sleep(1.5)
    left = [task for task in asyncio.all_tasks() if task not in (watching, asyncio.current_task())]
    if left:
        endurance.violations.append(f"{len(left)} tasks left: {left[:3]}")
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args()
    began = time.monotonic()
    with fault_server() as ports:
        endurance = Endurance(ports, options.seed)
        samples = asyncio.run(endure(endurance, options))
        deadline = time.monotonic() + 10
        while (threads := threading.active_count()) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        endurance.check_money()
        requests = sum(counts(ports).values())
        close_sync_pools()
        gc.collect()
        if left := sockets():
            endurance.violations.append(f"{left} sockets left")
        if threads > 1:
            endurance.violations.append(f"threads left: {[thread.name for thread in threading.enumerate()]}")
    total = sum(endurance.outcomes.values())
    print(f"seed {options.seed}: {total} schedules, {requests} requests in {time.monotonic() - began:.0f} s")
    print(dict(endurance.outcomes.most_common()))
    if samples:
        third = max(1, len(samples) // 3)
        early, late = samples[third : 2 * third] or samples[:1], samples[-third:]
        figures = [tuple(max(column) for column in zip(*part, strict=True)) for part in (early, late)]
        print(f"most memory (MB), sockets, threads in the second third: {figures[0]}, in the last: {figures[1]}")
        if options.minutes and figures[1][0] > figures[0][0] * 1.05 + 10:
            endurance.violations.append(f"memory grew: {figures}")
    for violation in endurance.violations[:40]:
        print(f"VIOLATION {violation}")
    print(f"{len(endurance.violations)} violations")
    return bool(endurance.violations)


if __name__ == "__main__":
    sys.exit(main())
