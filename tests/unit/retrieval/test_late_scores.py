"""Token vectors keep their texts apart, in memory and on disk; MaxSim agrees with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.errors import ModelError, WorkspaceError
from sptar.retrieval.late.scores import MaxSim, TokenVectors, late_scores


def texts(lengths, dimension=4, seed=0, lowest=-1.0):
    """One array [length, dimension] for each length, entries from ``lowest`` to 1."""
    generator = np.random.default_rng(seed)
    return [
        generator.uniform(lowest, 1.0, (length, dimension)).astype(np.float32) for length in lengths
    ]


def slow_maxsim(query, document):
    """The definition, one dot product after the other, in Python's own float64."""
    total = 0.0
    for word in query.tolist():
        length = sum(value * value for value in word) ** 0.5
        total += max(
            (sum(a * b for a, b in zip(word, token, strict=True)) for token in document.tolist()),
            default=-length,
        )
    return total


def test_a_score_by_hand():
    """(1, 0) finds 0.8, (0, 1) finds 0.6; against all-negative tokens the least bad one counts."""
    query = TokenVectors.of([np.array([[1.0, 0.0], [0.0, 1.0]])], 2)
    documents = TokenVectors.of(
        [
            np.array([[0.8, 0.1], [-0.5, 0.6], [0.2, 0.3]]),
            np.array([[-0.9, -0.2], [-0.4, -0.7]]),
            np.zeros((0, 2)),
        ],
        2,
    )
    found = late_scores(query, documents)
    np.testing.assert_allclose(found, [[0.8 + 0.6, -0.4 - 0.2, -2.0]], rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 5), max_size=4),
    st.lists(st.integers(0, 7), max_size=9),
    st.integers(1, 9),
    st.integers(0, 1000),
)
def test_scores_are_those_of_the_definition(query_lengths, document_lengths, dimension, seed):
    queries = texts(query_lengths, dimension, seed)
    documents = texts(document_lengths, dimension, seed + 1)
    found = late_scores(TokenVectors.of(queries, dimension), TokenVectors.of(documents, dimension))
    expected = [[slow_maxsim(query, document) for document in documents] for query in queries]
    assert found.shape == (len(queries), len(documents))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape), rtol=1e-6, atol=1e-6)


def test_rough_scores_are_within_their_margins_and_exact_ones_are_exact():
    queries, documents = texts([3, 0, 8, 32], 128), texts([60] * 20 + [0, 1, 300], 128, seed=5)
    compare = MaxSim(TokenVectors.of(queries, 128))
    piece = TokenVectors.of(documents, 128)
    longest = max(np.linalg.norm(document, axis=1).max() for document in documents if len(document))
    similar = compare.similarities(piece, 1, 4)
    rough = compare.rough(similar, piece, 1, 4)
    margins = compare.margins(float(longest))
    for query in (1, 2, 3):
        expected = [slow_maxsim(queries[query], document) for document in documents]
        everything = np.arange(len(documents))
        exact = compare.exact(similar, piece, query, 1, everything, float(longest))
        np.testing.assert_allclose(exact, expected, rtol=1e-13, atol=1e-13)
        assert (np.abs(rough[query - 1] - expected) <= margins[query]).all()
    assert margins[1] == 0.0
    assert 0 < margins[3] < 0.1


def test_an_exact_score_looks_at_more_than_the_largest_rounded_product():
    """Two tokens that float32 puts in the wrong order: the truly larger product counts."""
    generator = np.random.default_rng(3)
    word = generator.normal(size=(1, 64)).astype(np.float32)
    near = np.tile(generator.normal(size=(1, 64)).astype(np.float32), (200, 1))
    near += generator.normal(scale=3e-8, size=near.shape).astype(np.float32)
    truth = near.astype(np.float64) @ word[0].astype(np.float64)
    compare = MaxSim(TokenVectors.of([word], 64))
    piece = TokenVectors.of([near], 64)
    rounded = compare.similarities(piece, 0, 1)[:, 0]
    assert truth[rounded.argmax()] < truth.max()
    longest = float(np.linalg.norm(near, axis=1).max())
    found = compare.exact(rounded[:, None], piece, 0, 0, np.arange(1), longest)
    assert found[0] == pytest.approx(truth.max(), rel=1e-14)


