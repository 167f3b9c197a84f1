"""Other programs that score a written run give the figures of the page."""

from __future__ import annotations

import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.evaluation.evaluate import counted_judgements, evaluate, rank_documents
from sptar.evaluation.measures import parse_measures
from sptar.io import lines
from sptar.trec import NO_DOCUMENT, falling_scores, read_run, write_run, write_trec_qrels
from sptar.types import Qrels, Run

MEASURES = ("nDCG@10", "RR@10", "R@100", "AP@1000", "nDCG@3", "P@5", "RR")
TREC_EVAL = {
    "nDCG@10": "ndcg_cut_10",
    "R@100": "recall_100",
    "AP@1000": "map_cut_1000",
    "nDCG@3": "ndcg_cut_3",
    "P@5": "P_5",
    "RR": "recip_rank",
}

FAMILIES = {"ndcg_cut.3,10", "recall.100", "map_cut.1000", "P.5", "recip_rank"}


def made(seed: int, level: int) -> tuple[Run, Qrels]:
    """Rankings full of ties, also below what float32 tells apart; every fifth query finds none."""
    generator = np.random.default_rng(seed)
    run: Run = {}
    qrels: Qrels = {}
    for number in range(20):
        query_id = f"q{number:02d}"
        ids = [f"d{i:02d}" for i in generator.permutation(40)]
        base = generator.choice([0.0, 1.0, 17.25, -3.5], size=40)
        scores = base + generator.integers(0, 3, 40) * generator.choice([0.0, 1e-12, 0.5])
        run[query_id] = {} if number % 5 == 4 else dict(zip(ids, scores.tolist(), strict=True))
        judged = generator.choice(ids, size=6, replace=False).tolist()
        qrels[query_id] = {doc_id: int(generator.integers(-1, 3)) for doc_id in judged}
        # The query itself, where ids mean the same thing, and a query without an answer.
        qrels[query_id][query_id] = 2
        if number == 7:
            qrels[query_id] = dict.fromkeys(judged, 0)
    return run, qrels


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_trec_eval_and_ir_measures_give_the_means_of_the_page(
    tmp_path: Path, seed: int, level: int
) -> None:
    run, qrels = made(seed, level)
    page = evaluate(run, qrels, parse_measures(MEASURES), level)
    write_run(tmp_path / "run.trec.gz", run, "system")
    counted = counted_judgements(qrels, level).judged
    write_trec_qrels(tmp_path / "test.qrels", counted)

    # As trec_eval -c reads them: queries of the judgements, scores as the file has them.
    told: Qrels = {}
    for _, text in lines(tmp_path / "test.qrels"):
        query_id, _, doc_id, grade = text.split()
        told.setdefault(query_id, {})[doc_id] = int(grade)
    found: Run = {}
    for _, text in lines(tmp_path / "run.trec.gz"):
        query_id, _, doc_id, _, score, _ = text.split()
        found.setdefault(query_id, {})[doc_id] = float(score)
    assert found.keys() == run.keys()
    evaluator = pytrec_eval.RelevanceEvaluator(told, FAMILIES, level)
    values = evaluator.evaluate(found)
    for name, theirs in TREC_EVAL.items():
        total = math.fsum(values.get(query_id, {}).get(theirs, 0.0) for query_id in told)
        assert page.mean(name) == pytest.approx(total / len(told), abs=1e-9), name
    # Every query that counts is in the run, so its own mean is that over all, without -c too.
    assert set(told) <= set(values)

    rel = f"(rel={level})"
    names = {
        "nDCG@10": "nDCG@10",
        "RR@10": f"RR{rel}@10",
        "R@100": f"R{rel}@100",
        "AP@1000": f"AP{rel}@1000",
    }
    parsed = {ir_measures.parse_measure(text): name for name, text in names.items()}
    means = ir_measures.calc_aggregate(
        list(parsed),
        list(ir_measures.read_trec_qrels(str(tmp_path / "test.qrels"))),
        [ir_measures.ScoredDoc(q, d, s) for q, own in found.items() for d, s in own.items()],
    )
    for measure, value in means.items():
        assert page.mean(parsed[measure]) == pytest.approx(value, abs=1e-9), measure


def test_ties_and_queries_without_a_hit_by_hand(tmp_path: Path) -> None:
    """trec_eval alone would put b, the larger id, first: a reciprocal rank of 1/2 for a."""
    path = tmp_path / "run.trec"
    write_run(path, {"q1": {"b": 7.0, "a": 7.0}, "q2": {}}, "mine")
    rows = [text.split() for _, text in lines(path)]
    assert [row[:4] for row in rows] == [
        ["q1", "Q0", "a", "1"],
        ["q1", "Q0", "b", "2"],
        ["q2", "Q0", NO_DOCUMENT, "0"],
    ]
    evaluator = pytrec_eval.RelevanceEvaluator({"q1": {"a": 1}, "q2": {"c": 1}}, {"recip_rank"})
    found = {row[0]: {} for row in rows}
    for row in rows:
        found[row[0]][row[2]] = float(row[4])
    assert {q: v["recip_rank"] for q, v in evaluator.evaluate(found).items()} == {"q1": 1, "q2": 0}
    assert read_run(path)["q2"] == {}


FLOAT32 = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, 1e-40, 2.0**-126, -(2.0**-126), 3e38, -3e38, 1.0]),
    st.floats(-1e6, 1e6, allow_nan=False),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), FLOAT32, max_size=30))
def test_scores_fall_strictly_in_float32_and_in_the_order_of_the_page(
    scores: dict[str, float],
) -> None:
    found = falling_scores(scores)
    assert [doc_id for doc_id, _ in found] == rank_documents(scores)
    for kind in (np.float32, np.float64):
        written = np.array([float(repr(score)) for _, score in found]).astype(kind)
        assert (np.diff(written) < 0).all()
    # What float32 tells apart stays as it is.
    rounded = [float(np.float32(score)) for score in scores.values()]
    if len(set(rounded)) == len(rounded) and not any(0 < abs(s) < 2.0**-125 for s in rounded):
        assert dict(found) == scores
