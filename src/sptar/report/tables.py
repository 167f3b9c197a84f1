"""The table of methods and measures: made from scores, written as CSV and LaTeX."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence

from sptar.evaluation.evaluate import Scores
from sptar.evaluation.significance import Comparison, Difference
from sptar.evaluation.verdict import method_title
from sptar.report.records import ScoreCell, ScoreRow, ScoreTable, TrainedFor

__all__ = [
    "TRAINING_COLUMNS",
    "comparison_csv",
    "csv_text",
    "describe_counts",
    "escape_latex",
    "latex_cell",
    "score_row",
    "score_table",
    "scores_csv",
    "scores_latex",
    "to_csv",
    "training_cells",
]


def score_table(
    scores: Mapping[str, Scores],
    comparison: Comparison | None = None,
    trained: Mapping[str, TrainedFor] | None = None,
) -> ScoreTable:
    """Means of each method in the order given, with significance marks and the best ones.

    A method that lacks a measure of the first one has an empty cell there. All means that print
    alike with four digits are the best together.
    """
    methods = list(scores)
    if not methods:
        raise ValueError("a table needs at least one method")
    measures = scores[methods[0]].measures
    means = {
        method: [found.mean(measure) if measure in found.measures else None for measure in measures]
        for method, found in scores.items()
    }
    best: list[float | None] = []
    for column in range(len(measures)):
        present = [value for row in means.values() if (value := row[column]) is not None]
        best.append(max((round(value, 4) for value in present), default=None))
    marks: dict[tuple[str, str], str] = {}
    if comparison is not None:
        for item in comparison.differences:
            if comparison.significant(item):
                marks[item.other, str(item.measure)] = "below" if item.difference > 0 else "above"

    def cell(method: str, column: int) -> ScoreCell:
        value = means[method][column]
        mark = marks.get((method, str(measures[column])), "")
        return ScoreCell(
            value=value,
            mark="below" if mark == "below" else "above" if mark == "above" else "",
            best=value is not None and round(value, 4) == best[column],
        )

    return ScoreTable(
        measures=tuple(str(measure) for measure in measures),
        rows=tuple(
            score_row(
                method,
                tuple(cell(method, column) for column in range(len(measures))),
                target=comparison is not None and method == comparison.target,
                trained=(trained or {}).get(method),
            )
            for method in methods
        ),
        queries=len(scores[methods[0]].query_ids),
        alpha=None if comparison is None else comparison.alpha,
    )


def score_row(
    method: str, cells: tuple[ScoreCell, ...], *, target: bool, trained: TrainedFor | None
) -> ScoreRow:
    """A row with what is known of its training."""
    if trained is None:
        return ScoreRow(method, cells, target)
    return ScoreRow(method, cells, target, trained.steps, trained.start_kept)


def describe_counts(scores: Mapping[str, Scores]) -> tuple[str, ...]:
    """Sentences about what the evaluation left out or set to zero, for the page."""
    lines: list[str] = []
    if not scores:
        return ()
    counts = next(iter(scores.values())).counts
    if counts.without_positives:
        lines.append(
            f"{_many(counts.without_positives, 'judged query', 'judged queries')} without a "
            "relevant document left out of every mean."
        )
    if counts.self_judgements:
        lines.append(
            f"{_many(counts.self_judgements, 'judgement', 'judgements')} left out because the "
            "document's id is the query's id."
        )
    concerned: dict[str, list[str]] = {}
    for method, found in scores.items():
        for number, what in (
            (found.counts.missing, "without any result, counted as 0"),
            (found.counts.unjudged, "of the run without judgements, ignored"),
        ):
            if number:
                text = f"{_many(number, 'query', 'queries')} {what}"
                concerned.setdefault(text, []).append(method_title(method))
        if found.counts.self_hits:
            text = (
                f"{_many(found.counts.self_hits, 'result', 'results')} removed because the "
                "document's id is the query's id"
            )
            concerned.setdefault(text, []).append(method_title(method))
    for text, titles in concerned.items():
        who = "every method" if len(titles) == len(scores) else ", ".join(titles)
        lines.append(f"{text} ({who}).")
    return tuple(lines)


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as the text of a CSV file."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def csv_text(text: str) -> str:
    """A spreadsheet must not take a name for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def scores_csv(table: ScoreTable) -> str:
    """One row for each method, all digits; a column ``<measure> mark`` beside each measure, then
    the steps of the training and whether its start was kept."""
    header = ["method", *(f"{name}{end}" for name in table.measures for end in ("", " mark"))]
    header += TRAINING_COLUMNS
    rows = [
        [
            csv_text(row.method),
            *(
                text
                for cell in row.cells
                for text in ("" if cell.value is None else repr(cell.value), cell.mark)
            ),
            *training_cells(row),
        ]
        for row in table.rows
    ]
    return to_csv([header, *rows])


TRAINING_COLUMNS = ("steps", "start kept")


def training_cells(row: ScoreRow) -> list[str]:
    """What stands in :data:`TRAINING_COLUMNS`; nothing where nothing was trained."""
    return ["", ""] if row.steps is None else [str(row.steps), "yes" if row.start_kept else "no"]


def comparison_csv(*comparisons: Comparison) -> str:
    """One row for each test, all digits."""
    header = ["target", *(field.name for field in dataclasses.fields(Difference))]
    return to_csv(
        [
            header,
            *(
                [
                    csv_text(comparison.target),
                    csv_text(item.other),
                    str(item.measure),
                    *(
                        "" if value is None else repr(value)
                        for value in (getattr(item, name) for name in header[3:])
                    ),
                ]
                for comparison in comparisons
                for item in comparison.differences
            ),
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def escape_latex(text: str) -> str:
    r"""Text that LaTeX prints as it stands.

    >>> print(escape_latex("no_aug & 5%"))
    no\_aug \& 5\%
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


_MARKS = {"": "", "below": r"$^{\dagger}$", "above": r"$^{\ddagger}$"}
"""How the target stands to a row: a dagger where it is significantly better, else a double one."""


def latex_cell(item: ScoreCell) -> str:
    """One mean with its mark, the best in bold; the spread over seeds behind it."""
    if item.value is None:
        return "--"
    number = f"{item.value:.4f}"
    spread = "" if item.spread is None else rf" {{\small $\pm$ {item.spread:.4f}}}"
    return (rf"\textbf{{{number}}}" if item.best else number) + _MARKS[item.mark] + spread


def scores_latex(
    table: ScoreTable, caption: str = "", title: Callable[[str], str] = method_title
) -> str:
    """A ``table`` environment (package booktabs): best in bold, daggers where the test is clear.

    A dagger marks a method that is significantly below the target, a double dagger one that is
    significantly above it.
    """
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \begin{{tabular}}{{l{'r' * len(table.measures)}}}",
        r"    \toprule",
        "    " + " & ".join(["Method", *map(escape_latex, table.measures)]) + r" \\",
        r"    \midrule",
        *(
            "    "
            + " & ".join([escape_latex(title(row.method)), *map(latex_cell, row.cells)])
            + r" \\"
            for row in table.rows
        ),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    if caption:
        lines.append(rf"  \caption{{{escape_latex(caption)}}}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"
