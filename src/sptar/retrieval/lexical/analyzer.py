"""Text to index terms, the way Lucene's English analysis (Anserini's default) does it.

For ``english`` the chain is Lucene's: word breaks of Unicode Standard Annex #29 as
``StandardTokenizer`` implements them, the possessive 's removed, lower case, Lucene's 33 stop
words, Porter's stemmer. Anserini publishes 838,128 terms for the SciFact corpus; this analyzer
yields 838,094. Known differences: emoji and signs like ® are no terms here, and terms longer than
255 characters are not cut.

Other languages get the same words, the stop words of ``bm25s`` where it has some, and the Snowball
stemmer. ``none`` only splits and lower-cases.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

from sptar.errors import ConfigError

__all__ = ["Analyzer", "languages", "split_words", "stop_word_languages", "stop_words"]

_STOP_WORD_LISTS = {
    "danish": "STOPWORDS_DANISH",
    "dutch": "STOPWORDS_DUTCH",
    "english": "STOPWORDS_EN",
    "french": "STOPWORDS_FRENCH",
    "german": "STOPWORDS_GERMAN",
    "italian": "STOPWORDS_ITALIAN",
    "norwegian": "STOPWORDS_NORWEGIAN",
    "portuguese": "STOPWORDS_PORTUGUESE",
    "russian": "STOPWORDS_RUSSIAN",
    "spanish": "STOPWORDS_SPANISH",
    "swedish": "STOPWORDS_SWEDISH",
    "turkish": "STOPWORDS_TURKISH",
}
"""Language → name of its list in ``bm25s.stopwords``; the English one is Lucene's."""
_APOSTROPHES = "'’＇"


def _word_pattern(
    *, letter: str, digit: str, joiner: str, mid_letter: str, mid_number: str, mark: str, extra: str
) -> str:
    """Regular expression of one word by rules WB5 to WB13b of Unicode Standard Annex #29.

    Arguments are the insides of character classes. ``mark`` may follow any character (rule WB4),
    ``joiner`` (the underscore and its kin) joins everything, ``mid_letter`` and ``mid_number``
    join two letters or two digits only when they stand alone between them. ``extra`` is an
    expression for other words.
    """
    marks = f"[{mark}]*"
    letters = f"[{letter}][{letter}{mark}]*"
    digits = f"[{digit}][{digit}{mark}]*"
    joiners = f"[{joiner}][{joiner}{mark}]*"
    letter_group = rf"{letters}(?:(?:{joiners}|[{mid_letter}]{marks}){letters})*"
    digit_group = rf"{digits}(?:(?:{joiners}|[{mid_number}]{marks}){digits})*"
    group = rf"(?:(?:{letter_group}|{digit_group})+|{extra})"
    # The look-behind keeps a long rule of underscores from being tried again at each of them.
    leading = rf"(?:(?<![{joiner}]){joiners})?"
    return rf"{leading}{group}(?:{joiners}{group})*(?:{joiners})?"


# What _word_pattern says, for ASCII alone: most words are one run of letters and digits, and this
# takes them in one go.
_ASCII_WORD = re.compile(
    r"""
    (?: [A-Za-z0-9] | (?<!_)_+(?=[A-Za-z0-9]) ) [A-Za-z0-9]*
    (?:
        (?: _+ | (?<=[A-Za-z])[.:'](?=[A-Za-z]) | (?<=[0-9])[.,;'](?=[0-9]) )
        [A-Za-z0-9]+
    )*
    _*
    """,
    re.VERBOSE,
)


def _compile_unicode_words() -> Callable[[str], list[str]]:
    # Python's own expressions know neither word-break classes nor scripts.
    import regex

    mark = r"\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}"
    between_both = ".'‘’․﹒＇．"
    katakana = rf"\p{{WB=Katakana}}[\p{{WB=Katakana}}{mark}]*"
    word = _word_pattern(
        letter=r"\p{WB=ALetter}\p{WB=Hebrew_Letter}",
        digit=r"\p{WB=Numeric}０-９",
        joiner=r"\p{WB=ExtendNumLet}",
        mid_letter=f":·\u0387\u055f\u05f4\u2027\ufe13\ufe55\uff1a{between_both}",
        mid_number=f",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c"
        f"\uff1b{between_both}",
        mark=mark,
        extra=katakana,
    )
    single = rf"[\p{{Script=Han}}\p{{Script=Hiragana}}][{mark}]*"
    southeast_asian = rf"(?:\p{{LB=SA}}[{mark}]*)+"
    find_all: Callable[[str], list[str]] = regex.compile(
        f"{word}|{southeast_asian}|{single}"
    ).findall
    return find_all


