"""The table in blocks: marks, the best, detectable differences, CSV, LaTeX, HTML."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
from test_report_build import Page

from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import FamilyComparison, compare_systems
from sptar.evaluation.measures import parse_measures
from sptar.evaluation.verdict import family_verdict
from sptar.report.build import render
from sptar.report.printed import MARKS_NOTE, _cell, print_scores
from sptar.report.records import CostRow, ReportData, ScoreCell, ScoreTable
from sptar.report.table_files import comparison_csv, scores_csv, scores_latex
from sptar.report.tables import score_table, table_note

SHIFTS = {
    "bm25": 0.0,
    "zero_shot/dpr": -0.1,
    "inpars/dpr": 0.1,
    "sptar/dpr": 0.1,
    "inpars/bm25+tas_b": 0.3,
    "sptar/bm25+tas_b": 0.1,
}


@pytest.fixture(scope="module")
def scores() -> dict[str, Scores]:
    generator = np.random.default_rng(6)
    base = generator.uniform(0.3, 0.6, (2, 80))
    return {
        name: Scores(
            parse_measures(["nDCG@10", "R@100"]),
            tuple(f"q{number:02d}" for number in range(80)),
            tuple(tuple(map(float, row)) for row in base + s + generator.normal(0, 0.03, (2, 80))),
        )
        for name, s in SHIFTS.items()
    }


@pytest.fixture(scope="module")
def family(scores: dict[str, Scores]) -> FamilyComparison:
    return compare_systems(scores, bootstrap_samples=100)


@pytest.fixture(scope="module")
def table(scores: dict[str, Scores], family: FamilyComparison) -> ScoreTable:
    return score_table(scores, family)


def test_blocks_begin_with_bm25(table: ScoreTable, scores: dict[str, Scores]) -> None:
    assert [block.retriever for block in table.blocks] == ["dpr", "bm25+tas_b"]
    assert [[row.method for row in block.rows] for block in table.blocks] == [
        ["bm25", "zero_shot/dpr", "inpars/dpr", "sptar/dpr"],
        ["bm25", "inpars/bm25+tas_b", "sptar/bm25+tas_b"],
    ]
    assert [[row.target for row in block.rows] for block in table.blocks] == [
        [False, False, False, True],
        [False, False, True],
    ]
    assert table.blocks[1].rows[2].cells[0].value == scores["sptar/bm25+tas_b"].mean("nDCG@10")
    assert (table.queries, table.tests, table.alpha) == (80, 2 * (3 + 2), 0.05)


def test_marks_are_those_of_the_tests(table: ScoreTable, family: FamilyComparison) -> None:
    marks = [[row.cells[0].mark for row in block.rows] for block in table.blocks]
    assert marks == [["below", "below", "", ""], ["below", "above", ""]]
    for block, comparison in zip(table.blocks, family.comparisons, strict=True):
        found = [comparison.find(row.method, "R@100").detectable for row in block.rows[:-1]]
        assert [row.cells[1].detectable for row in block.rows[:-1]] == found
        assert block.detectable[1] == max(value for value in found if value is not None)


def test_the_best_of_each_block_is_bold(table: ScoreTable) -> None:
    for block in table.blocks:
        for column in range(2):
            values = [row.cells[column].value for row in block.rows]
            assert [row.cells[column].best for row in block.rows] == [
                round(value or 0, 4) == round(max(v or 0 for v in values), 4) for value in values
            ]


def test_without_tests_there_are_no_marks(scores: dict[str, Scores]) -> None:
    plain = score_table(scores)
    assert plain.alpha is None
    assert not any(cell.mark for b in plain.blocks for row in b.rows for cell in row.cells)
    assert all(value is None for block in plain.blocks for value in block.detectable)
    assert "Holm" not in table_note(plain)
    assert r"\emph{detectable}" not in scores_latex(plain)
    with pytest.raises(ValueError, match="at least one system"):
        score_table({})


def test_one_retriever_is_one_nameless_block(scores: dict[str, Scores]) -> None:
    few = {"bm25": scores["bm25"], "sptar": scores["sptar/dpr"]}
    table = score_table(few, compare_systems(few, bootstrap_samples=100), {"sptar": (0.1, None)}, 3)
    (block,) = table.blocks
    assert block.retriever == ""
    assert block.rows[0].cells[0].mark == "below"
    assert "and 3 seeds" in table_note(table)
    printed = print_scores(table)
    assert printed.columns == ["method", "nDCG@10", "R@100"]
    assert printed.rows[0][1].endswith(" †")
    assert printed.rows[1][1].endswith("± 0.1000")
    assert "±" not in printed.rows[1][2]
    assert "& Method" not in scores_latex(table)
    assert r"{\small $\pm$ 0.1000}" in scores_latex(table)


def test_a_target_without_retriever_marks_every_block(scores: dict[str, Scores]) -> None:
    table = score_table(scores, compare_systems(scores, "bm25", bootstrap_samples=100))
    assert [block.rows[0].target for block in table.blocks] == [True, True]
    assert table.blocks[0].rows[1].cells[0].mark == "below"
    assert table.blocks[1].rows[1].cells[0].mark == "above"


def test_csv_holds_all_digits(table: ScoreTable, scores: dict[str, Scores]) -> None:
    rows = list(csv.DictReader(io.StringIO(scores_csv(table))))
    assert len(rows) == 7
    assert [row["retriever"] for row in rows] == ["dpr"] * 4 + ["bm25+tas_b"] * 3
    assert rows[3]["method"] == "sptar"
    assert float(rows[3]["R@100"]) == scores["sptar/dpr"].mean("R@100")
    assert rows[0]["nDCG@10 mark"] == "below"
    assert float(rows[0]["nDCG@10 detectable"]) == table.blocks[0].rows[0].cells[0].detectable
    assert rows[3]["nDCG@10 detectable"] == ""
    assert rows[0]["queries"] == "80"


def test_csv_of_all_tests(family: FamilyComparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(family))))
    assert len(rows) == family.size
    assert {row["target"] for row in rows} == {"sptar/dpr", "sptar/bm25+tas_b"}
    last = family.comparisons[1].differences[-1]
    assert float(rows[-1]["p_holm"]) == last.p_holm


def test_latex(table: ScoreTable) -> None:
    text = scores_latex(table, "A & B.")
    assert text.count(r"\midrule") == 2
    assert r"\begin{tabular}{llrr}" in text
    assert "    DPR & BM25 & " in text
    assert "     & SPTAR & " in text
    assert "    BM25 + TAS-B & BM25 & " in text
    assert text.count(r"\emph{detectable}") == 2
    assert r"\caption{A \& B. Means over 80 test queries; bold" in text
    assert "80\\% power" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in rows} == {3}
    bm25 = table.blocks[0].rows[0].cells[0].value
    assert f"{bm25:.4f}" + r"$^{\dagger}$" in text
    assert r"$^{\ddagger}$" in text
    assert text.isascii()


def test_the_page_of_several_retrievers(table: ScoreTable, family: FamilyComparison) -> None:
    text = render(
        ReportData(
            "run",
            verdict=family_verdict(family),
            table=table,
            family=family,
            costs=(
                CostRow("SPTAR, DPR", 75.0, 3, 1200, 66_000_000, 3 * 2**30),
                CostRow("SPTAR, <TAS-B>", None, None, None, None, None, "some/teacher"),
            ),
        )
    )
    order = re.findall(r'<h2 id="(\w+)"', text)
    assert order == ["verdict", "scores", "differences", "costs"]
    page = Page(text)
    assert len(page.tags("caption")) == len(page.tags("table")) == 3
    assert all("scope" in cell for cell in page.tags("th"))
    assert text.count('<th scope="rowgroup" rowspan="5">DPR</th>') == 1
    assert text.count('<th scope="rowgroup" rowspan="4">BM25 + TAS-B</th>') == 1
    marks = [c.mark for b in table.blocks for row in b.rows for c in row.cells]
    assert text.count('aria-hidden="true">†</sup>') == marks.count("below")
    assert text.count('aria-hidden="true">‡</sup>') == marks.count("above")
    assert text.count("<svg") == len(family.comparisons), "one chart for each retriever"
    assert f"All {family.size} tests" in text
    assert "corrected by Holm over all 10 tests" in text
    for expected in ("1 min 15 s", "66,000,000", "3.0 GiB", "&lt;TAS-B&gt;", "some/teacher"):
        assert expected in text
    for line in family_verdict(family):
        assert line in text
    without = render(ReportData("run", costs=(CostRow("SPTAR", 1.0, 1, 1, 1, 1),)))
    assert "Teacher" not in without


def test_the_line_below_a_printed_table_explains_the_marks_in_it() -> None:
    for mark, word in (("below", "worse"), ("above", "better")):
        sign = _cell(ScoreCell(0.25, mark)).split()[-1]
        assert f"{sign} significantly {word}" in MARKS_NOTE
