"""Cleaning of one generated query: first line, white space, quotes, list markers, repeats.

The published code deletes every full stop, comma and question mark; punctuation is kept here by
default (``docs/method.md`` lists the deviation), and that behaviour can be had as ``reference``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["CLEANERS", "clean_query", "clean_query_reference", "trim_repeats"]

_QUOTES = {
    '"': '"',
    "'": "'",
    "`": "`",
    "“": "”",
    "„": "“",
    "‘": "’",
    "«": "»",
    "「": "」",
}
_OPENED_FOR_SURE = frozenset('"“„«「')
"""Quotes that, standing alone in front of a text, are the torn-off half of a pair (an apostrophe
may also begin a word: 'tis)."""

_LIST_MARKER = re.compile(r"(?:[-*•·–—]|\(?\d{1,2}[.)]|\(?[a-zA-Z]\))\s+(?=\S)")
_LONGEST_PHRASE = 40
"""Words of the longest repeated phrase that is looked for."""


def clean_query(raw: str) -> str:
    """The query in a language model's answer, or ``""`` when there is none.

    In this order, again and again until nothing changes (so cleaning twice is cleaning once):

    1. only the first line counts, and runs of white space become one blank;
    2. one list marker in front goes (``-``, ``*``, ``•``, ``1.``, ``(2)``, ``a)``), if white space
       and text follow it;
    3. quotes around the whole text go, if the same quotes do not also stand inside it; so does
       an opening double quote whose other half is missing;
    4. immediate repeats are trimmed, see :func:`trim_repeats`.

    An answer without any letter or digit is no query and becomes ``""``.

    >>> clean_query('1. "What is what is what is  a tax credit?" ')
    'What is a tax credit?'
    >>> clean_query("who pays 3.5 % VAT, and why?\\nDocument: next")
    'who pays 3.5 % VAT, and why?'
    >>> clean_query("...")
    ''
    """
    lines = raw.splitlines()
    text = lines[0] if lines else ""
    before = None
    while text != before:
        before = text
        text = " ".join(text.split())
        text = _LIST_MARKER.sub("", text, count=1) if _LIST_MARKER.match(text) else text
        text = _trim_quotes(text)
        text = trim_repeats(text)
    return text if any(character.isalnum() for character in text) else ""


def clean_query_reference(raw: str) -> str:
    """The first line without full stops, commas and question marks, as the published code cleans.

    >>> clean_query_reference("who pays 3.5 % VAT, and why?\\nDocument: next")
    'who pays 35 % VAT and why'
    """
    lines = raw.splitlines()
    return lines[0].translate(_REFERENCE_DELETES).strip() if lines else ""


_REFERENCE_DELETES = str.maketrans("", "", ".,?")

CLEANERS: dict[str, Callable[[str], str]] = {
    "trim": clean_query,
    "reference": clean_query_reference,
}
"""Cleaning by the name that ``augment.cleaning`` gives."""


def trim_repeats(text: str) -> str:
    """Keep the first of the copies of a phrase that follow one another.

    Words are what white space separates, compared without case. A phrase of two words or more is
    a loop when it stands twice in a row, a single word when it stands three times (``had had``
    and ``Bora Bora`` are language, not loops). When the copies run up to the end of the text,
    the beginning of one more copy there is cut off with them: that is a loop which the budget of
    new tokens stopped. Text without white space between its words is left as it is.

    >>> trim_repeats("what is what is what is x")
    'what is x'
    >>> trim_repeats("how do cats purr how do cats purr how do")
    'how do cats purr'
    >>> trim_repeats("is bora bora far")
    'is bora bora far'
    """
    words = text.split()
    keys = [word.casefold() for word in words]
    size = 1
    while size <= min(_LONGEST_PHRASE, len(words) // 2):
        start = 0
        while start + 2 * size <= len(words):
            end = _end_of_copies(keys, start, size)
            if end - start < (3 if size == 1 else 2 * size):
                start += 1
                continue
            rest = len(words) - end
            if rest < size and keys[end:] == keys[start : start + rest]:
                end = len(words)
            del words[start + size : end], keys[start + size : end]
            start += 1
        size += 1
    return " ".join(words)


def _end_of_copies(keys: list[str], start: int, size: int) -> int:
    """Where the copies of ``keys[start : start + size]`` that begin at ``start`` end."""
    phrase = keys[start : start + size]
    end = start + size
    while keys[end : end + size] == phrase:
        end += size
    return end


def _trim_quotes(text: str) -> str:
    if not text:
        return text
    opening, closing = text[0], _QUOTES.get(text[0])
    if closing is None:
        return text
    inside = text[1:-1]
    if len(text) > 1 and text[-1] == closing and opening not in inside and closing not in inside:
        return inside.strip()
    if opening in _OPENED_FOR_SURE and opening not in text[1:] and closing not in text[1:]:
        return text[1:].strip()
    return text
