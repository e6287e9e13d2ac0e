"""Ingestion, side by side: texts a second, requests, client CPU and memory, in one run against one server.

5,000 texts of about 200 tokens (`ingest_corpus.py`) go to a server that takes 100 ms and 0.02 ms a token and refuses
what Mistral would refuse (`ingest_server.py`). Every contender runs in a process of its own, in interleaved rounds;
the table gives medians. "first" are the texts a second of the first job of the process, of as many texts: whatever is
loaded on the way counts. Contenders that need minutes for it begin with 400 texts instead. The rest is of the second
job, with other texts. A sample of the vectors is compared with what the server has for their texts.

"ideal" is a bare schedule that knows the number of tokens beforehand: batches of 16,000, 16 in flight, threads over
httpx, base64 to lists, no check, no retry. langchain-mistralai counts characters instead of tokens where its tokenizer,
which is behind a login, can't be downloaded; so it does here.

    python benchmarks/ingest.py [--texts 5000] [--rounds 3] [--only NAME …] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingest_corpus import write
from ingest_server import numbers, place_of
from ingest_stores import CONTENDERS as STORES

SERVER = Path(__file__).with_name("ingest_server.py")
KEY = "aks_test_benchmark"
REFERENCE = "langchain-mistralai"
FEW = 400
"""Texts with which a slow contender is warmed up."""
SAMPLE = 97
"""Every so many vectors, one is looked at."""

Embed = Callable[[list[str]], Any]


@contextmanager
def server(corpus: Path) -> Iterator[str]:
    """The address, ending in `/v1`, of a server with the latency of the benchmark."""
    command = [sys.executable, SERVER, "0.1", "0.00002", corpus]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def _ours_langchain(url: str) -> Any:
    from langchain_lava_mistral import LavaMistralEmbeddings

    return LavaMistralEmbeddings(api_key=KEY, base_url=url)


def _ours_llama_index(url: str) -> Any:
    from llama_index_lava_mistral import LavaMistralEmbeddings

    return LavaMistralEmbeddings(api_key=KEY, base_url=url)


def ours_langchain(url: str) -> Embed:
    model = _ours_langchain(url)
    return lambda texts: model.embed_documents(texts)


def ours_langchain_async(url: str) -> Embed:
    model = _ours_langchain(url)
    return lambda texts: asyncio.run(model.aembed_documents(texts))


def ours_llama_index(url: str) -> Embed:
    model = _ours_llama_index(url)
    return lambda texts: model.get_text_embedding_batch(texts)


def ours_llama_index_async(url: str) -> Embed:
    model = _ours_llama_index(url)
    return lambda texts: asyncio.run(model.aget_text_embedding_batch(texts))


def ours(url: str) -> Embed:
    from lava_mistral import LavaMistral

    client = LavaMistral(api_key=KEY, base_url=url)
    return lambda texts: client.embed(texts).vectors


def ours_async(url: str) -> Embed:
    from lava_mistral import AsyncLavaMistral

    client = AsyncLavaMistral(api_key=KEY, base_url=url)
    return lambda texts: asyncio.run(client.embed(texts)).vectors


def ours_numpy(url: str) -> Embed:
    from lava_mistral import LavaMistral

    client = LavaMistral(api_key=KEY, base_url=url)
    return lambda texts: client.embed(texts, as_numpy=True).vectors


def _langchain_mistralai(url: str) -> Any:
    from langchain_mistralai import MistralAIEmbeddings

    with warnings.catch_warnings():
        # It says that it counts characters.
        warnings.simplefilter("ignore")
        return MistralAIEmbeddings(api_key="k", endpoint=f"{url}/")


def langchain_mistralai(url: str) -> Embed:
    model = _langchain_mistralai(url)
    return lambda texts: model.embed_documents(texts)


def langchain_mistralai_async(url: str) -> Embed:
    # Its HTTP client belongs to one event loop: one model for the warm-up, one for what is measured.
    models = [_langchain_mistralai(url) for _ in range(2)]
    return lambda texts: asyncio.run(models.pop().aembed_documents(texts))


def _llama_index_mistralai(url: str) -> Any:
    from llama_index.embeddings.mistralai import MistralAIEmbedding
    from mistralai.client import Mistral

    model = MistralAIEmbedding(api_key="k")
    # It has no parameter for the server's address.
    model._client = Mistral(api_key="k", server_url=url.removesuffix("/v1"))
    return model


def llama_index_mistralai(url: str) -> Embed:
    model = _llama_index_mistralai(url)
    return lambda texts: model.get_text_embedding_batch(texts)


def llama_index_mistralai_async(url: str) -> Embed:
    models = [_llama_index_mistralai(url) for _ in range(2)]
    return lambda texts: asyncio.run(models.pop().aget_text_embedding_batch(texts))


def mistralai_sdk(url: str) -> Embed:
    from mistralai.client import Mistral

    client = Mistral(api_key="k", server_url=url.removesuffix("/v1"))

    def embed(texts: list[str]) -> Any:
        vectors = []
        for start in range(0, len(texts), 32):
            answer = client.embeddings.create(model="mistral-embed", inputs=texts[start : start + 32])
            vectors.extend(item.embedding for item in answer.data)
        return vectors

    return embed


def ideal(url: str, tokens: Mapping[str, int]) -> Embed:
    import base64
    from array import array
    from concurrent.futures import ThreadPoolExecutor

    import httpx
    import orjson

    client = httpx.Client(limits=httpx.Limits(max_connections=None), timeout=60.0)

    def send(batch: list[str]) -> list[list[float]]:
        body = orjson.dumps({"model": "mistral-embed", "input": batch, "encoding_format": "base64"})
        answer = orjson.loads(client.post(f"{url}/embeddings", content=body).content)
        return [array("f", base64.b64decode(item["embedding"])).tolist() for item in answer["data"]]

    def embed(texts: list[str]) -> Any:
        batches: list[list[str]] = [[]]
        total = 0
        for text in texts:
            if total + tokens[text] > 16_000:
                batches.append([])
                total = 0
            batches[-1].append(text)
            total += tokens[text]
        with ThreadPoolExecutor(16) as pool:
            return [vector for vectors in pool.map(send, batches) for vector in vectors]

    return embed


IDEAL = "ideal schedule"
CONTENDERS: dict[str, Callable[[str], Embed]] = {
    "ours, LangChain": ours_langchain,
    "ours, LangChain async": ours_langchain_async,
    "ours, LlamaIndex": ours_llama_index,
    "ours, LlamaIndex async": ours_llama_index_async,
    "ours, no framework": ours,
    "ours, no framework async": ours_async,
    "ours, to numpy": ours_numpy,
    REFERENCE: langchain_mistralai,
    "langchain-mistralai async": langchain_mistralai_async,
    "llama-index-embeddings-mistralai": llama_index_mistralai,
    "llama-index-embeddings-mistralai async": llama_index_mistralai_async,
    "mistralai SDK, batches of 32": mistralai_sdk,
    **STORES,
}


def counters(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url) as answer:
        told: dict[str, int] = json.load(answer)
    return told


def measure(name: str, url: str, corpus: Path) -> dict[str, float]:
    """One contender, in this process."""
    jobs = json.loads(corpus.read_bytes())
    tokens = {text: count for texts, counts in jobs.values() for text, count in zip(texts, counts, strict=True)}
    embed = ideal(url, tokens) if name == IDEAL else CONTENDERS[name](url)
    texts = jobs["first"][0]
    quick = name == IDEAL or name.startswith("ours")
    wall = time.perf_counter()
    check(texts if quick else texts[:FEW], embed(texts if quick else texts[:FEW]))
    first = len(texts) / (time.perf_counter() - wall) if quick else math.nan
    texts = jobs["then"][0]
    counters(url)
    cpu, wall = time.process_time(), time.perf_counter()
    vectors = embed(texts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    check(texts, vectors)
    told = counters(url)
    return {
        "texts_per_second": len(texts) / wall,
        "first_job": first,
        "requests": told["requests"],
        "refused": told["refused"],
        "most_in_flight": told["most_in_flight"],
        "cpu_us_per_text": cpu / len(texts) * 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads_left": threading.active_count() - 1,
    }


def check(texts: list[str], vectors: Any) -> None:
    """Look whether each text of a sample has its own vector."""
    assert len(vectors) == len(texts)
    assert {len(vector) for vector in vectors} == {1024}
    for text, vector in zip(texts[::SAMPLE], vectors[::SAMPLE], strict=True):
        assert [*map(float, vector)] == [*numbers(place_of(text))], text


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    names = [name for name in (IDEAL, *CONTENDERS) if not options.only or any(part in name for part in options.only)]
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.json"
        write(corpus, options.texts)
        with server(corpus) as url:
            for _ in range(options.rounds):
                for name in names:
                    child = subprocess.run(
                        [sys.executable, __file__, "--measure", name, "--url", url, "--corpus", corpus],
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                        env={**os.environ, "HF_HUB_OFFLINE": "1"},
                    )
                    figures[name].append(json.loads(child.stdout.splitlines()[-1]))
    return {
        name: {figure: statistics.median(r[figure] for r in rounds) for figure in rounds[0]}
        for name, rounds in figures.items()
    }


def print_table(figures: dict[str, dict[str, float]]) -> None:
    reference, best = figures.get(REFERENCE), figures.get(IDEAL)
    width = max(map(len, figures))
    print(f"{'':{width}}  texts/s    first  × peer  of ideal  requests  refused  in flight  CPU µs/text  peak MB")
    for name, row in figures.items():
        times = f"{row['texts_per_second'] / reference['texts_per_second']:.1f}" if reference else ""
        share = f"{row['texts_per_second'] / best['texts_per_second']:.0%}" if best else ""
        first = "" if math.isnan(row["first_job"]) else f"{row['first_job']:,.0f}"
        print(
            f"{name:{width}}  {row['texts_per_second']:7,.0f}  {first:>7}  {times:>6}  {share:>8}  "
            f"{row['requests']:8,.0f}  {row['refused']:7,.0f}  "
            f"{row['most_in_flight']:9,.0f}  {row['cpu_us_per_text']:11,.0f}  {row['peak_mb']:7,.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of those to run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.url, options.corpus)))
        return
    figures = run(options)
    if options.json:
        print(json.dumps(figures))
    else:
        print_table(figures)


if __name__ == "__main__":
    main()
