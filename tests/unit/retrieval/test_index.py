"""Exact search against a brute-force reference, whatever the blocks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.errors import ModelError
from sptar.retrieval.dense import index as retrieval_index
from sptar.retrieval.dense.index import DenseIndex, DenseSearcher
from sptar.retrieval.ranking import ListedIds
from sptar.tensors import products
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


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 120),
    st.integers(16, 40),
    st.sampled_from([1, 3, 10, 500]),
    st.sampled_from([7, 64, 1000]),
    st.sampled_from(["distinct", "ties", "falling", "rising"]),
)
def test_many_queries_equal_brute_force_too(seed, count, asked, top_k, block_size, shape):
    """They are compared in groups and parts of blocks; documents stand in a good or bad order."""
    generator = np.random.default_rng(seed)
    if shape == "ties":
        vectors = generator.integers(-1, 2, (count, 3)).astype(np.float32)
        left = generator.integers(-1, 2, (asked, 3)).astype(np.float32)
    else:
        vectors = generator.normal(size=(count, 6)).astype(np.float32)
        left = generator.normal(size=(asked, 6)).astype(np.float32)
        if shape != "distinct":
            left[:] = left[0] + left / 100
            order = np.argsort(vectors @ left[0])
            vectors = vectors[order if shape == "rising" else order[::-1]]
    ids = [f"d{name}" for name in generator.permutation(count)]
    queries = [Query(f"d{number * 2}", "") for number in range(asked)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_index, "_QUERIES_AT_ONCE", 17)
        patch.setattr(retrieval_index, "_SCORES_AT_ONCE", 17 * 12)
        patch.setattr(retrieval_index, "_RESCORED_AT_ONCE", 50)
        found = DenseIndex(vectors, listed(ids), block_size).search(left, queries, top_k)
    assert_same(found, brute_force(vectors, ids, left, queries, top_k))


def test_many_queries_are_told_apart_below_the_rounding_of_float32():
    generator = np.random.default_rng(5)
    base = generator.normal(size=256).astype(np.float32)
    vectors = np.repeat(base[None], 200, axis=0)
    for row in range(200):
        vectors[row, row] = np.nextafter(vectors[row, row], np.float32(row % 3 - 1) * 99)
    left = np.stack([base * np.float32(1 + number / 64) for number in range(20)])
    ids = [f"d{i:03d}" for i in range(200)]
    queries = [Query(f"q{number}", "") for number in range(20)]
    expected = brute_force(vectors, ids, left, queries, 17)
    for block_size in (7, 200):
        index = DenseIndex(vectors, listed(ids), block_size)
        assert_same(index.search(left, queries, 17), expected)


def test_products_that_are_rounded_too_much_are_not_used(monkeypatch):
    """Settings of torch allow it to multiply float32 in bfloat16."""

    class Rounding(products.Product):
        def __call__(self, values):
            return super().__call__(values.bfloat16().float())

    monkeypatch.setattr(products, "Product", Rounding)
    generator = np.random.default_rng(1)
    vectors = 1 + generator.normal(size=(300, 32), scale=1e-3).astype(np.float32)
    left = generator.normal(size=(20, 32)).astype(np.float32)
    ids = [f"d{i:03d}" for i in range(300)]
    queries = [Query(f"q{number}", "") for number in range(20)]
    found = DenseIndex(vectors, listed(ids)).search(left, queries, 5)
    assert_same(found, brute_force(vectors, ids, left, queries, 5))


def test_vectors_too_long_for_their_squares_are_searched(tmp_path):
    vectors = np.array([[3e25, 0], [0, 4e25], [1e25, 1e25]], np.float32)
    index = DenseIndex(vectors, listed(["a", "b", "c"]))
    assert list(index.search(np.array([[1, 2]], np.float32), [Query("q", "")], 2)["q"]) == [
        "b",
        "a",
    ]


def test_files_of_no_use_to_write_to_are_searched(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    np.save(tmp_path / "0.npy", vectors)
    (tmp_path / "0.npy").chmod(0o400)
    left = vectors[:20].copy()
    left.flags.writeable = False
    queries = [Query(f"q{number}", "") for number in range(20)]
    ids = [f"d{i:03d}" for i in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = DenseIndex([tmp_path / "0.npy"], listed(ids)).search(left, queries, 3)
    assert_same(found, brute_force(vectors, ids, left, queries, 3))
    vectors.flags.writeable = False
    assert DenseIndex(vectors, listed(ids)).search(left, queries, 3) == found


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("block_size", "at_once"), [(4, 1 << 21), (60, 1 << 21), (60, 30)])
@pytest.mark.parametrize("asked", [1, 3])
def test_a_first_pass_that_rounds_as_badly_as_it_may_changes_nothing(
    monkeypatch, order, block_size, at_once, asked
):
    """The bound on a float32 dot product of d terms is d * 2**-24 of the lengths' product. Here the
    best documents come out that much too low and all others that much too high.
    """
    size, best = 64, 5
    scores = 1 - np.arange(60) * 2.0**-23
    off = size * 2.0**-24
    assert scores[0] - scores[-1] < 2 * off  # so that any of them may look best
    vectors = np.zeros((60, size), np.float32)
    vectors[:, 0] = scores[::order]

    def worst(left, margins):
        def products(rows):
            exact = rows.astype(np.float64) @ left.T.astype(np.float64)
            good = exact >= exact_cut * np.linalg.norm(left, axis=1)
            return np.where(good, exact - off, exact + off).astype(np.float32)

        return products

    exact_cut = scores[best - 1]
    monkeypatch.setattr(retrieval_index, "_products", worst)
    monkeypatch.setattr(retrieval_index, "_SCORES_AT_ONCE", at_once)
    ids = [f"d{i:02d}" for i in range(60)]
    left = np.zeros((asked, size), np.float32)
    left[:, 0] = 1
    queries = [Query(f"q{number}", "") for number in range(asked)]
    found = DenseIndex(vectors, listed(ids), block_size).search(left, queries, best)
    assert_same(found, brute_force(vectors, ids, left, queries, best))
