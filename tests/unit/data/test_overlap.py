from __future__ import annotations

import random

import pytest

from sptar.data.overlap import find_overlap
from sptar.types import Query
from sptar.wording import normalise


def slow(texts: list[str], queries: list[Query], threshold: float) -> tuple[int, int]:
    """Every text against every query."""
    exact = near = 0
    for text in texts:
        words = set(text.split())
        if any(normalise(text) == normalise(query.text) for query in queries):
            exact += 1
        elif words and any(
            len(words & set(query.text.split())) / len(words | set(query.text.split()))
            >= threshold - 1e-9
            for query in queries
        ):
            near += 1
    return exact, near


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_index_finds_what_comparing_all_pairs_finds(seed: int, threshold: float) -> None:
    stream = random.Random(seed)

    def text() -> str:
        return " ".join(stream.choices("abcdefgh", k=stream.randint(1, 6)))

    queries = [Query(f"t{number}", text()) for number in range(60)]
    texts = [text() for _ in range(200)]
    report = find_overlap(texts, queries, threshold=threshold)
    assert (report.exact, report.near) == slow(texts, queries, threshold)
    assert report.exact + report.near > 0


def test_examples_name_the_test_query() -> None:
    queries = [Query("t1", "a b c d e"), Query("t2", "What is BM25?"), Query("t3", "")]
    report = find_overlap(["what  is bm25", "b a d c e", "", "a b c", "..."], queries)
    assert (report.texts, report.exact, report.near) == (5, 1, 1)
    assert [(item.query_id, item.similarity) for item in report.examples] == [
        ("t2", 1.0),
        ("t1", 1.0),
    ]
    assert report.to_json()["examples"][0]["query"] == "What is BM25?"


def test_exactly_at_the_threshold_counts() -> None:
    # 4 shared of 5 words in the union: 0.8.
    assert find_overlap(["a b c d"], [Query("t", "a b c d e")]).near == 1
    assert find_overlap(["a b c"], [Query("t", "a b c d e")]).near == 0


def test_other_scripts() -> None:
    assert find_overlap(["ＧＲÖSSE der Tür"], [Query("t", "größe der tür")]).exact == 1


def test_a_wrong_threshold_is_a_programming_error() -> None:
    with pytest.raises(ValueError):
        find_overlap([], [], threshold=0)
