"""Is the target better than each other method, query by query, and how sure is that?

For every pair (other method, measure): a paired t-test over the queries, a bootstrap interval of
the mean difference, and the smallest difference that so many queries would have shown. p-values
are corrected by Holm's method over the whole family: all tests of all contests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sptar.errors import DataError
from sptar.evaluation.comparison import Comparison, Contest, Difference
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.measures import Measure, parse_measures
from sptar.methods import target_of

__all__ = [
    "Comparison",
    "Difference",
    "bootstrap_intervals",
    "choose_target",
    "compare",
    "compare_contests",
    "detectable_difference",
    "holm",
    "paired_test",
]

_CONFIDENCE = 0.95
_POWER = 0.80
_SAME = 1e-12
"""Differences that agree to this are equal: measures lie in 0 … 1, the rest is rounding."""

Vector = NDArray[np.float64]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm, 1979), in the order given.

    The i-th smallest of m p-values (i from 0) is multiplied by m - i, never falls below the
    corrected value before it, and stops at 1.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for step, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[position]))
        corrected[position] = largest
    return corrected


def paired_test(differences: Vector) -> tuple[float, float]:
    """Two-sided and one-sided ("mean above 0") p-value of a paired t-test; ``(n,)`` differences.

    The t statistic does not exist for one query, nor when all differences are equal. Then the
    exact sign-flip test answers: under the null hypothesis each of the n equal differences could
    as well have had the other sign, so p = 2 / 2^n two-sided, and 1 when all are 0.

    >>> paired_test(np.zeros(8))
    (1.0, 1.0)
    >>> paired_test(np.full(5, 0.1))
    (0.0625, 0.03125)
    >>> paired_test(np.array([0.3]))
    (1.0, 0.5)
    """
    from scipy import stats

    count = len(differences)
    if count == 0:
        raise ValueError("at least one difference is needed")
    if np.abs(differences).max() <= _SAME:
        return 1.0, 1.0
    if _constant(differences):
        two_sided = 2.0 ** (1 - count)
        return two_sided, (2.0**-count if differences[0] > 0 else 1.0)
    statistic = differences.mean() / (differences.std(ddof=1) / math.sqrt(count))
    return (
        float(2 * stats.t.sf(abs(statistic), count - 1)),
        float(stats.t.sf(statistic, count - 1)),
    )


def _constant(differences: Vector) -> bool:
    return bool(differences.max() - differences.min() <= _SAME)


def detectable_difference(differences: Vector, alpha: float, power: float = _POWER) -> float | None:
    """Smallest true mean difference that a two-sided paired t-test finds with this power.

    ``(t[1 - alpha/2] + t[power]) * sd / sqrt(n)`` with n - 1 degrees of freedom, the usual
    approximation. ``None`` for one query or differences without spread.
    """
    from scipy import stats

    count = len(differences)
    if count < 2 or _constant(differences):
        return None
    quantiles = stats.t.ppf(1 - alpha / 2, count - 1) + stats.t.ppf(power, count - 1)
    return float(quantiles * differences.std(ddof=1) / math.sqrt(count))


def bootstrap_intervals(
    columns: Sequence[Vector], samples: int, seed: int, confidence: float = _CONFIDENCE
) -> list[tuple[float, float]]:
    """Percentile interval of the mean of each column; each column is ``(n,)``, n ≥ 1.

    Queries are drawn with replacement, the same draws for all columns: an interval depends on its
    own column, the seed and the number of samples, not on which other columns stand beside it.
    """
    if not columns:
        return []
    count = len(columns[0])
    generator = np.random.default_rng(seed)
    means = np.empty((len(columns), samples))
    # How often each query is drawn, for some samples at a time: about 2 million numbers.
    rows = max(1, min(samples, 2_000_000 // count))
    for start in range(0, samples, rows):
        size = min(rows, samples - start)
        drawn = generator.integers(0, count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        weights = times / count
        for position, column in enumerate(columns):
            means[position, start : start + size] = weights @ column
    tail = (1 - confidence) / 2
    bounds = np.quantile(means, [tail, 1 - tail], axis=1)
    return [(float(low), float(high)) for low, high in bounds.T]


def choose_target(methods: Iterable[str], target: str | None = None) -> str:
    """The method of the verdict: ``target``, else that of :func:`~sptar.methods.target_of`.

    Raises:
        DataError: the target is not among the methods.
    """
    names = list(methods)
    if not names:
        raise DataError("There is no method to compare.")
    if target is None:
        return target_of(names)
    if target not in names:
        raise DataError(
            f"There are no scores of '{target}', which the other methods should be compared with.",
            hint=f"There are scores of: {', '.join(names)}.",
        )
    return target


def compare(
    systems: Mapping[str, Scores],
    target: str | None = None,
    measures: Iterable[str | Measure] | None = None,
    alpha: float = 0.05,
    bootstrap_samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Test the target against each other system in each measure.

    Args:
        systems: method → scores over the same queries; the order of the rows of the result.
        target: see :func:`choose_target`.
        measures: by default those of the target's scores.
        alpha: level of the corrected tests. ``detectable`` uses alpha / family size: what Holm
            finds for sure, whatever the other p-values are.

    Raises:
        DataError: scores are missing, or two systems were not evaluated on the same queries.
    """
    chosen = choose_target(systems, target)
    contest = Contest(chosen, tuple(name for name in systems if name != chosen))
    return compare_contests(systems, [contest], measures, alpha, bootstrap_samples, seed)[0]


