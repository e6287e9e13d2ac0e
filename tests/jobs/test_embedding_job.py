"""Embedding jobs: formats, columns, bad rows, what is noticed when a job goes on, and who pays."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lava_mistral import (
    Billing,
    ConfigurationError,
    InsufficientBalanceError,
    InvalidRequestError,
    LavaMistral,
    SpendLimitError,
)
from lava_mistral.gateway import LocalGateway
from lava_mistral.jobs import EmbeddingJob, JobProgress

ROWS = [{"key": f"k{number}", "text": f"text number {number}", "page": number % 7} for number in range(250)]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"), row_group_size=60)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.with_suffix(".jsonl").write_text("".join(f"{json.dumps(row)}\n\n" for row in rows))


def write_gzip(path: Path, rows: list[dict[str, Any]]) -> None:
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


WRITERS: list[Callable[[Path, list[dict[str, Any]]], None]] = [write_parquet, write_jsonl, write_gzip, write_csv]


def client(gateway: LocalGateway, **settings: Any) -> LavaMistral:
    return LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def job(gateway: LocalGateway, inputs: Any, out: Path, **settings: Any) -> EmbeddingJob:
    settings = {"id": "key", "rows_per_part": 100, "client": client(gateway)} | settings
    return EmbeddingJob(inputs, out, **settings)


def sent(gateway: LocalGateway) -> list[str]:
    return [text for request in gateway.requests if request.status == 200 for text in request.body["input"]]


def paid(gateway: LocalGateway) -> int:
    return sum(request.usage["prompt_tokens"] for request in gateway.requests if request.status == 200)


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_rows_with_their_vectors_in_order(
    gateway: LocalGateway, tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a", ROWS[:130])
    write(folder / "b", ROWS[130:])
    done = job(gateway, folder, tmp_path / "out", columns=["page", "text"]).run()
    table = pq.read_table(tmp_path / "out")
    assert table.schema.names == ["id", "vector", "page", "text"]
    assert table.schema.field("vector").type.equals(pa.list_(pa.field("element", pa.float32()), 1024))
    assert table["id"].to_pylist() == [row["key"] for row in ROWS]
    assert [str(page) for page in table["page"].to_pylist()] == [str(row["page"]) for row in ROWS]
    right = client(gateway).embed([row["text"] for row in ROWS], as_numpy=True).vectors
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), right)
    names = [path.name for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert names == [f"part-{start:012}-{end:012}.parquet" for start, end in ((0, 100), (100, 200), (200, 250))]
    assert (done.rows_done, done.rejected) == (250, 0)
    assert 2 * done.tokens == paid(gateway)


def test_without_id_rows_are_numbered_and_numbers_may_be_short(gateway: LocalGateway, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in", ROWS)
    job(gateway, str(tmp_path / "*.jsonl"), tmp_path / "out", id=None, dtype="float16", dimensions=64).run()
    table = pq.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == list(range(250))
    assert table.schema.field("vector").type.equals(pa.list_(pa.field("element", pa.float16()), 64))


def test_bad_rows_are_rejected_with_the_reason(gateway: LocalGateway, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS[:3]]
    lines += ["no json", "[1]", '{"key": "null"}', '{"key": "empty", "text": ""}', '{"key": "number", "text": 5}']
    lines += [json.dumps({"key": "long", "text": "word " * 20_000}), '{"text": "no id"}', json.dumps(ROWS[3])]
    (tmp_path / "in.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"key": "bytes", "text": "\xff"}\n')
    given = job(gateway, tmp_path / "in.jsonl", tmp_path / "out")
    done = given.run()
    assert (done.rows_done, done.rejected) == (12, 8)
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == ["k0", "k1", "k2", "k3"]
    rejected = sorted(map(json.loads, given.rejected.read_text().splitlines()), key=lambda line: line["row"])
    assert [line["row"] for line in rejected] == [3, 4, 5, 6, 7, 8, 9, 11]
    reasons = [
        "no JSON object",
        "no JSON object",
        "null",
        "empty",
        "no string",
        "tokens; Mistral embeds at most",
        "id is null",
        "no JSON",
    ]
    assert all(part in line["reason"] for part, line in zip(reasons, rejected, strict=True))
    assert all(len(line["content"]) <= 200 for line in rejected)
    assert [line.get("id") for line in rejected] == [None, None, "null", "empty", "number", "long", None, None]
    # As after a kill between the rejected rows and their part.
    next((tmp_path / "out").glob("*.parquet")).unlink()
    assert given.run().rejected == 8
    assert sorted(map(json.loads, given.rejected.read_text().splitlines()), key=lambda line: line["row"]) == rejected
    with pytest.raises(InvalidRequestError, match="row 3 can't be embedded: it is no JSON"):
        job(gateway, tmp_path / "in.jsonl", tmp_path / "strict", strict=True).run()


def test_a_csv_row_of_another_length_is_rejected(gateway: LocalGateway, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b'key,text\n1,one\n2,two,too,many\n3,"three\nlines"\n4,\xff\n')
    given = job(gateway, tmp_path / "in.csv", tmp_path / "out", columns=["text"])
    assert given.run().rejected == 2
    assert pq.read_table(tmp_path / "out")["text"].to_pylist() == ["one", "three\nlines"]
    assert "it has 4 fields, the headline 2" in given.rejected.read_text()


@pytest.mark.parametrize(
    ("name", "content", "texts", "reasons"),
    [
        ("in.csv", b"text,n\nfirst,1\nsec\rond,2\n", ["first", "ond"], ["it has 1 fields, the headline 2"]),
        ("in.csv", b"text,n\rfirst,1\rsecond,2\r", ["first", "second"], []),
        ("in.csv", b'"te\nxt",text\nx,one\n', ["one"], []),
        ("in.csv", "text,n\ncafé,1\nbar,2\n".encode("latin-1"), ["bar"], ["its 'text' is no UTF-8"]),
        ("in.jsonl", b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n', ["one", "two"], []),
        ("in.jsonl", b'{"text": "one", "score": NaN}\n{"text": "two", "score": 1}\n', ["one", "two"], []),
        ("in.jsonl", b'{"text": "one\\ud800"}\n{"text": "two"}\n', ["two"], ["its 'text' is no UTF-8"]),
    ],
)
def test_files_as_other_programs_write_them(
    gateway: LocalGateway, tmp_path: Path, name: str, content: bytes, texts: list[str], reasons: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    given = job(gateway, tmp_path / name, tmp_path / "out", id=None, columns=["text"])
    given.run()
    assert pq.read_table(tmp_path / "out")["text"].to_pylist() == texts
    rejected = given.rejected.read_text().splitlines() if given.rejected.exists() else []
    assert [json.loads(line)["reason"] for line in rejected] == reasons


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.csv", "text,n\nfirst,1\n".encode("utf-16"), "is not UTF-8"),
        ("in.csv", b"text,text\na,b\n", "several columns 'text'"),
        ("in.csv", b"", "no column 'text'; it has none"),
        ("in.csv.gz", b"text\none\n", "can't be read: Not a gzipped file"),
        ("in.jsonl.gz", gzip.compress(b'{"text": "one"}\n' * 5_000)[:-20], "can't be read: Compressed file ended"),
        ("in.parquet", b"text\none\n", "can't be read: Parquet"),
    ],
)
def test_a_file_that_can_not_be_read_is_named(
    gateway: LocalGateway, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said) as caught:
        job(gateway, path, tmp_path / "out", id=None).estimate()
    assert str(path) in caught.value.message


@pytest.mark.parametrize("write", WRITERS)
def test_white_space_alone_is_rejected_by_its_id(
    gateway: LocalGateway, tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    write(tmp_path / "in", [ROWS[0], {"key": "blank", "text": " \t\n\u00a0", "page": 0}, ROWS[1]])
    inputs = str(tmp_path / "in.*")
    given = job(gateway, inputs, tmp_path / "out")
    assert (given.run().rejected, sent(gateway)) == (1, ["text number 0", "text number 1"])
    [line] = map(json.loads, given.rejected.read_text().splitlines())
    assert (line["row"], line["id"], line["reason"]) == (1, "blank", "the text is white space alone")
    numbered = job(gateway, inputs, tmp_path / "numbered", id=None)
    numbered.run()
    assert "id" not in json.loads(numbered.rejected.read_text())


def test_an_id_that_json_has_no_word_for_is_rejected_as_text(gateway: LocalGateway, tmp_path: Path) -> None:
    write_parquet(tmp_path / "in", [{"key": date(2026, 8, 1), "text": ""}, {"key": date(2026, 8, 2), "text": "two"}])
    given = job(gateway, tmp_path / "in.parquet", tmp_path / "out")
    assert given.run().rejected == 1
    assert json.loads(given.rejected.read_text())["id"] == "2026-08-01"


def test_ids_may_be_hashes_of_64_bits(gateway: LocalGateway, tmp_path: Path) -> None:
    ids = [2**63 + 5, 7, 2**64 - 1]
    write_jsonl(tmp_path / "in", [{"key": id, "text": f"text {id}"} for id in ids])
    job(gateway, tmp_path / "in.jsonl", tmp_path / "out").run()
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == ids


class Refusing(httpx.HTTPTransport):
    """Refuses a text as Mistral does one that is too long, which nobody could know without its tokenizer."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.read())["input"]
        if "odd" in texts:
            message = f"Input id {texts.index('odd')} has 9000 tokens, exceeding max 8192 tokens."
            return httpx.Response(400, json={"object": "error", "message": message, "code": "3210"})
        return super().handle_request(request)


