"""Texts as numbers of their terms, with one look-up for each word as it is written."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sptar.retrieval.lexical.analyzer import Analyzer, split_words

__all__ = ["NumberedTexts", "WordNumbers"]

_REMEMBERED_WORDS = 1_000_000
"""Words whose number is remembered; beyond that the memory is emptied, so that a huge corpus of
rare strings cannot fill the machine."""

_NO_TERM = -1


class WordNumbers(dict[str, int]):
    """Word as written → the number of its term, -1 where there is none; filled when asked."""

    def __init__(self, analyzer: Analyzer, number_of: Callable[[str], int]) -> None:
        """``number_of`` gives the number of a term, -1 to leave the term out."""
        super().__init__()
        self._analyzer = analyzer
        self._number_of = number_of

    @classmethod
    def known(cls, analyzer: Analyzer, vocabulary: dict[str, int]) -> WordNumbers:
        """Terms that a vocabulary does not hold are left out."""
        return cls(analyzer, lambda term: vocabulary.get(term, _NO_TERM))

    @classmethod
    def growing(cls, analyzer: Analyzer, vocabulary: dict[str, int]) -> WordNumbers:
        """Terms that a vocabulary does not hold are added to it."""
        return cls(analyzer, lambda term: vocabulary.setdefault(term, len(vocabulary)))

    def __missing__(self, word: str) -> int:
        term = self._analyzer.term(word)
        number = self._number_of(term) if term else _NO_TERM
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        self[word] = number
        return number

    def of(self, text: str) -> list[int]:
        """Numbers of a text's terms, in order, repeats kept."""
        return [number for number in map(self.__getitem__, split_words(text)) if number >= 0]


class NumberedTexts(Sequence[list[int]]):
    """Term numbers of many texts in one flat array: 4 bytes for each term."""

    def __init__(self) -> None:
        self._flat = array("i")
        self._ends = array("q", [0])

    def append(self, numbers: list[int]) -> None:
        """Add the next text."""
        self._flat.extend(numbers)
        self._ends.append(len(self._flat))

    @property
    def flat(self) -> npt.NDArray[np.int32]:
        """The numbers of all texts, one text after the other."""
        return np.array(self._flat, dtype=np.int32)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """(texts + 1,) text i has ``flat[ends[i]:ends[i + 1]]``."""
        return np.array(self._ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, position: Any) -> Any:
        return self._flat[self._ends[position] : self._ends[position + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[position] for position in range(len(self)))
