"""Numbers of words against the analyzer's terms, looked up one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.retrieval.lexical import term_numbers
from sptar.retrieval.lexical.analyzer import Analyzer
from sptar.retrieval.lexical.term_numbers import NumberedTexts, WordNumbers

ENGLISH = Analyzer("english")
texts = st.lists(
    st.text(alphabet="aAsSbnot'’.:_1 é東", max_size=20)
    | st.sampled_from(["The dog's dogs", "running RUN runs", "not a cat", ""]),
    max_size=6,
)


def test_a_growing_vocabulary_numbers_terms_as_they_come() -> None:
    vocabulary: dict[str, int] = {}
    words = WordNumbers.growing(ENGLISH, vocabulary)
    assert words.of("The dogs run, a dog is running; CATS") == [0, 1, 0, 1, 2]
    assert vocabulary == {"dog": 0, "run": 1, "cat": 2}


def test_a_known_vocabulary_leaves_out_what_it_does_not_hold() -> None:
    vocabulary = {"dog": 7, "": 3}
    words = WordNumbers.known(ENGLISH, vocabulary)
    assert words.of("dogs and cats and the Dog's") == [7, 7]
    assert vocabulary == {"dog": 7, "": 3}


@given(corpus=texts, queries=texts)
def test_numbers_are_those_of_the_terms(corpus: list[str], queries: list[str]) -> None:
    vocabulary: dict[str, int] = {}
    growing = WordNumbers.growing(ENGLISH, vocabulary)
    names: list[str] = []
    for text in corpus:
        for term in ENGLISH.terms(text):
            if term not in names:
                names.append(term)
        assert [names[number] for number in growing.of(text)] == ENGLISH.terms(text)
    assert list(vocabulary) == names
    known = WordNumbers.known(ENGLISH, vocabulary)
    for text in queries:
        expected = [term for term in ENGLISH.terms(text) if term in names]
        assert [names[number] for number in known.of(text)] == expected


def test_forgetting_words_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "running dogs run the races that running dogs win " * 3
    vocabulary: dict[str, int] = {}
    expected = WordNumbers.growing(ENGLISH, vocabulary).of(text)
    assert expected[:6] == [0, 1, 0, 2, 0, 1]
    monkeypatch.setattr(term_numbers, "_REMEMBERED_WORDS", 2)
    words = WordNumbers.known(ENGLISH, vocabulary)
    assert words.of(text) == expected
    assert len(words) <= 2


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=5))
def test_numbered_texts_are_a_sequence_and_two_arrays(rows: list[list[int]]) -> None:
    numbered = NumberedTexts()
    for row in rows:
        numbered.append(row)
    assert list(numbered) == rows
    assert [numbered[position] for position in range(len(numbered))] == rows
    assert (numbered.flat.dtype, numbered.ends.dtype) == (np.int32, np.int64)
    assert numbered.flat.tolist() == [number for row in rows for number in row]
    assert np.diff(numbered.ends).tolist() == [len(row) for row in rows]