def test_a_text_that_mistral_refuses_is_rejected_and_the_others_are_paid_once(
    gateway: LocalGateway, tmp_path: Path
) -> None:
    rows = [{"key": row["key"], "text": row["text"] + " word" * 150} for row in ROWS]
    write_jsonl(tmp_path / "in", [*rows[:220], {"key": "odd", "text": "odd"}, *rows[220:]])
    with httpx.Client(transport=Refusing()) as refusing:
        settings: dict[str, Any] = {"client": client(gateway, http_client=refusing), "max_concurrency": 1}
        given = job(gateway, tmp_path / "in.jsonl", tmp_path / "out", **settings)
        done = given.run()
        assert (done.rows_done, done.rejected) == (251, 1)
        assert "9,000 tokens" in given.rejected.read_text()
        assert pq.read_table(tmp_path / "out")["id"].to_pylist() == [row["key"] for row in ROWS]
        assert sorted(sent(gateway)) == sorted(row["text"] for row in rows)
        with pytest.raises(InvalidRequestError, match="row 220 can't be embedded"):
            job(gateway, tmp_path / "in.jsonl", tmp_path / "strict", strict=True, **settings).run()


def test_a_lance_table_holds_all_rows_once_or_is_not_there(gateway: LocalGateway, tmp_path: Path) -> None:
    rows = [{"key": row["key"], "text": row["text"] + " word" * 150} for row in ROWS]
    write_jsonl(tmp_path / "in", [{"key": "bad", "text": ""}] * 30 + rows)
    out = tmp_path / "table.lance"
    with LocalGateway(balance="0.003") as poor, pytest.raises(InsufficientBalanceError):
        job(poor, tmp_path / "in.jsonl", out, rows_per_part=30, max_concurrency=1).run()
    assert not (out / "_versions").exists()
    again = job(gateway, tmp_path / "in.jsonl", out, rows_per_part=30, columns=[])
    assert again.run().rejected == 30
    assert sorted(sent(poor) + sent(gateway)) == sorted(row["text"] for row in rows)
    job(gateway, tmp_path / "in.jsonl", tmp_path / "parts", rows_per_part=30).run()
    right = pq.read_table(tmp_path / "parts")
    assert lance.dataset(out).to_table().to_pydict() == right.to_pydict()
    assert lance.dataset(out).schema.field("vector").type.equals(pa.list_(pa.float32(), 1024))
    # It is complete: nothing is sent or written again.
    before = len(gateway.requests)
    again.run()
    assert (len(gateway.requests), lance.dataset(out).version) == (before, 1)
    # As after a kill just before all of it became visible.
    shutil.rmtree(out / "_versions")
    again.run()
    assert lance.dataset(out).to_table().to_pydict() == right.to_pydict()
    shutil.rmtree(out / "_job")
    with pytest.raises(ConfigurationError, match="that are of no job"):
        again.run()


