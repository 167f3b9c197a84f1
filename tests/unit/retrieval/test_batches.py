"""Batches: every pair once, no false negative inside, the same for the same seed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.training.plain_batches import conflict_free_batches


def assert_sound(pairs, positives, batches, batch_size):
    assert sorted(index for batch in batches for index in batch) == list(range(len(pairs)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        for i in batch:
            for j in batch:
                if i == j:
                    continue
                (query, document), (other_query, other_document) = pairs[i], pairs[j]
                assert query != other_query
                assert document != other_document
                assert other_document not in positives.get(query, ())
                assert (query, other_document) not in pairs


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 12), st.lists(st.integers(0, 15), max_size=3)),
        max_size=40,
    ),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_hard_negatives_answer_no_query_of_their_batch(rows, batch_size, seed):
    pairs = [(query, document) for query, document, _ in rows]
    answers = {
        query: {document for other, document in pairs if other == query} for query, _ in pairs
    }
    negatives = [[n for n in found if n not in answers[query]] for query, _, found in rows]
    batches = conflict_free_batches(pairs, {}, batch_size, seed, 1, negatives=negatives)
    assert_sound(pairs, {}, batches, batch_size)
    for batch in batches:
        for i in batch:
            for j in batch:
                assert answers[pairs[i][0]].isdisjoint(negatives[j])
    # Without negatives nothing changes.
    assert conflict_free_batches(
        pairs, {}, batch_size, seed, 1, negatives=[()] * len(pairs)
    ) == conflict_free_batches(pairs, {}, batch_size, seed, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), max_size=60),
    st.dictionaries(st.integers(0, 12), st.sets(st.integers(0, 15), max_size=4)),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_any_pairs_are_dealt_out_without_conflict(pairs, positives, batch_size, seed):
    batches = conflict_free_batches(pairs, positives, batch_size, seed, number=1)
    assert_sound(pairs, positives, batches, batch_size)


def test_pairs_without_conflict_fill_their_batches():
    pairs = [(f"q{i}", f"d{i}") for i in range(100)]
    batches = conflict_free_batches(pairs, {}, 32, seed=1, number=1)
    assert sorted(len(batch) for batch in batches) == [4, 32, 32, 32]


def test_a_rest_of_one_gets_company():
    pairs = [(f"q{i}", f"d{i}") for i in range(33)]
    batches = conflict_free_batches(pairs, {}, 32, seed=1, number=1)
    assert sorted(len(batch) for batch in batches) == [2, 31]


@pytest.mark.parametrize("seed", range(20))
def test_lone_pairs_remain_only_where_nothing_else_is_possible(seed):
    # Three pairs of query a can never meet; two others are free to go with two of them.
    pairs = [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)]
    batches = conflict_free_batches(pairs, {}, 4, seed, number=1)
    assert_sound(pairs, {}, batches, 4)
    assert sorted(len(batch) for batch in batches) == [1, 2, 2]


def test_known_answers_that_are_no_pair_keep_pairs_apart():
    pairs = [("a", 1), ("b", 2)]
    assert len(conflict_free_batches(pairs, {}, 2, 0, 1)) == 1
    assert len(conflict_free_batches(pairs, {"a": {2}}, 2, 0, 1)) == 2
    assert len(conflict_free_batches(pairs, {"b": {1}}, 2, 0, 1)) == 2


def test_the_shuffle_is_named_by_seed_and_number():
    pairs = [(i, i) for i in range(40)]
    first = conflict_free_batches(pairs, {}, 8, seed=3, number=2)
    assert first == conflict_free_batches(pairs, {}, 8, seed=3, number=2)
    others = [
        conflict_free_batches(pairs, {}, 8, seed=4, number=2),
        conflict_free_batches(pairs, {}, 8, seed=3, number=3),
    ]
    assert all(other != first for other in others)


def test_no_pairs_give_no_batches():
    assert conflict_free_batches([], {}, 8, 0, 0) == []


@pytest.mark.parametrize("distinct_queries", [1, 3000])
def test_time_stays_bounded_on_many_and_on_hopeless_pairs(distinct_queries):
    pairs = [(i % distinct_queries, i) for i in range(6000)]
    start = time.process_time()
    batches = conflict_free_batches(pairs, {}, 32, 0, 1)
    assert time.process_time() - start < 20
    assert sum(map(len, batches)) == 6000
