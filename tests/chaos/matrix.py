"""Call every surface against every fault and check what this project promises.

    python -m tests.chaos.matrix [--only REGEX] [--sample N] [--peers] [--report FILE]

For each cell (fault, surface, operation, sync or async): the right result or an error of the right class, in time, with
no more requests than promised and the credential nowhere; after each fault no socket, thread or task is left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.callers import CREDENTIAL, KIND, OPERATIONS, OURS, PEERS, TIMEOUT, Act, is_right
from tests.chaos.faults import FAULTS, OK, Fault

ROOT = Path(__file__).resolve().parents[2]
HANGS_AFTER = 40.0
_PLAIN = (str, bytes, list, tuple, dict)
SLACK = 4.0
"""Seconds that a loaded machine may add."""


@dataclass
class Row:
    """One cell and what was wrong in it."""

    fault: str
    surface: str
    operation: str
    asynchronous: bool
    outcome: str = "hang"
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


@contextmanager
def fault_server() -> Iterator[dict[str, int]]:
    """Run the fault server; gives its ports."""
    command = [sys.executable, "-m", "tests.chaos.server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def counts(ports: dict[str, int]) -> dict[str, int]:
    """Ask the server how many requests each cell has made."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['faults']}/counts") as answer:
        found: dict[str, int] = json.load(answer)
        return found


def base_url(ports: dict[str, int], fault: str, cell: str) -> str:
    """Return the address at which a cell meets its fault."""
    return f"http://127.0.0.1:{ports['faults']}/f/{list(FAULTS).index(fault)}/{cell}/v1"


def errors_of(error: BaseException | None) -> Iterator[BaseException]:
    """Walk an error's causes and contexts, the suppressed ones too."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, *getattr(found, "exceptions", ())]


def shows(error: BaseException, secret: str) -> Iterator[str]:
    """Name the places of an error that show a secret."""
    for link in errors_of(error):
        texts = {"text": str(link), "repr": repr(link), "args": repr(link.args), "attributes": repr(vars(link))}
        response = getattr(link, "response", None)
        if response is not None:
            texts["headers"] = repr(getattr(response.headers, "raw", response.headers))
        frames = [
            frame for frame, _ in traceback.walk_tb(link.__traceback__) if "/tests/" not in frame.f_code.co_filename
        ]
        texts["frames"] = repr([
            value for frame in frames for value in frame.f_locals.values() if isinstance(value, _PLAIN)
        ])  # fmt: skip
        yield from (f"{type(link).__name__}.{place}" for place, text in texts.items() if secret in text)


def judge(row: Row, fault: Fault, prompt: str, ended: Any, requests: int, *, strict: bool) -> None:
    """Write down what is wrong with a cell."""
    allowed = fault.expect[KIND[row.operation]]
    kind, value = ended
    if kind == "result":
        row.outcome = OK
        if OK not in allowed:
            row.violations.append(f"no error, where {sorted(allowed)} is expected: {str(value)[:80]!r}")
        elif not is_right(row.operation, prompt, value, exact=allowed == {OK}):
            row.violations.append(f"a wrong result: {str(value)[:120]!r}")
    else:
        names = {base.__name__ for base in type(value).__mro__}
        row.outcome = type(value).__name__
        if not names & allowed and (strict or OK in allowed):
            row.violations.append(f"{row.outcome}, where {sorted(allowed)} is expected: {str(value)[:160]}")
        if strict and any(ord(letter) < 32 and letter not in "\n\t" for letter in str(value)):
            row.violations.append("control characters in the message")
        row.violations += [f"the credential in {place}" for place in shows(value, CREDENTIAL)]
    tries = 3 if KIND[row.operation] == "embed" else 2
    if row.seconds > tries * (TIMEOUT + 1.5) + fault.seconds + SLACK:
        row.violations.append(f"it took {row.seconds:.1f} s")
    most = (2 if fault.repeated else 1) * (
        1 if KIND[row.operation] != "embed" else 30 if "batches" in fault.name else 12
    )
    if strict and requests > most:
        row.violations.append(f"{requests} requests, at most {most} are promised")


def sockets() -> int:
    """Count the sockets of this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


