"""How many documents beat a given one for a query, without scoring all of them.

The question of the weak data filter is not "which are the best documents" but "how many are better
than the source". So the score to beat is known before the walk, and a document can be left out as
soon as it cannot reach it (the idea of MaxScore, Turtle and Flood 1995): terms are set aside, the
longest postings first, as long as all of them together cannot lift a document to that score. Only
the postings of the other terms are walked; what comes close is scored exactly, by looking it up in
the lists that were set aside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Postings", "count_better"]

_LONG = 8
"""Terms in at least every so-many-th document may be set aside."""

_SLACK = 1e-5
"""Relative error allowed to a float32 sum of a query's terms, far more than it can have."""


@dataclass(frozen=True, slots=True)
class Postings:
    """The inverted lists of an index.

    Term t stands in the documents ``documents[ends[t]:ends[t + 1]]`` (positions, ascending) with
    the contributions to the score ``weights[…]``, all above 0; ``largest[t]`` is the largest of
    them, 0 for a term without documents.
    """

    documents: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    ends: npt.NDArray[np.int64]
    largest: npt.NDArray[np.float32]

    @classmethod
    def of(cls, documents: Any, weights: Any, ends: Any) -> Postings:
        """Wrap the arrays of an index; ``largest`` is computed, which reads ``weights`` once."""
        ends = np.asarray(ends, dtype=np.int64)
        weights = np.asarray(weights)
        largest = np.zeros(len(ends) - 1, dtype=np.float32)
        filled = np.flatnonzero(ends[1:] > ends[:-1])
        if len(filled):
            largest[filled] = np.maximum.reduceat(weights, ends[filled])
        return cls(np.asarray(documents), weights, ends, largest)


def count_better(
    postings: Postings,
    id_order: npt.NDArray[np.int32],
    terms: npt.NDArray[np.int32],
    term_ends: npt.NDArray[np.int64],
    sources: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rank and score of each query's source document.

    Args:
        postings: lists over n documents.
        id_order: (n,) place of each document's id among all ids, for ties.
        terms: the queries' term numbers, each query's own in ascending order, repeats kept.
        term_ends: (q + 1,) query i has ``terms[term_ends[i]:term_ends[i + 1]]``.
        sources: (q,) position of each query's source.

    Returns:
        ``(q,)`` ranks from 1, 0 where the source does not match at all, and ``(q,)`` scores. A
        score is the float32 sum of the contributions in the order of the terms; documents with
        the same score go by ``id_order``.
    """
    walk = _compiled()
    ranks: npt.NDArray[np.int64] = np.empty(len(sources), dtype=np.int64)
    scores: npt.NDArray[np.float32] = np.empty(len(sources), dtype=np.float32)
    walk(
        postings.documents,
        postings.weights,
        postings.ends,
        postings.largest,
        np.asarray(id_order),
        terms,
        term_ends,
        sources,
        ranks,
        scores,
    )
    return ranks, scores


@functools.cache
def _compiled() -> Callable[..., None]:
    import numba

    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True)

    @compiled
    def find(documents: Any, start: int, stop: int, wanted: int) -> int:
        """First place in an ascending slice that is not below ``wanted``."""
        while start < stop:
            middle = (start + stop) // 2
            if documents[middle] < wanted:
                start = middle + 1
            else:
                stop = middle
        return start

    @compiled
    def exact(
        documents: Any, weights: Any, ends: Any, terms: Any, first: int, last: int, wanted: int
    ) -> Any:
        """Score of one document, its contributions added in the order of the terms."""
        total = np.float32(0.0)
        previous = -1
        contribution = np.float32(0.0)
        for place in range(first, last):
            term = terms[place]
            if term != previous:
                previous = term
                stop = ends[term + 1]
                found = find(documents, ends[term], stop, wanted)
                if found < stop and documents[found] == wanted:
                    contribution = weights[found]
                else:
                    contribution = np.float32(0.0)
            total += contribution
        return total

    @compiled
    def walk(
        documents: Any,
        weights: Any,
        ends: Any,
        largest: Any,
        id_order: Any,
        terms: Any,
        term_ends: Any,
        sources: Any,
        ranks: Any,
        scores: Any,
    ) -> None:
        count = len(id_order)
        reached = np.zeros(count, dtype=np.float32)
        touched = np.empty(count, dtype=np.int32)
        most = 1
        for query in range(len(sources)):
            most = max(most, term_ends[query + 1] - term_ends[query])
        distinct = np.empty(most, dtype=np.int64)
        repeats = np.empty(most, dtype=np.int64)
        cost = np.empty(most, dtype=np.float64)
        set_aside = np.zeros(most, dtype=np.bool_)
        for query in range(len(sources)):
            first, last = term_ends[query], term_ends[query + 1]
            source = sources[query]
            to_beat = exact(documents, weights, ends, terms, first, last, source)
            scores[query] = to_beat
            if to_beat <= 0:
                ranks[query] = 0
                continue
            # Distinct terms with what each can add at most and how long its list is.
            number = 0
            for place in range(first, last):
                if number and distinct[number - 1] == terms[place]:
                    repeats[number - 1] += 1
                else:
                    distinct[number] = terms[place]
                    repeats[number] = 1
                    number += 1
            for item in range(number):
                term = distinct[item]
                gain = repeats[item] * np.float64(largest[term])
                length = ends[term + 1] - ends[term]
                # Looking a document up costs about as much as walking some dozen postings: short
                # lists are walked.
                worth = gain > 0 and length * _LONG >= count
                cost[item] = -np.float64(length) / gain if worth else np.inf
            threshold = np.float64(to_beat) * (1.0 - _SLACK)
            aside = 0.0
            set_aside[:number] = False
            for item in np.argsort(cost[:number]):
                gain = repeats[item] * np.float64(largest[distinct[item]])
                if cost[item] < np.inf and aside + gain < threshold:
                    aside += gain
                    set_aside[item] = True
            # Terms are added in their order, repeats one by one: when none is set aside, what a
            # document has reached is its score, to the last bit.
            met = 0
            for item in range(number):
                if set_aside[item]:
                    continue
                term = distinct[item]
                for _ in range(repeats[item]):
                    for place in range(ends[term], ends[term + 1]):
                        document = documents[place]
                        if reached[document] == 0:
                            touched[met] = document
                            met += 1
                        reached[document] += weights[place]
            better = 0
            complete = aside == 0
            hopeless = np.float32((threshold - aside) * (1.0 - _SLACK))
            certain = np.float32(np.float64(to_beat) * (1.0 + _SLACK))
            for place in range(met):
                document = touched[place]
                score = reached[document]
                reached[document] = 0
                if score < hopeless or document == source:
                    continue
                # What was set aside can only raise a score: mostly a look into those lists tells
                # on which side it ends up; what is close is added up in the order of the terms.
                if not complete and score <= certain:
                    for item in range(number):
                        if set_aside[item]:
                            term = distinct[item]
                            stop = ends[term + 1]
                            found = find(documents, ends[term], stop, document)
                            if found < stop and documents[found] == document:
                                score += repeats[item] * weights[found]
                    if score < threshold:
                        continue
                    if score <= certain:
                        score = exact(documents, weights, ends, terms, first, last, document)
                if score > to_beat or (score == to_beat and id_order[document] < id_order[source]):
                    better += 1
            ranks[query] = 1 + better

    return walk
