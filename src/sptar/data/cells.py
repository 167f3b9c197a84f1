"""The value of one cell: a text, an id, a grade, or a problem with file and line."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sptar.data.problems import Problems
from sptar.data.rows import LongNumber, Row
from sptar.io import HIGHEST_GRADE

__all__ = ["grade_of", "id_of", "text_of"]

_EXACT_FLOATS = 2**53
"""Below it every whole number has a float of its own."""
_SHOWN = 60


def text_of(problems: Problems, row: Row, field: str, column: str, name: str) -> str | None:
    """The text of a cell; ``None`` after a problem was reported.

    ``field`` names the kind of text in the problem, ``name`` the file.
    """
    value = row.values.get(column)
    if isinstance(value, str):
        if value.isascii() or _encodable(value):
            return value
        reason, message = "encoding", f"'{column}' holds half a character (a lone surrogate)."
    elif column not in row.values:
        reason = f"missing {field}"
        message = f"there is no '{column}'; the row has: {', '.join(row.values) or 'nothing'}."
    else:
        reason = "not text"
        message = f"'{column}' must be a string, not {_type_name(value)}."
    problems.report(
        reason, message, path=name, line=row.line, hint=f"Give each row a string '{column}'."
    )
    return None


def id_of(problems: Problems, row: Row, column: str, name: str) -> str | None:
    """An id: text without white space, or a whole number; ``None`` after a problem was reported.

    ``1.0``, which some programs make of the number 1, is ``1``.
    """
    value = row.values.get(column)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOATS:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    reason = "bad id"
    if column not in row.values:
        message = f"there is no '{column}'; the row has: {', '.join(row.values) or 'nothing'}."
        reason = "missing id"
    elif not isinstance(value, str):
        message = f"'{column}' must be a string without white space inside, not {_shown(value)}."
    else:
        text = value.strip()
        hidden = None if text.isascii() and text.isprintable() else _control(text)
        if hidden is not None:
            message = f"'{column}' holds a control character ({hidden}): {_shown(value)}."
        elif len(text.split()) == 1 and (text.isascii() or _encodable(text)):
            return text
        else:
            message = (
                f"'{column}' must be a string without white space inside, not {_shown(value)}."
            )
    problems.report(
        reason, message, path=name, line=row.line, hint=f"Give each row an id as '{column}'."
    )
    return None


def grade_of(problems: Problems, row: Row, column: str | None, name: str) -> int | None:
    """A grade: 1 without a column; ``None`` after a problem was reported."""
    if column is None:
        return 1
    value: Any = row.values.get(column)
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value) if "." in value else int(value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        if abs(value) <= HIGHEST_GRADE:
            return int(value)
        message = (
            f"the score {_shown(row.values.get(column))} is no grade: grades lie between "
            f"-{HIGHEST_GRADE} and {HIGHEST_GRADE}."
        )
        hint = (
            "Is it a count or a time stamp? Make grades of it, 0 (not relevant), 1, 2, ..., or "
            "leave the column out: then every judgement counts as 1."
        )
    else:
        message = f"the score {_shown(row.values.get(column))} is no whole number."
        hint = "Grades are 0 (not relevant), 1, 2, ..."
    problems.report("score", message, path=name, line=row.line, hint=hint)
    return None


def _control(text: str) -> str | None:
    """The first control character of a text, by its number."""
    return next((f"U+{ord(char):04X}" for char in text if unicodedata.category(char) == "Cc"), None)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    """A value in an error message: texts and numbers as they stand, cut where they are long."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
    return _type_name(value)


def _type_name(value: object) -> str:
    names: Mapping[type, str] = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    if isinstance(value, LongNumber):
        return f"a number of {value.digits:,} digits"
    return names.get(type(value), type(value).__name__)
