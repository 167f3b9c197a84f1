"""Rows with their line numbers out of JSONL, CSV, TSV, Parquet and TREC files.

A broken row is an item like any other, so the caller decides whether reading goes on.
"""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sptar.data.json_rows import json_rows
from sptar.data.rows import BrokenRow, Item, Row, byte_lines, not_utf8
from sptar.errors import DataError, MissingExtraError

__all__ = ["BrokenRow", "Row", "Table", "kind_of", "open_table", "table_of_values"]

COMPRESSED = (".gz", ".xz", ".bz2")
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".trec": "trec",
    ".qrels": "trec",
    ".txt": "trec",
}

_PEEKED = 64


@dataclass(frozen=True)
class Table:
    """Rows of one file; ``columns`` are those of the header, or of the first rows.

    ``header_line`` is the number of the header line, ``None`` when the format has none;
    ``header_cells`` are its cells as they stand.
    """

    name: str
    columns: tuple[str, ...]
    rows: Iterator[Item]
    header_line: int | None = None
    header_cells: tuple[str, ...] = ()

    def without_header(self, columns: Sequence[str]) -> Table:
        """The same table when its "header" is a row and the columns are these."""
        assert self.header_line is not None
        assert len(columns) == len(self.columns)
        names = dict(zip(self.columns, columns, strict=True))
        first = Row(self.header_line, dict(zip(columns, self.header_cells, strict=True)))

        def rename(item: Item) -> Item:
            if isinstance(item, BrokenRow):
                return item
            return Row(item.line, {names[key]: value for key, value in item.values.items()})

        rows = itertools.chain([first], map(rename, self.rows))
        return Table(self.name, tuple(columns), rows)


def kind_of(path: str | Path) -> str | None:
    """Format of a file by its suffix, compression aside.

    >>> kind_of("corpus.jsonl.gz"), kind_of("a.PARQUET"), kind_of("a.pdf")
    ('jsonl', 'parquet', None)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        suffix = Path(path.stem).suffix.lower()
    return KINDS.get(suffix)


def open_table(path: str | Path) -> Table:
    """Open a file of any known format.

    Raises:
        DataError: there is no such file, its format is unknown, or it is damaged.
        MissingExtraError: Parquet without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such file.", path=path, hint=_neighbours(path))
    kind = kind_of(path)
    if kind == "jsonl":
        return _peek(str(path), json_rows(path))
    if kind == "csv":
        return _with_header(path, _csv_rows(path))
    if kind == "tsv":
        return _with_header(path, _csv_rows(path, "\t") if _is_quoted(path) else _tsv_rows(path))
    if kind == "trec":
        return Table(str(path), ("query-id", "corpus-id", "score"), _trec_rows(path))
    if kind == "parquet":
        return _parquet(path)
    raise DataError(
        "the format of this file is unknown.",
        path=path,
        hint="Known suffixes are .jsonl, .csv, .tsv, .parquet, and .trec for judgements; all but "
        "Parquet may be packed as .gz, .xz or .bz2.",
    )


def _neighbours(path: Path) -> str | None:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder} either."
    names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))[:8]
    return f"The folder holds: {', '.join(names)}." if names else "The folder is empty."


def table_of_values(name: str, values: Iterator[Mapping[str, Any]]) -> Table:
    """Rows that come from a library instead of a file; they are numbered from 1."""
    return _peek(name, (Row(number, row) for number, row in enumerate(values, start=1)))


def _peek(name: str, rows: Iterator[Item]) -> Table:
    first = list(itertools.islice(rows, _PEEKED))
    columns = dict.fromkeys(key for item in first if isinstance(item, Row) for key in item.values)
    return Table(name, tuple(columns), itertools.chain(first, rows))


@dataclass(frozen=True, slots=True)
class _Cells:
    line: int
    cells: list[str]


def _tsv_rows(path: Path) -> Iterator[_Cells | BrokenRow]:
    """Cells as they stand: in TSV a quotation mark is a character like any other."""
    for number, line in byte_lines(path):
        if not line.strip():
            continue
        try:
            yield _Cells(number, line.decode("utf-8").rstrip("\r\n").split("\t"))
        except UnicodeDecodeError:
            yield not_utf8(number)


def _is_quoted(path: Path) -> bool:
    """Whether every cell of the first line stands in quotation marks: then they are no text."""
    _, line = next(byte_lines(path), (0, b""))
    cells = [cell.strip() for cell in line.split(b"\t")]
    return all(len(cell) > 1 and cell[:1] == cell[-1:] == b'"' for cell in cells)


def _csv_rows(path: Path, separator: str = ",") -> Iterator[_Cells | BrokenRow]:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for number, line in byte_lines(path):
            read = number
            # A row may span lines: bad bytes are marked here and refused with their row.
            yield line.decode("utf-8", "surrogateescape")

    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        start = read + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BrokenRow(
                start,
                "broken CSV",
                f"the row cannot be read: {error}.",
                "A quotation mark inside a quoted cell must be doubled.",
            )
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if any(not cell.isascii() and _has_surrogates(cell) for cell in cells):
            yield not_utf8(start)
        else:
            yield _Cells(start, cells)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _with_header(path: Path, items: Iterator[_Cells | BrokenRow]) -> Table:
    first = next(items, None)
    if first is None:
        return Table(str(path), (), iter(()))
    if isinstance(first, BrokenRow):
        raise DataError(
            f"the header line: {first.message}", path=path, line=first.line, hint=first.hint
        )
    cells = tuple(cell.strip() for cell in first.cells)
    # A name that stands twice stays reachable: the second column of that name is "name (2)".
    columns = tuple(
        cell if cell not in cells[:place] else f"{cell} ({cells[: place + 1].count(cell)})"
        for place, cell in enumerate(cells)
    )

    def rows() -> Iterator[Item]:
        for item in items:
            if isinstance(item, BrokenRow):
                yield item
            elif len(item.cells) != len(columns):
                yield BrokenRow(
                    item.line,
                    "number of columns",
                    f"{len(item.cells)} cells where the header has {len(columns)} columns.",
                    "Quote a cell that holds the separator or a line break, and save as CSV.",
                )
            else:
                yield Row(item.line, dict(zip(columns, item.cells, strict=True)))

    return Table(str(path), columns, rows(), first.line, cells)


def _trec_rows(path: Path) -> Iterator[Item]:
    for number, line in byte_lines(path):
        try:
            parts = line.decode("utf-8").split()
        except UnicodeDecodeError:
            yield not_utf8(number)
            continue
        if len(parts) == 4:
            yield Row(number, {"query-id": parts[0], "corpus-id": parts[2], "score": parts[3]})
        elif parts:
            yield BrokenRow(
                number,
                "number of columns",
                f"{len(parts)} columns where TREC judgements have 4 (query 0 document grade).",
                "A table with a header line needs the suffix .tsv or .csv.",
            )


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Reading a Parquet file") from None
    try:
        opened = parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"not a Parquet file: {error}.", path=path) from None

    def rows() -> Iterator[Item]:
        number = 0
        for batch in opened.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)

    return Table(str(path), tuple(opened.schema_arrow.names), rows())
