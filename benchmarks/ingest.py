"""Ingestion, side by side: texts a second, requests, client CPU and memory, in one run against one server.

5,000 texts of about 200 tokens go to a server that takes 100 ms and 0.02 ms a token. Every contender runs in a process
of its own, warmed up by 400 texts, in interleaved rounds; the table gives medians. "ideal" is a bare schedule that
knows the number of tokens beforehand: batches of 16,000, 16 in flight, threads over httpx, base64 to lists, no check,
no retry. langchain-mistralai counts characters instead of tokens where its tokenizer, which is behind a login, can't
be downloaded; so it does here.

    python benchmarks/ingest.py [--texts 5000] [--rounds 3] [--only NAME …] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("ingest_server.py")
KEY = "aks_test_benchmark"
CHARACTERS = 4.49
"""Characters of these texts that are one token for Mistral's tokenizer."""
REFERENCE = "langchain-mistralai"
LINES = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they",
    "which one you were her all she there would their we him been has when who will more no if out so said what",
    "up its about into than them can only other new some could time these two may then do first any my now such",
    "like our over man me even most made after also did many before must through back years where much your way",
    "well down should because each just those people how too little state good very make world still own see men",
    "work long get here between both",
)
WORDS = [word for line in LINES for word in line.split()]

Embed = Callable[[list[str]], Any]


def passages(count: int) -> list[str]:
    """Texts of about 200 tokens, all different."""
    draw = random.Random(7)
    texts = []
    for number in range(count):
        words = [f"{number}"]
        size = draw.gauss(200, 30) * CHARACTERS
        while sum(map(len, words)) + len(words) < size:
            words.extend(draw.choices(WORDS, k=10))
        texts.append(" ".join(words))
    return texts


@contextmanager
def server() -> Iterator[str]:
    """The address, ending in `/v1`, of a server with the latency of the benchmark."""
    command = [sys.executable, SERVER, "0.1", "0.00002", str(CHARACTERS)]
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


def ideal(url: str) -> Embed:
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
        tokens = 0.0
        for text in texts:
            if tokens + len(text) / CHARACTERS > 16_000:
                batches.append([])
                tokens = 0.0
            batches[-1].append(text)
            tokens += len(text) / CHARACTERS
        with ThreadPoolExecutor(16) as pool:
            return [vector for vectors in pool.map(send, batches) for vector in vectors]

    return embed


CONTENDERS: dict[str, Callable[[str], Embed]] = {
    "ideal schedule": ideal,
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
}


def counters(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url) as answer:
        told: dict[str, int] = json.load(answer)
    return told


def measure(name: str, url: str, count: int) -> dict[str, float]:
    """One contender, in this process."""
    embed = CONTENDERS[name](url)
    embed(passages(400))
    texts = passages(count)
    counters(url)
    cpu, wall = time.process_time(), time.perf_counter()
    vectors = embed(texts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert len(vectors) == count
    assert {len(vector) for vector in vectors} == {1024}
    told = counters(url)
    return {
        "texts_per_second": count / wall,
        "requests": told["requests"],
        "most_in_flight": told["most_in_flight"],
        "cpu_us_per_text": cpu / count * 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads_left": threading.active_count() - 1,
    }


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    names = [name for name in CONTENDERS if not options.only or any(part in name for part in options.only)]
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with server() as url:
        for _ in range(options.rounds):
            for name in names:
                child = subprocess.run(
                    [sys.executable, __file__, "--texts", str(options.texts), "--measure", name, "--url", url],
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
    reference, best = figures.get(REFERENCE), figures.get("ideal schedule")
    width = max(map(len, figures))
    print(f"{'':{width}}  texts/s  × peer  of ideal  requests  in flight  CPU µs/text  peak MB")
    for name, row in figures.items():
        times = f"{row['texts_per_second'] / reference['texts_per_second']:.1f}" if reference else ""
        share = f"{row['texts_per_second'] / best['texts_per_second']:.0%}" if best else ""
        print(
            f"{name:{width}}  {row['texts_per_second']:7,.0f}  {times:>6}  {share:>8}  {row['requests']:8,.0f}  "
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
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.url, options.texts)))
        return
    figures = run(options)
    if options.json:
        print(json.dumps(figures))
    else:
        print_table(figures)


if __name__ == "__main__":
    main()
