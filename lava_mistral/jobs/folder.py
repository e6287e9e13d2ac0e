"""Keep what a job has done in its folder, so that it goes on after whatever ended it, `kill -9` included.

    part-000000000000-000000010000.parquet     the rows 0 to 9,999 of the input; there as a whole or not at all
    _job/manifest.json                         the input and the settings, by which another job is noticed
    _job/rejected.jsonl                        rows that can't be embedded, with the reason
    _job/paid.jsonl                            the tokens of each answer
    _job/journal-000003-…                      the vectors of answers whose part is not there yet

Readers of Parquet folders (pyarrow, pandas, Spark, Ray) pass over names that begin with an underscore.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lava_mistral._locks import ForkSafeLock
from lava_mistral.calls.responses import EmbeddingAnswer
from lava_mistral.embedding.decoding import BadAnswer, read_rows
from lava_mistral.embedding.results import digest
from lava_mistral.embedding.sync_driver import SyncEmbedder
from lava_mistral.errors import ConfigurationError
from lava_mistral.jobs.inputs import BadRow, fingerprint
from lava_mistral.mistral.usage import known_usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PART: Final = re.compile(r"part-(\d{12})-(\d{12})\.parquet")
_HEAD: Final = struct.Struct("<III")
_DIGEST: Final = 16  # bytes


class JobFolder:
    """The folder of one job; it is made when the job begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = path / "_job"
        self.rejected = self.own / "rejected.jsonl"
        self._paid = self.own / "paid.jsonl"
        self._manifest = self.own / "manifest.json"

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

    def check(self, settings: Mapping[str, Any], files: Sequence[Path]) -> bool:
        """Check that this can be the folder of a job, and say whether it is already.

        Args:
            settings: what the parts depend on.
            files: the input.

        Raises:
            ConfigurationError: it is the folder of another job, the input has changed, or there are other files in it.
        """
        if not self._manifest.exists():
            if any(self.path.glob("*.parquet")):
                raise ConfigurationError(
                    f"there are Parquet files in {self.path} that are of no job: name another folder."
                )
            return False
        before = json.loads(self._manifest.read_bytes())
        for name, now in settings.items():
            if before.get(name) != now:
                raise ConfigurationError(
                    f"the job in {self.path} was begun with {name}={before.get(name)!r}, not {now!r}: go on with "
                    "that, or name another folder."
                )
        _check_files(before["files"], list(map(fingerprint, files)), self.path)
        return True

    def claim(self, settings: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Make this the folder of a job, or check that it is; see `check`."""
        if not self.check(settings, files):
            manifest = {**settings, "files": list(map(fingerprint, files))}
            self._replace(self._manifest, lambda file: file.write(json.dumps(manifest, indent=2).encode()))
        self.tidy()

    def tidy(self) -> None:
        """Remove what a kill has left: files that are not whole, and rejected rows without their part or twice."""
        for path in self.own.glob("*.tmp"):
            path.unlink()
        if self.rejected.exists():
            done = self.done()
            starts = sorted(done)
            kept = {}
            for line in _lines(self.rejected):
                at = bisect_right(starts, line["row"]) - 1
                if at >= 0 and line["row"] < starts[at] + done[starts[at]]:
                    kept[line["row"]] = line
            self._replace(self.rejected, lambda file: file.writelines(map(_line, kept.values())))

    def done(self) -> dict[int, int]:
        """Return the parts that are there: the first row of each, and how many rows of the input it stands for."""
        names = (_PART.fullmatch(path.name) for path in self.path.glob("part-*.parquet"))
        return {int(name[1]): int(name[2]) - int(name[1]) for name in names if name is not None}

    def write_part(self, start: int, end: int, table: pa.Table, bad: Sequence[BadRow]) -> None:
        """Write what became of the rows from `start` to before `end`."""
        if bad:
            # First, and all at once: lines without their part are dropped when the job goes on.
            _append(self.rejected, *(asdict(row, dict_factory=_without_unknown_id) for row in bad))
        self._replace(self.path / f"part-{start:012}-{end:012}.parquet", lambda file: pq.write_table(table, file))

    def add_paid(self, answer: EmbeddingAnswer) -> None:
        """Note what an answer took."""
        usage: Any = known_usage(answer.response.get("usage")) or {}
        _append(self._paid, {"tokens": usage.get("prompt_tokens") or 0, "request_id": answer.request_id})

    def tokens_paid(self) -> int:
        """Return the tokens that all runs of the job have paid for."""
        return sum(line["tokens"] for line in _lines(self._paid))

    def count_rejected(self) -> int:
        """Return how many rows were rejected."""
        return sum(1 for _ in _lines(self.rejected))

    def journal(self, number: int) -> Journal:
        """Begin a journal of answers that hold texts of parts up to a number, and of none beyond."""
        return Journal(self.own / f"journal-{number:06}-{uuid4().hex}")

    def recorded(self, numbers: Iterable[int] | None = None) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors in the journals begun for some parts, or all, by the digest of their text."""
        patterns = ["journal-*"] if numbers is None else [f"journal-{number:06}-*" for number in numbers]
        return {key: row for pattern in patterns for path in self.own.glob(pattern) for key, row in read_journal(path)}

    def forget(self, number: int) -> None:
        """Remove the journals begun for a part: all that they hold is in parts."""
        for path in self.own.glob(f"journal-{number:06}-*"):
            path.unlink(missing_ok=True)

    def _replace(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        """Write a file as a whole or not at all."""
        temporary = self.own / f"{uuid4().hex}.tmp"
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


class Journal:
    """Vectors on the disk before anybody else has them; the file is made with the first ones. Safe in threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = ForkSafeLock()

    def add(self, texts: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Add the vectors of an answer."""
        entry = b"".join(map(digest, texts)) + rows.tobytes()
        with self._lock, self._path.open("ab") as file:
            file.write(_HEAD.pack(*rows.shape, zlib.crc32(entry)) + entry)


def read_journal(path: Path) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
    """Yield the digests of the texts and their vectors; an entry that is not whole ends it."""
    content = memoryview(path.read_bytes())
    at = 0
    while at + _HEAD.size <= len(content):
        count, dimension, checksum = _HEAD.unpack_from(content, at)
        digests = at + _HEAD.size
        vectors = digests + count * _DIGEST
        at = vectors + count * dimension * 4
        if at > len(content) or zlib.crc32(content[digests:at]) != checksum:
            return
        rows = np.frombuffer(content[vectors:at], np.float32).reshape(count, dimension)
        for place in range(count):
            yield bytes(content[digests + place * _DIGEST : digests + (place + 1) * _DIGEST]), rows[place]


class RecordingClient:
    """Send requests, and note each answer in the job's folder and the journal before it is handed on."""

    def __init__(self, client: SyncEmbedder, folder: JobFolder, dimension: int) -> None:
        self.journal: Journal | None = None
        self._client = client
        self._folder = folder
        self._dimension = dimension

    def embedding_request(self, inputs: Sequence[str], **options: Any) -> EmbeddingAnswer:
        """Send one request, as `LavaMistral.embedding_request` does."""
        journal = self.journal
        answer = self._client.embedding_request(inputs, **options)
        self._folder.add_paid(answer)
        try:
            rows = read_rows(list(answer.response["data"]), len(inputs), dimension=self._dimension)
        except BadAnswer:
            return answer  # the engine judges it
        if journal is not None:
            journal.add(inputs, np.asarray(rows, np.float32))
        return answer


def _check_files(before: list[dict[str, Any]], now: list[dict[str, Any]], folder: Path) -> None:
    content = [[(file["bytes"], file["blake2b"]) for file in files] for files in (before, now)]
    if content[0] == content[1]:
        return
    known = set(content[0])
    changed = [file["name"] for file, fact in zip(now, content[1], strict=True) if fact not in known]
    what = f"{changed[0]} is new or has changed" if changed else f"there were {len(before)} files, in another order"
    raise ConfigurationError(
        f"the input is not the one that the job in {folder} was begun with: {what}. Restore it, or name another folder."
    )


def _without_unknown_id(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if (name, value) != ("id", None)}


def _line(value: Mapping[str, Any]) -> bytes:
    # An id of Parquet's may be a date, bytes or a number with decimals.
    return json.dumps(value, default=str).encode() + b"\n"


def _append(path: Path, *values: Mapping[str, Any]) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"".join(map(_line, values)))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; a kill may have left a line that is none."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError):
                yield json.loads(line)
