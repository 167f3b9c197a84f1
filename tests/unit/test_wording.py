from __future__ import annotations

import unicodedata

import pytest

from sptar.config import FilterConfig
from sptar.data.overlap import find_overlap
from sptar.types import Query
from sptar.weak.filters import RankedQuery, decide
from sptar.wording import normalise

TEST_QUERY = "What is the refund policy?"
SAME = [
    "what is the refund policy",
    "What is the refund policy",
    "  WHAT is\tthe refund policy ?! ",
    "“What is the refund policy?”",
    "(what is the refund policy…)",
    "What is the “refund policy”?",
    "Ｗｈａｔ　is the refund policy？",
    "What is the re\u00adfund pol\u200bicy?",
    "What is – the refund policy.",
]
OTHER = [
    "what is the return policy",
    "is the refund policy what",
    "what is the refund",
    "",
]


@pytest.mark.parametrize("text", SAME)
def test_a_weak_query_that_says_what_a_test_query_says_is_dropped_and_counted(text: str) -> None:
    assert normalise(text) == "what is the refund policy"
    assert _reasons([text]) == ["test_overlap"]
    assert find_overlap([text], [Query("t", TEST_QUERY)]).exact == 1


@pytest.mark.parametrize("text", OTHER)
def test_another_question_is_another_text(text: str) -> None:
    assert normalise(text) != "what is the refund policy"
    assert _reasons([text]) == ["kept" if text else "empty"]
    assert find_overlap([text], [Query("t", TEST_QUERY)]).exact == 0


def test_a_test_query_whose_marks_are_more_than_the_words_that_are_read() -> None:
    # Five words, and ten marks between white space: cut to eight it would miss its end.
    test = "what - is - the - refund - policy ? ? ? ? ? ?"
    assert _reasons(["what is the refund policy"], test=test, max_query_words=8) == ["test_overlap"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Caf\u00e9 hours?", "Cafe\u0301 hours"),
        ("GRÖSSE der Tür", "größe der tür"),
        ("what’s new", "what's new?"),
        ("退款政策是什么？", "退款政策是什么"),
        ("¿Qué es BM25?", "qué es bm25"),
        ("state–of–the–art", "state-of-the-art"),
    ],
)
def test_forms_of_one_text(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("c++ sort", "c sort"), ("c# sort", "c sort"), (".net", "net"), ("x = -5", "x = 5")],
)
def test_signs_that_carry_meaning_stay(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("text", [*SAME, *OTHER, "a´b", "x - y", "ﬁne İ", "?", "def f(x): 5"])
def test_the_form_of_a_form_is_itself(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once == unicodedata.normalize("NFKC", once)


def _reasons(texts: list[str], test: str = TEST_QUERY, **settings: int) -> list[str]:
    ranked = [RankedQuery(f"w{n}", f"d{n}", text, 1, 1.0) for n, text in enumerate(texts)]
    decisions = decide(
        ranked,
        k=10,
        settings=FilterConfig.model_validate(settings),
        document_text=str,
        test_queries=[test],
    )
    return [decision.reason for decision in decisions]
