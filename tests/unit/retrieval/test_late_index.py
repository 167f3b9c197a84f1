"""MaxSim search agrees with a full sort, however the corpus is cut, stored or ordered."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_late_scores import slow_maxsim, texts

from sptar.errors import DataError, ModelError, WorkspaceError
from sptar.retrieval.late.index import LateIndex, LateSearcher
from sptar.retrieval.late.scores import TokenVectors
from sptar.retrieval.ranking import ListedIds
from sptar.types import Document, Query

LENGTHS = [3, 7, 0, 1, 12, 5, 5, 0, 9, 2, 4, 30, 6, 1, 8]


def ids(names):
    return ListedIds([Document(name, "text") for name in names])


def queries_named(names):
    return [Query(name, "text") for name in names]


def brute_force(query_texts, queries, document_texts, names, top_k, candidates=None):
    run = {}
    for query, query_text in zip(queries, query_texts, strict=True):
        scores = {
            name: slow_maxsim(query_text, document)
            for name, document in zip(names, document_texts, strict=True)
            if name != query.query_id
            and (candidates is None or name in candidates.get(query.query_id, {}))
        }
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:top_k]
        run[query.query_id] = dict(ranked)
    return run


def assert_same(found, expected):
    assert list(found) == list(expected)
    for query_id, scores in expected.items():
        assert list(found[query_id]) == list(scores)
        assert list(found[query_id].values()) == pytest.approx(
            list(scores.values()), rel=1e-12, abs=1e-12
        )


@settings(deadline=None, max_examples=40)
@given(
    order=st.permutations(range(len(LENGTHS))),
    cuts=st.sets(st.integers(0, len(LENGTHS)), max_size=4),
    tokens_at_once=st.integers(1, 60),
    top_k=st.integers(1, 20),
    lowest=st.sampled_from([-1.0, 0.2]),
)
def test_search_is_a_full_sort_whatever_the_cut_and_order(
    order, cuts, tokens_at_once, top_k, lowest
):
    """With all similarities negative too: what is absent or padded must never win."""
    document_texts = texts(LENGTHS, 6, seed=1, lowest=lowest)
    # d06 is d05 again: only ids can order the two.
    document_texts[6] = document_texts[5]
    sign = 1.0 if lowest < 0 else -1.0
    query_texts = [sign * text for text in texts([4, 1, 6, 0], 6, seed=2, lowest=lowest)]
    names = [f"d{number:02d}" for number in range(len(LENGTHS))]
    queries = queries_named(["d04", "q1", "q2", "q3"])
    expected = brute_force(query_texts, queries, document_texts, names, top_k)
    edges = [0, *sorted(cuts), len(LENGTHS)]
    blocks = [
        TokenVectors.of([document_texts[i] for i in order[first:last]], 6)
        for first, last in pairwise(edges)
    ]
    index = LateIndex(blocks, ids([names[i] for i in order]), tokens_at_once)
    found = index.search(TokenVectors.of(query_texts, 6), queries, top_k)
    assert_same(found, expected)


def test_blocks_on_disk_give_the_very_same_scores_as_in_memory(tmp_path):
    document_texts = texts([20] * 40, 32, seed=3)
    names = [f"d{number:02d}" for number in range(40)]
    queries = queries_named(["q0", "q1", "q2"])
    query_vectors = TokenVectors.of(texts([8, 8, 8], 32, seed=4), 32)
    whole = TokenVectors.of(document_texts, 32)
    expected = LateIndex(whole, ids(names)).search(query_vectors, queries, 10)
    paths = []
    for number, (first, last) in enumerate([(0, 13), (13, 13), (13, 40)]):
        paths.append(tmp_path / f"block-{number}.safetensors")
        whole.slice(first, last).save(paths[-1])
    for tokens_at_once in (1, 100, 10_000):
        index = LateIndex(paths, ids(names), tokens_at_once)
        assert index.search(query_vectors, queries, 10) == expected


def test_many_queries_are_searched_in_parts():
    """More query tokens than are compared at once."""
    query_texts = texts([30] * 100, 8, seed=5)
    document_texts = texts([4] * 30, 8, seed=6)
    names = [f"d{number:02d}" for number in range(30)]
    queries = queries_named([f"q{number}" for number in range(100)])
    found = LateIndex(TokenVectors.of(document_texts, 8), ids(names), 50).search(
        TokenVectors.of(query_texts, 8), queries, 5
    )
    assert_same(found, brute_force(query_texts, queries, document_texts, names, 5))


def test_equal_documents_are_ordered_by_id_at_the_cut_off():
    same = texts([6], 16, seed=7)[0]
    names = [f"d{number}" for number in range(9)]
    for order in (names, names[::-1], names[4:] + names[:4]):
        for tokens_at_once in (6, 13, 1000):
            index = LateIndex(TokenVectors.of([same] * 9, 16), ids(order), tokens_at_once)
            found = index.search(TokenVectors.of([same], 16), queries_named(["q"]), 4)
            assert list(found["q"]) == ["d0", "d1", "d2", "d3"]
            assert len(set(found["q"].values())) == 1


def test_an_empty_document_scores_as_one_that_points_away():
    """A document of unit vectors cannot score less than -1 for each token of the query."""
    words = np.array([[0.6, 0.8], [0.8, -0.6]], np.float32)
    documents = [np.zeros((0, 2)), np.array([[-0.8, -0.6]]), np.array([[0.6, 0.8], [0.0, 1.0]])]
    index = LateIndex(TokenVectors.of(documents, 2), ids(["empty", "far", "near"]))
    found = index.search(TokenVectors.of([words], 2), queries_named(["q"]), 3)["q"]
    assert list(found) == ["near", "far", "empty"]
    assert list(found.values()) == pytest.approx([1.0, -0.96 - 0.28, -2.0], abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    chosen=st.lists(st.sets(st.integers(0, len(LENGTHS) - 1)), min_size=3, max_size=3),
    cut=st.integers(0, len(LENGTHS)),
    tokens_at_once=st.integers(1, 60),
    top_k=st.integers(1, 6),
)
def test_candidates_get_the_scores_of_a_full_search(chosen, cut, tokens_at_once, top_k):
    names = [f"d{number:02d}" for number in range(len(LENGTHS))]
    document_texts = texts(LENGTHS, 6, seed=1)
    query_vectors = TokenVectors.of(texts([4, 1, 6], 6, seed=2), 6)
    queries = queries_named(["d04", "q1", "q2"])
    candidates = {
        query.query_id: {names[i]: float(-i) for i in numbers}
        for query, numbers in zip(queries, chosen, strict=True)
    }
    whole = TokenVectors.of(document_texts, 6)
    index = LateIndex(
        [whole.slice(0, cut), whole.slice(cut, len(LENGTHS))], ids(names), tokens_at_once
    )
    everything = index.search(query_vectors, queries, len(names))
    found = index.search(query_vectors, queries, top_k, candidates)
    assert found == {
        query_id: dict(
            [(name, score) for name, score in scores.items() if name in candidates[query_id]][
                :top_k
            ]
        )
        for query_id, scores in everything.items()
    }
    for scores in found.values():
        assert list(scores) == sorted(scores, key=lambda name: (-scores[name], name))


def test_queries_without_candidates_get_an_empty_ranking():
    index = LateIndex(TokenVectors.of(texts([2, 2]), 4), ids(["a", "b"]))
    queries = queries_named(["q", "a"])
    found = index.search(TokenVectors.of(texts([1, 1]), 4), queries, 5, {"a": {"a": 1.0}})
    assert found == {"q": {}, "a": {}}


def test_a_candidate_of_another_collection_is_an_error():
    index = LateIndex(TokenVectors.of(texts([2, 2]), 4), ids(["a", "b"]))
    with pytest.raises(DataError, match="Document c, a candidate of query q, is not in the index"):
        index.search(TokenVectors.of(texts([1]), 4), queries_named(["q"]), 5, {"q": {"c": 1.0}})


def test_nothing_to_search():
    index = LateIndex([], ids([]))
    assert index.search(TokenVectors.of(texts([2]), 4), queries_named(["q"]), 3) == {"q": {}}
    some = LateIndex(TokenVectors.of(texts([2, 2]), 4), ids(["a", "b"]))
    assert some.search(TokenVectors.of([], 4), [], 3) == {}


def test_vectors_that_do_not_fit_are_refused(tmp_path):
    block = TokenVectors.of(texts([2, 2]), 4)
    with pytest.raises(ValueError, match="2 documents for 3 ids"):
        LateIndex(block, ids(["a", "b", "c"]))
    with pytest.raises(ValueError, match="dimension"):
        LateIndex([block, TokenVectors.of(texts([1], 5), 5)], ids(["a", "b", "c"]))
    with pytest.raises(WorkspaceError, match="no file"):
        LateIndex([tmp_path / "nowhere.safetensors"], ids([]))
    index = LateIndex(block, ids(["a", "b"]))
    with pytest.raises(ValueError, match="token vectors of 1 for 2 queries"):
        index.search(TokenVectors.of(texts([1]), 4), queries_named(["p", "q"]), 1)
    with pytest.raises(ValueError, match="twice"):
        index.search(TokenVectors.of(texts([1, 1]), 4), queries_named(["q", "q"]), 1)
    with pytest.raises(ValueError, match="top_k"):
        index.search(TokenVectors.of(texts([1]), 4), queries_named(["q"]), 0)
    broken = TokenVectors.of([np.full((1, 4), np.inf)], 4)
    with pytest.raises(ModelError, match="Document vectors"):
        LateIndex(broken, ids(["a"])).search(
            TokenVectors.of(texts([1]), 4), queries_named(["q"]), 1
        )


def test_the_searcher_encodes_queries_and_reranks():
    class Encoder:
        def encode_queries(self, queries):
            return TokenVectors.of([texts([2], seed=len(query.text))[0] for query in queries], 4)

    index = LateIndex(TokenVectors.of(texts([2, 3, 1], seed=9), 4), ids(["a", "b", "c"]))
    searcher = LateSearcher(Encoder(), index)
    queries = [Query("q", "one"), Query("a", "another")]
    vectors = Encoder().encode_queries(queries)
    candidates = {"q": {"a": 2.0, "c": 1.0}, "a": {"b": 1.0}}
    assert searcher.search(queries, 2) == index.search(vectors, queries, 2)
    expected = index.search(vectors, queries, 2, candidates)
    assert searcher.search(queries, 2, candidates) == expected
    assert searcher.rerank(queries, candidates, None, 2) == expected