def test_a_job_that_failed_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    rows = [{"key": row["key"], "text": row["text"] + " word" * 150} for row in ROWS]
    write_jsonl(tmp_path / "in", rows)
    with LocalGateway(balance="0.003") as poor, pytest.raises(InsufficientBalanceError):
        job(poor, tmp_path / "in.jsonl", tmp_path / "out", max_concurrency=1).run()
    assert 0 < len(sent(poor)) < 250
    steps: list[JobProgress] = []
    with LocalGateway() as gateway:
        again = job(gateway, tmp_path / "in.jsonl", tmp_path / "out")
        estimate = again.estimate()
        assert (estimate.rows, estimate.tokens_paid) == (250, paid(poor))
        assert estimate.paid == sum(request.cost for request in poor.requests if request.status == 200)
        done = again.run(on_progress=steps.append)
        assert estimate.tokens >= paid(gateway) > estimate.tokens / 2
        assert sorted(sent(poor) + sent(gateway)) == sorted(row["text"] for row in rows)
        assert done.tokens == paid(poor) + paid(gateway)
        assert (steps[-1].rows, steps[-1].rows_done) == (250, 250)
        assert pq.read_table(tmp_path / "out").num_rows == 250
        assert not list((tmp_path / "out" / "_job").glob("journal-*"))
        # Nothing is left to do.
        before = len(gateway.requests)
        assert job(gateway, tmp_path / "in.jsonl", tmp_path / "out").run().rows_done == 250
        assert len(gateway.requests) == before


