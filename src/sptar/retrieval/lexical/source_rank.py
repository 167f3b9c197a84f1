"""How many documents beat a given one for a query, without scoring all of them.

The question of the weak data filter is not "which are the best documents" but "how many are better
than the source". So the score to beat is known before the walk, and whatever cannot reach it is
left out as soon as that is certain (the idea of MaxScore, Turtle and Flood 1995). Terms are taken
in the order of what they can add for each posting that has to be read. A document is remembered
only while its sum so far and the most that the terms still to come can add reach the score to
beat; when those terms alone cannot, no document is new any more, and of their lists only the
places of remembered documents matter. What comes close to the score is added up once more, in the
order of the terms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Postings", "count_better"]

_LOOK_UP = 50
"""Looking a document up in a list costs about as much as reading so many postings of it."""


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

    Beside the index it needs eight bytes for each document, however many queries there are.

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
    nothing = np.float32(0.0)

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
        total = nothing
        previous = -1
        contribution = nothing
        for place in range(first, last):
            term = terms[place]
            if term != previous:
                previous = term
                stop = ends[term + 1]
                found = find(documents, ends[term], stop, wanted)
                if found < stop and documents[found] == wanted:
                    contribution = weights[found]
                else:
                    contribution = nothing
            total += contribution
        return total

    # The loops below ask no question of single postings that a processor would have to guess the
    # answer to: they write always, and count what is to stay. Numbers without sign spare a test
    # for indices that count from the end.

    @compiled
    def add(
        documents: Any, weights: Any, repeats: Any, least: Any, reached: Any, met: Any, number: int
    ) -> int:
        """Add a list; documents not met so far are new if this term gives them ``least``."""
        for place in range(len(documents)):
            document = np.uint32(documents[place])
            contribution = repeats * weights[place]
            before = reached[document]
            new = (before == nothing) & (contribution >= least)
            reached[document] = before + contribution if new | (before > nothing) else nothing
            met[number] = document
            number += new
        return number

    @compiled
    def add_to_met(documents: Any, weights: Any, repeats: Any, reached: Any) -> None:
        """Add a list to the documents already met, reading all of it."""
        for place in range(len(documents)):
            document = np.uint32(documents[place])
            before = reached[document]
            raised = before + repeats * weights[place]
            reached[document] = raised if before > nothing else nothing

    @compiled
    def look_up(
        documents: Any, weights: Any, repeats: Any, reached: Any, met: Any, number: int
    ) -> None:
        """The same, looking for each of the documents."""
        for place in range(number):
            document = met[place]
            found = find(documents, 0, len(documents), document)
            if found < len(documents) and documents[found] == document:
                reached[document] += repeats * weights[found]

    @compiled
    def forget(least: Any, reached: Any, met: Any, number: int) -> int:
        """Keep the documents that have at least ``least``."""
        kept = 0
        for place in range(number):
            document = np.uint32(met[place])
            score = reached[document]
            enough = score >= least
            reached[document] = score if enough else nothing
            met[kept] = document
            kept += enough
        return kept

    @compiled
    def order_terms(
        ends: Any, largest: Any, terms: Any, first: int, last: int, distinct: Any, repeats: Any
    ) -> int:
        """Distinct terms with documents, those first that can add most for each posting."""
        number = 0
        place = first
        while place < last:
            term = terms[place]
            after = place + 1
            while after < last and terms[after] == term:
                after += 1
            gain = (after - place) * np.float64(largest[term])
            length = ends[term + 1] - ends[term]
            if length:
                at = number
                while at:
                    other = distinct[at - 1]
                    other_length = ends[other + 1] - ends[other]
                    if repeats[at - 1] * np.float64(largest[other]) * length >= gain * other_length:
                        break
                    distinct[at] = other
                    repeats[at] = repeats[at - 1]
                    at -= 1
                distinct[at] = term
                repeats[at] = after - place
                number += 1
            place = after
        return number

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
        # One place more: what is not to stay is written too, behind the last that is.
        met = np.empty(count + 1, dtype=np.int32)
        most = 1
        for query in range(len(sources)):
            most = max(most, term_ends[query + 1] - term_ends[query])
        distinct = np.empty(most, dtype=np.int64)
        repeats = np.empty(most, dtype=np.float32)
        to_come = np.empty(most + 1, dtype=np.float64)
        for query in range(len(sources)):
            first, last = term_ends[query], term_ends[query + 1]
            source = sources[query]
            to_beat = exact(documents, weights, ends, terms, first, last, source)
            scores[query] = to_beat
            if to_beat <= 0:
                ranks[query] = 0
                continue
            terms_left = order_terms(ends, largest, terms, first, last, distinct, repeats)
            to_come[terms_left] = 0.0
            for item in range(terms_left - 1, -1, -1):
                gain = repeats[item] * np.float64(largest[distinct[item]])
                to_come[item] = to_come[item + 1] + gain
            # Sums of m numbers above 0 in float32, added in whatever order, are at most about
            # 2m · 2⁻²⁴ apart: twice that, and something for the bounds themselves.
            slack = (last - first + 8) * 2.0**-22
            threshold = np.float64(to_beat) * (1.0 - slack)
            number = 0
            for item in range(terms_left):
                start, stop = ends[distinct[item]], ends[distinct[item] + 1]
                listed, added = documents[start:stop], weights[start:stop]
                least = np.float32((threshold - to_come[item + 1]) * (1.0 - slack))
                if to_come[item] >= threshold:
                    number = add(listed, added, repeats[item], least, reached, met, number)
                elif number * _LOOK_UP < stop - start:
                    look_up(listed, added, repeats[item], reached, met, number)
                else:
                    add_to_met(listed, added, repeats[item], reached)
                number = forget(least, reached, met, number)
            better = 0
            close = 0
            uncertain = np.float32(threshold)
            certain = np.float32(np.float64(to_beat) * (1.0 + slack))
            for place in range(number):
                document = np.uint32(met[place])
                score = reached[document]
                reached[document] = nothing
                better += score > certain
                met[close] = document
                close += (score >= uncertain) & (score <= certain)
            for place in range(close):
                document = met[place]
                score = exact(documents, weights, ends, terms, first, last, document)
                if score > to_beat or (score == to_beat and id_order[document] < id_order[source]):
                    better += 1
            ranks[query] = 1 + better

    return walk
