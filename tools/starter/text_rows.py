"""The text folder: its passages and questions, and which pages are kept aside for measuring."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sptar.io import read_jsonl

MOST_WORDS = 170
"""Longer answers are cut here; no passage is longer."""

Row = dict[str, Any]
"""One line of a file. Passages have ``source``, ``licence``, ``headings``, ``text``; questions
``source``, ``licence`` and ``question`` + ``text``, ``term`` + ``text`` or ``question`` +
``headings``."""


def passages(folder: Path, limit: int | None = None) -> Iterator[Row]:
    """The passages, or the first ``limit`` of them."""
    return (row for _, row in islice(read_jsonl(folder / "passages.jsonl.xz"), limit))


def questions(folder: Path, limit: int | None = None) -> Iterator[Row]:
    """Questions, terms and exercises, or the first ``limit`` of them."""
    return (row for _, row in islice(read_jsonl(folder / "questions.jsonl.xz"), limit))


def one_line(text: str) -> str:
    """White space as single blanks."""
    return " ".join(text.split())


def plain(text: str) -> str:
    """A heading as a searcher would type it: lower case, without markup."""
    text = re.sub(r"\{.*?\}|<.*?>|[`*_]{1,3}", "", text)
    text = re.sub(r"\s*[:|-]\s*(exchange \d+ help|azure.*|microsoft docs.*)$", "", text, flags=re.I)
    return one_line(text.lower()).strip(" .:;,-")


def asked(row: Row) -> str:
    """The query of a question or a term."""
    if "term" in row:
        return f"what is {plain(row['term'])}"
    text = re.sub(r"\s*\?+\s*\??$", "", one_line(row["question"].lower()))
    return text.replace("what is (are)", "what is").strip()


def page_of(row: Row) -> str:
    """The page that a row belongs to.

    Passages have a title. Of questions the last letters, for they name what several questions ask
    about.
    """
    if "question" in row or "term" in row:
        return f"{row['source']} {asked(row)[-20:]}"
    return f"{row['source']} {plain(row['headings'][0]) if row['headings'] else ''}"


def held_out(page: str) -> bool:
    """One page in fifty, the whole page with all its passages."""
    return int.from_bytes(hashlib.sha256(page.encode()).digest()[:4], "big") % 50 == 0


def _beginning(row: Row) -> str:
    return " ".join(row["text"].split()[:MOST_WORDS])


class KeptAside:
    """Which rows are never trained: those of held-out pages, and any row with the same text."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._texts = {_beginning(row) for row in rows if "text" in row and held_out(page_of(row))}

    def __call__(self, row: Row) -> bool:
        """Whether this row, which has a text, is kept aside."""
        return _beginning(row) in self._texts
