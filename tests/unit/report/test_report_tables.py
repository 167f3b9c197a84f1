"""The table of scores, and what CSV and LaTeX make of odd names."""

from __future__ import annotations

import csv
import io

import pytest

from sptar.evaluation.evaluate import EvaluationCounts, Scores
from sptar.evaluation.family import FamilyComparison, compare_systems
from sptar.evaluation.measures import parse_measures
from sptar.report.table_files import comparison_csv, escape_latex, scores_csv, scores_latex
from sptar.report.tables import describe_counts, score_table

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
def family(systems: dict[str, Scores]) -> FamilyComparison:
    return compare_systems(systems, bootstrap_samples=100)


def test_score_table(systems: dict[str, Scores], family: FamilyComparison) -> None:
    table = score_table(systems, family)
    assert table.measures == ("nDCG@10", "R@100")
    assert [row.method for row in table.blocks[0].rows] == ["bm25", "sptar", "inpars"]
    assert [row.target for row in table.blocks[0].rows] == [False, True, False]
    assert [row.cells[0].mark for row in table.blocks[0].rows] == ["below", "", "above"]
    assert [row.cells[0].best for row in table.blocks[0].rows] == [False, False, True]
    assert [row.cells[1].mark for row in table.blocks[0].rows] == ["", "", ""]
    assert [row.cells[1].best for row in table.blocks[0].rows] == [True, True, True], "all alike"
    assert table.blocks[0].rows[0].cells[0].value == systems["bm25"].mean("nDCG@10")
    assert table.queries == 40
    assert table.alpha == 0.05
    plain = score_table(systems)
    assert plain.alpha is None
    assert not any(row.target or cell.mark for row in plain.blocks[0].rows for cell in row.cells)


def test_a_measure_that_a_method_lacks_is_an_empty_cell(systems: dict[str, Scores]) -> None:
    short = Scores(
        measures=parse_measures(["R@100"]),
        query_ids=systems["bm25"].query_ids,
        values=(systems["bm25"].row("R@100"),),
    )
    table = score_table({**systems, "short": short})
    assert table.blocks[0].rows[-1].cells[0].value is None
    assert not table.blocks[0].rows[-1].cells[0].best
    assert "--" in scores_latex(table)


def test_scores_csv(systems: dict[str, Scores], family: FamilyComparison) -> None:
    rows = list(csv.DictReader(io.StringIO(scores_csv(score_table(systems, family)))))
    assert [row["method"] for row in rows] == ["bm25", "sptar", "inpars"]
    assert float(rows[1]["nDCG@10"]) == systems["sptar"].mean("nDCG@10"), "all digits"
    assert rows[0]["nDCG@10 mark"] == "below"


def test_comparison_csv(family: FamilyComparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(family))))
    assert len(rows) == 4
    for row, item in zip(rows, family.comparisons[0].differences, strict=True):
        assert (row["target"], row["other"]) == ("sptar", item.other)
        assert row["measure"] == str(item.measure)
        assert float(row["p_holm"]) == item.p_holm
        assert float(row["difference"]) == item.difference
        assert row["detectable"] == ("" if item.detectable is None else repr(item.detectable))


def test_odd_names_survive_csv(systems: dict[str, Scores]) -> None:
    odd = {'a,"b"\nc': systems["bm25"], "=1+1": systems["sptar"]}
    rows = list(csv.DictReader(io.StringIO(scores_csv(score_table(odd)))))
    assert [row["method"] for row in rows] == ['a,"b"\nc', "'=1+1"], "no formula"


def test_latex(systems: dict[str, Scores], family: FamilyComparison) -> None:
    odd = {**systems, "my_{evil}\\input": systems["bm25"]}
    text = scores_latex(score_table(odd, family), caption="50% of_all")
    assert r"BM25 & 0.3000$^{\dagger}$ & \textbf{0.5000} \\" in text
    assert r"InPars & \textbf{0.6029}$^{\ddagger}$ & \textbf{0.5000} \\" in text
    assert r"my\_\{evil\}\textbackslash{}input & " in text
    assert r"\caption{50\% of\_all Means over 40 test queries; bold" in text
    assert text.count(r"\\") == 6, "a head, four methods, what is detectable"
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
