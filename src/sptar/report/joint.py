"""The comparison of finished runs as a page, CSV, LaTeX, JSON and text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sptar.evaluation.across import CollectionComparison, JointComparison
from sptar.evaluation.comparison import Comparison, Difference
from sptar.evaluation.measures import Measure
from sptar.evaluation.systems import parse_system
from sptar.evaluation.verdict import family_verdict
from sptar.io import atomic_write_text, to_json
from sptar.report.build import page_template
from sptar.report.overview import (
    AVERAGE,
    AVERAGE_NOTE,
    overview_latex,
    overviews,
    print_overview,
)
from sptar.report.printed import PrintedTable, print_scores
from sptar.report.records import ScoreTable
from sptar.report.table_files import csv_text, scores_latex, to_csv
from sptar.report.tables import score_table

__all__ = [
    "joint_csv",
    "joint_json",
    "joint_latex",
    "joint_page",
    "printed_tables",
    "write_joint",
]


def _table(item: CollectionComparison) -> ScoreTable:
    return score_table(item.scores, item.family, item.spread, len(item.seeds))


def joint_page(joint: JointComparison) -> str:
    """The page as text: it loads nothing, and every text in it is escaped."""
    return page_template("joint.html").render(
        joint=joint,
        sections=[(item, family_verdict(item.family), _table(item)) for item in joint.collections],
        overviews=overviews(joint),
        average_note=AVERAGE_NOTE,
    )


def joint_csv(joint: JointComparison) -> str:
    """One row for each collection, retriever, method and measure, all digits.

    Rows with a target tell of the test of ``target`` against this system; ``difference`` is target
    minus system. BM25 has a row for each retriever that it is tested against. Rows of the
    collection ``average`` hold means over the collections and no tests.
    """
    tests = [name for name in Difference.__dataclass_fields__ if name not in _TOLD]
    header = ["collection", "retriever", "method", "measure", "queries", "seeds", "mean"]
    header += ["sd over seeds", "target", *tests, "mark"]
    rows: list[list[object]] = []
    for item in joint.collections:
        table = _table(item)
        for block in table.blocks:
            for row in block.rows:
                for column, measure in enumerate(joint.measures):
                    cell = row.cells[column]
                    found = _test(item, block.retriever, row.method, measure)
                    values = [None] * len(tests)
                    target = ""
                    if found is not None:
                        target = found[0].target
                        values = [getattr(found[1], name) for name in tests]
                    rows.append(
                        [
                            csv_text(item.title),
                            csv_text(block.retriever),
                            csv_text(parse_system(row.method).row),
                            str(measure),
                            table.queries,
                            table.seeds,
                            _digits(cell.value),
                            _digits(cell.spread),
                            csv_text(target),
                            *map(_digits, values),
                            cell.mark,
                        ]
                    )
    for overview in overviews(joint):
        for average in overview.rows:
            system = parse_system(average.system)
            line = [AVERAGE, system.retriever or "", system.row, overview.measure, "", ""]
            texts = [*map(csv_text, line), _digits(average.average)]
            rows.append([*texts, *[""] * (len(header) - len(texts))])
    return to_csv([header, *rows])


_TOLD = ("other", "measure", "target_mean", "other_mean", "queries")
"""Fields of a difference that have columns of their own."""


def _test(
    item: CollectionComparison, retriever: str, system: str, measure: Measure
) -> tuple[Comparison, Difference] | None:
    comparison = item.family.of(retriever or None) or item.family.of(None)
    if comparison is None or system not in comparison.others:
        return None
    return comparison, comparison.find(system, measure)


def _digits(value: float | None) -> str:
    return "" if value is None else repr(value)


def joint_latex(joint: JointComparison) -> str:
    """A table for each collection, then one for each measure over the collections."""
    parts = [scores_latex(_table(item), f"{item.title}.") for item in joint.collections]
    return "\n".join([*parts, *map(overview_latex, overviews(joint))])


def joint_json(joint: JointComparison) -> dict[str, Any]:
    """Plain values for machines."""
    measures = [str(measure) for measure in joint.measures]

    def by_measure(values: tuple[float | None, ...]) -> dict[str, float | None]:
        return dict(zip(measures, values, strict=True))

    collections = []
    for item in joint.collections:
        first = next(iter(item.scores.values()))
        collections.append(
            {
                "collection": item.title,
                "identity": item.identity,
                "runs": list(item.runs),
                "seeds": list(item.seeds),
                "queries": len(first.query_ids),
                "verdict": list(family_verdict(item.family)),
                "notes": list(item.notes),
                "means": {
                    name: by_measure(tuple(scores.mean(measure) for measure in joint.measures))
                    for name, scores in item.scores.items()
                },
                "sd_over_seeds": {name: by_measure(row) for name, row in item.spread.items()},
                "alpha": item.family.alpha,
                "tests": item.family.size,
                "contests": [
                    {
                        "target": comparison.target,
                        "differences": [
                            {**asdict(found), "measure": str(found.measure)}
                            for found in comparison.differences
                        ],
                    }
                    for comparison in item.family.comparisons
                ],
            }
        )
    return {
        "measures": measures,
        "collections": collections,
        "average": {
            name: by_measure(tuple(joint.average(name, measure) for measure in joint.measures))
            for name in joint.systems
        },
    }


def printed_tables(joint: JointComparison) -> Mapping[str, PrintedTable]:
    """Title → table, for a terminal: one for each collection, then the overview of the first
    measure."""
    tables = {item.title: print_scores(_table(item)) for item in joint.collections}
    for overview in overviews(joint)[:1]:
        tables[f"{overview.measure}, all collections"] = print_overview(overview)
    return tables


def write_joint(joint: JointComparison, folder: str | Path) -> Path:
    """Write ``comparison.html``, ``.csv``, ``.tex`` and ``.json``; returns the page's path."""
    folder = Path(folder)
    files = {
        "csv": joint_csv(joint),
        "tex": joint_latex(joint),
        "json": to_json(joint_json(joint), indent=2) + "\n",
        "html": joint_page(joint),
    }
    for ending, text in files.items():
        atomic_write_text(folder / f"comparison.{ending}", text)
    return folder / "comparison.html"
