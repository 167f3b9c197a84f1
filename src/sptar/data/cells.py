"""The value of one cell: a text, an id, a grade, or a problem with file and line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sptar.data.problems import Problems
from sptar.data.tables import Row

__all__ = ["grade_of", "id_of", "text_of"]


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
    """An id: text without white space, or a whole number; ``None`` after a problem was reported."""
    value = row.values.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        text = value.strip()
        if text and len(text.split()) == 1 and (text.isascii() or _encodable(text)):
            return text
    if column not in row.values:
        message = f"there is no '{column}'; the row has: {', '.join(row.values) or 'nothing'}."
        reason = "missing id"
    else:
        shown = repr(value) if isinstance(value, str) else _type_name(value)
        message = f"'{column}' must be a string without white space inside, not {shown}."
        reason = "bad id"
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
        return int(value)
    problems.report(
        "score",
        f"the score {row.values.get(column)!r} is no whole number.",
        path=name,
        line=row.line,
        hint="Grades are 0 (not relevant), 1, 2, ...",
    )
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _type_name(value: object) -> str:
    names: Mapping[type, str] = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
