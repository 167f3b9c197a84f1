"""Rows out of JSON: one object on each line, or one array of objects."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from sptar.data.rows import BrokenRow, Item, LongNumber, Row, byte_lines, not_utf8

__all__ = ["json_rows"]

_MOST_DIGITS = 1000


def _whole(text: str) -> int | LongNumber:
    return int(text) if len(text) <= _MOST_DIGITS else LongNumber(len(text.lstrip("-")))


_DECODER = json.JSONDecoder(parse_int=_whole)
_BLANKS = (" ", "\t", "\n", "\r")


def json_rows(path: Path) -> Iterator[Item]:
    """Objects of a file with one on each line, or of one JSON array."""
    lines = ((number, line) for number, line in byte_lines(path) if line.strip())
    first = list(itertools.islice(lines, 2))
    rest = itertools.chain(first, lines)
    # Many programs write `.json` as one array. Behind a line that is an array by itself there
    # are other lines: then the lines are rows, and that one is broken.
    if first and first[0][1].lstrip().startswith(b"[") and not _is_whole(first):
        yield from _array_rows(path)
    else:
        for number, line in rest:
            yield _row_of(number, line)


def _is_whole(first: list[tuple[int, bytes]]) -> bool:
    """Whether the first of two lines is JSON by itself."""
    return len(first) == 2 and not (
        isinstance(found := _row_of(*first[0]), BrokenRow) and found.message.startswith(_INVALID)
    )


_INVALID = "not valid JSON"


def _row_of(number: int, line: bytes) -> Item:
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        return not_utf8(number)
    except json.JSONDecodeError as error:
        return BrokenRow(
            number,
            "broken JSON",
            f"{_INVALID}: {error.msg} (character {error.pos + 1}).",
            "Each line must be one JSON object.",
        )
    except RecursionError:
        return _too_deep(number)
    return _json_row(number, value)


def _array_rows(path: Path) -> Iterator[Item]:
    """The objects of one JSON array; the file is read whole."""
    try:
        text = b"".join(line for _, line in byte_lines(path)).decode("utf-8")
    except UnicodeDecodeError:
        yield not_utf8(1)
        return
    place, line, counted, more = text.index("[") + 1, 1, 0, True
    while True:
        place = _behind_blanks(text, place)
        line, counted = line + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            break
        try:
            if not more:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
            value, place = _DECODER.raw_decode(text, place)
        except json.JSONDecodeError as error:
            yield BrokenRow(
                error.lineno,
                "broken JSON",
                f"{_INVALID}: {error.msg} (character {error.colno} of the line).",
                "The file is one JSON array, and nothing behind this place can be read.",
            )
            return
        except RecursionError:
            yield _too_deep(line)
            return
        yield _json_row(line, value)
        place = _behind_blanks(text, place)
        more = text[place : place + 1] == ","
        place += more
    if text[place + 1 :].strip():
        yield BrokenRow(
            line, "broken JSON", "the JSON array ends here, and more follows.", "Remove the rest."
        )


def _behind_blanks(text: str, place: int) -> int:
    while text[place : place + 1] in _BLANKS:
        place += 1
    return place


def _too_deep(line: int) -> BrokenRow:
    return BrokenRow(line, "broken JSON", "the JSON is nested too deeply.", "Flatten this line.")


def _json_row(line: int, value: object) -> Item:
    if isinstance(value, dict):
        return Row(line, value)
    return BrokenRow(
        line,
        "broken JSON",
        f"a JSON object is needed, not a {type(value).__name__}.",
        'Write each row as {"_id": ..., "text": ...} on a line of its own.',
    )
