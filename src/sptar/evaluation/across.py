"""Finished runs of several seeds and collections, joined and compared.

Within a collection a query's value is its mean over the seeds in which it was a test query, so
the pairing by query stays and the tests go over queries, never over seeds. They speak about the
mean of these trainings; how far one training lies from another is the spread beside each mean.
Each collection is a family of its own. Over collections there is an average (every collection
counts the same) but no test: a handful of collections is no sample to draw conclusions from, and
queries of different collections do not belong in one pool.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sptar.errors import DataError
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import FamilyComparison, compare_systems
from sptar.evaluation.measures import Measure, parse_measure
from sptar.evaluation.systems import parse_system

__all__ = [
    "CollectionComparison",
    "JointComparison",
    "SeedMeans",
    "SeededRun",
    "join_runs",
    "mean_over_seeds",
]

_LISTED = 6
_LONGEST = 60
"""Characters of a setting's value in a message."""


@dataclass(frozen=True, slots=True)
class SeededRun:
    """The scores of a finished run, and what they belong to.

    Attributes:
        name: how the run is called in messages.
        collection: identity of the collection by its content; runs that share it are joined.
        title: how a reader knows the collection.
        source: where the collection was read from.
        judgements: identity of the test judgements within the collection.
        seed: seed of the run.
        systems: system → scores, each with its retriever in its name (BM25 has none).
        settings: setting → value, of everything but seeds that should be equal between the runs
            that have the setting; what is not equal is noted.
    """

    name: str
    collection: str
    title: str
    source: str
    judgements: str
    seed: int
    systems: Mapping[str, Scores]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeedMeans:
    """Means over seeds, query by query.

    Attributes:
        scores: system → scores; the value of a query is its mean over the seeds that have it.
        spread: system → standard deviation (n - 1) of the means of the single seeds, in the order
            of the measures; ``None`` for one seed.
        notes: what was left out, with counts.
    """

    scores: Mapping[str, Scores]
    spread: Mapping[str, tuple[float | None, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CollectionComparison:
    """One collection: means over its seeds, and their tests as one family."""

    title: str
    identity: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    scores: Mapping[str, Scores]
    spread: Mapping[str, tuple[float | None, ...]]
    family: FamilyComparison
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JointComparison:
    """All collections, in the order in which their first runs were given."""

    measures: tuple[Measure, ...]
    collections: tuple[CollectionComparison, ...]

    @property
    def systems(self) -> tuple[str, ...]:
        """Every system of any collection."""
        return tuple(dict.fromkeys(name for item in self.collections for name in item.scores))

    def average(self, system: str, measure: str | Measure) -> float | None:
        """Mean over the collections of the system's means; ``None`` where a collection lacks it."""
        wanted = parse_measure(measure)
        if any(system not in item.scores for item in self.collections):
            return None
        means = [item.scores[system].mean(wanted) for item in self.collections]
        return math.fsum(means) / len(means)


def mean_over_seeds(by_seed: Mapping[int, Mapping[str, Scores]]) -> SeedMeans:
    """Average the systems of one collection over seeds, query by query.

    Only systems that every seed has take part, and in each seed only queries that were test
    queries of all of them. Test sets may differ between seeds (a split that is drawn by seed): a
    query's value is its mean over the seeds that have it. Whatever is left out is counted in the
    notes.

    Args:
        by_seed: seed → system → scores; all with the same measures in the same order.

    Raises:
        DataError: no system is common to all seeds, or the systems of a seed share no query.
    """
    seeds = sorted(by_seed)
    everything = list(dict.fromkeys(name for seed in seeds for name in by_seed[seed]))
    common = [name for name in everything if all(name in by_seed[seed] for seed in seeds)]
    notes: list[str] = []
    if not common:
        raise DataError(
            f"No system was scored with every seed ({_listed(seeds)}).",
            hint="Join runs of the same methods and retrievers.",
        )
    if len(common) < len(everything):
        missing = [name for name in everything if name not in common]
        notes.append(
            f"Left out, because not every seed has them ({len(missing)}): {_listed(missing)}."
        )
    shared: dict[int, list[str]] = {}
    for seed in seeds:
        sets = [set(by_seed[seed][name].query_ids) for name in common]
        shared[seed] = sorted(set.intersection(*sets))
        lost = len(set.union(*sets)) - len(shared[seed])
        if not shared[seed]:
            raise DataError(f"With seed {seed} the systems have no test query in common.")
        if lost:
            notes.append(
                f"Seed {seed}: {lost:,} queries left out, because not every system was scored on "
                "them."
            )
    times: dict[str, int] = {}
    for seed in seeds:
        for query_id in shared[seed]:
            times[query_id] = times.get(query_id, 0) + 1
    always = sum(count == len(seeds) for count in times.values())
    if always < len(times):
        notes.append(
            f"The test queries differ between the seeds: {always:,} of {len(times):,} were test "
            f"queries with all {len(seeds)} seeds; the value of a query is its mean over the seeds "
            "in which it was one."
        )
    query_ids = tuple(sorted(times))
    scores = {
        name: _mean_scores([by_seed[seed][name] for seed in seeds], shared, query_ids, seeds)
        for name in common
    }
    return SeedMeans(
        scores=scores,
        spread={
            name: _spread([by_seed[seed][name] for seed in seeds], [shared[seed] for seed in seeds])
            for name in common
        },
        notes=tuple(notes),
    )


def _mean_scores(
    scores: Sequence[Scores],
    shared: Mapping[int, Sequence[str]],
    query_ids: tuple[str, ...],
    seeds: Sequence[int],
) -> Scores:
    rows = []
    for measure in scores[0].measures:
        values: dict[str, list[float]] = {query_id: [] for query_id in query_ids}
        for seed, own in zip(seeds, scores, strict=True):
            found = own.per_query(measure)
            for query_id in shared[seed]:
                values[query_id].append(found[query_id])
        rows.append(tuple(math.fsum(values[q]) / len(values[q]) for q in query_ids))
    return Scores(scores[0].measures, query_ids, tuple(rows), scores[0].relevance_level)


def _spread(scores: Sequence[Scores], shared: Sequence[Sequence[str]]) -> tuple[float | None, ...]:
    if len(scores) < 2:
        return tuple(None for _ in scores[0].measures)
    spreads = []
    for measure in scores[0].measures:
        means = []
        for own, query_ids in zip(scores, shared, strict=True):
            found = own.per_query(measure)
            means.append(math.fsum(found[query_id] for query_id in query_ids) / len(query_ids))
        spreads.append(statistics.stdev(means))
    return tuple(spreads)


def join_runs(
    runs: Sequence[SeededRun],
    target: str | None = None,
    alpha: float = 0.05,
    bootstrap_samples: int = 10_000,
    seed: int = 0,
    *,
    mixed: bool = False,
) -> JointComparison:
    """Group runs by collection and seed, average over seeds, and test each collection.

    Systems of runs with the same collection and seed are put together; a system that two of them
    hold must have the same scores in both. When all runs together use one retriever only, its name
    is left out of the systems' names.

    Args:
        runs: finished runs in the order of the tables.
        target: see :func:`~sptar.evaluation.family.contests_of`.
        mixed: whether runs of a collection may differ in other settings than the seed; a note
            names these then.

    Raises:
        DataError: there is no run; runs have other measures, relevance levels, judgements or
            (unless ``mixed``) settings; or a system has two different scores with one seed.
    """
    if not runs:
        raise DataError("There is no run to compare.")
    _check_same_measures(runs)
    _check_same_judgements(runs)
    measures = next(iter(runs[0].systems.values())).measures
    runs = _without_single_retriever([_in_order(run, measures) for run in runs])
    groups: dict[str, list[SeededRun]] = {}
    for run in runs:
        groups.setdefault(run.collection, []).append(run)
    collections = []
    for identity, group in groups.items():
        differing = _setting_notes(group, mixed)
        means = mean_over_seeds(_by_seed(group))
        collections.append(
            CollectionComparison(
                title=group[0].title,
                identity=identity,
                seeds=tuple(sorted({run.seed for run in group})),
                runs=tuple(run.name for run in group),
                scores=means.scores,
                spread=means.spread,
                family=compare_systems(
                    means.scores, target, measures, alpha, bootstrap_samples, seed
                ),
                notes=(*means.notes, *differing),
            )
        )
    return JointComparison(measures, tuple(_with_own_titles(collections)))


def _check_same_measures(runs: Sequence[SeededRun]) -> None:
    first = next(iter(runs[0].systems.values()))
    for run in runs:
        for scores in run.systems.values():
            if set(scores.measures) != set(first.measures):
                raise DataError(
                    f"The runs '{runs[0].name}' and '{run.name}' were evaluated with different "
                    f"measures: {_listed(first.measures)} against {_listed(scores.measures)}.",
                    hint="Give both the same evaluate.measures and run them again; only the "
                    "evaluation is made anew.",
                )
            if scores.relevance_level != first.relevance_level:
                raise DataError(
                    f"The runs '{runs[0].name}' and '{run.name}' were evaluated with different "
                    f"relevance levels: {first.relevance_level} against "
                    f"{scores.relevance_level}.",
                    hint="Give both the same evaluate.relevance_level and run them again; only "
                    "the evaluation is made anew.",
                )


def _check_same_judgements(runs: Sequence[SeededRun]) -> None:
    by_collection: dict[str, SeededRun] = {}
    by_source: dict[str, SeededRun] = {}
    for run in runs:
        other = by_collection.setdefault(run.collection, run)
        if other.judgements != run.judgements:
            raise DataError(
                f"The runs '{other.name}' and '{run.name}' were tested on different qrels of "
                f"'{run.title}': {other.judgements} against {run.judgements}.",
                hint="Compare only runs with the same test split.",
            )
        other = by_source.setdefault(run.source, run)
        if other.collection != run.collection:
            raise DataError(
                f"The runs '{other.name}' and '{run.name}' read different versions of the "
                f"collection '{run.title}': its documents, queries or qrels changed in between.",
                hint="Run the older one again; what did not change is reused.",
            )


def _in_order(run: SeededRun, measures: Sequence[Measure]) -> SeededRun:
    """The run with the rows of its scores in the order of these measures."""
    systems = {
        name: scores
        if scores.measures == tuple(measures)
        else replace(
            scores,
            measures=tuple(measures),
            values=tuple(scores.row(measure) for measure in measures),
        )
        for name, scores in run.systems.items()
    }
    return replace(run, systems=systems)


def _without_single_retriever(runs: Sequence[SeededRun]) -> list[SeededRun]:
    retrievers = {parse_system(name).retriever for run in runs for name in run.systems} - {None}
    if len(retrievers) > 1:
        return list(runs)
    return [
        replace(
            run, systems={parse_system(name).row: scores for name, scores in run.systems.items()}
        )
        for run in runs
    ]


def _by_seed(group: Sequence[SeededRun]) -> dict[int, dict[str, Scores]]:
    found: dict[int, dict[str, Scores]] = {}
    owner: dict[tuple[int, str], str] = {}
    for run in group:
        for name, scores in run.systems.items():
            known = found.setdefault(run.seed, {}).setdefault(name, scores)
            first = owner.setdefault((run.seed, name), run.name)
            if (known.query_ids, known.values) != (scores.query_ids, scores.values):
                raise DataError(
                    f"The runs '{first}' and '{run.name}' both hold '{name}' with seed {run.seed} "
                    f"on '{run.title}', and their scores differ.",
                    hint="Compare one of them at a time.",
                )
    return found


def _setting_notes(group: Sequence[SeededRun], mixed: bool) -> list[str]:
    """What differs beside the seed: a mean over such runs is one of nothing, unless asked for."""
    having: dict[str, dict[str, list[str]]] = {}
    for run in group:
        for key, value in run.settings.items():
            having.setdefault(key, {}).setdefault(value, []).append(run.name)
    differing = [key for key in sorted(having) if len(having[key]) > 1]
    if differing and not mixed:
        sentences = [
            f"{key} is "
            + ", ".join(
                f"{value[:_LONGEST]} in {_listed(names)}" for value, names in having[key].items()
            )
            for key in differing[:_LISTED]
        ]
        raise DataError(
            f"These runs on '{group[0].title}' differ in settings other than the seed "
            f"({len(differing)}): {'; '.join(sentences)}.",
            hint="Compare runs of the same settings, or add --mixed to average over these.",
        )
    if not differing:
        return []
    what = f"These runs differ in settings other than the seed ({len(differing)})"
    return [f"{what}: {_listed(differing)}."]


def _with_own_titles(collections: Sequence[CollectionComparison]) -> list[CollectionComparison]:
    titles = [item.title for item in collections]
    return [
        replace(item, title=f"{item.title} ({item.identity[:6]})")
        if titles.count(item.title) > 1
        else item
        for item in collections
    ]


def _listed(things: Sequence[object]) -> str:
    words = [str(thing) for thing in things[:_LISTED]]
    more = len(things) - len(words)
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")
