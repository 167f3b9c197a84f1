"""The pruned walk against a reference that scores every document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.retrieval.lexical.source_rank import Postings, count_better

WEIGHTS = (0.25, 0.5, 1.0, 1.5, 0.1, 3.0)


def lists_of(matrix):
    """Inverted lists of a dense [documents, terms] matrix of contributions."""
    documents, weights, ends = [], [], [0]
    for term in range(matrix.shape[1]):
        found = np.flatnonzero(matrix[:, term])
        documents.extend(found.tolist())
        weights.extend(matrix[found, term].tolist())
        ends.append(len(documents))
    return Postings.of(
        np.array(documents, np.int32), np.array(weights, np.float32), np.array(ends, np.int64)
    )


def slow_rank(matrix, id_order, terms, source):
    scores = np.zeros(len(matrix), np.float32)
    for term in terms:
        scores += matrix[:, term]
    own = scores[source]
    if own <= 0:
        return 0, 0.0
    better = sum(
        score > own or (score == own and id_order[document] < id_order[source])
        for document, score in enumerate(scores)
        if document != source
    )
    return 1 + int(better), float(own)


def ask(matrix, id_order, queries, sources):
    ends = np.cumsum([0, *map(len, queries)]).astype(np.int64)
    flat = np.array([term for terms in queries for term in terms], np.int32)
    ranks, scores = count_better(
        lists_of(matrix), id_order, flat, ends, np.array(sources, np.int64)
    )
    return list(zip(ranks.tolist(), scores.tolist(), strict=True))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ranks_and_scores_are_those_of_scoring_every_document(data):
    documents = data.draw(st.integers(1, 12))
    terms = data.draw(st.integers(1, 6))
    cell = st.sampled_from((0.0, 0.0, *WEIGHTS))
    rows = st.lists(cell, min_size=terms, max_size=terms)
    matrix = np.array(data.draw(st.lists(rows, min_size=documents, max_size=documents)), np.float32)
    id_order = np.array(data.draw(st.permutations(range(documents))), np.int32)
    query = st.lists(st.integers(0, terms - 1), max_size=5).map(sorted)
    queries = data.draw(st.lists(query, min_size=1, max_size=4))
    sources = [data.draw(st.integers(0, documents - 1)) for _ in queries]
    assert ask(matrix, id_order, queries, sources) == [
        slow_rank(matrix, id_order, terms, source)
        for terms, source in zip(queries, sources, strict=True)
    ]


def random_matrix(generator, documents, shares, scales, steps=0):
    """Contributions where term t stands in about ``shares[t]`` of the documents.

    They lie between 0 and ``scales[t]``; with ``steps``, at that many values only.
    """
    size = (documents, len(shares))
    values = 1.0 - generator.random(size)
    if steps:
        values = np.ceil(values * steps) / steps
    held = generator.random(size) < np.array(shares)
    return (held * values * np.array(scales)).astype(np.float32)


def check(matrix, id_order, queries, sources):
    """All queries in one call, so that nothing of one may be left for the next."""
    found = ask(matrix, id_order, queries, sources)
    assert found == [
        slow_rank(matrix, id_order, terms, source)
        for terms, source in zip(queries, sources, strict=True)
    ]
    return found


def test_many_documents_with_long_common_lists():
    generator = np.random.default_rng(3)
    matrix = random_matrix(generator, 400, [0.9] * 5 + [0.05] * 25, [0.2] * 5 + [3.0] * 25)
    id_order = generator.permutation(400).astype(np.int32)
    queries = [sorted(generator.integers(0, 30, 6).tolist()) for _ in range(300)]
    sources = generator.integers(0, 400, 300).tolist()
    found = check(matrix, id_order, queries, sources)
    assert {rank == 0 for rank, _ in found} == {True, False}


def test_rare_terms_with_common_ones():
    """Few documents are left when lists of more than a thousand come: each is looked up."""
    generator = np.random.default_rng(4)
    matrix = random_matrix(generator, 2000, [0.7] * 4 + [0.004] * 8, [0.3] * 4 + [4.0] * 8, 5)
    id_order = generator.permutation(2000).astype(np.int32)
    queries, sources = [], []
    for _ in range(60):
        rare = int(generator.integers(4, 12))
        queries.append(sorted([rare, *generator.integers(0, 4, 3).tolist()]))
        holders = np.flatnonzero(matrix[:, rare])
        sources.append(int(generator.choice(holders)))
    found = check(matrix, id_order, queries, sources)
    assert len({rank for rank, _ in found}) > 5


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(0, 4), most=st.integers(1, 40))
def test_random_lists_and_queries_with_many_equal_scores(seed, steps, most):
    generator = np.random.default_rng(seed)
    terms = int(generator.integers(1, 10))
    shares = generator.choice([0.0, 0.01, 0.1, 0.5, 1.0], terms)
    matrix = random_matrix(generator, 300, shares, generator.choice([0.1, 1.0, 5.0], terms), steps)
    id_order = generator.permutation(300).astype(np.int32)
    # As long as 40 terms with repeats: sums in float32 then depend on their order.
    lengths = generator.integers(0, most + 1, 20)
    queries = [sorted(generator.integers(0, terms, length).tolist()) for length in lengths]
    check(matrix, id_order, queries, generator.integers(0, 300, 20).tolist())


def test_scores_that_differ_in_the_last_place_only():
    """Sums that are equal in any other order, and the same documents over and over."""
    generator = np.random.default_rng(5)
    values = np.float32([0.1, 0.2, 0.3, 0.7, 1.1])
    rows = np.array([generator.permutation(values) for _ in range(40)])
    matrix = np.concatenate([rows, rows])
    id_order = generator.permutation(80).astype(np.int32)
    found = check(matrix, id_order, [[0, 1, 2, 3, 4]] * 80, list(range(80)))
    assert sorted(rank for rank, _ in found) == list(range(1, 81))
    assert 1 < len({score for _, score in found}) < 20


def test_repeated_terms_count_as_often_as_they_stand_there():
    matrix = np.array([[1.0, 0.0], [0.0, 1.5]], np.float32)
    order = np.arange(2, dtype=np.int32)
    assert ask(matrix, order, [[0, 1]], [0]) == [(2, 1.0)]
    assert ask(matrix, order, [[0, 0, 1]], [0]) == [(1, 2.0)]


def test_equal_scores_go_by_document_id():
    matrix = np.full((3, 1), 0.5, np.float32)
    assert ask(matrix, np.array([2, 0, 1], np.int32), [[0]] * 3, [0, 1, 2]) == [
        (3, 0.5),
        (1, 0.5),
        (2, 0.5),
    ]


def test_a_query_without_known_terms_finds_nothing():
    matrix = np.ones((2, 2), np.float32)
    assert ask(matrix, np.arange(2, dtype=np.int32), [[], [1]], [0, 1]) == [(0, 0.0), (2, 1.0)]


def test_terms_without_documents_have_no_largest_contribution():
    found = lists_of(np.array([[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]], np.float32))
    assert found.largest.tolist() == pytest.approx([0.0, 2.0, 0.0])