class Matrix:
    """Run cells and keep their rows."""

    def __init__(
        self, ports: dict[str, int], surfaces: dict[str, Callable[[str], Any]], *, strict: bool = True
    ) -> None:
        self.rows: list[Row] = []
        self._ports, self._surfaces, self._strict = ports, surfaces, strict
        self._log = io.StringIO()
        self._number = 0

    def run(self, fault: Fault, choose: Callable[[int], bool] = lambda number: True) -> None:
        """Run the cells of a fault, all at the same time.

        Args:
            choose: whether to run a cell, by its number among those of the fault.
        """
        cells: list[tuple[Row, Act, str]] = []
        ways = [(s, o, a) for s in self._surfaces for k in fault.expect for o in OPERATIONS[k] for a in (False, True)]
        for number, (surface, operation, asynchronous) in enumerate(ways):
            if choose(number):
                self._number += 1
                prompt = f"cell {self._number}"
                calls = self._surfaces[surface](base_url(self._ports, fault.name, str(self._number)))
                if (operation, asynchronous) in calls:
                    row = Row(fault.name, surface, operation, asynchronous)
                    cells.append((row, calls[operation, asynchronous], prompt))
        if not cells:
            return
        before = sockets(), threading.active_count()
        ended = self._call(cells)
        requests = counts(self._ports)
        for (row, _, prompt), end in zip(cells, ended, strict=True):
            if end is None:
                row.violations.append(f"no end within {HANGS_AFTER:g} s")
            else:
                number = prompt.removeprefix("cell ")
                judge(row, fault, prompt, end, requests.get(number, 0), strict=self._strict)
            self.rows.append(row)
        del cells, ended
        if self._strict:
            self._check_leftovers(fault, before)

    def _call(self, cells: Sequence[tuple[Row, Act, str]]) -> list[Any]:
        ended: list[Any] = [None] * len(cells)

        def work(at: int) -> None:
            row, act, prompt = cells[at]
            began = time.monotonic()
            try:
                ended[at] = "result", act(prompt)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is judged
                ended[at] = "error", error
            row.seconds = time.monotonic() - began

        async def awork(at: int) -> None:
            row, act, prompt = cells[at]
            began = time.monotonic()
            try:
                async with asyncio.timeout(HANGS_AFTER) as limit:
                    ended[at] = "result", await act(prompt)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is judged
                ended[at] = None if limit.expired() else ("error", error)
            row.seconds = time.monotonic() - began

        async def all_async() -> None:
            await asyncio.gather(*(awork(at) for at, (row, _, _) in enumerate(cells) if row.asynchronous))
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            await asyncio.sleep(0.05)
            if left := [task for task in left if not task.done()]:
                cells[0][0].violations.append(f"{len(left)} tasks left: {left[:2]}")

        threads = [
            threading.Thread(target=work, args=(at,), daemon=True)
            for at, (row, _, _) in enumerate(cells) if not row.asynchronous
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        if any(row.asynchronous for row, _, _ in cells):
            asyncio.run(all_async())
        deadline = time.monotonic() + HANGS_AFTER
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        return ended

    def _check_leftovers(self, fault: Fault, before: tuple[int, int]) -> None:
        from lava_mistral.transport.pools import close_sync_pools

        deadline = time.monotonic() + 5
        while True:
            close_sync_pools()
            gc.collect()
            after = sockets(), threading.active_count()
            if (after[0] <= before[0] and after[1] <= before[1]) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for what, had, has in zip(("sockets", "threads"), before, after, strict=True):
            if has > had:
                self.rows[-1].violations.append(f"{fault.name}: {what} before and after: {had}, {has}")
        text = self._log.getvalue()
        if CREDENTIAL in text:
            self.rows[-1].violations.append(f"{fault.name}: the credential in the log")
        self._log.seek(0)
        self._log.truncate()

    @contextmanager
    def watching_logs(self) -> Iterator[None]:
        """Keep what this library logs, at the lowest level."""
        logger, handler = logging.getLogger("lava_mistral"), logging.StreamHandler(self._log)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def table(rows: Sequence[Row]) -> str:
    """Return the sums by surface as a Markdown table."""
    lines = ["| | cells | right results | errors | hangs | cells with violations |", "|---|---|---|---|---|---|"]
    for surface in dict.fromkeys(row.surface for row in rows):
        mine = [row for row in rows if row.surface == surface]
        outcomes = Counter(row.outcome if row.outcome in (OK, "hang") else "error" for row in mine)
        wrong = sum(bool(row.violations) for row in mine)
        lines.append(
            f"| {surface} | {len(mine)} | {outcomes[OK]} | {outcomes['error']} | {outcomes['hang']} | {wrong} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a pattern that the faults' names hold")
    parser.add_argument("--sample", type=int, default=1, help="run one cell in so many")
    parser.add_argument("--peers", action="store_true", help="call the peers' chat classes too, a third of the cells")
    parser.add_argument("--report", type=Path, help="a Markdown file whose table is replaced")
    options = parser.parse_args()
    rows: list[Row] = []
    began = time.monotonic()
    with fault_server() as ports:
        ours = Matrix(ports, OURS)
        peers = Matrix(ports, PEERS, strict=False)
        with ours.watching_logs():
            for place, fault in enumerate(FAULTS.values()):
                if re.search(options.only, fault.name):
                    before = len(ours.rows)
                    ours.run(fault, lambda number, place=place: (number * 5 + place) % options.sample == 0)
                    for row in ours.rows[before:]:
                        for violation in row.violations:
                            way = "async" if row.asynchronous else "sync"
                            print(f"{row.fault} / {row.surface} / {row.operation} / {way}: {violation}", flush=True)
                    if options.peers:
                        peers.run(fault, lambda number, place=place: number % 3 == place % 3)
        rows = ours.rows + peers.rows
    print(f"\n{len(rows)} cells of {len({row.fault for row in rows})} faults in {time.monotonic() - began:.0f} s\n")
    print(table(rows))
    if options.report:
        text = options.report.read_text("utf-8")
        mark = "<!-- chaos -->"
        parts = text.split(mark)
        assert len(parts) == 3, f"{options.report} needs two marks {mark}"
        options.report.write_text(f"{parts[0]}{mark}\n\n{table(rows)}\n\n{mark}{parts[2]}", "utf-8")
    return any(row.violations for row in ours.rows)


if __name__ == "__main__":
    sys.exit(main())
