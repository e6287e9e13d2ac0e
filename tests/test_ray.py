"""Embedding on Ray Data: batches in every format, and a real cluster of two nodes that loses an actor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lava_mistral import AuthenticationError, ConfigurationError, InvalidRequestError
from lava_mistral.gateway import LocalGateway
from lava_mistral.ray import EmbedTexts

pa = pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")
pd = pytest.importorskip("pandas", reason="the extra [ray] is not installed")

CLUSTER = Path(__file__).resolve().parents[1] / "benchmarks" / "ingest_ray.py"
TEXTS = ["one", "two", "three", "one"]


def embed_texts(gateway: LocalGateway, **settings: Any) -> EmbedTexts:
    return EmbedTexts(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def as_table(texts: list[Any]) -> Any:
    return pa.table({"id": pa.array(range(len(texts))), "text": pa.array(texts, pa.string())})


def as_frame(texts: list[Any]) -> Any:
    return pd.DataFrame({"id": range(len(texts)), "text": texts})


def as_arrays(texts: list[Any]) -> Any:
    return {"id": np.arange(len(texts)), "text": np.array(texts, dtype=object)}


FORMATS = {"pyarrow": as_table, "pandas": as_frame, "numpy": as_arrays}


@pytest.mark.parametrize("name", FORMATS)
def test_a_batch_gains_a_column_of_vectors(gateway: LocalGateway, name: str) -> None:
    given = FORMATS[name](TEXTS)
    added = embed_texts(gateway)(given)
    assert type(added) is type(given)
    rows = added["vector"].to_pylist() if name == "pyarrow" else list(added["vector"])
    right = embed_texts(gateway).engine.embed(TEXTS, as_numpy=True).vectors
    assert np.array_equal(np.array(rows, np.float32), right)
    assert list(np.asarray(added["id"])) == [0, 1, 2, 3]
    columns = given.column_names if name == "pyarrow" else list(given)
    assert columns == ["id", "text"]


def test_arrow_gets_lists_of_fixed_size(gateway: LocalGateway) -> None:
    settings: dict[str, Any] = {"dimensions": 64, "into": "embedding"}
    embed = embed_texts(gateway, **settings)
    assert embed(as_table(TEXTS)).schema.field("embedding").type == pa.list_(pa.float32(), 64)
    # An empty block must not differ from the others.
    assert embed(as_table([])).schema.field("embedding").type == pa.list_(pa.float32(), 64)


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_a_column_that_is_not_there_is_named(gateway: LocalGateway, make: Callable[[list[Any]], Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"no column 'body'; it has 'id', 'text'"):
        embed_texts(gateway, column="body")(make(TEXTS))


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_a_column_that_is_there_already_is_not_overwritten(
    gateway: LocalGateway, make: Callable[[list[Any]], Any]
) -> None:
    embed = embed_texts(gateway)
    once = embed(make(TEXTS))
    with pytest.raises(ConfigurationError, match=r"has a column 'vector' already. Name another one .* into="):
        embed(once)
    assert len(gateway.requests) == 1
    with pytest.raises(ConfigurationError, match="has a column 'text' already"):
        embed_texts(gateway, into="text")(make(TEXTS))


def test_a_bad_text_is_shown_and_nothing_heavy_travels_with_the_error(gateway: LocalGateway) -> None:
    with pytest.raises(InvalidRequestError, match=r"input 1 has .* tokens.*; it is 'long long long") as caught:
        embed_texts(gateway)(as_table(["fine", "long " * 20_000]))
    assert len(str(caught.value)) < 400
    with pytest.raises(InvalidRequestError, match="input 2 is empty"):
        embed_texts(gateway)(as_table(["fine", "too", ""]))
    with pytest.raises(AuthenticationError) as refused:
        EmbedTexts(api_key="aks_test_wrong", base_url=gateway.base_url)(as_table(TEXTS))
    assert refused.value.partial is None


@pytest.mark.alone
def test_two_nodes_lose_an_actor_and_no_chunk() -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    command = [sys.executable, str(CLUSTER), "--json", "--chunks", "6000", "--actors", "2", "--rate", "4"]
    done = subprocess.run([*command, "--batch", "750", "--blocks", "4"], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2_000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["nodes"] == 2
    assert seen["killed"] == 1
    assert seen["actor_processes"] == 3
    assert (seen["rows"], seen["missing"], seen["twice"]) == (6_000, 0, 0)
    assert (seen["wrong_texts"], seen["wrong_vectors_of_500"]) == (0, 0)
    assert seen["vector_type"] == "fixed_size_list<element: float>[1024]"
