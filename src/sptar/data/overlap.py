"""How many training or weak queries say the same as a test query."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sptar.types import Query
from sptar.wording import normalise

__all__ = ["OverlapExample", "OverlapReport", "find_overlap"]

_WORD = re.compile(r"\w+")
_EXAMPLES = 10


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(normalise(text)))


@dataclass(frozen=True)
class OverlapExample:
    """A text and the test query most like it; ``similarity`` is 1 for equal texts."""

    text: str
    query_id: str
    query: str
    similarity: float


@dataclass(frozen=True)
class OverlapReport:
    """Counts of texts, each counted once: ``exact`` (equal when normalised) or else ``near``."""

    texts: int
    exact: int
    near: int
    threshold: float
    examples: tuple[OverlapExample, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


class _WordIndex:
    """Finds the set with the highest Jaccard similarity of at least ``threshold``.

    Two sets this similar must share one of the rarest words of each (prefix filtering), so only
    those words are indexed and looked up, and no pair is compared that has no chance.
    """

    def __init__(self, sets: Sequence[frozenset[str]], threshold: float) -> None:
        self.sets, self.threshold = sets, threshold
        self._frequency = Counter(word for words in sets for word in words)
        self._places: Mapping[str, list[int]] = defaultdict(list)
        for place, words in enumerate(sets):
            for word in self._prefix(words):
                self._places[word].append(place)

    def _prefix(self, words: frozenset[str]) -> list[str]:
        # One order for both sides: rare first, then by the word itself.
        ordered = sorted(words, key=lambda word: (self._frequency.get(word, 0), word))
        return ordered[: len(words) - math.ceil(self.threshold * len(words) - 1e-9) + 1]

    def best(self, words: frozenset[str]) -> tuple[int, float] | None:
        """Place (the first one of equals) and similarity of the nearest set."""
        found: tuple[int, float] | None = None
        candidates = {place for word in self._prefix(words) for place in self._places.get(word, ())}
        for place in sorted(candidates):
            other = self.sets[place]
            shared = len(words & other)
            similarity = shared / (len(words) + len(other) - shared)
            if similarity >= self.threshold - 1e-9 and (found is None or similarity > found[1]):
                found = (place, similarity)
        return found


def find_overlap(
    texts: Sequence[str], test_queries: Sequence[Query], *, threshold: float = 0.8
) -> OverlapReport:
    """Count texts that equal a test query, or nearly do.

    Near means: the Jaccard similarity of the two sets of words is at least ``threshold``.

    >>> test = [Query("t1", "how do dogs learn new tricks at home")]
    >>> report = find_overlap(
    ...     ["How do dogs learn new tricks at home?", "how do dogs learn tricks at home", "cats"],
    ...     test,
    ... )
    >>> report.exact, report.near
    (1, 1)
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold lies above 0 and up to 1, not at {threshold}")
    exact_ids: dict[str, Query] = {}
    for query in test_queries:
        exact_ids.setdefault(normalise(query.text), query)
    exact_ids.pop("", None)
    with_words = [query for query in test_queries if _words(query.text)]
    index = _WordIndex([_words(query.text) for query in with_words], threshold)
    exact = near = 0
    examples: list[OverlapExample] = []
    for text in texts:
        same = exact_ids.get(normalise(text))
        if same is not None:
            exact += 1
            example = OverlapExample(text, same.query_id, same.text, 1.0)
        else:
            words = _words(text)
            best = index.best(words) if words else None
            if best is None:
                continue
            near += 1
            query = with_words[best[0]]
            example = OverlapExample(text, query.query_id, query.text, best[1])
        if len(examples) < _EXAMPLES:
            examples.append(example)
    return OverlapReport(len(texts), exact, near, threshold, tuple(examples))
