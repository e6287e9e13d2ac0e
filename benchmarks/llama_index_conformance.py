"""The conformance table of tests/llama_index, for this package and for llama-index-llms-mistralai.

Usage: python benchmarks/llama_index_conformance.py [--json]

Both run the same rows against one embedded gateway in this process; the peer's client is sent there by LavaTransport.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lava_mistral.gateway import LocalGateway
from tests.llama_index.conformance import Adapter, recorded_rows, rows
from tests.llama_index.test_conformance import Ours, Peer


def measure(adapter: Adapter) -> dict[str, str | None]:
    """Each row's name and, where it failed, why."""
    results: dict[str, str | None] = {}
    with LocalGateway() as gateway:
        for row in (*rows(), *recorded_rows()):
            gateway.reset()
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    row.run(adapter, gateway)
            except Exception as error:  # noqa: BLE001 - whatever it is, the row failed
                results[str(row)] = f"{type(error).__name__}: {error}".splitlines()[0][:90]
            else:
                results[str(row)] = None
    return results


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    adapters = (Ours(), Peer())
    results = {adapter.name: measure(adapter) for adapter in adapters}
    if "--json" in sys.argv:
        print(json.dumps(results, indent=2))
        return
    ours, peer = (results[adapter.name] for adapter in adapters)
    print(f"{'row':80} ours  peer")
    for row in ours:
        marks = ["ok" if result[row] is None else "-" for result in (ours, peer)]
        print(f"{row:80} {marks[0]:5} {marks[1]:5} {peer[row] or ''}")
    print()
    groups = Counter(row.partition(":")[0] for row in ours)
    print(f"{'group':12} {'rows':>5} {'ours':>5} {'peer':>5}")
    for group, count in groups.items():
        print(f"{group:12} {count:5} {passed(ours, group):5} {passed(peer, group):5}")
    peer_version = version("llama-index-llms-mistralai")
    print(f"{'all':12} {len(ours):5} {passed(ours):5} {passed(peer):5}   (peer: {Peer.name} {peer_version})")


def passed(results: dict[str, Any], group: str = "") -> int:
    return sum(1 for row, failure in results.items() if row.startswith(group) and failure is None)


if __name__ == "__main__":
    main()
