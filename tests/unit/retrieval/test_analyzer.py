"""The analyzer against hand-checked words of Lucene's English analysis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.errors import ConfigError
from sptar.retrieval.lexical.analyzer import Analyzer, languages, split_words

SCIFACT = Path("../shared/data/scifact")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a I 7", ["a", "I", "7"]),
        ("well-known e-mail/web", ["well", "known", "e", "mail", "web"]),
        ("O'Neill don't 'quoted' rock'n'roll", ["O'Neill", "don't", "quoted", "rock'n'roll"]),
        ("U.S.A. e.g. end.", ["U.S.A", "e.g", "end"]),
        ("3.14 1,000.50 2;3 1, 2", ["3.14", "1,000.50", "2;3", "1", "2"]),
        ("p53 3.5mm a.1 1.a x:y x: y", ["p53", "3.5mm", "a", "1", "1", "a", "x:y", "x", "y"]),
        ("a..b 1..2", ["a", "b", "1", "2"]),
        ("__init__ foo_bar _1 _ ___", ["__init__", "foo_bar", "_1"]),
        ("self.x(y)=z[0]", ["self.x", "y", "z", "0"]),
        ("x² ½ ® 👍", ["x"]),
        ("don’t naïve l'été Zürich", ["don’t", "naïve", "l'été", "Zürich"]),
        ("cafe\u0301s", ["cafe\u0301s"]),
        ("東京です", ["東", "京", "で", "す"]),
        ("カタカナ 한국어 문장", ["カタカナ", "한국어", "문장"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("สวัสดี ครับ", ["สวัสดี", "ครับ"]),
        ("日本2024年", ["日", "本", "2024", "年"]),
        ("", []),
        (" \n\t.,;:!?", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert split_words(text) == expected


@given(st.text(alphabet="aB1_.,:;' -é"[:-1], max_size=40))
def test_the_pattern_for_ascii_agrees_with_the_one_for_all_scripts(text: str) -> None:
    # One character of another script at the end forces the other pattern.
    assert [*split_words(text), "é"] == split_words(f"{text} é")


def test_a_long_line_of_underscores_takes_no_quadratic_time() -> None:
    assert split_words("_" * 300_000 + " x") == ["x"]
    assert split_words("_" * 300_000 + " é") == ["é"]


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        # The examples of Porter's paper.
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("agreed", "agre"),
        ("plastered", "plaster"),
        ("motoring", "motor"),
        ("hopping", "hop"),
        ("relational", "relat"),
        ("conditional", "condit"),
        ("vietnamization", "vietnam"),
        ("triplicate", "triplic"),
        ("hopefulness", "hope"),
        ("revival", "reviv"),
        ("adoption", "adopt"),
        ("rate", "rate"),
        ("cease", "ceas"),
        ("controll", "control"),
        # Where Porter and his later "English" stemmer part.
        ("generously", "gener"),
        ("dying", "dy"),
        # Lucene's corrections of Porter's paper.
        ("us", "us"),
        ("hs", "hs"),
        ("possibly", "possibl"),
        ("terribly", "terribl"),
        ("probably", "probabl"),
        ("pathology", "patholog"),
        ("methodologies", "methodolog"),
        ("biology", "biologi"),
        ("biological", "biolog"),
        # Not only words are stemmed.
        ("1990s", "1990"),
    ],
)
def test_english_stems(word: str, stem: str) -> None:
    assert Analyzer("english").terms(word) == [stem]


def test_english_drops_possessives_and_stop_words_in_any_case() -> None:
    english = Analyzer("english")
    assert english.terms("The dog's and CAT'S, the bird’s; THAT'S it") == ["dog", "cat", "bird"]
    # Only 33 words are stop words: these are not.
    assert english.terms("what who from has") == ["what", "who", "from", "ha"]


def test_other_languages() -> None:
    german = Analyzer("german")
    assert german.terms("Die Häuser und das Haus") == ["haus", "haus"]
    # No list of stop words, but a stemmer.
    assert Analyzer("hungarian").terms("házak a ház") == ["ház", "a", "ház"]
    assert Analyzer("none").terms("The Dogs' dog's run") == ["the", "dogs", "dog's", "run"]


@pytest.mark.parametrize("language", languages())
def test_every_language_works(language: str) -> None:
    assert Analyzer(language).terms("Zebra 42")[-1] == "42"


def test_an_unknown_language_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'english'"):
        Analyzer("englich")
    with pytest.raises(ConfigError, match="Known are: none, arabic"):
        Analyzer("klingon")


@pytest.mark.skipif(not SCIFACT.exists(), reason="the collection ../shared/data/scifact is absent")
def test_scifact_has_as_many_terms_as_anserini_counts() -> None:
    english = Analyzer("english")
    with (SCIFACT / "corpus.jsonl").open(encoding="utf-8") as stream:
        documents = map(json.loads, stream)
        found = sum(len(english.terms(f"{row['title']} {row['text']}")) for row in documents)
    # 838,128 in Anserini's regression; signs like ® make the difference.
    assert abs(found - 838_128) < 50
