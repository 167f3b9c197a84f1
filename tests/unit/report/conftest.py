"""A report with every part filled, from made-up numbers."""

from __future__ import annotations

import numpy as np
import pytest

from sptar.evaluation.evaluate import EvaluationCounts, Scores
from sptar.evaluation.family import FamilyComparison
from sptar.evaluation.measures import parse_measures
from sptar.evaluation.significance import Comparison, compare
from sptar.evaluation.verdict import method_title, verdict
from sptar.report.records import (
    ChosenExamples,
    Curve,
    CurveSeries,
    ExamplePair,
    Funnel,
    LedgerRow,
    MethodExamples,
    OverlapRow,
    ReasonCount,
    ReportData,
    Timing,
    Version,
    WeakExample,
)
from sptar.report.tables import describe_counts, score_table

SHIFTS = {
    "bm25": 0.0,
    "zero_shot": -0.12,
    "no_augmentation": -0.06,
    "inpars": 0.02,
    "inpars_gbq": 0.09,
    "sptar": 0.05,
}


@pytest.fixture(scope="session")
def sample_scores() -> dict[str, Scores]:
    """Six systems over 120 queries, with differences of different size."""
    generator = np.random.default_rng(3)
    measures = parse_measures(["nDCG@10", "RR@10", "R@100", "AP@1000"])
    easy = generator.uniform(0.2, 0.8, size=(len(measures), 120))
    scores = {}
    for position, (method, shift) in enumerate(SHIFTS.items()):
        values = np.clip(easy + shift + generator.normal(0, 0.1, size=easy.shape), 0, 1)
        scores[method] = Scores(
            measures=measures,
            query_ids=tuple(f"q{number:03d}" for number in range(120)),
            values=tuple(tuple(map(float, row)) for row in values),
            counts=EvaluationCounts(missing=position % 2, without_positives=3, self_hits=2),
        )
    return scores


@pytest.fixture(scope="session")
def sample_comparison(sample_scores: dict[str, Scores]) -> Comparison:
    return compare(sample_scores, bootstrap_samples=500, seed=1)


@pytest.fixture(scope="session")
def sample_report(sample_scores: dict[str, Scores], sample_comparison: Comparison) -> ReportData:
    words = "Dogs and cats may travel free of charge when they sit on a lap for the whole journey "
    curves = tuple(
        curve
        for method in ("inpars", "sptar")
        for curve in (
            Curve(
                method=method,
                title=f"{method_title(method)}: soft prompt tuning",
                y_label="loss for one token",
                series=(
                    CurveSeries("train", tuple((x, 3.2 * 0.86**x + 0.4) for x in range(1, 18))),
                    CurveSeries(
                        "S_eval",
                        tuple((x, 3.3 * 0.9**x + 0.9 + 0.002 * x * x) for x in range(1, 18)),
                    ),
                ),
                best_x=12,
            ),
            Curve(
                method=method,
                title=f"{method_title(method)}: retriever on its dev set",
                y_label="nDCG@10",
                series=(CurveSeries("dev", tuple((x, 0.3 + 0.05 * x**0.5) for x in range(21))),),
                best_x=20,
            ),
        )
    )
    return ReportData(
        name="scifact-few-shot",
        mode="few_shot",
        verdict=verdict(sample_comparison),
        warnings=("This is a demonstration on made-up text: its numbers mean nothing.",),
        notes=("SPTAR: 12 of 2,000 documents were longer than the budget and were cut.",),
        table=score_table(sample_scores, FamilyComparison((sample_comparison,))),
        evaluation=describe_counts(sample_scores),
        family=FamilyComparison((sample_comparison,)),
        ledger=(
            LedgerRow("S_train", 50, 61, "soft prompt, retriever"),
            LedgerRow("S_eval", 100, 113, "early stop, examples, retriever's checkpoint"),
            LedgerRow("test", 120, 140, "evaluation only"),
        ),
        labels_used=174,
        overlap=(
            OverlapRow("weak queries equal to a test query (case and spaces aside)", 2, 4000),
            OverlapRow("training queries nearly equal to a test query", 0, 150),
        ),
        funnels=tuple(
            Funnel(
                method,
                2000,
                (
                    ReasonCount("empty", 3),
                    ReasonCount("degenerate", 120),
                    ReasonCount("copied", 44),
                    ReasonCount("duplicate", 61),
                    ReasonCount("test_overlap", 2),
                    ReasonCount("not_found", 70),
                    ReasonCount("rank", 500),
                ),
                1200,
            )
            for method in ("inpars", "inpars_gbq", "sptar")
        ),
        examples=(
            MethodExamples(
                "sptar",
                kept=(
                    WeakExample("do dogs travel free", words * 3, "kept", 1),
                    WeakExample("can a cat sit on a lap on the train", words, "kept", 17),
                ),
                dropped=(
                    WeakExample("", words, "empty", None),
                    WeakExample("what is it", words, "rank", 1234),
                    WeakExample("هل تسافر الكلاب مجانا", "تسافر الكلاب مجانا.", "not_found", None),
                ),
            ),
        ),
        curves=curves,
        chosen=(
            ChosenExamples(
                "sptar",
                (ExamplePair("how long is a ticket valid", "A ticket is valid for two hours."),),
                best_loss=2.01234,
                worst_loss=3.5,
                groups=61,
            ),
        ),
        config="name: scifact-few-shot\nseed: 42\ndata:\n  source: data/scifact\n"
        "  columns: {text: a_very_long_column_name_that_does_not_fit_on_a_phone_screen_at_all}\n",
        versions=(Version("sptar", "0.1.0"), Version("torch", "2.13.0+cpu")),
        timings=(
            Timing("split", 0.21),
            Timing("tune sptar", 312.4),
            Timing("augment sptar", 7321.0, reused=True),
            Timing("compare", None),
        ),
        made="2025-01-31",
    )
