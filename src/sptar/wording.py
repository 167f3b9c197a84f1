"""When two texts ask the same: the one comparison that splits, filters and counts share."""

from __future__ import annotations

import unicodedata

__all__ = ["normalise"]

_ALIKE = str.maketrans(
    dict.fromkeys("‘’‚‛`´ʹʼ′＇", "'")
    | dict.fromkeys("“”„‟«»‹›″＂", '"')
    | dict.fromkeys("‐‑‒–—―−﹘－", "-")
    | dict.fromkeys("。｡", ".")
    | dict.fromkeys("、､", ",")
)
_BEFORE = "\"'([{¿¡,;:!?"
_BEHIND = "\"')]},;:!?.؟،؛।"


def normalise(text: str) -> str:
    """The text without what does not change a question: case, spacing, punctuation, Unicode forms.

    Composed and decomposed letters, full and half width, typographic and plain quotation marks and
    dashes are alike; characters that cannot be seen (zero width, soft hyphens) count for nothing.
    Punctuation is left out at the ends of words, where it belongs to the sentence. Inside a word,
    and where it is a sign of its own (``c++``, ``c#``, ``.net``, ``-5``), it stays.

    >>> normalise("  What is\\tBM25 ?")
    'what is bm25'
    >>> normalise("“What’s new”, (in C#)…") == normalise("what's new in c#")
    True
    >>> normalise("c++ sort") == normalise("c sort")
    False
    """
    # The marks first: NFKC would take some of them apart (an acute accent becomes a blank).
    text = unicodedata.normalize("NFKC", text.translate(_ALIKE)).casefold()
    text = unicodedata.normalize("NFKC", text)
    if not text.isascii():
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    words = (word.rstrip(_BEHIND).lstrip(_BEFORE) for word in text.split())
    return " ".join(word for word in words if word.strip("-"))
