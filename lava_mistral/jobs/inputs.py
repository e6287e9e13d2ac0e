"""Read the rows of Parquet, JSONL and CSV files in order, in slices of equal size."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import json
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lava_mistral.errors import ConfigurationError

_FORMATS: Final = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
_UNREADABLE: Final = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError, OverflowError, TypeError, ValueError)
_Record: TypeAlias = "dict[str, Any] | tuple[str, str]"  # a row, or why it can't be read and how it begins


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be embedded: its number in the whole input from 0, why, how it begins, its id if known."""

    row: int
    reason: str
    content: str
    id: Any = None


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of the input from `start` to before `end`: the numbers and columns of the readable ones, and the bad."""

    start: int
    end: int
    numbers: list[int]
    table: pa.Table
    bad: list[BadRow] = field(default_factory=list)


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """List the files that paths, globs and folders name, in order; a folder's by name, hidden ones left out.

    Raises:
        ConfigurationError: one of them names no file, or a file of a format that can't be read.
    """
    endings = ", ".join(_FORMATS)
    found: dict[Path, str] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_data(file.relative_to(path))]
        else:
            names = [path] if path.is_file() else map(Path, sorted(glob.glob(str(given), recursive=True)))
            files = [file for file in names if file.is_file()]
        if not files:
            raise ConfigurationError(f"{str(given)!r} is no file, glob or folder with files that end in {endings}.")
        for file in files:
            if (format := _format_of(file)) is None:
                raise ConfigurationError(f"{file} is of no known format: its name must end in {endings}.")
            found[file] = format
    if not found:
        raise ConfigurationError("the input is an empty list: name files, globs or folders.")
    if len(formats := sorted(set(found.values()))) > 1:
        raise ConfigurationError(f"the input mixes {' and '.join(formats)} files.")
    return list(found)


def _is_data(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts) and _format_of(path) is not None


def _format_of(path: Path) -> str | None:
    return _FORMATS.get((Path(path.stem) if path.suffix == ".gz" else path).suffix.lower())


def spool(stream: BinaryIO, folder: Path) -> Path:
    """Write standard input to a file in a folder: `stdin`, with the ending of the format that it begins like."""
    begin = stream.read(65_536)
    is_json = begin.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{")
    path = folder / f"stdin{'.parquet' if begin.startswith(b'PAR1') else '.jsonl' if is_json else '.csv'}"
    with path.open("wb") as file:
        file.write(begin)
        shutil.copyfileobj(stream, file)
    return path


def fingerprint(path: Path) -> str:
    """Return a digest of the content of a file, to notice a change of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class Input:
    """Rows of files of one format, with some of their columns: the texts first, and perhaps the `id`.

    Columns of CSV are text, those of JSONL are what the first 10,000 rows hold.

    Raises:
        ConfigurationError: there is no such column, or the one of the texts holds something else.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str], id: str | None = None) -> None:
        self._files = files
        self._id = id
        self._columns = list(dict.fromkeys(columns))
        self._format = _format_of(files[0])
        if self._format == "parquet":
            with _open(files[0]) as file:
                there = pq.read_schema(file)
        elif self._format == "csv":
            with _open(files[0]) as file:
                there = pa.schema([(name, pa.string()) for name in next(_csv(file, files[0]), [])])
        else:
            there = self._inferred()
        _check_columns(files[0], self._columns, there.names)
        self.schema = pa.schema([there.field(name) for name in self._columns])
        kind = self.schema.field(0).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ConfigurationError(f"the column {self._columns[0]!r} must hold texts; it holds {kind}.")

    def slices(self, size: int) -> Iterator[Slice]:
        """Yield the input in slices of so many rows; the last one may have fewer."""
        start = 0
        if self._format == "parquet":
            for table in self._tables(size):
                end = start + len(table)
                yield Slice(start, end, list(range(start, end)), table)
                start = end
            return
        records = self._json_records() if self._format == "jsonl" else self._csv_records()
        while group := list(islice(records, size)):
            yield self._typed(start, group)
            start += len(group)

    def _inferred(self) -> pa.Schema:
        rows = [row for row in islice(self._json_records(), 10_000) if isinstance(row, dict)]
        types = dict.fromkeys((name for row in rows for name in row), pa.null())
        for name in types.keys() & set(self._columns[1:]):
            values = [row[name] for row in rows if row.get(name) is not None] or [""]
            try:
                types[name] = pa.array(values).type
            except OverflowError:
                types[name] = pa.uint64()
            except _UNREADABLE:
                # Of several types: those that are not like the first one will be rejected.
                types[name] = pa.array(values[:1]).type
        return pa.schema(types | {name: pa.string() for name in self._columns[:1] if name in types})

    def _tables(self, size: int) -> Iterator[pa.Table]:
        held = self.schema.empty_table()
        for path in self._files:
            # Buffers that are read ahead stay until the file is closed.
            with _open(path), pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(size, columns=self._columns):
                    try:
                        table = pa.Table.from_batches([batch]).select(self._columns).cast(self.schema)
                    except (KeyError, *_UNREADABLE) as error:
                        raise ConfigurationError(f"{path} has other columns than {self._files[0]}: {error}") from error
                    held = pa.concat_tables([held, table])
                    while len(held) >= size:
                        yield held.slice(0, size)
                        held = held.slice(size)
        if len(held):
            yield held

    def _json_records(self) -> Iterator[_Record]:
        for path in self._files:
            with _open(path) as file:
                for line in file:
                    if line.isspace():
                        continue
                    try:
                        value = _loads(line)
                        why = type(value).__name__
                    except (ValueError, RecursionError) as error:
                        value, why = None, str(error)
                    if isinstance(value, dict):
                        yield value
                    else:
                        yield f"it is no JSON object ({why})", line.decode("utf-8", "replace")[:200]

    def _csv_records(self) -> Iterator[_Record]:
        for path in self._files:
            with _open(path) as file:
                reader = _csv(file, path)
                names = next(reader, [])
                _check_columns(path, self._columns, names)
                for record in filter(None, reader):
                    if len(record) == len(names):
                        yield dict(zip(names, record, strict=True))
                    else:
                        yield f"it has {len(record)} fields, the headline {len(names)}", ",".join(record)[:200]

    def _typed(self, start: int, records: list[_Record]) -> Slice:
        rows = {number: record for number, record in enumerate(records, start) if isinstance(record, dict)}
        bad = [BadRow(number, *record) for number, record in enumerate(records, start) if isinstance(record, tuple)]
        try:
            table = pa.Table.from_pylist(list(rows.values()), self.schema)
        except _UNREADABLE:
            for number, row in list(rows.items()):
                if (wrong := self._wrong(number, row)) is not None:
                    bad.append(wrong)
                    del rows[number]
            table = pa.Table.from_pylist(list(rows.values()), self.schema)
        return Slice(start, start + len(records), list(rows), table, bad)

    def _wrong(self, number: int, row: dict[str, Any]) -> BadRow | None:
        for name, kind in zip(self.schema.names, self.schema.types, strict=True):
            try:
                pa.array([row.get(name)], kind)
            except _UNREADABLE:
                # A text that is no string of Arrow's has bytes in it that are no characters.
                what = "UTF-8" if isinstance(row.get(name), str) and kind == pa.string() else kind
                shown = repr(row.get(name))[:200].encode("utf-8", "replace").decode()
                return BadRow(number, f"its {name!r} is no {what}", shown, row.get(self._id) if self._id else None)
        return None


def _loads(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # Python's own takes NaN, as it writes it, and a byte order mark.
        return json.loads(line.decode("utf-8-sig"))


def _check_columns(path: Path, wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if names.count(name) != 1:
            has = f"has no column {name!r}" if name not in names else f"has several columns {name!r}"
            raise ConfigurationError(f"{path} {has}; it has {', '.join(map(repr, names)) or 'none'}.")


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a file; what goes wrong while it is read is an error that names it."""
    try:
        with cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from error


def _csv(file: BinaryIO, path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)
    # Bytes that are no UTF-8 become half surrogates, which no text of Arrow's may hold: their row is a bad one.
    with TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as lines:
        for place, record in enumerate(csv.reader(lines, delimiter="\t" if ".tsv" in path.suffixes else ",")):
            if place == 0 and re.search("[\ud800-\udfff]", "".join(record)):
                raise ConfigurationError(f"the headline of {path} is not UTF-8, which CSV must be: save it as that.")
            yield record
