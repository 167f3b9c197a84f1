"""Systems and collections in one table for each measure, with their average."""

from __future__ import annotations

from dataclasses import dataclass

from sptar.evaluation.across import JointComparison
from sptar.evaluation.measures import Measure
from sptar.evaluation.systems import method_title
from sptar.report.printed import PrintedTable
from sptar.report.table_files import escape_latex

__all__ = [
    "AVERAGE",
    "AVERAGE_NOTE",
    "Overview",
    "OverviewRow",
    "overview_latex",
    "overviews",
    "print_overview",
]

AVERAGE = "average"
AVERAGE_NOTE = (
    "Average: mean over the collections, each counting the same. It is not tested: a test across "
    "collections would need a sample of collections, and queries of different ones do not belong "
    "in one pool."
)


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """One system: its mean in each collection (``None`` where it has none), and their average."""

    system: str
    means: tuple[float | None, ...]
    average: float | None
    best: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Systems × collections in one measure; ``best`` in a row has the average as its last."""

    measure: str
    collections: tuple[str, ...]
    rows: tuple[OverviewRow, ...]


def overviews(joint: JointComparison) -> tuple[Overview, ...]:
    """A table for each measure; none when there is a single collection."""
    if len(joint.collections) < 2:
        return ()
    return tuple(_overview(joint, measure) for measure in joint.measures)


def _overview(joint: JointComparison, measure: Measure) -> Overview:
    table = {
        system: [
            *(
                item.scores[system].mean(measure) if system in item.scores else None
                for item in joint.collections
            ),
            joint.average(system, measure),
        ]
        for system in joint.systems
    }
    best = [
        max((round(value, 4) for value in column if value is not None), default=None)
        for column in zip(*table.values(), strict=True)
    ]
    return Overview(
        measure=str(measure),
        collections=tuple(item.title for item in joint.collections),
        rows=tuple(
            OverviewRow(
                system=system,
                means=tuple(values[:-1]),
                average=values[-1],
                best=tuple(
                    value is not None and round(value, 4) == top
                    for value, top in zip(values, best, strict=True)
                ),
            )
            for system, values in table.items()
        ),
    )


def overview_latex(overview: Overview) -> str:
    """A ``table`` environment (package booktabs), the best of each column in bold."""
    columns = [*overview.collections, "Average"]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"    \toprule",
        "    " + " & ".join(["System", *map(escape_latex, columns)]) + r" \\",
        r"    \midrule",
    ]
    for row in overview.rows:
        cells = [
            "--" if value is None else rf"\textbf{{{value:.4f}}}" if best else f"{value:.4f}"
            for value, best in zip((*row.means, row.average), row.best, strict=True)
        ]
        lines.append("    " + " & ".join([escape_latex(method_title(row.system)), *cells]) + r" \\")
    return (
        "\n".join(
            [
                *lines,
                r"    \bottomrule",
                r"  \end{tabular}",
                rf"  \caption{{{escape_latex(f'{overview.measure}. {AVERAGE_NOTE}')}}}",
                r"\end{table}",
            ]
        )
        + "\n"
    )


def print_overview(overview: Overview) -> PrintedTable:
    """Systems × collections as text."""
    rows = [
        [
            method_title(row.system),
            *("" if value is None else f"{value:.4f}" for value in (*row.means, row.average)),
        ]
        for row in overview.rows
    ]
    return PrintedTable(["system", *overview.collections, AVERAGE], rows)
