"""Topics: nearest centroids, one topic in a batch, margins spread evenly, no false negative."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sptar.errors import ModelError
from sptar.training.topics import (
    cluster_queries,
    default_topics,
    margin_bins,
    mean_margins,
    topic_batches,
)


def vectors_of(queries: int, dimension: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(queries, dimension)).astype(np.float32)


def same_partition(left, right) -> bool:
    """Whether two assignments group alike, whatever the groups are called."""
    pairs = set(zip(list(left), list(right), strict=True))
    return len(pairs) == len(set(left)) == len(set(right))


def slow_k_means(vectors, centroids):
    """Lloyd's algorithm in plain loops until nothing changes."""
    points = [[float(value) for value in vector] for vector in vectors]
    centres = [[float(value) for value in centre] for centre in centroids]
    assignment = [-1] * len(points)
    while True:
        distances = [
            [sum((a - b) ** 2 for a, b in zip(point, centre, strict=True)) for centre in centres]
            for point in points
        ]
        found = [row.index(min(row)) for row in distances]
        if found == assignment:
            return assignment
        assignment = found
        for number in range(len(centres)):
            own = [point for point, at in zip(points, assignment, strict=True) if at == number]
            if own:
                centres[number] = [sum(column) / len(own) for column in zip(*own, strict=True)]


# --- clustering ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 13])
@pytest.mark.parametrize("seed", [0, 7])
def test_each_query_is_with_its_nearest_centroid(count, seed):
    # Some queries stand there often: they pull their centroid as often.
    vectors = np.repeat(vectors_of(100, seed=seed), [1, 1, 1, 1, 20] * 20, axis=0)
    topics = cluster_queries(vectors, count, seed)
    assert topics.dtype == np.int64
    assert sorted(set(topics.tolist())) == list(range(count))
    centroids = [vectors[topics == topic].astype(np.float64).mean(axis=0) for topic in range(count)]
    for vector, topic in zip(vectors.astype(np.float64), topics, strict=True):
        distances = [((vector - centroid) ** 2).sum() for centroid in centroids]
        assert topic == int(np.argmin(distances))


@pytest.mark.parametrize("seed", range(5))
def test_separate_clouds_are_found_as_slow_k_means_finds_them(seed):
    centres = np.array([[20, 0, 0], [0, 20, 0], [0, 0, 20], [-20, 0, 0]], dtype=np.float32)
    vectors = np.repeat(centres, 15, axis=0) + vectors_of(60, 3, seed)
    order = np.random.default_rng(seed).permutation(60)
    topics = cluster_queries(vectors[order], 4, seed)
    assert same_partition(topics, slow_k_means(vectors[order], centres))


def test_order_of_the_queries_does_not_matter():
    vectors = vectors_of(90)
    order = np.random.default_rng(3).permutation(90)
    straight = cluster_queries(vectors, 7, seed=1)
    assert cluster_queries(vectors[order], 7, seed=1).tolist() == straight[order].tolist()


@pytest.mark.parametrize("count", [4, 5, 100])
def test_as_many_topics_as_vectors_give_each_its_own(count):
    vectors = vectors_of(4)
    assert sorted(cluster_queries(vectors, count, 0).tolist()) == [0, 1, 2, 3]


def test_equal_vectors_share_a_topic():
    different = vectors_of(10)
    number = np.arange(200) % 10
    for count in (1, 3, 10, 50):
        topics = cluster_queries(different[number], count, 0)
        assert len(set(topics.tolist())) == min(count, 10)
        assert all(len(set(topics[number == each].tolist())) == 1 for each in range(10))
    assert set(cluster_queries(np.ones((5, 3), np.float32), 3, 0).tolist()) == {0}
    zeros = np.array([[0.0, 1.0], [-0.0, 1.0]], dtype=np.float32)
    assert cluster_queries(zeros, 2, 0).tolist() == [0, 0]


def test_one_query_and_none():
    assert cluster_queries(vectors_of(1), 1, 0).tolist() == [0]
    assert cluster_queries(vectors_of(1), 8, 0).tolist() == [0]
    empty = cluster_queries(np.empty((0, 4), np.float32), 3, 0)
    assert empty.shape == (0,)
    assert empty.dtype == np.int64


def test_global_random_state_is_neither_read_nor_changed():
    vectors = vectors_of(80)
    np.random.seed(1)
    random.seed(1)
    first = cluster_queries(vectors, 6, seed=5)
    after = np.random.random(), random.random()
    np.random.seed(2)
    random.seed(2)
    assert cluster_queries(vectors, 6, seed=5).tolist() == first.tolist()
    np.random.seed(1)
    random.seed(1)
    assert after == (np.random.random(), random.random())
    assert any(cluster_queries(vectors, 6, seed).tolist() != first.tolist() for seed in range(5))


