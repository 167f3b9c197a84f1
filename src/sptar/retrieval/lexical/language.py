"""Which language texts are likely in, by their stop words: enough for a hint, no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sptar.retrieval.lexical.analyzer import split_words, stop_word_languages, stop_words

__all__ = ["likely_language"]

_FEWEST_WORDS = 50
_LOWEST_SHARE = 0.2
"""Running text of these languages has a quarter and more of stop words; titles and code have less,
and then nothing is said."""
_CLEARLY_MORE = 1.5


def likely_language(texts: Iterable[str]) -> str | None:
    """The language of the stop-word list that covers most words; ``None`` if that is not clear.

    >>> likely_language(["where is the ferry and when does it leave the harbour in winter"] * 5)
    'english'
    >>> likely_language(["wo ist die Fähre und wann verlässt sie im Winter den Hafen"] * 5)
    'german'
    >>> likely_language(["ferry harbour winter timetable"] * 20) is None
    True
    """
    words = Counter(word.lower() for text in texts for word in split_words(text))
    total = words.total()
    if total < _FEWEST_WORDS:
        return None
    shares = {}
    for language in stop_word_languages():
        listed = stop_words(language)
        shares[language] = sum(count for word, count in words.items() if word in listed) / total
    best = max(shares, key=shares.__getitem__)
    clear = best == "english" or shares[best] >= _CLEARLY_MORE * shares["english"]
    return best if shares[best] >= _LOWEST_SHARE and clear else None
