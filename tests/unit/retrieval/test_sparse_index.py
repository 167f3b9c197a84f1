"""Sparse search against dot products by loops; cuts and order must not matter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sptar.errors import DataError, ModelError
from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.sparse.index import (
    SparseIndex,
    SparseSearcher,
    save_sparse_block,
    sparse_rows,
)
from sptar.types import Document, Query

WORDS = 12


def rows(dense):
    return sparse.csr_matrix(np.asarray(dense, np.float32))


def listed(count):
    """Ids that do not sort by position."""
    return [Document(f"d{(37 * number) % 101:03d}", "") for number in range(count)]


def by_loops(queries, query_vectors, documents, vectors, top_k):
    """Dot products in Python's floats, word by word."""
    run = {}
    for query, left in zip(queries, query_vectors.tolist(), strict=True):
        scores = {}
        for document, right in zip(documents, vectors.tolist(), strict=True):
            shared = [a * b for a, b in zip(left, right, strict=True) if a and b]
            total = 0.0
            for product in shared:
                total += product
            if shared and document.doc_id != query.query_id:
                scores[document.doc_id] = total
        order = sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))
        run[query.query_id] = {doc_id: scores[doc_id] for doc_id in order[:top_k]}
    return run


def drawn(count, queries, seed, levels=None):
    """Sparse non-negative vectors; with few levels many scores are equal."""
    generator = np.random.default_rng(seed)
    both = []
    for n in (count, queries):
        values = (
            generator.random((n, WORDS))
            if levels is None
            else generator.integers(1, levels, (n, WORDS))
        )
        both.append((values * (generator.random((n, WORDS)) < 0.3)).astype(np.float32))
    return both


def in_order(run):
    return {query_id: list(scores.items()) for query_id, scores in run.items()}


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 30),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([None, 2, 3]),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    weights_at_once=st.integers(1, 40),
    top_k=st.integers(1, 12),
)
def test_it_is_the_exact_dot_product_however_it_is_cut(
    count, seed, levels, cuts, weights_at_once, top_k
):
    documents = listed(count)
    vectors, query_vectors = drawn(count, 3, seed, levels)
    # One query has the id of a document.
    queries = [Query("x", ""), Query(documents[0].doc_id, ""), Query("y", "")]
    expected = in_order(by_loops(queries, query_vectors, documents, vectors, top_k))
    edges = sorted({0, count, *(cut for cut in cuts if cut < count)})
    blocks = [rows(vectors[a:b]) for a, b in itertools.pairwise(edges)]
    index = SparseIndex(blocks, ListedIds(documents), weights_at_once)
    # Not almost: the sums are the same, in the same order.
    assert in_order(index.search(rows(query_vectors), queries, top_k)) == expected
    order = np.random.default_rng(seed).permutation(count)
    shuffled = SparseIndex([rows(vectors[order])], ListedIds([documents[i] for i in order]))
    assert in_order(shuffled.search(rows(query_vectors), queries, top_k)) == expected


def test_a_query_alone_gets_the_scores_it_gets_among_others():
    documents = listed(25)
    vectors, query_vectors = drawn(25, 6, 3)
    queries = [Query(f"q{number}", "") for number in range(6)]
    index = SparseIndex([rows(vectors)], ListedIds(documents))
    together = index.search(rows(query_vectors), queries, 10)
    for number, query in enumerate(queries):
        alone = index.search(rows(query_vectors[number : number + 1]), [query], 10)
        assert in_order(alone) == in_order({query.query_id: together[query.query_id]})


def test_saved_blocks_give_the_same_run(tmp_path):
    documents = listed(20)
    vectors, query_vectors = drawn(20, 4, 5)
    queries = [Query(f"q{number}", "") for number in range(4)]
    expected = by_loops(queries, query_vectors, documents, vectors, 20)
    blocks = [rows(vectors[:7]), rows(vectors[7:7]), rows(vectors[7:])]
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file, block in zip(files, blocks, strict=True):
        save_sparse_block(file, block)
    for weights_at_once in (1, 11, 1 << 20):
        index = SparseIndex(files, ListedIds(documents), weights_at_once)
        assert in_order(index.search(rows(query_vectors), queries, 20)) == in_order(expected)


