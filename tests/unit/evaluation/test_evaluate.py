"""Values against numbers worked out by hand and against slow loops of our own."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.errors import DataError
from sptar.evaluation.evaluate import (
    EvaluationCounts,
    Scores,
    counted_judgements,
    evaluate,
    rank_documents,
)
from sptar.evaluation.measures import Measure, parse_measures
from sptar.trec import read_run, write_run
from sptar.types import Qrels, Run

ALL = ("nDCG@10", "nDCG", "RR@10", "RR", "R@100", "AP@1000", "AP", "P@5", "Success@3")


def test_by_hand() -> None:
    """Ranking: d1 (grade 2), d2 (judged 0), d3 (grade 1); d4 (grade 1) is not found."""
    qrels: Qrels = {"q": {"d1": 2, "d2": 0, "d3": 1, "d4": 1}}
    run: Run = {"q": {"d3": 0.5, "d1": 9.0, "d2": 3.0}}
    means = {str(measure): mean for measure, mean in evaluate(run, qrels, ALL).means().items()}
    # (2/log2 2 + 1/log2 4) / (2/log2 2 + 1/log2 3 + 1/log2 4) = 2.5 / 3.13093
    assert means["nDCG@10"] == pytest.approx(0.798485, abs=1e-6)
    assert means["RR@10"] == 1.0
    assert means["R@100"] == pytest.approx(2 / 3)
    # (1/1 + 2/3) / 3
    assert means["AP@1000"] == pytest.approx(5 / 9)
    assert means["P@5"] == pytest.approx(2 / 5)
    assert means["Success@3"] == 1.0


def test_cutoffs_by_hand() -> None:
    """The one relevant document stands at rank 11: RR@10 is 0, RR is 1/11."""
    run: Run = {"q": {f"d{rank:02d}": 100.0 - rank for rank in range(1, 30)}}
    qrels: Qrels = {"q": {"d11": 1}}
    scores = evaluate(run, qrels, ["RR@10", "RR", "RR@11", "nDCG@10", "nDCG@11", "R@10", "AP@11"])
    assert scores.row("RR@10") == (0.0,)
    assert scores.row("RR") == (pytest.approx(1 / 11),)
    assert scores.row("RR@11") == (pytest.approx(1 / 11),)
    assert scores.row("nDCG@10") == (0.0,)
    assert scores.row("nDCG@11") == (pytest.approx(1 / math.log2(12)),)
    assert scores.row("R@10") == (0.0,)
    assert scores.row("AP@11") == (pytest.approx(1 / 11),)


def test_ties_go_by_document_id() -> None:
    """trec_eval alone would put the later id first, whatever the order of the input."""
    assert rank_documents({"c": 1, "b": 1, "a": 1}) == ["a", "b", "c"]
    run: Run = {"q": {"b": 1.0, "a": 1.0, "c": 1.0}}
    assert evaluate(run, {"q": {"a": 1}}, ["RR@10"]).mean("RR@10") == 1.0
    assert evaluate(run, {"q": {"c": 1}}, ["RR@10"]).mean("RR@10") == pytest.approx(1 / 3)
    assert evaluate(run, {"q": {"c": 1}}, ["RR@2"]).mean("RR@2") == 0.0


def test_near_ties_are_no_ties() -> None:
    """32-bit numbers could not tell these two scores apart."""
    run: Run = {"q": {"a": 1.0, "z": 1.0 + 1e-12}}
    assert evaluate(run, {"q": {"z": 1}}, ["RR@10"]).mean("RR@10") == 1.0


def test_levels() -> None:
    qrels: Qrels = {"q": {"d1": 1, "d2": 2}, "only_low": {"d1": 1}}
    run: Run = {"q": {"d1": 2.0, "d2": 1.0}, "only_low": {"d1": 1.0}}
    names = ["RR@10", "RR(rel=2)@10", "R(rel=2)@1", "nDCG@10", "AP(rel=1)@10", "AP@10"]
    low = evaluate(run, qrels, names)
    assert low.per_query("RR@10") == {"only_low": 1.0, "q": 1.0}
    assert low.per_query("RR(rel=2)@10") == {"only_low": 0.0, "q": 0.5}
    assert low.per_query("R(rel=2)@1") == {"only_low": 0.0, "q": 0.0}
    assert low.row("AP@10") == low.row("AP(rel=1)@10") == (1.0, 1.0)
    high = evaluate(run, qrels, ["RR@10", "nDCG@10"], relevance_level=2)
    assert high.query_ids == ("q",), "every mean goes over the same queries"
    assert high.counts.without_positives == 1
    assert high.row("RR@10") == (0.5,)
    assert high.per_query("nDCG@10")["q"] == low.per_query("nDCG@10")["q"], "graded: no level"


def test_missing_queries_count_as_zero_in_every_measure() -> None:
    qrels: Qrels = {"q1": {"d": 1}, "q2": {"d": 1}, "q3": {"d": 1}}
    scores = evaluate({"q1": {"d": 1.0}, "q3": {}}, qrels, ALL)
    assert scores.query_ids == ("q1", "q2", "q3")
    assert scores.counts.missing == 2, "an empty answer is a missing one"
    for measure in scores.measures:
        assert scores.per_query(measure)["q2"] == scores.per_query(measure)["q3"] == 0.0
        assert scores.mean(measure) == pytest.approx(scores.per_query(measure)["q1"] / 3)
    assert evaluate({}, qrels, ALL).mean("nDCG@10") == 0.0


def test_what_is_left_out_is_counted() -> None:
    qrels: Qrels = {"q1": {"d1": 1}, "none": {"d1": 0}, "negative": {"d1": -1}, "empty": {}}
    run: Run = {"q1": {"d1": 1.0}, "x": {"d1": 1.0}, "y": {"d1": 1.0}, "none": {"d1": 1.0}}
    scores = evaluate(run, qrels, ["nDCG@10"])
    assert scores.query_ids == ("q1",)
    assert scores.counts == EvaluationCounts(missing=0, without_positives=3, unjudged=2)


def test_a_query_never_finds_itself() -> None:
    qrels: Qrels = {"a": {"a": 1, "b": 1}, "c": {"c": 1}}
    run: Run = {"a": {"a": 9.0, "b": 1.0}, "c": {"c": 1.0}}
    scores = evaluate(run, qrels, ["RR@10", "R@100", "P@1"])
    assert scores.query_ids == ("a",), "the only positive of c was c itself"
    assert scores.row("RR@10") == scores.row("R@100") == scores.row("P@1") == (1.0,)
    assert scores.counts.self_hits == 1
    assert scores.counts.self_judgements == 2


def test_negative_grades_are_not_relevant() -> None:
    run: Run = {"q": {"bad": 2.0, "good": 1.0}}
    with_negative = evaluate(run, {"q": {"good": 1, "bad": -2}}, ALL)
    with_zero = evaluate(run, {"q": {"good": 1, "bad": 0}}, ALL)
    assert with_negative.values == with_zero.values


def test_errors() -> None:
    with pytest.raises(DataError, match="none of the 1 judged queries"):
        evaluate({"q": {"d": 1.0}}, {"q": {"d": 0}})
    with pytest.raises(DataError, match="none of the 0"):
        evaluate({}, {})
    with pytest.raises(DataError, match="not a number"):
        evaluate({"q": {"d": float("nan")}}, {"q": {"d": 1}})
    with pytest.raises(DataError, match="do not hold P@1"):
        evaluate({"q": {"d": 1.0}}, {"q": {"d": 1}}).row("P@1")


def test_saves_and_loads(tmp_path: Path) -> None:
    qrels: Qrels = {"q1": {"d": 1, "e": 2}, "ß\n": {"d": 1}, "q3": {"d": 0}}
    run: Run = {"q1": {"x": 3.0, "d": 1.0, "e": 0.5}, "other": {"d": 1.0}}
    scores = evaluate(run, qrels, [*ALL, "AP(rel=2)@10"])
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == scores
    (tmp_path / "bad.json").write_text('{"format": 1, "queries": {"q": ["a"]}}')
    with pytest.raises(DataError, match="no file with scores"):
        Scores.load(tmp_path / "bad.json")
    (tmp_path / "short.json").write_text(
        '{"format": 1, "measures": ["RR@10", "R@5"], "queries": {"q": [0.5]}, '
        '"relevance_level": 1, "counts": {}}'
    )
    with pytest.raises(DataError, match="no file with scores"):
        Scores.load(tmp_path / "short.json")
    with pytest.raises(DataError, match="there is no file"):
        Scores.load(tmp_path / "absent.json")


def test_a_written_run_measures_the_same(tmp_path: Path) -> None:
    run, qrels = _random_case(7)
    write_run(tmp_path / "run.txt", run, "test")
    again = evaluate(read_run(tmp_path / "run.txt"), qrels, ALL)
    assert again.values == evaluate(run, qrels, ALL).values


# --- slow, obvious references -------------------------------------------------------------------


def _random_case(seed: int) -> tuple[Run, Qrels]:
    """Graded judgements and few distinct scores, so that ties are everywhere."""
    lot = random.Random(seed)
    documents = [f"d{number}" for number in range(40)]
    qrels: Qrels = {}
    run: Run = {}
    for number in range(12):
        query_id = f"q{number}"
        judged = lot.sample(documents, lot.randint(1, 15))
        qrels[query_id] = {doc_id: lot.choice([-1, 0, 0, 1, 1, 2, 3]) for doc_id in judged}
        if lot.random() < 0.85:
            found = lot.sample(documents, lot.randint(1, 30))
            run[query_id] = {doc_id: lot.randint(0, 4) / 3 for doc_id in found}
    qrels["always"] = {"d1": 1, "d2": 3}
    return run, qrels


def _slow_value(measure: Measure, ranking: list[str], judged: dict[str, int], level: int) -> float:
    level = measure.level or level
    depth = len(ranking) if measure.cutoff is None else measure.cutoff
    top = ranking[:depth]
    relevant = [doc_id for doc_id, grade in judged.items() if grade >= level]
    hits = [doc_id in relevant for doc_id in top]
    if measure.name == "nDCG":
        gained = 0.0
        for rank, doc_id in enumerate(top, start=1):
            gained += max(judged.get(doc_id, 0), 0) / math.log2(rank + 1)
        ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)
        if measure.cutoff is not None:
            ideal = ideal[: measure.cutoff]
        best = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ideal, start=1))
        return gained / best
    if measure.name == "RR":
        return next((1 / rank for rank, hit in enumerate(hits, start=1) if hit), 0.0)
    if measure.name == "R":
        return sum(hits) / len(relevant)
    if measure.name == "P":
        return sum(hits) / depth
    if measure.name == "Success":
        return float(any(hits))
    total = 0.0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            total += sum(hits[:rank]) / rank
    return total / len(relevant)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("seed", range(25))
def test_against_slow_loops(seed: int, level: int) -> None:
    run, qrels = _random_case(seed)
    names = [*ALL, "nDCG@3", "RR@2", "RR@5", "R@5", "AP@5", "P@1"]
    scores = evaluate(run, qrels, names, relevance_level=level)
    expected = [q for q, judged in sorted(qrels.items()) if max(judged.values()) >= level]
    assert list(scores.query_ids) == expected
    for measure in parse_measures(names):
        for query_id, value in scores.per_query(measure).items():
            found = run.get(query_id, {})
            ranking = sorted(sorted(found), key=lambda d: found[d], reverse=True)
            slow = _slow_value(measure, ranking, qrels[query_id], level)
            assert value == pytest.approx(slow, abs=1e-9), (measure, query_id)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(seed: int, order: random.Random) -> None:
    run, qrels = _random_case(seed)

    def shuffled(table: dict) -> dict:  # type: ignore[type-arg]
        keys = list(table)
        order.shuffle(keys)
        return {
            key: shuffled(table[key]) if isinstance(table[key], dict) else table[key]
            for key in keys
        }

    assert evaluate(shuffled(run), shuffled(qrels), ALL) == evaluate(run, qrels, ALL)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_only_the_ranking_matters(seed: int, factor: float) -> None:
    """Powers of two change no float comparison."""
    run, qrels = _random_case(seed)
    scaled = {q: {d: value * factor for d, value in found.items()} for q, found in run.items()}
    assert evaluate(scaled, qrels, ALL) == evaluate(run, qrels, ALL)


def test_judgements_that_count_by_hand() -> None:
    """Grades below 0 are 0, the query itself is no document, and a query needs an answer."""
    qrels = {
        "q2": {"b": 2, "a": -1},
        "q1": {"q1": 3, "a": 1},
        "q3": {"q3": 2, "a": 0},
    }
    counted = counted_judgements(qrels)
    assert counted.judged == {"q1": {"a": 1}, "q2": {"a": 0, "b": 2}}
    assert list(counted.judged) == ["q1", "q2"]
    assert counted.self_judgements == 2
    assert list(counted_judgements(qrels, 2).judged) == ["q2"]
    apart = counted_judgements(qrels, separate_ids=True)
    assert (list(apart.judged), apart.self_judgements) == (["q1", "q2", "q3"], 0)
