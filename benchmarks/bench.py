"""All benchmarks in one run: `docs/performance.md` and `table.json`, the committed figures, are written by it.

    python benchmarks/bench.py            everything, about a quarter of an hour on a quiet machine
    python benchmarks/bench.py --quick    calls, chunks and imports of ours, held against `table.json`

The quick run fails where a ratio to the peer is over one and a half times the committed one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import chat
import imports
from contenders import CROWD, REFERENCE

HERE = Path(__file__).parent
TABLE = HERE / "table.json"
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
TOO_SLOW = 1.5
LIBRARIES = (
    "langchain-core",
    "langchain-mistralai",
    "llama-index-core",
    "llama-index-llms-mistralai",
    "llama-index-embeddings-mistralai",
    "mistralai",
    "httpx",
    "httpx2",
    "aiohttp",
)
Ratios = dict[str, dict[str, chat.Spread]]


def chat_ratios(rounds: int, names: Iterable[str] = chat.CONTENDERS) -> Ratios:
    return chat.ratios(chat.measure(rounds, [*names]))


def slower(now: Ratios, then: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """Say which rows of ours cost more than one and a half times what they did."""
    for name, row in now.items():
        for kind, (middle, least, _) in row.items():
            before, _, worst = then[name][kind]
            # Other processes disturb single rounds: the least of these is held against the worst of those, too.
            if name != REFERENCE and least > max(before * TOO_SLOW, worst):
                yield f"{name}, {kind}: {middle:.2f} (at least {least:.2f}) of its peer, {before:.2f} in the table"


def quick() -> int:
    """Measure what CI watches, and tell whether it is in bounds: 0 or 1."""
    table = json.loads(TABLE.read_text())
    ours = [name for name in chat.CONTENDERS if name == REFERENCE or name.startswith("ours")]
    now = chat_ratios(5, ours)
    loading = {name: {"import": spread} for name, spread in imports.ratios(imports.measure(5)).items()}
    for name, row in now.items():
        print(f"{name:28} " + "  ".join(f"{kind} {middle:.2f}" for kind, (middle, _, _) in row.items()))
    print("imports: " + ", ".join(f"{name} {row['import'][0]:.2f}" for name, row in loading.items()))
    found = [*slower(now, table["chat"]), *slower(loading, table["imports"])]
    print("\n".join(found) or "No row is over one and a half times the committed one.")
    return 1 if found else 0


def table(rows: Iterable[Iterable[str]], *head: str) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spread(figures: Iterable[float] | None) -> str:
    if figures is None:
        return ""
    middle, least, most = figures
    return f"{middle:.2f} ({least:.2f}–{most:.2f})"


def number(value: float) -> str:
    return "" if value != value else f"{value:,.0f}"


def page(found: dict[str, Any]) -> str:
    """The generated part of the page."""
    versions = ", ".join(f"{name} {release}" for name, release in found["versions"].items())
    chats = [[name, *(spread(row.get(kind)) for kind in chat.KINDS)] for name, row in found["chat"].items()]
    crowds = [[name, *(f"{value:,.1f}" for value in row.values())] for name, row in found["crowds"].items()]
    shares = {name: spread(row["import"]) for name, row in found["imports"].items()}
    loading = [[name, f"{statistics.median(ms):.0f}", shares.get(name, "")] for name, ms in found["loading"].items()]
    ideal = found["ingest"]["ideal schedule"]["texts_per_second"]
    figures = ("texts_per_second", "first_job", "requests", "cpu_us_per_text", "peak_mb")
    ingest = [
        [name, f"{row['texts_per_second'] / ideal:.0%}", *(number(row[figure]) for figure in figures)]
        for name, row in found["ingest"].items()
    ]
    return f"""{BEGIN}
Measured on {found["date"]} in one run, on {found["machine"]}; {versions}. Contenders run in processes of their own, in
interleaved rounds, so ratios can be compared; times are those of this machine.

## Chat

Client CPU as a multiple of {REFERENCE}'s in the same round: median (least–most). A stream has 500 chunks, in one write
or in one write each.

{table(chats, "", *chat.KINDS)}

{CROWD} streams of {CROWD} chunks, begun at once, a chunk every 10 ms, so that two seconds are the least:

{table(crowds, "", *next(iter(found["crowds"].values())))}

## Imports

Milliseconds after the framework is loaded, chat model and embeddings together, and their share of the peer's:

{table(loading, "", "ms", "of the peer")}

## Embeddings

5,000 texts of about 200 tokens of Python's own documentation, against a server that takes 100 ms and 0.02 ms a token
and refuses what is over Mistral's limits. The first job of a new process also loads the tokenizer.

{table(ingest, "", "of the ideal", "texts/s", "first job", "requests", "CPU µs a text", "peak MB")}

## Growth

CPU of ours as something grows. The last column, CPU of one more piece since the row above, stays where it is if the
cost is linear.

{table(growth(found["growth"]["growth"]), "", "size", "CPU ms", "µs for one more")}

1,000 models in one process that have made a call each and wait: {idle(found["growth"]["idle"])}.
{END}"""


def growth(rows: dict[str, list[list[float]]]) -> Iterator[list[str]]:
    for name, sizes in rows.items():
        before: list[float] | None = None
        for size, taken in sizes:
            more = f"{(taken - before[1]) / (size - before[0]):,.1f}" if before else ""
            yield [name, number(size), f"{taken / 1e3:,.1f}", more]
            before = [size, taken]


def idle(row: dict[str, float]) -> str:
    return (
        f"{row['kB a model']:.1f} kB each, {row['sockets']:.0f} further sockets, {row['threads']:.0f} further threads"
    )


def run(program: str, *arguments: str) -> Any:
    """What another benchmark prints as JSON."""
    done = subprocess.run([sys.executable, HERE / program, "--json", *arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    processors = len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*")))
    return f"{processors} shared cores ({platform.machine()}, {platform.system()}), CPython {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=9, help="of chat and imports; a third of it of the rest")
    options = parser.parse_args()
    if options.quick:
        sys.exit(quick())
    loading = imports.measure(options.rounds)
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {name: version(name) for name in LIBRARIES},
        "chat": chat_ratios(options.rounds),
        "crowds": chat.crowds(max(options.rounds // 3, 1)),
        "loading": loading,
        "imports": {name: {"import": figures} for name, figures in imports.ratios(loading).items()},
        "ingest": run("ingest.py", "--rounds", str(max(options.rounds // 3, 1))),
        "growth": run("growth.py"),
    }
    TABLE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + page(found) + rest.partition(END)[2])
    print(f"Written: {TABLE.name}, {PAGE.name}")


if __name__ == "__main__":
    main()
