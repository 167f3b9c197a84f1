"""Exact search against a brute-force reference, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.errors import ModelError
from sptar.retrieval.index import DenseIndex, DenseSearcher, ListedIds
from sptar.types import Document, Query


def listed(names):
    return ListedIds([Document(name, "") for name in names])


def brute_force(vectors, ids, query_vectors, queries, top_k):
    run = {}
    for vector, query in zip(query_vectors, queries, strict=True):
        scores = {
            doc_id: float(np.sum(row.astype(np.float64) * vector.astype(np.float64)))
            for doc_id, row in zip(ids, vectors, strict=True)
            if doc_id != query.query_id
        }
        order = sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))[:top_k]
        run[query.query_id] = {doc_id: scores[doc_id] for doc_id in order}
    return run


def assert_same(found, expected):
    assert list(found) == list(expected)
    for query_id, scores in expected.items():
        assert list(found[query_id]) == list(scores)
        assert list(found[query_id].values()) == pytest.approx(list(scores.values()), abs=1e-12)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(1, 41),
    st.booleans(),
)
def test_equals_brute_force_for_any_block_size(seed, count, top_k, block_size, many_ties):
    generator = np.random.default_rng(seed)
    if many_ties:
        vectors = generator.integers(-1, 2, (count, 3)).astype(np.float32)
        asked = generator.integers(-1, 2, (4, 3)).astype(np.float32)
    else:
        vectors = generator.normal(size=(count, 5)).astype(np.float32)
        vectors[count // 2 :] = vectors[: count - count // 2]
        asked = generator.normal(size=(4, 5)).astype(np.float32)
    ids = [f"d{name}" for name in generator.permutation(count)]
    queries = [Query("q1", ""), Query("d0", ""), Query("q2", ""), Query(ids[-1] + "x", "")]
    cut = int(generator.integers(0, count + 1))
    index = DenseIndex([vectors[:cut], vectors[cut:]], listed(ids), block_size)
    found = index.search(asked, queries, top_k)
    assert_same(found, brute_force(vectors, ids, asked, queries, top_k))


def test_scores_that_float32_cannot_tell_apart_are_ranked_exactly():
    """Differences below the rounding of a float32 dot product decide the order and the cut."""
    generator = np.random.default_rng(5)
    base = generator.normal(size=256).astype(np.float32)
    vectors = np.repeat(base[None], 200, axis=0)
    for row in range(200):
        vectors[row, row] = np.nextafter(vectors[row, row], np.float32(row % 3 - 1) * 99)
    ids = [f"d{i:03d}" for i in range(200)]
    queries = [Query("q", "")]
    expected = brute_force(vectors, ids, base[None], queries, 17)
    for block_size in (1, 7, 64, 200):
        index = DenseIndex(vectors, listed(ids), block_size)
        assert_same(index.search(base[None], queries, 17), expected)


def test_ties_at_the_cut_off_go_to_the_smaller_ids():
    vectors = np.zeros((30, 2), dtype=np.float32)
    ids = [f"d{i:02d}" for i in range(29, -1, -1)]
    for block_size in (1, 4, 30):
        found = DenseIndex(vectors, listed(ids), block_size).search(
            np.ones((1, 2), np.float32), [Query("q", "")], 3
        )
        assert list(found["q"]) == ["d00", "d01", "d02"]


def test_a_document_never_answers_the_query_of_its_own_id():
    vectors = np.eye(3, dtype=np.float32)
    index = DenseIndex(vectors, listed(["a", "b", "c"]), 1)
    found = index.search(vectors[:1], [Query("a", "")], 3)
    assert list(found["a"]) == ["b", "c"]


def test_blocks_in_files_are_searched_like_one_array(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(25, 6)).astype(np.float32)
    files = []
    for number, part in enumerate((vectors[:10], vectors[10:10], vectors[10:])):
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], part)
    ids = [str(i) for i in range(25)]
    queries = [Query("q", "")]
    expected = DenseIndex(vectors, listed(ids)).search(vectors[3:4], queries, 10)
    assert DenseIndex(files, listed(ids), 4).search(vectors[3:4], queries, 10) == expected


def test_half_precision_blocks_and_small_collections_work():
    vectors = np.eye(2, dtype=np.float16)
    found = DenseIndex(vectors, listed(["a", "b"])).search(
        vectors, [Query("x", ""), Query("y", "")], 9
    )
    assert found == {"x": {"a": 1.0, "b": 0.0}, "y": {"b": 1.0, "a": 0.0}}


def test_no_documents_and_no_queries():
    empty = DenseIndex(np.zeros((0, 4), np.float32), listed([]))
    assert empty.search(np.ones((1, 4), np.float32), [Query("q", "")], 5) == {"q": {}}
    assert empty.search(np.zeros((0, 4), np.float32), [], 5) == {}


def test_a_diverged_model_is_named_as_the_cause():
    vectors = np.full((2, 2), np.nan, dtype=np.float32)
    with pytest.raises(ModelError, match="no numbers"):
        DenseIndex(vectors, listed(["a", "b"])).search(np.ones((1, 2)), [Query("q", "")], 1)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="3 vectors for 2 documents"):
        DenseIndex(np.zeros((3, 2)), listed(["a", "b"]))
    with pytest.raises(ValueError, match="stands twice"):
        DenseIndex(np.zeros((1, 2)), listed(["a"])).search(
            np.zeros((2, 2)), [Query("q", ""), Query("q", "")], 1
        )


def test_the_searcher_encodes_and_searches():
    class Encoder:
        def encode_queries(self, queries):
            return np.array([[len(query.text), 1.0] for query in queries], dtype=np.float32)

    index = DenseIndex(np.array([[1, 0], [0, 5]], np.float32), listed(["a", "b"]))
    found = DenseSearcher(Encoder(), index).search([Query("q", "ten letter")], 1)
    assert found == {"q": {"a": 10.0}}
