"""What an import of an integration costs where its framework is loaded already, in new processes, interleaved.

python benchmarks/imports.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

LANGCHAIN = "import langchain_core.language_models.chat_models, langchain_core.embeddings"
LLAMA_INDEX = "import llama_index.core"
IMPORTS = {
    "langchain-mistralai": (LANGCHAIN, "from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings"),
    "ours, LangChain": (LANGCHAIN, "from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings"),
    "llama-index-llms-mistralai": (
        LLAMA_INDEX,
        "from llama_index.llms.mistralai import MistralAI\n"
        "from llama_index.embeddings.mistralai import MistralAIEmbedding",
    ),
    "ours, LlamaIndex": (LLAMA_INDEX, "from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings"),
}
PEERS = {"ours, LangChain": "langchain-mistralai", "ours, LlamaIndex": "llama-index-llms-mistralai"}


def once(loaded: str, wanted: str, compiled: str) -> float:
    """Milliseconds of `wanted` in a new process that has `loaded`; byte code is kept in the folder `compiled`."""
    program = f"{loaded}\nimport time\nbegan = time.perf_counter()\n{wanted}\nprint(time.perf_counter() - began)"
    keep = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **keep})
    return float(done.stdout) * 1e3


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds by integration, one figure a round; a first round compiles and is left out."""
    figures: dict[str, list[float]] = {name: [] for name in IMPORTS}
    with tempfile.TemporaryDirectory() as compiled:
        for number in range(rounds + 1):
            for name, (loaded, wanted) in IMPORTS.items():
                taken = once(loaded, wanted, compiled)
                if number:
                    figures[name].append(taken)
    return figures


def ratios(figures: dict[str, list[float]]) -> dict[str, tuple[float, float, float]]:
    """The cost of ours as a multiple of the peer's in the same round: the median, the least and the most."""
    found = {}
    for name, peer in PEERS.items():
        each = [one / other for one, other in zip(figures[name], figures[peer], strict=True)]
        found[name] = (statistics.median(each), min(each), max(each))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    figures = measure(parser.parse_args().rounds)
    for name, taken in figures.items():
        print(f"{name:28} {statistics.median(taken):7.1f} ms")
    for name, (middle, low, high) in ratios(figures).items():
        print(f"{name:28} {middle:.2f} ({low:.2f}-{high:.2f}) of {PEERS[name]}")


if __name__ == "__main__":
    main()
