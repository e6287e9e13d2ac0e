"""Embedding on Ray Data: batches in every format, and a real cluster of two nodes that loses an actor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lava_mistral import AuthenticationError, ConfigurationError, InvalidRequestError, SpendLimitError
from lava_mistral.gateway import LocalGateway
from lava_mistral.ray import EmbedTexts

pa = pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")
pytest.importorskip("pyarrow.compute")
pytest.importorskip("pyarrow.parquet")
pd = pytest.importorskip("pandas", reason="the extra [ray] is not installed")

JOB = Path(__file__).parent / "fakes" / "ray_job.py"
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "embeddings.md"
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
    # Ray takes a table whatever it has given.
    assert added.schema.field("vector").type == pa.list_(pa.float32(), 1024)
    right = embed_texts(gateway).engine.embed(TEXTS, as_numpy=True).vectors
    assert np.array_equal(np.array(added["vector"].to_pylist(), np.float32), right)
    assert added["id"].to_pylist() == [0, 1, 2, 3]
    columns = given.column_names if name == "pyarrow" else list(given)
    assert columns == ["id", "text"]


def test_arrow_gets_lists_of_fixed_size(gateway: LocalGateway) -> None:
    settings: dict[str, Any] = {"dimensions": 64, "into": "embedding"}
    embed = embed_texts(gateway, **settings)
    assert embed(as_table(TEXTS)).schema.field("embedding").type == pa.list_(pa.float32(), 64)
    # An empty block must not differ from the others.
    assert embed(as_table([])).schema.field("embedding").type == pa.list_(pa.float32(), 64)
    short = embed_texts(gateway, float16=True)(as_table(TEXTS))
    assert short.schema.field("vector").type == pa.list_(pa.float16(), 1024)


@pytest.mark.parametrize("name", FORMATS)
def test_bad_rows_get_an_error_and_the_others_their_vectors(gateway: LocalGateway, name: str) -> None:
    texts = ["one", None, "three", "", "long " * 20_000, "six"]
    added = embed_texts(gateway, error_column="error")(FORMATS[name](texts))
    errors = added["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, True, False, False, True]
    assert "empty" in errors[3]
    assert "tokens" in errors[4]
    assert [vector is None for vector in added["vector"].to_pylist()] == [False, True, False, True, True, False]
    assert added.schema.field("vector").type == pa.list_(pa.float32(), 1024)
    good = added.filter(pa.compute.is_valid(added["vector"]))
    right = embed_texts(gateway).engine.embed(["one", "three", "six"], as_numpy=True).vectors
    assert np.array_equal(np.array(good["vector"].to_pylist(), np.float32), right)


def test_a_spend_limit_ends_the_batch(gateway: LocalGateway) -> None:
    with pytest.raises(SpendLimitError):
        embed_texts(gateway, spend_limit="0.00000001", error_column="error")(as_table(TEXTS))
    assert gateway.requests == []


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


@pytest.mark.alone
def test_a_job_on_two_nodes_loses_a_worker_and_no_row(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    done = subprocess.run([sys.executable, str(JOB), str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2_000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    # The worker had two requests in flight; all that had come is in its journal.
    assert seen.pop("paid_twice") <= 2 * 150
    assert 0 <= seen.pop("tokens_not_told") <= 2 * 16_384
    expected = {"nodes": 2, "killed": 1, "right": True, "done": 3_000, "rejected": 1, "texts": 2_999}
    assert seen == expected


@pytest.mark.alone
def test_the_recipe_runs_as_printed_on_two_cpus_and_again(gateway: LocalGateway, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    (tmp_path / "chunks").mkdir()
    pa.parquet.write_table(as_table(["one", None, "three"]), tmp_path / "chunks" / "chunks.parquet")
    code = GUIDE.read_text("utf-8").split("```py\n")[1].split("```")[0]
    # A cluster of its own, also where another one runs on this machine: Ray would take that.
    script = f"import ray\nray.init(address='local', num_cpus=2, include_dashboard=False)\n{code}\n{code}"
    environment = os.environ | {"LAVA_SECRET_KEY": gateway.secret_key, "LAVA_BASE_URL": gateway.base_url}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2_000:]
    table = pa.parquet.read_table(tmp_path / "vectors").sort_by("id")
    assert table["id"].to_pylist() == [0, 1, 2]
    assert table["vector"].type == pa.list_(pa.field("element", pa.float32()), 1024)
    assert [error is None for error in table["error"].to_pylist()] == [True, False, True]