def test_vectors_that_are_no_numbers_are_refused():
    vectors = vectors_of(5)
    vectors[2, 1] = np.nan
    with pytest.raises(ModelError, match="no numbers"):
        cluster_queries(vectors, 2, 0)
    with pytest.raises(ValueError):
        cluster_queries(vectors_of(5), 0, 0)
    with pytest.raises(ValueError):
        cluster_queries(np.zeros(5, np.float32), 2, 0)


def test_default_is_a_topic_for_two_batches():
    assert [default_topics(queries, 10) for queries in (0, 1, 20, 21, 40, 41)] == [1, 1, 1, 2, 2, 3]
    with pytest.raises(ValueError):
        default_topics(10, 0)


# --- margins ------------------------------------------------------------------------------------


def test_mean_margins_are_positive_minus_mean_negative():
    scores = np.array([[3.0, 1.0, 2.0, 6.0], [-1.0, -4.0, 0.5, 0.5]], dtype=np.float32)
    assert mean_margins(scores).tolist() == [0.0, 0.0]
    assert mean_margins(scores[:, :2]).tolist() == [2.0, 3.0]
    with pytest.raises(ValueError):
        mean_margins(scores[:, :1])


def test_bins_are_equally_wide_and_the_last_one_is_closed():
    margins = np.array([-2.0, -1.0, -0.5, 0.0, 0.99, 1.0, 1.99, 2.0])
    assert margin_bins(margins, 4).tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    assert margin_bins(margins, 1).tolist() == [0] * 8
    assert margin_bins(np.full(3, 0.7), 10).tolist() == [0, 0, 0]
    assert margin_bins(np.empty(0), 10).tolist() == []


# --- batches ------------------------------------------------------------------------------------


