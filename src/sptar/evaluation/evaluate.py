"""A run and judgements in, a value for each query and measure out.

Rules that published evaluations leave open, settled here:

- Equal scores are ordered by document id, ascending, before anything is measured (trec_eval alone
  would order them by id descending and read scores as 32-bit numbers, which makes more ties).
- A document that is the query itself (it has the query's id, and the collection's queries are
  documents) is taken out of ranking and judgements.
- A judged query that the run does not answer counts as 0 in every measure.
- Queries of the run without judgements are ignored, and judged queries without a positive document
  are left out of every mean; both are counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sptar.errors import DataError
from sptar.evaluation.measures import DEFAULT_MEASURES, Measure, parse_measure, parse_measures
from sptar.io import read_json, write_json
from sptar.types import Qrels, Run

__all__ = [
    "CountedJudgements",
    "EvaluationCounts",
    "Scores",
    "counted_judgements",
    "evaluate",
    "rank_documents",
]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class EvaluationCounts:
    """What was left out or set to zero.

    Attributes:
        missing: judged queries that the run does not answer (they count as 0).
        without_positives: judged queries left out because no document is relevant.
        unjudged: queries of the run that have no judgements (ignored).
        self_hits: documents taken out of a ranking because their id is the query's id.
        self_judgements: judgements taken out for the same reason.
    """

    missing: int = 0
    without_positives: int = 0
    unjudged: int = 0
    self_hits: int = 0
    self_judgements: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Values of one system: ``values[m][q]`` for ``measures[m]`` and ``query_ids[q]``.

    ``query_ids`` ascend; every mean goes over all of them.
    """

    measures: tuple[Measure, ...]
    query_ids: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    relevance_level: int = 1
    counts: EvaluationCounts = EvaluationCounts()

    def __post_init__(self) -> None:
        if len(self.values) != len(self.measures) or any(
            len(row) != len(self.query_ids) for row in self.values
        ):
            raise ValueError("one row for each measure with one value for each query is needed")

    def row(self, measure: str | Measure) -> tuple[float, ...]:
        """Values of one measure in the order of ``query_ids``.

        Raises:
            DataError: this measure was not computed.
        """
        wanted = parse_measure(measure)
        if wanted not in self.measures:
            raise DataError(
                f"these scores do not hold {wanted}; they hold "
                f"{', '.join(map(str, self.measures))}.",
                hint="Add it to evaluate.measures and evaluate again.",
            )
        return self.values[self.measures.index(wanted)]

    def per_query(self, measure: str | Measure) -> dict[str, float]:
        """Query id → value."""
        return dict(zip(self.query_ids, self.row(measure), strict=True))

    def mean(self, measure: str | Measure) -> float:
        """Arithmetic mean over the queries."""
        return math.fsum(self.row(measure)) / len(self.query_ids)

    def means(self) -> dict[Measure, float]:
        """Mean of each measure."""
        return {measure: self.mean(measure) for measure in self.measures}

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, atomically; floats come back exactly."""
        write_json(
            path,
            {
                "format": _FORMAT,
                "relevance_level": self.relevance_level,
                "counts": asdict(self.counts),
                "means": {str(measure): mean for measure, mean in self.means().items()},
                "measures": [str(measure) for measure in self.measures],
                "queries": {
                    query_id: [row[position] for row in self.values]
                    for position, query_id in enumerate(self.query_ids)
                },
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: there is no such file, or it does not hold scores.
        """
        return _scores_from(_read(path), Path(path))