def test_documents_without_a_shared_word_are_not_found():
    index = SparseIndex(
        [rows([[1, 0, 0], [0, 2, 0], [0, 0, 0]])], ListedIds([Document(i, "") for i in "abc"])
    )
    queries = [Query("q", ""), Query("none", "")]
    assert index.search(rows([[0, 3, 0], [0, 0, 0]]), queries, 10) == {"q": {"b": 6.0}, "none": {}}


def test_nothing_to_search_and_nothing_to_ask():
    empty = SparseIndex([], ListedIds([]))
    assert empty.search(rows([[1, 0]]), [Query("q", "")], 5) == {"q": {}}
    index = SparseIndex([rows([[1, 0]])], ListedIds([Document("a", "")]))
    assert index.search(sparse.csr_matrix((0, 2), dtype=np.float32), [], 5) == {}


def test_rows_are_put_in_order_without_zeros():
    found = sparse_rows(
        np.array([3, 1, 0, 2], np.float32), np.array([2, 0, 1, 1]), np.array([0, 3, 3, 4]), 4
    )
    np.testing.assert_array_equal(found.toarray(), [[1, 0, 3, 0], [0, 0, 0, 0], [0, 2, 0, 0]])
    assert found.indices.tolist() == [0, 2, 1]
    assert found.dtype == np.float32


def test_words_in_any_order_give_the_same_scores():
    """Rows that somebody else made need not be sorted."""
    unsorted = sparse.csr_matrix(
        (np.array([0.1, 0.7, 0.3], np.float32), np.array([3, 0, 2]), np.array([0, 3])), (1, 4)
    )
    ordered = unsorted.copy()
    ordered.sort_indices()
    documents = ListedIds([Document("a", "")])
    queries = [Query("q", "")]
    expected = SparseIndex([ordered], documents).search(ordered, queries, 1)
    assert SparseIndex([unsorted], documents).search(unsorted, queries, 1) == expected
    assert unsorted.indices.tolist() == [3, 0, 2]


def test_what_does_not_fit_is_refused(tmp_path):
    two = ListedIds([Document("a", ""), Document("b", "")])
    with pytest.raises(ValueError, match="1 vectors for 2 documents"):
        SparseIndex([rows([[1, 0]])], two)
    with pytest.raises(ValueError, match="differ in dimension"):
        SparseIndex([rows([[1, 0]]), rows([[1, 0, 0]])], two)
    index = SparseIndex([rows([[1, 0], [0, 1]])], two)
    query = [Query("q", "")]
    with pytest.raises(ValueError, match="differ in dimension"):
        index.search(rows([[1, 0, 0]]), query, 1)
    with pytest.raises(ValueError, match="top_k"):
        index.search(rows([[1, 0]]), query, 0)
    with pytest.raises(ValueError, match="1 vectors for 2 queries"):
        index.search(rows([[1, 0]]), [*query, Query("r", "")], 1)
    with pytest.raises(ValueError, match="twice"):
        index.search(rows([[1, 0], [1, 0]]), [*query, *query], 1)
    with pytest.raises(ModelError, match="Query vectors hold values that are no numbers"):
        index.search(rows([[np.nan, 0]]), query, 1)
    with pytest.raises(ModelError, match="Document vectors hold values that are no numbers"):
        SparseIndex([rows([[np.inf, 0], [0, 1]])], two).search(rows([[1, 0]]), query, 1)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    for file in (broken, tmp_path / "missing.safetensors"):
        with pytest.raises(DataError, match=file.name):
            SparseIndex([file], two)


def test_the_searcher_encodes_the_queries_first():
    class Encoder:
        def encode_queries(self, queries):
            return rows([[float(query.text), 0] for query in queries])

    index = SparseIndex([rows([[2, 0], [0, 1]])], ListedIds([Document("a", ""), Document("b", "")]))
    found = SparseSearcher(Encoder(), index).search([Query("q", "3"), Query("r", "5")], 10)
    assert found == {"q": {"a": 6.0}, "r": {"a": 10.0}}
