"""Chat, side by side: client CPU of a call and of a streamed chunk, and 200 streams at once, in one run.

Every contender has a process of its own (`contenders.py`) and asks the same server (`chat_server.py`), in interleaved
rounds. The table gives the ratio to langchain-mistralai in the same round: its median, and the least and the most.

    python benchmarks/chat.py [--rounds 9] [--only NAME …] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from chat_server import CHUNKS
from contenders import CONTENDERS, REFERENCE

HERE = Path(__file__).parent
KINDS = {
    "call": 100,
    "chunk": 2,
    "chunk, one a write": 2,
    "async call": 100,
    "async chunk": 2,
    "async chunk, one a write": 2,
}
"""What is measured, and how often it is done in a round."""
Spread = tuple[float, float, float]
"""The median, the least and the most."""


@contextmanager
def server() -> Iterator[str]:
    """The address, ending in `/v1`, of a server of its own process."""
    with subprocess.Popen([sys.executable, HERE / "chat_server.py"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


class Contender:
    """A chat model in another process."""

    def __init__(self, name: str, url: str) -> None:
        command = [sys.executable, HERE / "contenders.py", name, url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def do(self, kind: str, times: int = 1) -> Any:
        """What the contender measured."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([kind, times]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def measure(rounds: int, names: Sequence[str] = tuple(CONTENDERS)) -> dict[str, dict[str, list[float]]]:
    """CPU in µs by contender and kind, one figure a round; the first round, a warm-up, is left out."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    with ExitStack() as stack:
        url = stack.enter_context(server())
        contenders = {name: stack.enter_context(Contender(name, url)) for name in names}
        for number in range(rounds + 1):
            for kind, times in KINDS.items():
                for name, contender in contenders.items():
                    if "aiohttp" in name and "async" not in kind:
                        continue
                    taken = contender.do(kind, times) / (CHUNKS if "chunk" in kind else 1)
                    if number:
                        figures[name].setdefault(kind, []).append(taken)
    return figures


def ratios(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Spread]]:
    """The cost of each contender as a multiple of the reference's in the same round."""
    found: dict[str, dict[str, Spread]] = {}
    for name, row in figures.items():
        found[name] = {}
        for kind, taken in row.items():
            each = [one / other for one, other in zip(taken, figures[REFERENCE][kind], strict=True)]
            found[name][kind] = (statistics.median(each), min(each), max(each))
    return found


def crowds(rounds: int, names: Sequence[str] = tuple(CONTENDERS)) -> dict[str, dict[str, float]]:
    """Medians of what 200 streams at once take."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with ExitStack() as stack:
        url = stack.enter_context(server())
        contenders = {name: stack.enter_context(Contender(name, url)) for name in names}
        for number in range(rounds + 1):
            for name, contender in contenders.items():
                taken = contender.do("crowd")
                if number:
                    seen[name].append(taken)
    return {
        name: {figure: statistics.median(one[figure] for one in row) for figure in row[0]} for name, row in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of those to run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [
        name for name in CONTENDERS if name == REFERENCE or not options.only or any(o in name for o in options.only)
    ]
    figures = measure(options.rounds, names)
    streams = crowds(max(options.rounds // 3, 1), names)
    if options.json:
        print(json.dumps({"cpu": figures, "ratios": ratios(figures), "streams": streams}))
        return
    for name, row in ratios(figures).items():
        cells = "  ".join(f"{kind} {m:.2f} ({low:.2f}-{high:.2f})" for kind, (m, low, high) in row.items())
        print(f"{name:28} {cells}")
    for name, crowd in streams.items():
        print(f"{name:28} " + "  ".join(f"{figure} {value:,.1f}" for figure, value in crowd.items()))


if __name__ == "__main__":
    main()
