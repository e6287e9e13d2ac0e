"""Keep what a job has done in its folder, so that it goes on after whatever ended it, `kill -9` included.

    part-000000000000-000000010000.parquet     the rows 0 to 9,999 of the input; there as a whole or not at all
    _job/manifest.json                         the input and the settings, by which another job is noticed
    _job/rejected.jsonl                        rows that can't be embedded, with the reason
    _job/paid.jsonl                            the tokens of each answer
    _job/journal-000000000000-….npz            the vectors of an answer whose part is not there yet

A folder that ends in `.lance` becomes a Lance table: its parts are `_job/part-….json`, which name fragments of the
table, and the last run commits all of them at once. Readers of Parquet folders pass over names with an underscore.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.embedding.decoding import BadAnswer, read_rows
from lava_mistral.embedding.results import digest
from lava_mistral.errors import ConfigurationError
from lava_mistral.jobs.inputs import BadRow, Slice, fingerprint
from lava_mistral.mistral.usage import known_usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

Vectors: TypeAlias = "dict[bytes, NDArray[np.float32]]"
"""Vectors by the digest of their text."""

_GROUP: Final = 2_000  # rows that are encoded at once
_PART: Final = re.compile(r"part-(\d{12})-(\d{12})\.(?:parquet|json)")


class JobStore:
    """The folder of one job; it is made when the job begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = path / "_job"
        self.rejected = self.own / "rejected.jsonl"
        self._paid = self.own / "paid.jsonl"
        self._manifest = self.own / "manifest.json"
        self._is_table = path.suffix == ".lance"
        self._parts = self.own if self._is_table else path
        if self._is_table:
            _lance()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working in the folder (not on Windows), or say that one does."""
        self.own.mkdir(parents=True, exist_ok=True)
        with (self.own / "lock").open("w") as file:
            if sys.platform != "win32":
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise ConfigurationError(f"another process is working on the job in {self.path}.") from error
            yield

    def check(self, settings: Mapping[str, Any], files: Sequence[Path], *, begin: bool = False) -> None:
        """Check that this is or can be the folder of a job, and make it that if it is to `begin`.

        Raises:
            ConfigurationError: it is the folder of another job, the input has changed, or there are other files in it.
        """
        now: dict[str, Any] = {**settings, "files": [fingerprint(path) for path in files]}
        if not self._manifest.exists():
            if any(self.path.glob("*.parquet")) or self._committed():
                raise ConfigurationError(f"there are data in {self.path} that are of no job: name another folder.")
            if begin:
                self._replace(self._manifest, json.dumps(now, indent=2).encode())
            return
        before = json.loads(self._manifest.read_bytes())
        for name, value in settings.items():
            if before.get(name) != value:
                raise ConfigurationError(
                    f"the job in {self.path} was begun with {name}={before.get(name)!r}, not {value!r}: go on with "
                    "that, or name another folder."
                )
        if now["files"] != before["files"]:
            new = [path for path, content in zip(files, now["files"], strict=True) if content not in before["files"]]
            what = f"{new[0]} is new or has changed" if new else "its files are fewer, or in another order"
            raise ConfigurationError(
                f"the input is not the one that the job in {self.path} was begun with: {what}. Restore it, or name "
                "another folder."
            )

    def tidy(self, rows_per_part: int) -> None:
        """Remove what a kill has left: files that are not whole, and rejected rows without their part, or twice."""
        for path in self.own.glob("*.tmp"):
            path.unlink()
        if self.rejected.exists():
            done = self.done()
            rows = {line["row"]: line for line in _lines(self.rejected)}
            kept = (line for row, line in rows.items() if row // rows_per_part * rows_per_part in done)
            self._replace(self.rejected, b"".join(map(_line, kept)))

    def done(self) -> dict[int, int]:
        """Return the parts that are there: the first row of each, and how many rows of the input it stands for."""
        names = (_PART.fullmatch(path.name) for path in self._parts.glob("part-*"))
        return {int(name[1]): int(name[2]) - int(name[1]) for name in names if name is not None}

    def write_part(self, part: Slice, table: pa.Table, bad: Sequence[BadRow]) -> None:
        """Write what became of the rows of a slice, and remove its journal."""
        if bad:
            # First, and all at once: lines without their part are dropped when the job goes on.
            _append(self.rejected, *({k: v for k, v in asdict(row).items() if (k, v) != ("id", None)} for row in bad))
        name = f"part-{part.start:012}-{part.end:012}"
        if self._is_table:
            fragments = _lance().fragment.write_fragments(table, self.path, mode="create")
            self._replace(self.own / f"{name}.json", json.dumps([each.to_json() for each in fragments]).encode())
        else:
            # Vectors repeat nothing: a dictionary of them is memory and time for nothing.
            columns = [column for column in table.column_names if column != "vector"]
            self._replace(
                self.path / f"{name}.parquet",
                lambda file: pq.write_table(table, file, row_group_size=_GROUP, use_dictionary=columns),
            )
        for path in self.own.glob(f"journal-{part.start:012}-*"):
            path.unlink(missing_ok=True)

    def commit(self, schema: pa.Schema) -> None:
        """Make the fragments of all parts the rows of the Lance table, if it is one, and if that is still to do."""
        if self._is_table and not self._committed():
            lance = _lance()
            parts = [json.loads(path.read_bytes()) for path in sorted(self.own.glob("part-*.json"))]
            fragments = [lance.FragmentMetadata.from_json(json.dumps(each)) for part in parts for each in part]
            lance.LanceDataset.commit(self.path, lance.LanceOperation.Overwrite(schema, fragments))

    def _committed(self) -> bool:
        return any((self.path / "_versions").glob("*.manifest"))

    def tokens_paid(self) -> int:
        """Return the tokens that all runs of the job have paid for."""
        return sum(line["tokens"] for line in _lines(self._paid))

    def count_rejected(self) -> int:
        return sum(1 for _ in _lines(self.rejected))

    def add_answer(self, start: int, inputs: Sequence[str], answer: EmbeddingAnswer, dimension: int) -> None:
        """Note an answer's vectors in the journal of the part that begins with a row, and then what it took."""
        with suppress(BadAnswer):  # the engine judges it
            rows = np.asarray(read_rows(list(answer.response["data"]), len(inputs), dimension=dimension), np.float32)
            digests = np.frombuffer(b"".join(map(digest, inputs)), "V16")
            np.savez(self.own / f"journal-{start:012}-{uuid4().hex}.npz", digests=digests, rows=rows)
        usage: Any = known_usage(answer.response.get("usage")) or {}
        _append(self._paid, {"tokens": usage.get("prompt_tokens") or 0, "request_id": answer.request_id})

    def recorded(self, start: int | None = None) -> Vectors:
        """Return the vectors in the journal of the part that begins with a row, or of all parts."""
        found: Vectors = {}
        for path in self.own.glob("journal-*" if start is None else f"journal-{start:012}-*"):
            # A kill may have left one that is not whole, which its checksums tell.
            with suppress(zipfile.BadZipFile, EOFError, ValueError), path.open("rb") as file:
                entry = np.load(file)
                found |= zip(entry["digests"].tolist(), entry["rows"], strict=True)
        return found

    def _replace(self, path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
        """Write a file as a whole or not at all."""
        temporary = self.own / f"{uuid4().hex}.tmp"
        with temporary.open("wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise ImportError('A Lance table needs an extra: pip install "lava-mistral[lance]"') from error
    return lance


def _line(value: Mapping[str, Any]) -> bytes:
    # An id of Parquet's may be a date, bytes or a number with decimals.
    return json.dumps(value, default=str).encode() + b"\n"


def _append(path: Path, *values: Mapping[str, Any]) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"".join(map(_line, values)))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; a kill may have left a line that is none."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)
