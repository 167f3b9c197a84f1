"""One row of a file, or why it cannot be read; and the lines that rows are made of."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sptar.errors import DataError
from sptar.io import open_binary

__all__ = ["BrokenRow", "Item", "LongNumber", "Row", "byte_lines", "not_utf8"]

_ICONV = "Convert the file: iconv -f latin1 -t utf-8 IN > OUT"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; ``line`` counts from 1 (in Parquet and data sets: the number of the row)."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read."""

    line: int
    reason: str
    message: str
    hint: str


Item: TypeAlias = Row | BrokenRow


@dataclass(frozen=True, slots=True)
class LongNumber:
    """A number with more digits than Python reads; it does no harm where nobody asks for it."""

    digits: int


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line, unpacked; :class:`DataError` where it is damaged."""
    number = 0
    try:
        with open_binary(path) as stream:
            for number, line in enumerate(stream, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield number, line
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, OSError) as error:
        raise DataError(
            f"the file is damaged or cannot be read: {error}.",
            path=path,
            line=number + 1,
            hint="Fetch or pack it again.",
        ) from None


def not_utf8(line: int) -> BrokenRow:
    """A line whose bytes are no UTF-8 text."""
    return BrokenRow(line, "encoding", "the line is not UTF-8 text.", _ICONV)
