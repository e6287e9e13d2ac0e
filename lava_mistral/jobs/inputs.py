"""Read the rows of Parquet, JSONL and CSV files in order, in slices of equal size."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import orjson

from lava_mistral.errors import ConfigurationError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError('An embedding job needs an extra: pip install "lava-mistral[job]"') from error

_FORMATS: Final = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_UNREADABLE: Final = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError, OverflowError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be embedded.

    Attributes:
        row: its number in the whole input, from 0.
        reason: why.
        content: how it begins.
    """

    row: int
    reason: str
    content: str


@dataclass(slots=True)
class Rows:
    """The rows of a slice that could be read.

    Attributes:
        numbers: their numbers in the whole input, from 0.
        table: their columns.
        bad: the other rows of the slice.
    """

    numbers: list[int]
    table: pa.Table
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rows of the input in a row, not parsed yet.

    Attributes:
        start: the number of the first one in the whole input.
        end: the number after the last one.
        raw: the rows, as the format has them.
        parse: makes them a table.
    """

    start: int
    end: int
    raw: Any
    parse: Callable[[int, Any], Rows]

    def read(self) -> Rows:
        """Parse the rows."""
        return self.parse(self.start, self.raw)


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """List the files that paths, globs and folders name, in order; a folder's by name, hidden ones left out.

    Raises:
        ConfigurationError: one of them names no file, or a file of a format that can't be read.
    """
    found: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file.relative_to(path)))
        elif path.is_file():
            inside = [path]
        else:
            inside = [Path(name) for name in sorted(glob.glob(str(given), recursive=True)) if Path(name).is_file()]
        if not inside:
            known = ", ".join(_FORMATS)
            raise ConfigurationError(f"{str(given)!r} is no file, glob or folder with files that end in {known}.")
        found += inside
    formats = {file: _format_of(file) for file in found}
    for file, format in formats.items():
        if format is None:
            raise ConfigurationError(f"{file} is of no known format: its name must end in {', '.join(_FORMATS)}.")
    if len(set(formats.values())) > 1:
        raise ConfigurationError(f"the input mixes {' and '.join(sorted(set(map(str, formats.values()))))} files.")
    return list(dict.fromkeys(found))


def _is_data(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts) and _format_of(path) is not None


def _format_of(path: Path) -> str | None:
    return _FORMATS.get((Path(path.stem) if path.suffix == ".gz" else path).suffix.lower())


def spool(stream: BinaryIO, folder: Path) -> Path:
    """Write standard input to a file of the format that it begins like.

    Args:
        stream: what to read.
        folder: where to write it.

    Returns:
        The file, `stdin` with the ending of its format.
    """
    begin = stream.read(65_536)
    ending = (
        ".parquet" if begin[:4] == b"PAR1" else ".jsonl" if begin.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{" else ".csv"
    )
    path = folder / f"stdin{ending}"
    with path.open("wb") as file:
        while begin:
            file.write(begin)
            begin = stream.read(1 << 20)
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

    Attributes:
        schema: the columns and their types. Those of CSV are text, those of JSONL what the first 10,000 rows hold.

    Raises:
        ConfigurationError: there is no such column, or the one of the texts holds something else.
    """

    _FIRST = 10_000

    def __init__(self, files: Sequence[Path], columns: Sequence[str]) -> None:
        self._files = files
        self._columns = list(dict.fromkeys(columns))
        self._format = _format_of(files[0])
        self.schema = self._schema()

    def slices(self, size: int) -> Iterator[Slice]:
        """Yield the input in slices.

        Args:
            size: how many rows each has; the last one may have fewer.
        """
        raws, parse = {
            "parquet": (self._tables, self._parse_table),
            "jsonl": (self._lines, self._parse_lines),
            "csv": (self._records, self._parse_records),
        }[cast("str", self._format)]
        start = 0
        for raw in raws(size):
            yield Slice(start, start + len(raw), raw, parse)
            start += len(raw)

    def _schema(self) -> pa.Schema:
        if self._format == "parquet":
            there = pq.read_schema(self._files[0])
        elif self._format == "csv":
            with _open(self._files[0]) as file:
                there = pa.schema([(name, pa.string()) for name in next(_csv(file, self._files[0]), [])])
        else:
            there = self._inferred()
        missing = [name for name in self._columns if name not in there.names]
        if missing:
            has = ", ".join(map(repr, there.names))
            raise ConfigurationError(f"the input has no column {missing[0]!r}; it has {has}.")
        schema = pa.schema([there.field(name) for name in self._columns])
        kind = schema.field(0).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ConfigurationError(f"the column {self._columns[0]!r} must hold texts; it holds {kind}.")
        return schema

    def _inferred(self) -> pa.Schema:
        rows = [row for line in next(self._lines(self._FIRST), []) if isinstance(row := _json(line), dict)]
        types = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            if name not in self._columns:
                types[name] = pa.null()
            elif name == self._columns[0]:
                types[name] = pa.string()
            else:
                values = [row[name] for row in rows if row.get(name) is not None] or [""]
                try:
                    kind = pa.array(values).type
                except _UNREADABLE:
                    # Of several types: those that are not like the first one will be rejected.
                    kind = pa.array(values[:1]).type
                types[name] = kind
        return pa.schema(types)

    def _tables(self, size: int) -> Iterator[pa.Table]:
        held = self.schema.empty_table()
        for path in self._files:
            # Buffers that are read ahead stay until the file is closed.
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(size, columns=self._columns):
                    table = pa.Table.from_batches([batch])
                    try:
                        table = table.select(self._columns).cast(self.schema)
                    except (KeyError, *_UNREADABLE) as error:
                        raise ConfigurationError(f"{path} has other columns than {self._files[0]}: {error}") from error
                    held = pa.concat_tables([held, table])
                    while len(held) >= size:
                        yield held.slice(0, size)
                        held = held.slice(size)
        if len(held):
            yield held

    def _lines(self, size: int) -> Iterator[list[bytes]]:
        return _grouped((line for file in self._open_all() for line in file if not line.isspace()), size)

    def _records(self, size: int) -> Iterator[list[Any]]:
        def records() -> Iterator[Any]:
            for path, file in zip(self._files, self._open_all(), strict=True):
                reader = _csv(file, path)
                names = next(reader, [])
                missing = [name for name in self._columns if name not in names]
                if missing:
                    raise ConfigurationError(f"{path} has no column {missing[0]!r}.")
                places = [names.index(name) for name in self._columns]
                for record in reader:
                    if record:
                        whole = len(record) == len(names)
                        yield [record[place] for place in places] if whole else (len(record), len(names), record)

        return _grouped(records(), size)

    def _open_all(self) -> Iterator[BinaryIO]:
        for path in self._files:
            with _open(path) as file:
                yield file

    def _parse_table(self, start: int, table: pa.Table) -> Rows:
        return Rows(list(range(start, start + len(table))), table)

    def _parse_lines(self, start: int, lines: list[bytes]) -> Rows:
        values, bad = [], []
        for number, line in enumerate(lines, start):
            row = _json(line)
            if isinstance(row, dict):
                values.append((number, [row.get(name) for name in self._columns]))
            else:
                bad.append(BadRow(number, f"it is no JSON object ({row})", line.decode("utf-8", "replace")[:200]))
        return self._typed(values, bad)

    def _parse_records(self, start: int, records: list[Any]) -> Rows:
        values, bad = [], []
        for number, record in enumerate(records, start):
            if isinstance(record, list):
                values.append((number, record))
            else:
                came, expected, fields = record
                bad.append(BadRow(number, f"it has {came} fields, the headline {expected}", ",".join(fields)[:200]))
        return self._typed(values, bad)

    def _typed(self, values: list[tuple[int, list[Any]]], bad: list[BadRow]) -> Rows:
        try:
            columns = [
                pa.array([row[place] for _, row in values], kind) for place, kind in enumerate(self.schema.types)
            ]
        except _UNREADABLE:
            # One of them is not of its column's type.
            good = []
            for number, row in values:
                for name, value, kind in zip(self._columns, row, self.schema.types, strict=True):
                    try:
                        pa.array([value], kind)
                    except _UNREADABLE:
                        shown = repr(value)[:200].encode("utf-8", "replace").decode()
                        bad.append(BadRow(number, f"its {name!r} is no {kind}", shown))
                        break
                else:
                    good.append((number, row))
            return self._typed(good, bad)
        return Rows([number for number, _ in values], pa.table(columns, schema=self.schema), bad)


def _grouped(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(rows, size)):
        yield group


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _csv(file: BinaryIO, path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)
    # Bytes that are no UTF-8 become half surrogates, which no text of Arrow's may hold: their row is a bad one.
    lines: Iterable[str] = (line.decode("utf-8", "surrogateescape") for line in file)
    reader = csv.reader(lines, delimiter="\t" if ".tsv" in path.suffixes else ",")
    for place, record in enumerate(reader):
        yield [name.removeprefix("\ufeff") for name in record] if place == 0 else record


def _json(line: bytes) -> Any:
    """Return the value of a line, or what is wrong with it as text."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return str(error)
    return value if isinstance(value, dict) else type(value).__name__
