"""Read the rows of Parquet, JSONL and CSV files in order, in slices of equal size."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import orjson

from lava_mistral.errors import ConfigurationError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError('An embedding job needs an extra: pip install "lava-mistral[job]"') from error

_FORMATS: Final = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
_UNREADABLE: Final = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError, OverflowError, TypeError, ValueError)
_Record: TypeAlias = "list[Any] | tuple[str, str]"  # the values of a row, or why it can't be read and how it begins


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


def fingerprint(path: Path) -> dict[str, Any]:
    """Describe the content of a file, to notice a change of it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return {"name": str(path), "bytes": path.stat().st_size, "blake2b": digest}


class Input:
    """Rows of files of one format.

    Args:
        files: where they are, in order.
        columns: which to read; the first one holds the texts.
        id: which one of them holds the ids.

    Attributes:
        schema: the columns and their types. Those of CSV are text, those of JSONL what the first 10,000 rows hold.

    Raises:
        ConfigurationError: there is no such column, or the one of the texts holds something else.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str], id: str | None = None) -> None:
        self._files = files
        self._id = id
        self._columns = list(dict.fromkeys(columns))
        self._format = _format_of(files[0])
        if self._format == "parquet":
            there = pq.read_schema(files[0])
        elif self._format == "csv":
            with _open(files[0]) as file:
                there = pa.schema([(name, pa.string()) for name in next(_csv(file, files[0]), [])])
        else:
            there = self._inferred()
        missing = [name for name in self._columns if name not in there.names]
        if missing:
            has = ", ".join(map(repr, there.names))
            raise ConfigurationError(f"the input has no column {missing[0]!r}; it has {has}.")
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
            rows = {number: record for number, record in enumerate(group, start) if isinstance(record, list)}
            bad = [BadRow(number, *record) for number, record in enumerate(group, start) if isinstance(record, tuple)]
            yield self._typed(start, start + len(group), rows, bad)
            start += len(group)

    def _inferred(self) -> pa.Schema:
        rows = [row for line in islice(self._lines(), 10_000) if isinstance(row := _json(line), dict)]
        types = dict.fromkeys((name for row in rows for name in row), pa.null())
        for name in types.keys() & set(self._columns[1:]):
            values = [row[name] for row in rows if row.get(name) is not None] or [""]
            try:
                types[name] = pa.array(values).type
            except _UNREADABLE:
                # Of several types: those that are not like the first one will be rejected.
                types[name] = pa.array(values[:1]).type
        if self._columns[0] in types:
            types[self._columns[0]] = pa.string()
        return pa.schema(types)

    def _tables(self, size: int) -> Iterator[pa.Table]:
        held = self.schema.empty_table()
        for path in self._files:
            # Buffers that are read ahead stay until the file is closed.
            with pq.ParquetFile(path, pre_buffer=False) as file:
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

    def _lines(self) -> Iterator[bytes]:
        for path in self._files:
            with _open(path) as file:
                yield from (line for line in file if not line.isspace())

    def _json_records(self) -> Iterator[_Record]:
        for line in self._lines():
            row = _json(line)
            if isinstance(row, dict):
                yield [row.get(name) for name in self._columns]
            else:
                yield f"it is no JSON object ({row})", line.decode("utf-8", "replace")[:200]

    def _csv_records(self) -> Iterator[_Record]:
        for path in self._files:
            with _open(path) as file:
                reader = _csv(file, path)
                names = next(reader, [])
                if missing := [name for name in self._columns if name not in names]:
                    raise ConfigurationError(f"{path} has no column {missing[0]!r}.")
                places = [names.index(name) for name in self._columns]
                for record in filter(None, reader):
                    if len(record) == len(names):
                        yield [record[place] for place in places]
                    else:
                        yield f"it has {len(record)} fields, the headline {len(names)}", ",".join(record)[:200]

    def _typed(self, start: int, end: int, rows: dict[int, list[Any]], bad: list[BadRow]) -> Slice:
        try:
            columns = [
                pa.array([row[place] for row in rows.values()], kind) for place, kind in enumerate(self.schema.types)
            ]
        except _UNREADABLE:
            # One of them is not of its column's type.
            good = {}
            for number, row in rows.items():
                for name, value, kind in zip(self._columns, row, self.schema.types, strict=True):
                    try:
                        pa.array([value], kind)
                    except _UNREADABLE:
                        shown = repr(value)[:200].encode("utf-8", "replace").decode()
                        given = None if self._id is None else row[self._columns.index(self._id)]
                        bad.append(BadRow(number, f"its {name!r} is no {kind}", shown, given))
                        break
                else:
                    good[number] = row
            return self._typed(start, end, good, bad)
        return Slice(start, end, list(rows), pa.table(columns, schema=self.schema), bad)


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _csv(file: BinaryIO, path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)
    # Bytes that are no UTF-8 become half surrogates, which no text of Arrow's may hold: their row is a bad one.
    lines = (line.decode("utf-8", "surrogateescape") for line in file)
    for place, record in enumerate(csv.reader(lines, delimiter="\t" if ".tsv" in path.suffixes else ",")):
        yield [name.removeprefix("\ufeff") for name in record] if place == 0 else record


def _json(line: bytes) -> Any:
    """Return the object on a line, or what is wrong with it as text."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return str(error)
    return value if isinstance(value, dict) else type(value).__name__
