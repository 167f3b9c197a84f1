"""Texts that say nothing, or the same thing again and again."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

__all__ = ["is_degenerate", "words"]

_REPEAT_MINIMUM_WORDS = 6

# Letters, digits and the marks that some scripts write vowels with; ideographs and kana stand
# alone, for they are written without spaces.
_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}]"
    r"|[[\p{L}\p{N}\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}]]+",
    regex.VERSION1,
)


def words(text: str) -> list[str]:
    """Words in any script, without case; punctuation, also that of code, separates.

    >>> words("def write_all(self): 東京 Café")
    ['def', 'write', 'all', 'self', '東', '京', 'café']
    """
    found: list[str] = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return found


def _occurrences(sequence: Sequence[str], size: int) -> int:
    """How often the most frequent phrase of ``size`` words stands there, without overlap."""
    counts: Counter[tuple[str, ...]] = Counter()
    free_from: dict[tuple[str, ...], int] = {}
    for start in range(len(sequence) - size + 1):
        phrase = tuple(sequence[start : start + size])
        if free_from.get(phrase, 0) <= start:
            counts[phrase] += 1
            free_from[phrase] = start + size
    return max(counts.values(), default=0)


def is_degenerate(text: str) -> bool:
    """Whether a text says nothing, or the same thing again and again.

    True when it has fewer than two different letters or digits, or has six words or more and
    either a phrase (of any length) that stands there at least three times, without overlap, and
    makes up more than half of the words, or is one phrase said twice.

    >>> is_degenerate("?!?"), is_degenerate("aaaa"), is_degenerate("c++ map")
    (True, True, False)
    >>> is_degenerate("what is what is what is a cat")
    True
    >>> is_degenerate("how to cook rice and how to store rice")
    False
    """
    if len({character for character in text.casefold() if character.isalnum()}) < 2:
        return True
    sequence = words(text)
    count = len(sequence)
    if count < _REPEAT_MINIMUM_WORDS:
        return False
    half = count // 2
    if count % 2 == 0 and sequence[:half] == sequence[half:]:
        return True
    for size in range(1, count // 3 + 1):
        times = _occurrences(sequence, size)
        if times < 3:
            # A longer phrase stands there at most as often as its beginning does.
            return False
        if times * size > count / 2:
            return True
    return False