def _read(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise DataError("there is no file with scores.", path=path, hint="Evaluate the run first.")
    return read_json(path)


def _scores_from(value: Any, path: Path) -> Scores:
    try:
        if value["format"] != _FORMAT:
            raise DataError(
                f"scores in format {value['format']!r}; this version reads {_FORMAT}.", path=path
            )
        queries: dict[str, list[float]] = value["queries"]
        query_ids = tuple(sorted(queries))
        measures = parse_measures(value["measures"])
        if not query_ids:
            raise ValueError("there is no query")
        return Scores(
            measures=measures,
            query_ids=query_ids,
            values=tuple(
                tuple(float(queries[query_id][position]) for query_id in query_ids)
                for position in range(len(measures))
            ),
            relevance_level=int(value["relevance_level"]),
            counts=EvaluationCounts(**value["counts"]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"this is no file with scores ({type(error).__name__}: {error}).",
            path=path,
            hint="Evaluate the run again.",
        ) from None


def rank_documents(scores: Mapping[str, float]) -> list[str]:
    """Document ids, best first; equal scores by document id, ascending.

    Raises:
        DataError: a score is not a number (NaN).

    >>> rank_documents({"b": 1.0, "a": 1.0, "c": 2.0})
    ['c', 'a', 'b']
    """
    if any(map(math.isnan, scores.values())):
        doc_id = next(doc_id for doc_id, score in scores.items() if math.isnan(score))
        raise DataError(
            f"the score of document {doc_id!r} is not a number (NaN).",
            hint="The retriever that made this run is broken: train or encode it again.",
        )
    # Sorting is stable, also in reverse: within one score the ids stay in ascending order.
    return sorted(sorted(scores), key=scores.__getitem__, reverse=True)


def _as_scores(ranking: list[str]) -> dict[str, float]:
    """Whole numbers that say the ranking to trec_eval without any tie."""
    return dict(zip(ranking, map(float, range(len(ranking), 0, -1)), strict=True))


def _provider_values(
    qrels: Qrels, rankings: Mapping[str, list[str]], measures: Iterable[Measure], level: int
) -> dict[Measure, dict[str, float]]:
    """Values by trec_eval; ``rankings`` are whole, and cut here for the reciprocal rank."""
    from ir_measures import pytrec_eval

    whole: list[Measure] = []
    by_depth: dict[int, list[Measure]] = {}
    for measure in measures:
        if measure.name == "RR" and measure.cutoff is not None:
            by_depth.setdefault(measure.cutoff, []).append(measure)
        else:
            whole.append(measure)
    values: dict[Measure, dict[str, float]] = {}
    for depth, group in [(None, whole), *by_depth.items()]:
        if not group:
            continue
        run = {query_id: _as_scores(ranking[:depth]) for query_id, ranking in rankings.items()}
        provided = {measure.provided_by(level): measure for measure in group}
        found: dict[Measure, dict[str, float]] = {measure: {} for measure in provided.values()}
        for metric in pytrec_eval.iter_calc(list(provided), qrels, run):
            found[provided[metric.measure]][metric.query_id] = float(metric.value)
        for measure in group:
            # Two names may ask for the same thing, such as AP@10 and AP(rel=1)@10.
            values[measure] = found[provided[measure.provided_by(level)]]
    return values


def _but_for(self_judgements: int) -> str:
    if not self_judgements:
        return ""
    return f", but for {self_judgements} that have the query's own id and so are the query itself"


@dataclass(frozen=True, slots=True)
class CountedJudgements:
    """The judgements that measures read; ``self_judgements`` were taken out of them."""

    judged: Qrels
    self_judgements: int


def counted_judgements(
    qrels: Qrels, relevance_level: int = 1, *, separate_ids: bool = False
) -> CountedJudgements:
    """The queries that count and their documents' grades, all in ascending order of ids.

    See :func:`evaluate` for what counts. Whoever measures a run against these alone, over all of
    their queries, gets its figures.
    """
    if relevance_level < 1:
        raise ValueError("relevance_level is a whole number from 1")
    judged: Qrels = {}
    self_judgements = 0
    for query_id in sorted(qrels):
        grades = {
            doc_id: max(int(grade), 0)
            for doc_id, grade in sorted(qrels[query_id].items())
            if separate_ids or doc_id != query_id
        }
        self_judgements += len(qrels[query_id]) - len(grades)
        if max(grades.values(), default=0) >= relevance_level:
            judged[query_id] = grades
    return CountedJudgements(judged, self_judgements)


def evaluate(
    run: Run,
    qrels: Qrels,
    measures: Iterable[str | Measure] = DEFAULT_MEASURES,
    relevance_level: int = 1,
    *,
    separate_ids: bool = False,
) -> Scores:
    """Measure a run on every judged query that has a relevant document.

    A query counts when at least one of its documents has ``relevance_level`` or more, so that all
    measures, graded and binary, go over the same queries. Grades below 0 count as 0. With
    ``separate_ids`` a document with the query's id is a document like any other.

    Raises:
        DataError: no judged query has a relevant document, or a score is NaN.
    """
    parsed = parse_measures(measures)
    counted = counted_judgements(qrels, relevance_level, separate_ids=separate_ids)
    judged, self_judgements = counted.judged, counted.self_judgements
    if not judged:
        raise DataError(
            f"none of the {len(qrels)} judged queries has a document of grade {relevance_level} "
            "or more" + _but_for(self_judgements) + ": there is nothing to evaluate.",
            hint="Check the qrels of the test split and evaluate.relevance_level."
            if not self_judgements
            else "If query and document of one id are different things, set data.shared_ids: "
            "separate.",
        )
    rankings: dict[str, list[str]] = {}
    self_hits = 0
    for query_id in judged:
        answers = run.get(query_id, {})
        ranking = rank_documents(answers)
        if not separate_ids and query_id in answers:
            self_hits += 1
            ranking.remove(query_id)
        if ranking:
            rankings[query_id] = ranking
    values = _provider_values(judged, rankings, parsed, relevance_level) if rankings else {}
    query_ids = tuple(judged)
    return Scores(
        measures=parsed,
        query_ids=query_ids,
        values=tuple(
            tuple(values.get(measure, {}).get(query_id, 0.0) for query_id in query_ids)
            for measure in parsed
        ),
        relevance_level=relevance_level,
        counts=EvaluationCounts(
            missing=len(judged) - len(rankings),
            without_positives=len(qrels) - len(judged),
            unjudged=sum(query_id not in qrels for query_id in run),
            self_hits=self_hits,
            self_judgements=self_judgements,
        ),
    )