class FailingInOnePart(httpx.HTTPTransport):
    """Refuses the rows below 100 when others are in flight, which are answered one by one."""

    def __init__(self) -> None:
        super().__init__()
        self._others = threading.Semaphore(0)
        self._turns = itertools.count(1)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if int(json.loads(request.content)["input"][0].split()[2]) < 100:
            self._others.acquire(timeout=10)
            return httpx.Response(402, json={"error": {"message": "no credit"}})
        turn = next(self._turns)
        self._others.release()
        time.sleep(0.2 * turn)
        return super().handle_request(request)


def test_answers_that_are_in_flight_when_another_part_fails_are_paid_once(
    gateway: LocalGateway, tmp_path: Path
) -> None:
    rows = [{"key": row["key"], "text": row["text"] + " word" * 500} for row in ROWS[:200]]
    write_jsonl(tmp_path / "in", rows)
    with httpx.Client(transport=FailingInOnePart()) as failing, pytest.raises(InsufficientBalanceError):
        job(gateway, tmp_path / "in.jsonl", tmp_path / "out", client=client(gateway, http_client=failing)).run()
    noted = (tmp_path / "out" / "_job" / "paid.jsonl").read_text().splitlines()
    assert len(noted) == len(gateway.requests) > 1
    done = job(gateway, tmp_path / "in.jsonl", tmp_path / "out").run()
    assert done.rows_done == 200
    assert sorted(sent(gateway)) == sorted(row["text"] for row in rows)


def test_another_input_or_setting_is_noticed(gateway: LocalGateway, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    write_jsonl(path, ROWS)
    job(gateway, path, tmp_path / "out").run()
    with pytest.raises(ConfigurationError, match="begun with dtype='float32', not 'float16'"):
        job(gateway, path, tmp_path / "out", dtype="float16").run()
    path.write_text(path.read_text().replace("number 7", "number 8"))
    for method in ("run", "estimate"):
        with pytest.raises(ConfigurationError, match=r"in\.jsonl is new or has changed"):
            getattr(job(gateway, path, tmp_path / "out"), method)()
    write_jsonl(path, ROWS)
    assert job(gateway, path, tmp_path / "out").run().rows_done == 250
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ConfigurationError, match="that are of no job"):
        job(gateway, path, tmp_path).run()