def compare_contests(
    systems: Mapping[str, Scores],
    contests: Sequence[Contest],
    measures: Iterable[str | Measure] | None = None,
    alpha: float = 0.05,
    bootstrap_samples: int = 10_000,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Test the target of each contest against its others; all tests together are one family.

    Args:
        systems: system → scores; those that take part are all over the same queries.
        contests: at least one; no pair of systems is tested twice.
        measures: by default those of the first target's scores.
        alpha: as in :func:`compare`; the family counts the tests of all contests.

    Returns:
        A comparison for each contest, its p-values corrected over the whole family.

    Raises:
        DataError: scores are missing, or two systems were not evaluated on the same queries.
    """
    for contest in contests:
        for name in (contest.target, *contest.others):
            choose_target(systems, name)
    first = contests[0].target
    tested = systems[first].measures if measures is None else parse_measures(measures)
    for contest in contests:
        for name in (contest.target, *contest.others):
            _check_same_queries(first, systems[first], name, systems[name])
    family = [
        (contest.target, other, measure)
        for contest in contests
        for other in contest.others
        for measure in tested
    ]
    if len({frozenset((target, other)) for target, other, _ in family}) * len(tested) != len(
        family
    ):
        raise ValueError("two contests test the same pair of systems")
    columns = [
        np.asarray(systems[target].row(measure), dtype=np.float64)
        - np.asarray(systems[other].row(measure), dtype=np.float64)
        for target, other, measure in family
    ]
    tests = [paired_test(column) for column in columns]
    two_sided = holm([test[0] for test in tests])
    one_sided = holm([test[1] for test in tests])
    intervals = bootstrap_intervals(columns, bootstrap_samples, seed)
    differences = [
        Difference(
            other=other,
            measure=measure,
            target_mean=systems[target].mean(measure),
            other_mean=systems[other].mean(measure),
            difference=math.fsum(columns[position]) / len(columns[position]),
            low=intervals[position][0],
            high=intervals[position][1],
            p_value=tests[position][0],
            p_holm=two_sided[position],
            p_one_sided=tests[position][1],
            p_one_sided_holm=one_sided[position],
            queries=len(columns[position]),
            detectable=detectable_difference(columns[position], alpha / len(family)),
        )
        for position, (target, other, measure) in enumerate(family)
    ]
    comparisons = []
    start = 0
    for contest in contests:
        end = start + len(contest.others) * len(tested)
        comparisons.append(
            Comparison(
                target=contest.target,
                measures=tested,
                differences=tuple(differences[start:end]),
                alpha=alpha,
                bootstrap_samples=bootstrap_samples,
                seed=seed,
            )
        )
        start = end
    return tuple(comparisons)


def _check_same_queries(target: str, own: Scores, name: str, other: Scores) -> None:
    if own.query_ids == other.query_ids and own.relevance_level == other.relevance_level:
        return
    if own.query_ids == other.query_ids:
        raise DataError(
            f"'{target}' was evaluated with relevance level {own.relevance_level} and '{name}' "
            f"with {other.relevance_level}.",
            hint="Evaluate both with the same evaluate.relevance_level.",
        )
    odd = sorted(set(own.query_ids) ^ set(other.query_ids))
    raise DataError(
        f"'{target}' and '{name}' were not evaluated on the same queries: {len(odd)} stand in one "
        f"of them only, such as {odd[0]!r}.",
        hint="Evaluate both runs against the same qrels.",
    )
