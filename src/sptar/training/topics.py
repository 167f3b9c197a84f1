"""Topic-aware batches with balanced margins (TAS-Balanced).

Queries are clustered once; the queries of a batch come from one cluster, so that the documents of a
batch are near misses for one another, and the easy and the hard pairs of a cluster are spread
evenly over its batches. After Hofstätter, Lin, Yang, Lin and Hanbury, *Efficiently Teaching an
Effective Dense Retriever with Balanced Topic Aware Sampling*, SIGIR 2021 (arXiv 2104.06967),
section 3.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt

from sptar.errors import ModelError
from sptar.training.plain_batches import Batch, conflict_free_batches, find_company, known_answers

__all__ = [
    "cluster_queries",
    "default_topics",
    "margin_bins",
    "mean_margins",
    "topic_batches",
]

_ITERATIONS = 100
_CANDIDATES = 200
"""Batches looked at for a pair or a small batch; bounds the time on hopeless input."""
_COMPARED = 1 << 22
"""Distances between vectors and centroids that are in memory at once (32 MiB)."""


def default_topics(queries: int, batch_size: int) -> int:
    """One topic for every two batches, 1 at least.

    The paper makes 2,000 topics of 400,000 queries for batches of 32, six batches each, and found
    no difference between numbers of topics (section 4.2). Small training sets would have hardly
    any topics that way.

    >>> [default_topics(queries, 32) for queries in (0, 64, 65, 400)]
    [1, 1, 2, 7]
    """
    if batch_size < 1:
        raise ValueError("batch_size is at least 1")
    return max(1, -(-queries // (2 * batch_size)))


def cluster_queries(
    vectors: npt.NDArray[np.floating], count: int, seed: int
) -> npt.NDArray[np.int64]:
    """Topic of each query: k-means over the query vectors (paper, section 3).

    Args:
        vectors: [q, d], as an encoder that is not yet trained gives them. The paper takes those of
            a retriever trained before.
        count: topics; fewer come out where there are fewer different vectors.
        seed: names the random start. Global random state is neither read nor changed.

    Returns:
        [q], numbers from 0. Each vector belongs to its nearest centroid (Euclidean distance), equal
        vectors always to one topic. The order of the queries does not matter.

    Raises:
        ModelError: a vector holds values that are no numbers.
    """
    if count < 1:
        raise ValueError("count is at least 1")
    if vectors.ndim != 2:
        raise ValueError("vectors are an array with two axes: queries, dimensions")
    if not np.isfinite(vectors).all():
        raise ModelError(
            "Query vectors hold values that are no numbers: they cannot be clustered.",
            hint="Look at train.start and train.dtype.",
        )
    if not len(vectors):
        return np.empty(0, dtype=np.int64)
    # Adding 0 makes -0 and 0 one value. Clustering each different vector once, in sorted order and
    # with its weight, is what makes the result independent of the order of the queries.
    distinct, inverse, weights = np.unique(
        vectors.astype(np.float32) + np.float32(0), axis=0, return_inverse=True, return_counts=True
    )
    row_of: npt.NDArray[np.int64] = inverse.reshape(-1).astype(np.int64)
    if count >= len(distinct):
        return row_of
    centroids = _centroids(distinct, weights, count, seed)
    # k-means may leave a centroid without queries; the numbers are those of the others.
    _, topics = np.unique(_nearest(distinct, centroids), return_inverse=True)
    return topics.reshape(-1).astype(np.int64)[row_of]


def _centroids(
    vectors: npt.NDArray[np.float32], weights: npt.NDArray[np.int64], count: int, seed: int
) -> npt.NDArray[np.float32]:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    model = KMeans(
        n_clusters=count,
        n_init=1,
        max_iter=_ITERATIONS,
        tol=0.0,
        algorithm="lloyd",
        random_state=random.Random(f"topics:{seed}").getrandbits(32),
    )
    # Sums of several threads would be rounded by the order in which the threads end.
    with threadpool_limits(limits=1):
        model.fit(vectors, sample_weight=weights.astype(np.float32))
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def _nearest(
    vectors: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Number of each vector's nearest centroid; the first of several equally near ones."""
    right = centroids.astype(np.float64)
    lengths = (right * right).sum(axis=1)
    found = np.empty(len(vectors), dtype=np.int64)
    size = max(1, _COMPARED // len(centroids))
    for start in range(0, len(vectors), size):
        left = vectors[start : start + size].astype(np.float64)
        # |x - c|² without |x|², which is the same for every centroid.
        found[start : start + size] = (lengths - 2.0 * (left @ right.T)).argmin(axis=1)
    return found


def mean_margins(teacher_scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Teacher's score of each positive minus the mean of its negatives'.

    Args:
        teacher_scores: [pairs, 1 + n], the positive in column 0; n at least 1.

    Returns:
        [pairs].

    >>> mean_margins(np.array([[5.0, 1.0, 2.0], [0.0, 1.0, -1.0]])).tolist()
    [3.5, 0.0]
    """
    if teacher_scores.ndim != 2 or teacher_scores.shape[1] < 2:
        raise ValueError("teacher scores are an array [pairs, 1 + n] with n of at least 1")
    scores = teacher_scores.astype(np.float64)
    margins: npt.NDArray[np.float64] = scores[:, 0] - scores[:, 1:].mean(axis=1)
    return margins


def margin_bins(margins: npt.NDArray[np.floating], bins: int) -> npt.NDArray[np.int64]:
    """Bin of each margin: ``bins`` equally wide ones from the smallest margin to the largest.

    A bin holds its lower limit; the last one also its upper limit. Equal margins all lie in bin 0.

    >>> margin_bins(np.array([0.0, 0.4, 0.5, 0.9, 1.0]), 2).tolist()
    [0, 0, 1, 1, 1]
    """
    if bins < 1:
        raise ValueError("bins is at least 1")
    values = margins.astype(np.float64)
    lowest, width = (values.min(), np.ptp(values)) if len(values) else (0.0, 0.0)
    if width == 0:
        return np.zeros(len(values), dtype=np.int64)
    return np.minimum((values - lowest) / width * bins, bins - 1).astype(np.int64)


def topic_batches(
    topics: npt.NDArray[np.integer] | Sequence[int],
    margins: npt.NDArray[np.floating] | Sequence[float],
    keys: Sequence[tuple[Hashable, Hashable]],
    positives: Mapping[Any, AbstractSet[Any]],
    batch_size: int,
    bins: int,
    seed: int,
    number: int,
) -> list[list[int]]:
    """Deal all pairs out to batches of one topic each, with balanced margins and no false negative.

    A topic of p pairs gives ⌈p / batch_size⌉ batches of nearly equal size. The pairs of each margin
    bin are spread evenly over them: where no conflict forbids it, two batches of a topic differ by
    one pair of a bin at most. What conflicts keep out of these batches makes further ones of the
    same topic. Batches of fewer than half ``batch_size`` pairs (from small topics, or from
    conflicts) are joined with one another in random order, and what is then still so small is put
    into any batch with room for it. A lone pair finally looks for company as in
    :func:`~sptar.training.plain_batches.conflict_free_batches`.

    The paper (section 3) draws a topic, b of its queries, and for each query one of its many
    passage pairs, out of a bin drawn first; bins lie between the smallest and largest margin of
    the query. Here a query has few pairs and every pair is trained on once an epoch, so the bins
    lie between the smallest and largest margin of the topic, and it is the batch that is balanced.

    Args:
        topics: topic of each pair's query, [pairs].
        margins: teacher's margin of each pair, [pairs], see :func:`mean_margins`.
        keys: (query key, document key) of each pair. Equal texts should have equal keys.
        positives: query key → keys of all documents known to answer it; a pair's own document
            counts as known without standing here.
        batch_size: pairs in a batch at most.
        bins: margin bins of a topic.
        seed, number: name the shuffle; the same two give the same batches. ``number`` counts the
            passes over the pairs.

    Returns:
        Positions in ``keys``, each exactly once, batches in random order. Within a batch no query
        and no document occurs twice, and no document answers the query of another pair.

    Raises:
        ModelError: a margin is no number.
    """
    if batch_size < 1:
        raise ValueError("batch_size is at least 1")
    if bins < 1:
        raise ValueError("bins is at least 1")
    topic_of = np.asarray(topics, dtype=np.int64)
    margin_of = np.asarray(margins, dtype=np.float64)
    if topic_of.shape != (len(keys),) or margin_of.shape != (len(keys),):
        raise ValueError(
            f"{len(keys)} pairs need as many topics and margins, "
            f"not arrays of shape {topic_of.shape} and {margin_of.shape}"
        )
    if not np.isfinite(margin_of).all():
        raise ModelError(
            "The teacher's margins hold values that are no numbers.",
            hint="Look at train.teacher: its scores must be finite.",
        )
    known = known_answers(keys, positives)
    generator = random.Random(f"topic batches:{seed}:{number}")
    batches: list[Batch] = []
    relatives: dict[int, list[Batch]] = {}
    by_topic = np.argsort(topic_of, kind="stable")
    for members in np.split(by_topic, np.flatnonzero(np.diff(topic_of[by_topic])) + 1):
        if not len(members):
            continue
        own = _deal(
            members.tolist(),
            margin_bins(margin_of[members], bins).tolist(),
            keys,
            known,
            batch_size,
            generator,
        )
        relatives[int(topic_of[members[0]])] = own
        batches += own
    _join_small(batches, batch_size, generator)
    generator.shuffle(batches)
    if batch_size > 1:
        for batch in batches:
            if len(batch.members) == 1:
                find_company(batch, relatives[int(topic_of[batch.members[0]])], batch_size)
            if len(batch.members) == 1:
                find_company(batch, batches, batch_size)
    return [batch.members for batch in batches if batch.members]


def _deal(
    members: Sequence[int],
    bin_of: Sequence[int],
    keys: Sequence[tuple[Hashable, Hashable]],
    known: Mapping[Any, AbstractSet[Any]],
    batch_size: int,
    generator: random.Random,
) -> list[Batch]:
    """The batches of one topic."""
    order = list(zip(bin_of, members, strict=True))
    generator.shuffle(order)
    order.sort(key=lambda item: item[0])
    batches = [Batch(keys, known) for _ in range(-(-len(order) // batch_size))]
    # Dealt like cards, bin after bin: so every batch gets its share of each bin.
    first = generator.randrange(len(batches))
    left: list[int] = []
    for place, (_, index) in enumerate(order, start=first):
        for step in range(min(len(batches), _CANDIDATES)):
            batch = batches[(place + step) % len(batches)]
            if len(batch.members) < batch_size and batch.fits(index):
                batch.add(index)
                break
        else:
            left.append(index)
    if left:
        further = conflict_free_batches(
            [keys[index] for index in left], known, batch_size, generator.getrandbits(32), 0
        )
        for positions in further:
            batches.append(Batch(keys, known))
            for position in positions:
                batches[-1].add(left[position])
    return batches


def _join_small(batches: Sequence[Batch], batch_size: int, generator: random.Random) -> None:
    """Pour small batches into one another, then those still small into any that has room."""

    def takes(target: Batch, batch: Batch) -> bool:
        return len(target.members) + len(batch.members) <= batch_size and all(
            target.fits(index) for index in batch.members
        )

    def pour(batch: Batch, target: Batch) -> None:
        for index in list(batch.members):
            batch.remove(index)
            target.add(index)

    def small() -> list[Batch]:
        found = [batch for batch in batches if 0 < 2 * len(batch.members) < batch_size]
        generator.shuffle(found)
        return found

    opened: list[Batch] = []
    for batch in small():
        for target in reversed(opened[-_CANDIDATES:]):
            if takes(target, batch):
                pour(batch, target)
                if len(target.members) == batch_size:
                    opened.remove(target)
                break
        else:
            opened.append(batch)
    filled = [batch for batch in batches if batch.members]
    for batch in small():
        for target in generator.sample(filled, min(len(filled), _CANDIDATES)):
            if target is not batch and target.members and takes(target, batch):
                pour(batch, target)
                break