def test_a_spend_limit_holds_for_all_runs_together(gateway: LocalGateway, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in", [{"key": row["key"], "text": row["text"] + " word" * 150} for row in ROWS])
    for _ in range(2):
        with pytest.raises(SpendLimitError):
            job(gateway, tmp_path / "in.jsonl", tmp_path / "out", max_concurrency=1).run(spend_limit="0.003")
    tokens = paid(gateway)
    assert 0.001 < tokens * 0.1e-6 <= 0.003
    assert job(gateway, tmp_path / "in.jsonl", tmp_path / "out").run(spend_limit=1).rows_done == 250


def test_the_client_says_who_pays(gateway: LocalGateway, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in", ROWS)
    billing = Billing(customer_id="c_1", meter_slug="ingest")
    job(gateway, tmp_path / "in.jsonl", tmp_path / "out", client=client(gateway, billing=billing)).run()
    assert {request.customer_id for request in gateway.requests} == {"c_1"}


def test_an_estimate_counts_or_samples_and_sends_nothing(gateway: LocalGateway, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in", ROWS)
    estimate = job(gateway, tmp_path / "in.jsonl", tmp_path / "out").estimate()
    assert (estimate.rows, estimate.rows_done, estimate.counted, estimate.seconds) == (250, 0, True, None)
    write_jsonl(tmp_path / "many", ROWS * 40)
    sampled = job(gateway, tmp_path / "many.jsonl", tmp_path / "out", rows_per_part=1_000).estimate()
    assert (sampled.rows, sampled.counted) == (10_000, False)
    assert sampled.tokens == pytest.approx(40 * estimate.tokens, rel=0.05)
    assert sampled.low is not None
    assert sampled.high is not None
    assert 0 < sampled.low <= sampled.high
    assert gateway.requests == []


def test_the_time_is_that_of_the_accounts_limits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in", [{"key": row["key"], "text": row["text"] + " word" * 500} for row in ROWS])
    with LocalGateway(requests_per_second=0.5) as gateway:
        estimate = job(gateway, tmp_path / "in.jsonl", tmp_path / "out").estimate(ask_limits=True)
        assert [request.body["input"] for request in gateway.requests] == [["."]]
    assert estimate.seconds == pytest.approx(2 * estimate.tokens / 16_384, rel=0.2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": "body"}, "no column 'body'; it has 'key', 'text', 'page'"),
        ({"text": "page"}, r"can be|must hold texts; it holds|no string"),
        ({"columns": ["vector"]}, "'vector' can't be kept"),
        ({"model": "unknown-embed"}, "give dimensions="),
        ({"dtype": "float64"}, "float32"),
    ],
)
def test_what_can_not_be_is_said_at_once(
    gateway: LocalGateway, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    write_parquet(tmp_path / "in", ROWS)
    with pytest.raises(ConfigurationError, match=said):
        job(gateway, tmp_path / "in.parquet", tmp_path / "out", **settings)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["nowhere/*.csv"], "is no file, glob or folder"),
        ([], "empty list"),
        (["in.txt"], "no known format"),
        (["a.csv", "b.jsonl"], "mixes"),
    ],
)
def test_an_input_that_is_none_is_named(
    gateway: LocalGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.txt", "a.csv", "b.jsonl"):
        Path(name).write_text("text\n")
    with pytest.raises(ConfigurationError, match=said):
        job(gateway, inputs, tmp_path / "out")


@pytest.mark.parametrize(
    "damage", [lambda entry: entry[:-5], lambda entry: entry[:4000] + b"?" + entry[4001:], lambda entry: b""]
)
def test_an_answer_in_the_journal_that_is_not_whole_is_paid_again(
    gateway: LocalGateway, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """As after a power failure; a last line of JSON that is not whole does no harm either."""
    rows = [{"key": row["key"], "text": row["text"] + " word" * 150} for row in ROWS]
    write_jsonl(tmp_path / "in", rows)
    with LocalGateway(balance="0.002") as poor, pytest.raises(InsufficientBalanceError):
        job(poor, tmp_path / "in.jsonl", tmp_path / "out", rows_per_part=1_000, max_concurrency=1).run()
    own = tmp_path / "out" / "_job"
    damaged = min(own.glob("journal-*"))
    damaged.write_bytes(damage(damaged.read_bytes()))
    with (own / "paid.jsonl").open("a") as file:
        file.write('{"tok')
    assert job(gateway, tmp_path / "in.jsonl", tmp_path / "out", rows_per_part=1_000).run().rows_done == 250
    twice = len(sent(poor) + sent(gateway)) - 250
    assert 0 < twice < len(sent(poor))
    right = client(gateway).embed([row["text"] for row in rows], as_numpy=True).vectors
    assert np.array_equal(np.array(pq.read_table(tmp_path / "out")["vector"].to_pylist(), np.float32), right)


def test_two_processes_do_not_work_on_one_job(gateway: LocalGateway, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in", ROWS)
    second: list[str] = []

    def meanwhile(progress: JobProgress) -> None:
        with pytest.raises(ConfigurationError, match="another process") as caught:
            job(gateway, tmp_path / "in.jsonl", tmp_path / "out").run()
        second.append(caught.value.message)

    assert job(gateway, tmp_path / "in.jsonl", tmp_path / "out").run(on_progress=meanwhile).rows_done == 250
    assert second
