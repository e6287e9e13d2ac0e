"""Run an embedding job on a Ray cluster of two nodes, kill a worker on the way, and print what was seen as JSON.

python ray_job.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from lava_mistral.gateway import LocalGateway
from lava_mistral.jobs import EmbeddingJob
from lava_mistral.ray import RayExecutor

ROWS = 3_000


def kill_a_worker(gateway: LocalGateway, killed: list[int]) -> None:
    """Kill a worker of this cluster that is in the middle of a slice: it is known by the gateway's address."""
    while len(gateway.requests) < 6:
        time.sleep(0.005)
    for process in Path("/proc").iterdir():
        try:
            busy = (process / "cmdline").read_bytes().startswith(b"ray::_embed_slice")
            if busy and gateway.base_url.encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
                return
        except OSError:
            continue


def main(folder: Path) -> None:
    with (folder / "in.jsonl").open("w") as file:
        for number in range(ROWS):
            file.write(json.dumps({"text": f"text {number}" + " word" * 100 if number != 1_234 else ""}) + "\n")
    killed: list[int] = []
    with LocalGateway(latency=0.1, keep_requests=1_000_000) as gateway:
        os.environ |= {"LAVA_SECRET_KEY": gateway.secret_key, "LAVA_BASE_URL": gateway.base_url}
        quiet = {"include_dashboard": False, "num_cpus": 1, "object_store_memory": 100_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=quiet)
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        try:
            killer = threading.Thread(target=kill_a_worker, args=(gateway, killed), daemon=True)
            killer.start()
            job = EmbeddingJob(folder / "in.jsonl", folder / "out", rows_per_part=500, max_concurrency=2)
            done = job.run(executor=RayExecutor(cluster.address), spend_limit="0.10")
            killer.join()
        finally:
            import ray

            nodes = len(ray.nodes())
            ray.shutdown()
            cluster.shutdown()
        paid = Counter(text for request in gateway.requests for text in request.body["input"])
        tokens = sum(request.usage["prompt_tokens"] for request in gateway.requests if request.usage)
    ids = pq.read_table(folder / "out")["id"].to_pylist()
    seen = {
        "nodes": nodes,
        "killed": len(killed),
        "right": ids == [number for number in range(ROWS) if number != 1_234],
        "done": done.rows_done,
        "rejected": done.rejected,
        "texts": len(paid),
        "paid_twice": sum(paid.values()) - len(paid),
        "tokens_not_told": tokens - done.tokens,
    }
    print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