_unicode_words: Callable[[str], list[str]] | None = None


def split_words(text: str) -> list[str]:
    """Words of a text in any script, as written.

    Runs of letters and digits; apostrophes, dots and colons between letters and dots, commas and
    semicolons between digits stay inside; underscores belong to the word. Han and hiragana
    characters are words of their own, a run of Thai, Lao, Khmer or Burmese is one word.

    >>> split_words("The U.S. dog's p53-like foo_bar(x) costs 1,000.50 yen: 東京")
    ['The', 'U.S', "dog's", 'p53', 'like', 'foo_bar', 'x', 'costs', '1,000.50', 'yen', '東', '京']
    """
    if text.isascii():
        return _ASCII_WORD.findall(text)
    global _unicode_words
    if _unicode_words is None:
        _unicode_words = _compile_unicode_words()
    return _unicode_words(text)


def languages() -> list[str]:
    """Languages that :class:`Analyzer` knows, ``none`` included."""
    import Stemmer

    # These three are algorithms for languages that are in the list under their own names.
    return ["none", *sorted(set(Stemmer.algorithms()) - {"porter", "dutch_porter", "lovins"})]


def _measure(stem: str) -> int:
    """Porter's m: how often a vowel is followed by a consonant."""
    kinds = ""
    for letter in stem:
        vowel = letter in "aeiou" or (letter == "y" and kinds.endswith("c"))
        kinds += "v" if vowel else "c"
    return kinds.count("vc")


class _EnglishStemmer:
    """Porter's stemmer with the three later corrections that Lucene's has.

    Words of one or two characters stay; -bli becomes -ble (Porter's paper: only -abli becomes
    -able) and -logi becomes -log. So "possibly" meets "possible" and "pathology" "pathological".
    """

    def __init__(self) -> None:
        import Stemmer

        # A cache of its own would be a second one beside that of the callers.
        self._porter = Stemmer.Stemmer("porter", 0)

    def __call__(self, word: str) -> str:
        if len(word) <= 2:
            return word
        stem: str = self._porter.stemWord(word)
        if stem.endswith("logi") and _measure(stem[:-4]) > 0:
            return stem[:-1]
        if stem.endswith("bli") and _measure(stem[:-3]) > 0:
            corrected: str = self._porter.stemWord(f"{stem[:-3]}ble")
            return corrected
        return stem


def stop_word_languages() -> list[str]:
    """Languages with a list of stop words."""
    return list(_STOP_WORD_LISTS)


def stop_words(language: str) -> frozenset[str]:
    """The stop words of a language; none where there is no list."""
    name = _STOP_WORD_LISTS.get(language)
    if name is None:
        return frozenset()
    from bm25s import stopwords

    words: Iterable[str] = getattr(stopwords, name)
    return frozenset(words)


def _stemmer(language: str) -> Callable[[str], str]:
    if language == "none":
        return str
    if language == "english":
        return _EnglishStemmer()
    import Stemmer

    stem: Callable[[str], str] = Stemmer.Stemmer(language, 0).stemWord
    return stem


class Analyzer:
    """Terms of a text in one language, in order, repeats kept.

    Args:
        language: ``english``, another language of :func:`languages`, or ``none``.

    Raises:
        ConfigError: there is no stemmer for the language.

    >>> Analyzer("english").terms("The vet's dogs weren't running; PATHOLOGY is possibly fun")
    ['vet', 'dog', "weren't", 'run', 'patholog', 'possibl', 'fun']
    """

    def __init__(self, language: str) -> None:
        known = languages()
        if language not in known:
            near = difflib.get_close_matches(language, known, n=1, cutoff=0.6)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known are: {', '.join(known)}."
            raise ConfigError(f"There is no stemmer for the language '{language}'.", hint=hint)
        self.language = language
        self._possessive = language == "english"
        self._stop_words = stop_words(language)
        self._stem = _stemmer(language)

    def term(self, word: str) -> str:
        """Term of one of the words of :func:`split_words`, ``""`` for a stop word."""
        bare = word
        if self._possessive and len(word) >= 2 and word[-1] in "sS" and word[-2] in _APOSTROPHES:
            bare = word[:-2]
        bare = bare.lower()
        return "" if bare in self._stop_words else self._stem(bare)

    def terms(self, text: str) -> list[str]:
        """Terms of ``text``; none for a text without letters, digits or ideographs."""
        return [term for term in map(self.term, split_words(text)) if term]
