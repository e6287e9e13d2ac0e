"""Embeds many chunks on a local Ray cluster of two nodes, kills an actor on the way, and checks that nothing is lost.

    python benchmarks/ingest_ray.py --chunks 200000

The cluster, the gateway with its rate limit and the killing are real; the model behind the gateway is simulated.
Prints what it saw, as JSON with `--json`; the exit status is 1 when a chunk is missing, comes twice or has a vector
that is not its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import ray
import ray.data
from ray.cluster_utils import Cluster

from lava_mistral import LavaMistral
from lava_mistral.gateway import LocalGateway
from lava_mistral.ray import EmbedTexts

WORDS = ("storage", "invoice", "harbour", "signal", "pressure", "contract", "winter", "engine", "letter", "garden")


class NotedEmbedTexts(EmbedTexts):
    """Notes the process that it runs in, so that it can be killed from outside."""

    def __init__(self, *, notes: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._note = Path(notes) / str(os.getpid())
        self._note.touch()

    def __call__(self, batch: Any) -> Any:
        done = super().__call__(batch)
        with self._note.open("a") as note:
            note.write("x")
        return done


def chunk(number: int) -> str:
    """The text of one chunk; every one is different."""
    draw = random.Random(number)
    return f"Chunk {number}: " + " ".join(draw.choices(WORDS, k=draw.randint(5, 25)))


def write_chunks(folder: Path, count: int, files: int) -> None:
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(count), files)):
        table = pa.table({"id": part, "text": [chunk(int(place)) for place in part]})
        pyarrow.parquet.write_table(table, folder / f"chunks-{number}.parquet")


def kill_one(notes: Path, killed: list[int]) -> None:
    """Kill the first actor that has done a batch, in the middle of its second."""
    while not killed:
        for note in notes.iterdir():
            if note.stat().st_size > 0:
                time.sleep(0.2)
                os.kill(int(note.name), signal.SIGKILL)
                killed.append(int(note.name))
                return
        time.sleep(0.02)


def check(folder: Path, count: int, client: LavaMistral) -> dict[str, Any]:
    table = pyarrow.dataset.dataset(folder, format="parquet").to_table()
    ids = table["id"].to_numpy()
    seen = Counter(ids.tolist())
    place_of = {int(id_): place for place, id_ in enumerate(ids)}
    draw = random.Random(0)
    sample = sorted(draw.sample(range(count), min(count, 500)))
    right = client.embed([chunk(number) for number in sample], as_numpy=True).vectors
    column = table["vector"].combine_chunks()
    vectors = np.stack([np.asarray(column[place_of[number]].as_py(), np.float32) for number in sample])
    return {
        "rows": table.num_rows,
        "missing": sum(number not in seen for number in range(count)),
        "twice": sum(times > 1 for times in seen.values()),
        "wrong_texts": sum(text != chunk(int(id_)) for id_, text in zip(ids, table["text"].to_pylist(), strict=True)),
        "wrong_vectors_of_500": int((~np.isclose(vectors, right, atol=1e-6).all(axis=1)).sum()),
        "vector_type": str(table.schema.field("vector").type),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    notes = folder / "notes"
    notes.mkdir()
    write_chunks(folder / "chunks", options.chunks, options.blocks)
    quiet = {"include_dashboard": False, "num_cpus": 2, "object_store_memory": 500_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=quiet)
    cluster.add_node(num_cpus=2, object_store_memory=500_000_000)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    killed: list[int] = []
    try:
        with LocalGateway(
            requests_per_second=options.rate, burst=2.0, latency=0.05, keep_requests=1_000_000
        ) as gateway:
            killer = threading.Thread(target=kill_one, args=(notes, killed), daemon=True)
            killer.start()
            began = time.perf_counter()
            access = {"api_key": gateway.secret_key, "base_url": gateway.base_url}
            ray.data.read_parquet(str(folder / "chunks")).map_batches(
                NotedEmbedTexts,
                fn_constructor_kwargs={"notes": str(notes), "max_concurrency": 8, **access},
                batch_size=options.batch,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=options.actors),
                num_cpus=0.5,
            ).write_parquet(str(folder / "vectors"))
            seconds = time.perf_counter() - began
            statuses = Counter(request.status for request in gateway.requests)
            result = {
                "chunks": options.chunks,
                "nodes": len(ray.nodes()),
                "actors": options.actors,
                "actor_processes": len(list(notes.iterdir())),
                "killed": len(killed),
                "seconds": round(seconds, 1),
                "chunks_per_second": round(options.chunks / seconds),
                "requests": sum(statuses.values()),
                "refused": statuses[429],
                "rate_limit_per_second": options.rate,
                "rate_used_per_second": round(statuses[200] / seconds, 1),
                "max_in_flight": gateway.max_in_flight,
            }
            result |= check(folder / "vectors", options.chunks, LavaMistral(**access))
    finally:
        ray.shutdown()
        cluster.shutdown()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4_000, help="rows that an actor gets at a time")
    parser.add_argument("--blocks", type=int, default=20, help="files that the chunks are in")
    parser.add_argument("--rate", type=float, default=6.0, help="the account's limit, requests a second")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lava-mistral-ray-") as folder:
        result = run(options, Path(folder))
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' '):>24}  {value}")
    wrong = ("missing", "twice", "wrong_texts", "wrong_vectors_of_500")
    return 0 if result["killed"] == 1 and not any(result[name] for name in wrong) else 1


if __name__ == "__main__":
    sys.exit(main())
