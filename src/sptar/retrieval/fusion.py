"""Several runs joined into one, by ranks or by scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from sptar.errors import DataError
from sptar.types import Run

__all__ = ["reciprocal_rank_fusion", "score_fusion"]


def reciprocal_rank_fusion(
    runs: Sequence[Run],
    top_k: int,
    *,
    k: int = 60,
    weights: Sequence[float] | None = None,
    separate_ids: bool = False,
) -> Run:
    """Join runs by the ranks of their documents.

    A document's score is the sum of ``weight / (k + rank)`` over the runs that hold it, ranks
    counted from 1: Cormack, Clarke and Büttcher, *Reciprocal Rank Fusion Outperforms Condorcet and
    Individual Rank Learning Methods*, SIGIR 2009. A run's order is by score, ties by document id,
    ascending; so is that of the result. A document with the query's id is left out before
    ranks are counted, unless ``separate_ids`` says that equal ids mean different things. A query
    that only some of the runs hold is kept, with what they found.

    Args:
        runs: two or more (one is taken as it is); neither their order nor that of their entries
            matters, but that of ``weights``.
        top_k: documents for each query at most.
        k: the larger, the less the first ranks count.
        weights: one number for each run, 0 or more; by default 1 for each.

    Raises:
        DataError: a score is no number.
        ValueError: no run, a number out of its bounds, or as many weights as there are runs not.

    >>> first = {"q": {"a": 9.0, "b": 8.0, "c": 7.0}}
    >>> second = {"q": {"c": 0.9, "a": 0.8}}
    >>> fused = reciprocal_rank_fusion([first, second], 10)["q"]
    >>> {doc_id: round(score, 6) for doc_id, score in fused.items()}
    {'a': 0.032522, 'c': 0.032266, 'b': 0.016129}
    >>> round(1 / 61 + 1 / 62, 6), round(1 / 63 + 1 / 61, 6), round(1 / 62, 6)
    (0.032522, 0.032266, 0.016129)
    """
    if k < 0:
        raise ValueError("k is at least 0")
    factors = _factors(runs, weights, default=1.0)
    fused: Run = {}
    for query_id, rankings in _by_query(runs, top_k, separate_ids):
        parts: dict[str, list[float]] = {}
        for factor, scores in zip(factors, rankings, strict=True):
            for rank, doc_id in enumerate(_ordered(scores), start=1):
                parts.setdefault(doc_id, []).append(factor / (k + rank))
        fused[query_id] = _best(parts, top_k)
    return fused


def score_fusion(
    runs: Sequence[Run],
    top_k: int,
    *,
    weights: Sequence[float] | None = None,
    separate_ids: bool = False,
) -> Run:
    """Join runs by their scores, brought to 0 … 1 for each query and run.

    A score s becomes (s - lowest) / (highest - lowest) of the query's ranking in that run. Where
    all its scores are equal as far as float32 can tell, one document alone included, each becomes
    1: the run found them and prefers none. A document that a run does not hold gets 0 from it, as
    the last one it holds does. The result is the weighted sum; ties, queries of some runs only and
    a document that is the query itself are treated as in :func:`reciprocal_rank_fusion`.

    Args:
        runs: two or more (one keeps its order); neither their order nor that of their entries
            matters, but that of ``weights``.
        top_k: documents for each query at most.
        weights: one number for each run, 0 or more; by default equal ones that add up to 1.

    Raises:
        DataError: a score is no number.
        ValueError: no run, a number out of its bounds, or as many weights as there are runs not.

    >>> first = {"q": {"a": 30.0, "b": 20.0, "c": 10.0}}
    >>> second = {"q": {"c": 0.9, "d": 0.5}, "r": {"a": 0.1}}
    >>> score_fusion([first, second], 10, weights=[0.5, 0.5])
    {'q': {'a': 0.5, 'c': 0.5, 'b': 0.25, 'd': 0.0}, 'r': {'a': 0.5}}
    """
    factors = _factors(runs, weights, default=1.0 / max(1, len(runs)))
    fused: Run = {}
    for query_id, rankings in _by_query(runs, top_k, separate_ids):
        parts: dict[str, list[float]] = {}
        for factor, scores in zip(factors, rankings, strict=True):
            for doc_id, share in _shares(scores).items():
                parts.setdefault(doc_id, []).append(factor * share)
        fused[query_id] = _best(parts, top_k)
    return fused


def _factors(runs: Sequence[Run], weights: Sequence[float] | None, default: float) -> list[float]:
    if not runs:
        raise ValueError("there is no run to fuse")
    if weights is None:
        return [default] * len(runs)
    if len(weights) != len(runs):
        raise ValueError(f"{len(weights)} weights for {len(runs)} runs")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError("a weight is a number of 0 or more")
    return list(weights)


def _by_query(
    runs: Sequence[Run], top_k: int, separate_ids: bool
) -> Iterator[tuple[str, Sequence[Mapping[str, float]]]]:
    """Each query of any run, with what every run found for it, without the query itself."""
    if top_k < 1:
        raise ValueError("top_k is at least 1")
    for query_id in dict.fromkeys(query_id for run in runs for query_id in run):
        rankings = [dict(run.get(query_id, {})) for run in runs]
        for scores in rankings:
            if not separate_ids:
                scores.pop(query_id, None)
            for doc_id, score in scores.items():
                if not math.isfinite(score):
                    raise DataError(
                        f"The score of document {doc_id} for query {query_id} is {score}, no "
                        "number to fuse.",
                        hint="Make that run again.",
                    )
        yield query_id, rankings


def _ordered(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))


def _shares(scores: Mapping[str, float]) -> dict[str, float]:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    # What tied stands in a run as neighbouring float32 numbers: that range tells nothing.
    step = 2.0**-23 * max(abs(high), abs(low)) + 2.0**-126
    if high - low <= len(scores) * step:
        return dict.fromkeys(scores, 1.0)
    return {doc_id: (score - low) / (high - low) for doc_id, score in scores.items()}


def _best(parts: Mapping[str, Sequence[float]], top_k: int) -> dict[str, float]:
    # An exact sum: the order of the runs must not turn a tie into a difference.
    sums = {doc_id: math.fsum(terms) for doc_id, terms in parts.items()}
    return {doc_id: sums[doc_id] for doc_id in _ordered(sums)[:top_k]}