def test_an_exact_score_does_not_depend_on_the_piece():
    queries, documents = texts([32], 128), texts([50, 60, 70, 1], 128, seed=2)
    together = late_scores(TokenVectors.of(queries, 128), TokenVectors.of(documents, 128))
    compare = MaxSim(TokenVectors.of(queries, 128))
    for number, document in enumerate(documents):
        piece = TokenVectors.of([document], 128)
        similar = compare.similarities(piece, 0, 1)
        alone = compare.exact(similar, piece, 0, 0, np.arange(1), 20.0)
        assert np.float32(alone[0]) == together[0, number]


def test_vectors_that_are_no_numbers_are_refused():
    broken = TokenVectors.of([np.array([[1.0, np.nan]])], 2)
    fine = TokenVectors.of([np.array([[1.0, 0.0]])], 2)
    with pytest.raises(ModelError, match="Query vectors hold values that are no numbers"):
        late_scores(broken, fine)
    with pytest.raises(ModelError, match="Document vectors hold values that are no numbers"):
        late_scores(fine, broken)


def test_texts_come_back_as_they_went_in():
    parts = texts([2, 0, 5, 1])
    block = TokenVectors.of(parts, 4)
    assert len(block) == 4
    assert block.dimension == 4
    assert block.lengths.tolist() == [2, 0, 5, 1]
    for found, part in zip(block, parts, strict=True):
        np.testing.assert_array_equal(found, part)
    with pytest.raises(IndexError):
        block[4]
    for chosen in ([], [3], [2, 0, 2, 1]):
        taken = block.take(chosen)
        assert len(taken) == len(chosen)
        for found, number in zip(taken, chosen, strict=True):
            np.testing.assert_array_equal(found, parts[number])
    middle = block.slice(1, 3)
    np.testing.assert_array_equal(middle[1], parts[2])
    joined = TokenVectors.join([block.slice(0, 1), block.slice(1, 1), block.slice(1, 4)])
    np.testing.assert_array_equal(joined.vectors, block.vectors)
    np.testing.assert_array_equal(joined.offsets, block.offsets)


@pytest.mark.parametrize("lengths", [[], [0, 0], [3, 0, 2], [1] * 7])
def test_a_file_is_memory_mapped_and_holds_the_same(tmp_path, lengths):
    block = TokenVectors.of(texts(lengths, 3), 3)
    block.save(tmp_path / "block.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["block.safetensors"]
    found = TokenVectors.open(tmp_path / "block.safetensors")
    np.testing.assert_array_equal(found.vectors, block.vectors)
    np.testing.assert_array_equal(found.offsets, block.offsets)
    base = found.vectors
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_a_file_that_is_damaged_or_missing_is_named(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "block.safetensors"
    with pytest.raises(WorkspaceError, match=r"no file .*block\.safetensors"):
        TokenVectors.open(path)
    TokenVectors.of(texts([3, 2]), 4).save(path)
    whole = path.read_bytes()
    wrong = {"vectors": np.zeros((5, 4), np.float32), "offsets": np.array([0, 9])}
    for content in (whole[:-1], whole[:20], b"", b"\x00" * 30):
        path.write_bytes(content)
        with pytest.raises(WorkspaceError, match="is damaged"):
            TokenVectors.open(path)
    for tensors in (
        wrong,
        {"vectors": wrong["vectors"]},
        {**wrong, "offsets": np.zeros(1)},
        {**wrong, "vectors": np.zeros(5, np.float32)},
    ):
        save_file(tensors, path)
        with pytest.raises(WorkspaceError, match="is damaged"):
            TokenVectors.open(path)


def test_offsets_that_do_not_fit_are_refused():
    vectors = np.zeros((3, 2), np.float32)
    for offsets in ([1, 3], [0, 2], [0, 2, 1, 3], []):
        with pytest.raises(ValueError, match="offsets"):
            TokenVectors(vectors, np.array(offsets, np.int64))
    with pytest.raises(ValueError, match="float32"):
        TokenVectors(vectors.astype(np.float64), np.array([0, 3]))
