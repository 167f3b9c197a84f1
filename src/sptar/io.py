"""Reading and writing of the plain formats: JSON, JSONL and qrels.

Writes are atomic: a file appears under its name only when all of it is on disk, so a reader (and a
restarted run) never sees half a file. Compression follows the suffix (``.gz``, ``.xz``, ``.bz2``).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from sptar.errors import DataError
from sptar.types import Qrels

__all__ = [
    "HIGHEST_GRADE",
    "atomic_path",
    "atomic_write_bytes",
    "atomic_write_text",
    "lines",
    "open_binary",
    "publish",
    "read_json",
    "read_jsonl",
    "read_qrels",
    "read_sealed",
    "temporary_path",
    "text_writer",
    "to_json",
    "write_json",
    "write_jsonl",
    "write_qrels",
    "write_sealed",
]

_SEAL = "seal"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_path(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` that nobody else has; what lies there at the end is removed.

    The name keeps the suffix, so that libraries which look at it write the right format. Process
    numbers alone would meet one another where machines or containers share a folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{mark}.unfinished.{path.name}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a file that is written its name: it is on disk before, and its name is afterwards."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is synced and renamed to ``path``.

    On an error the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    with temporary_path(path) as temporary:
        yield temporary
        publish(temporary, path)


def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes under ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text under ``path``, whole or not at all."""
    atomic_write_bytes(path, text.encode("utf-8"))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text with real characters instead of escapes; NaN and infinity are refused.

    >>> to_json({"b": "é", "a": 1.5})
    '{"b": "é", "a": 1.5}'
    """
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value, indented, atomically."""
    atomic_write_text(path, to_json(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Read one JSON value; :class:`~sptar.errors.DataError` names file and line when broken."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start + 1}).", path=path) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}.", path=path, line=error.lineno) from None


def write_sealed(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a SHA-256 over itself, atomically."""
    atomic_write_text(path, _sealed(value))


def _sealed(value: Mapping[str, Any]) -> str:
    seal = hashlib.sha256(to_json(value, indent=2).encode("utf-8")).hexdigest()
    return to_json({**value, _SEAL: seal}, indent=2) + "\n"


def read_sealed(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote; no byte of it may have changed.

    Raises:
        DataError: it has, or the file never was sealed.
    """
    value = read_json(path)
    if isinstance(value, dict):
        value.pop(_SEAL, None)
        if Path(path).read_bytes() == _sealed(value).encode("utf-8"):
            return value
    raise DataError("the file has changed since it was written.", path=path)


def open_binary(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes, unpacked when its suffix says it is compressed."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    return path.open("rb")


def lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each line, without its line end and byte-order mark.

    Raises:
        DataError: a line is not UTF-8, or the compressed file is damaged.
    """
    path = Path(path)
    number = 0
    try:
        with open_binary(path) as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"not UTF-8 text (byte {error.start + 1} of the line).",
                        path=path,
                        line=number,
                        hint="Convert the file: iconv -f latin1 -t utf-8 IN > OUT",
                    ) from None
                yield number, text.rstrip("\r\n")
    except FileNotFoundError:
        raise DataError("there is no such file.", path=path) from None
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(
            f"the compressed file is damaged: {error}.",
            path=path,
            line=number + 1,
            hint="Fetch or pack it again.",
        ) from None


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line; blank lines are passed over.

    Raises:
        DataError: a line is no JSON object, with file and line.
    """
    for number, text in lines(path):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"not valid JSON: {error.msg} (character {error.pos + 1}).",
                path=path,
                line=number,
                hint="Each line must be one JSON object.",
            ) from None
        except ValueError:  # Python reads no number of so many digits
            raise DataError(
                "a number has too many digits.",
                path=path,
                line=number,
                hint="Put it into quotation marks.",
            ) from None
        if not isinstance(value, dict):
            raise DataError(
                f"a JSON object is needed, not a {type(value).__name__}.", path=path, line=number
            )
        yield number, value


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one object a line, atomically; returns the number of rows."""
    count = 0
    with atomic_path(path) as temporary, text_writer(temporary) as write:
        for row in rows:
            write(to_json(row) + "\n")
            count += 1
    return count


@contextmanager
def text_writer(path: Path) -> Iterator[Callable[[str], object]]:
    """A function that appends text to a new file, packed when its suffix is ``.gz``."""
    with path.open("wb") as plain:
        if path.suffix.lower() == ".gz":
            # No name and no time stamp inside: equal content is equal byte for byte.
            with gzip.GzipFile("", "wb", fileobj=plain, mtime=0, compresslevel=6) as packed:
                yield lambda text: packed.write(text.encode("utf-8"))
        else:
            yield lambda text: plain.write(text.encode("utf-8"))


HIGHEST_GRADE = 100
"""Grades are a scale that people judge by: test collections have 0 to 4, some 0 to 10, and nothing
goes beyond a percentage. More is a count or a time stamp in the wrong column; measures with graded
gains would follow it, and trec_eval keeps 32 bits of it."""


def read_qrels(path: str | Path) -> Qrels:
    """Read judgements: BEIR's TSV with a header, or TREC's four columns.

    Raises:
        DataError: a row has the wrong number of columns, a grade is no whole number from -100 to
            100, or a pair is judged twice with different grades.
    """
    qrels: Qrels = {}
    for number, text in lines(path):
        if not text.strip():
            continue
        parts = text.split("\t") if "\t" in text else text.split()
        if len(parts) == 4:
            query_id, _, doc_id, grade = parts
        elif len(parts) == 3:
            query_id, doc_id, grade = parts
            if number == 1 and not _is_whole(grade):
                continue
        else:
            raise DataError(
                f"{len(parts)} columns where 3 (query-id, corpus-id, score) or 4 (TREC) are "
                "needed.",
                path=path,
                line=number,
            )
        if not _is_whole(grade):
            raise DataError(f"the score {grade[:60]!r} is no whole number.", path=path, line=number)
        if abs(int(grade)) > HIGHEST_GRADE:
            raise DataError(
                f"the score {grade.strip()} is no grade: grades lie between -{HIGHEST_GRADE} and "
                f"{HIGHEST_GRADE}.",
                path=path,
                line=number,
                hint="Make grades of it, 0 (not relevant), 1, 2, ...",
            )
        judged = qrels.setdefault(query_id.strip(), {})
        if judged.setdefault(doc_id.strip(), int(grade)) != int(grade):
            raise DataError(
                f"query {query_id} and document {doc_id} are judged twice with different scores.",
                path=path,
                line=number,
            )
    return qrels


def _is_whole(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write BEIR's TSV with its header, in the order given."""
    rows = ["query-id\tcorpus-id\tscore"]
    for query_id, judged in qrels.items():
        rows.extend(f"{query_id}\t{doc_id}\t{grade}" for doc_id, grade in judged.items())
    atomic_write_text(path, "\n".join(rows) + "\n")
