"""The table of scores, and what CSV and LaTeX make of odd names."""

from __future__ import annotations

import csv
import io

import pytest

from sptar.evaluation.evaluate import EvaluationCounts, Scores
from sptar.evaluation.measures import parse_measures
from sptar.evaluation.significance import Comparison, compare
from sptar.report.tables import (
    comparison_csv,
    describe_counts,
    escape_latex,
    score_table,
    scores_csv,
    scores_latex,
)

NOTHING = EvaluationCounts()


def _scores(shift: float, counts: EvaluationCounts = NOTHING) -> Scores:
    """Values differ a little, so that the t-test has a variance to work with."""
    values = tuple(0.3 + shift + 0.01 * (number % 3) * shift for number in range(40))
    return Scores(
        measures=parse_measures(["nDCG@10", "R@100"]),
        query_ids=tuple(f"q{number:02d}" for number in range(40)),
        values=(values, tuple([0.5] * 40)),
        counts=counts,
    )


@pytest.fixture
def systems() -> dict[str, Scores]:
    return {"bm25": _scores(0.0), "sptar": _scores(0.2), "inpars": _scores(0.3)}


@pytest.fixture
def comparison(systems: dict[str, Scores]) -> Comparison:
    return compare(systems, bootstrap_samples=100)


def test_score_table(systems: dict[str, Scores], comparison: Comparison) -> None:
    table = score_table(systems, comparison)
    assert table.measures == ("nDCG@10", "R@100")
    assert [row.method for row in table.rows] == ["bm25", "sptar", "inpars"]
    assert [row.target for row in table.rows] == [False, True, False]
    assert [row.cells[0].mark for row in table.rows] == ["below", "", "above"]
    assert [row.cells[0].best for row in table.rows] == [False, False, True]
    assert [row.cells[1].mark for row in table.rows] == ["", "", ""]
    assert [row.cells[1].best for row in table.rows] == [True, True, True], "all alike"
    assert table.rows[0].cells[0].value == systems["bm25"].mean("nDCG@10")
    assert table.queries == 40
    assert table.alpha == 0.05
    plain = score_table(systems)
    assert plain.alpha is None
    assert not any(row.target or cell.mark for row in plain.rows for cell in row.cells)


def test_a_measure_that_a_method_lacks_is_an_empty_cell(systems: dict[str, Scores]) -> None:
    short = Scores(
        measures=parse_measures(["R@100"]),
        query_ids=systems["bm25"].query_ids,
        values=(systems["bm25"].row("R@100"),),
    )
    table = score_table({**systems, "short": short})
    assert table.rows[-1].cells[0].value is None
    assert not table.rows[-1].cells[0].best
    assert "--" in scores_latex(table)


def test_scores_csv(systems: dict[str, Scores], comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(scores_csv(score_table(systems, comparison)))))
    assert [row["method"] for row in rows] == ["bm25", "sptar", "inpars"]
    assert float(rows[1]["nDCG@10"]) == systems["sptar"].mean("nDCG@10"), "all digits"
    assert rows[0]["nDCG@10 mark"] == "below"


def test_comparison_csv(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert len(rows) == 4
    for row, item in zip(rows, comparison.differences, strict=True):
        assert (row["target"], row["other"]) == ("sptar", item.other)
        assert row["measure"] == str(item.measure)
        assert float(row["p_holm"]) == item.p_holm
        assert float(row["difference"]) == item.difference
        assert row["detectable"] == ("" if item.detectable is None else repr(item.detectable))


def test_odd_names_survive_csv(systems: dict[str, Scores]) -> None:
    odd = {'a,"b"\nc': systems["bm25"], "=1+1": systems["sptar"]}
    rows = list(csv.DictReader(io.StringIO(scores_csv(score_table(odd)))))
    assert [row["method"] for row in rows] == ['a,"b"\nc', "'=1+1"], "no formula"


def test_latex(systems: dict[str, Scores], comparison: Comparison) -> None:
    odd = {**systems, "my_{evil}\\input": systems["bm25"]}
    text = scores_latex(score_table(odd, comparison), caption="50% of_all")
    assert r"BM25 & 0.3000$^{\dagger}$ & \textbf{0.5000} \\" in text
    assert r"InPars & \textbf{0.6029}$^{\ddagger}$ & \textbf{0.5000} \\" in text
    assert r"my\_\{evil\}\textbackslash{}input & " in text
    assert r"\caption{50\% of\_all}" in text
    assert text.count(r"\\") == 5
    assert text.count("{") == text.count("}")


def test_escape_latex_leaves_nothing_active() -> None:
    escaped = escape_latex("\\&%$#_{}~^<>\nnext")
    assert escaped == (
        r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}"
        r"\textless{}\textgreater{} next"
    )


def test_counts_in_words() -> None:
    scores = {
        "bm25": _scores(0, EvaluationCounts(missing=2, self_hits=5, without_positives=1)),
        "sptar": _scores(0, EvaluationCounts(missing=1, self_hits=5, unjudged=1200)),
    }
    assert describe_counts(scores) == (
        "1 judged query without a relevant document left out of every mean.",
        "2 queries without any result, counted as 0 (BM25).",
        "5 results removed because the document's id is the query's id (every method).",
        "1 query without any result, counted as 0 (SPTAR).",
        "1,200 queries of the run without judgements, ignored (SPTAR).",
    )
    assert describe_counts({"bm25": _scores(0)}) == ()
    assert describe_counts({}) == ()