def assert_sound(keys, positives, batches, batch_size):
    assert sorted(index for batch in batches for index in batch) == list(range(len(keys)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        for i in batch:
            for j in batch:
                if i == j:
                    continue
                (query, document), (other_query, other_document) = keys[i], keys[j]
                assert query != other_query
                assert document != other_document
                assert other_document not in positives.get(query, ())
                assert (query, other_document) not in keys


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.integers(0, 15), st.integers(0, 3), st.floats(-5, 5, width=32)
        ),
        max_size=60,
    ),
    st.dictionaries(st.integers(0, 12), st.sets(st.integers(0, 15), max_size=4)),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 3),
)
@example([(0, 0, 0, 0.0)] * 7, {}, 4, 3, 0)
def test_any_pairs_are_dealt_out_without_conflict(rows, positives, batch_size, bins, seed):
    keys = [(query, document) for query, document, _, _ in rows]
    topics = [topic for _, _, topic, _ in rows]
    margins = [margin for _, _, _, margin in rows]
    batches = topic_batches(topics, margins, keys, positives, batch_size, bins, seed, number=1)
    assert_sound(keys, positives, batches, batch_size)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(3, 12),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_large_topics_keep_to_themselves_and_are_balanced(extra, batch_size, bins, seed):
    sizes = [batch_size + more for more in extra]
    topics = np.repeat(np.arange(len(sizes)), sizes)
    margins = np.random.default_rng(seed).exponential(size=len(topics))
    keys = [(f"q{i}", f"d{i}") for i in range(len(topics))]
    batches = topic_batches(topics, margins, keys, {}, batch_size, bins, seed, number=0)
    assert_sound(keys, {}, batches, batch_size)
    of_topic: dict[int, list[list[int]]] = {}
    for batch in batches:
        (topic,) = {int(topics[index]) for index in batch}
        of_topic.setdefault(topic, []).append(batch)
    for topic, own in of_topic.items():
        assert len(own) == -(-sizes[topic] // batch_size)
        assert max(map(len, own)) - min(map(len, own)) <= 1
        values = margins[topics == topic]
        low, high = values.min(), values.max()
        for number in range(bins):
            counts = [
                sum(
                    min(int((margins[index] - low) / (high - low) * bins), bins - 1) == number
                    for index in batch
                )
                for batch in own
            ]
            assert max(counts) - min(counts) <= 1


def test_balance_on_a_counted_example():
    # One topic of 24 pairs in three batches of 8; margins 0 … 12 fall into four bins of width 3:
    # 12 pairs in the first, 6 in the second, none in the third, 6 in the last.
    margins = [0.0] + [1.0] * 11 + [4.0] * 6 + [10.0] * 5 + [12.0]
    keys = [(i, i) for i in range(24)]
    for seed in range(10):
        batches = topic_batches([0] * 24, margins, keys, {}, 8, 4, seed, number=0)
        assert len(batches) == 3
        for batch in batches:
            assert Counter(int(margins[i] // 3.0001) for i in batch) == {0: 4, 1: 2, 3: 2}


def test_bins_belong_to_the_topic():
    # Over both topics' range the margins of the first would all lie in one bin.
    topics = [0] * 8 + [1] * 8
    margins = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0] + [0.0, 0.0, 0.0, 0.0] + [100.0] * 4
    keys = [(i, i) for i in range(16)]
    for seed in range(20):
        for batch in topic_batches(topics, margins, keys, {}, 4, 10, seed, number=0):
            assert sorted(margins[i] for i in batch) in ([0, 0, 1, 1], [0, 0, 100, 100])


def test_small_topics_are_joined_as_long_as_they_fit_together():
    topics = [0] * 3 + [1] * 3 + [2] * 2 + [3] * 8 + [4] * 5
    keys = [(i, i) for i in range(len(topics))]
    for seed in range(20):
        batches = topic_batches(topics, [0.0] * 21, keys, {}, 8, 4, seed, number=0)
        assert_sound(keys, {}, batches, 8)
        found = sorted(sorted({topics[i] for i in batch}) for batch in batches)
        assert found == [[0, 1, 2], [3], [4]]
        # Topics are joined whole: none of them is torn apart.
        assert sorted(map(len, batches)) == [5, 8, 8]


def test_a_small_topic_without_partner_goes_where_there_is_room():
    topics = [0] * 6 + [1] * 2
    keys = [(i, i) for i in range(8)]
    assert [len(b) for b in topic_batches(topics, [0.0] * 8, keys, {}, 8, 4, 0, number=0)] == [8]


def test_conflicts_within_a_topic_stay_in_the_topic():
    # Two queries for every document: the pairs of a document can never meet.
    keys = [(i, i // 2) for i in range(32)]
    for seed in range(10):
        batches = topic_batches(
            [0] * 32 + [1] * 32,
            np.linspace(0, 1, 64),
            keys + [(i + 100, i + 100) for i in range(32)],
            {},
            16,
            5,
            seed,
            number=0,
        )
        assert_sound(keys, {}, [b for b in batches if max(b) < 32], 16)
        assert all(len({index < 32 for index in batch}) == 1 for batch in batches)


def test_known_answers_that_are_no_pair_keep_pairs_apart():
    keys = [("a", 1), ("b", 2)]
    assert len(topic_batches([0, 0], [0, 1], keys, {}, 2, 2, 0, 1)) == 1
    assert len(topic_batches([0, 0], [0, 1], keys, {"a": {2}}, 2, 2, 0, 1)) == 2


def test_lone_pairs_find_company():
    # Of a's three pairs none can meet; the other two pairs go with two of them.
    keys = [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)]
    for seed in range(10):
        batches = topic_batches([0, 0, 0, 1, 2], [0.0] * 5, keys, {}, 4, 2, seed, 1)
        assert_sound(keys, {}, batches, 4)
        assert sorted(map(len, batches)) == [1, 2, 2]


def test_the_shuffle_is_named_by_seed_and_number():
    keys = [(i, i) for i in range(60)]
    topics, margins = np.arange(60) % 3, np.sin(np.arange(60))

    def deal(seed, number):
        return topic_batches(topics, margins, keys, {}, 8, 4, seed, number)

    first = deal(3, 2)
    random.seed(99)
    np.random.seed(99)
    assert deal(3, 2) == first
    for other in (deal(4, 2), deal(3, 3)):
        assert {frozenset(batch) for batch in other} != {frozenset(batch) for batch in first}


def test_topics_take_turns_at_random():
    keys = [(i, i) for i in range(400)]
    topics = np.repeat(np.arange(10), 40)
    batches = topic_batches(topics, np.zeros(400), keys, {}, 8, 4, 0, 0)
    order = [int(topics[batch[0]]) for batch in batches]
    assert order != sorted(order)
    assert Counter(order) == dict.fromkeys(range(10), 5)


def test_hopeless_pairs_take_bounded_work():
    keys = [("only", i) for i in range(1500)]
    batches = topic_batches([0] * 1500, [0.0] * 1500, keys, {}, 32, 10, 0, 0)
    assert [len(batch) for batch in batches] == [1] * 1500


def test_wrong_input_is_refused():
    assert topic_batches([], [], [], {}, 4, 2, 0, 0) == []
    keys = [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="as many topics and margins"):
        topic_batches([0], [0.0, 1.0], keys, {}, 4, 2, 0, 0)
    with pytest.raises(ModelError, match="no numbers"):
        topic_batches([0, 0], [0.0, float("nan")], keys, {}, 4, 2, 0, 0)
    with pytest.raises(ValueError):
        topic_batches([0, 0], [0.0, 1.0], keys, {}, 0, 2, 0, 0)
    with pytest.raises(ValueError):
        topic_batches([0, 0], [0.0, 1.0], keys, {}, 4, 0, 0, 0)
