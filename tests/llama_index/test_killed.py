"""A process that is killed while it embeds (`kill -9`) leaves in LlamaIndex's `embeddings_cache` what was paid."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_index.core.storage.kvstore import SimpleKVStore

from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import LavaMistralEmbeddings
from tests.conftest import ROOT
from tests.fakes.command_line import DEMO
from tests.fakes.llama_index_scripted import Caller
from tests.fakes.warm_python import WarmPython

TEXTS = [f"{n} " + "word " * 190 for n in range(600)]
WORKERS = 2
KILLED_AT = 200
PROGRAM = """
import asyncio, sys
from tests.llama_index.test_killed import TEXTS, embeddings
url, key, path, asynchronous = sys.argv[1:]
model = embeddings(url, key, path, killed=True)
if asynchronous:
    asyncio.run(model.aget_text_embedding_batch(TEXTS))
else:
    model.get_text_embedding_batch(TEXTS)
"""


class CommittingStore(SimpleKVStore):
    """Commits each put to a file, and kills its process in the middle where it is told to."""

    def __init__(self, path: str, killed: bool) -> None:
        self._path, self._killed = Path(path), killed
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        super().__init__({"embeddings": dict(json.loads(line) for line in lines)})

    def put(self, key: str, val: Any, collection: str = "data") -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([key, val]) + "\n")
        super().put(key, val, collection)
        if self._killed and len(self.get_all(collection)) == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    async def aput(self, key: str, val: Any, collection: str = "data") -> None:
        self.put(key, val, collection)


def embeddings(url: str, key: str, path: str, *, killed: bool) -> LavaMistralEmbeddings:
    store = CommittingStore(path, killed)
    return LavaMistralEmbeddings(api_key=key, base_url=url, embeddings_cache=store, num_workers=WORKERS)


def test_a_killed_process_paid_twice_only_for_what_was_in_flight(
    gateway: LocalGateway, caller: Caller, tmp_path: Path, warm_python: Callable[..., WarmPython]
) -> None:
    path = str(tmp_path / "vectors.jsonl")
    arguments = [gateway.base_url, gateway.secret_key, path, "async" if caller.asynchronous else ""]
    process = warm_python(DEMO["llama-index"]).run(PROGRAM, *arguments, folder=ROOT)
    assert process.returncode == -signal.SIGKILL
    batch = max(len(request.body["input"]) for request in gateway.requests)
    model = embeddings(gateway.base_url, gateway.secret_key, path, killed=False)
    vectors = caller.one(model, "get_text_embedding_batch", TEXTS)
    assert len(vectors) == len(TEXTS)
    times = Counter(text for request in gateway.requests for text in request.body["input"])
    assert set(times) == set(TEXTS)
    twice = [text for text, paid in times.items() if paid > 1]
    assert not set(twice) & set(TEXTS[:KILLED_AT])
    # What was being handed on, in flight, and waiting for an earlier batch.
    assert len(twice) <= batch * (1 + WORKERS + 2)
