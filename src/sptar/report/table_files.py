"""The table of scores and its tests as CSV and LaTeX."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence

from sptar.evaluation.comparison import Difference
from sptar.evaluation.family import FamilyComparison
from sptar.evaluation.systems import parse_system, retriever_title, row_title
from sptar.report.records import ScoreCell, ScoreRow, ScoreTable
from sptar.report.tables import table_note

__all__ = [
    "comparison_csv",
    "csv_text",
    "escape_latex",
    "scores_csv",
    "scores_latex",
    "to_csv",
]


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as the text of a CSV file."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def csv_text(text: str) -> str:
    """A spreadsheet must not take a name for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


_TRAINING_COLUMNS = ("steps", "start kept")


def _training_cells(row: ScoreRow) -> list[str]:
    if row.trained is None:
        return ["", ""]
    return [str(row.trained.steps), "yes" if row.trained.start_kept else "no"]


def comparison_csv(family: FamilyComparison) -> str:
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
                for comparison in family.comparisons
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


def _latex_cell(item: ScoreCell) -> str:
    """One mean with its mark, the best in bold; the spread over seeds behind it."""
    if item.value is None:
        return "--"
    number = f"{item.value:.4f}"
    spread = "" if item.spread is None else rf" {{\small $\pm$ {item.spread:.4f}}}"
    return (rf"\textbf{{{number}}}" if item.best else number) + _MARKS[item.mark] + spread


def scores_csv(table: ScoreTable) -> str:
    """One row for each system of each block, all digits.

    For every measure there are columns for the mean, its mark, the smallest difference that its
    test would find, and the standard deviation over seeds; then the steps of the training.
    """
    ends = ("", " mark", " detectable", " sd over seeds")
    header = ["retriever", "method", "queries", "seeds"]
    header += [f"{name}{end}" for name in table.measures for end in ends]
    header += _TRAINING_COLUMNS
    rows: list[list[object]] = []
    for block in table.blocks:
        for row in block.rows:
            line: list[object] = [
                csv_text(block.retriever),
                csv_text(parse_system(row.method).row),
                table.queries,
                table.seeds,
            ]
            for cell in row.cells:
                line += [
                    _digits(cell.value),
                    cell.mark,
                    _digits(cell.detectable),
                    _digits(cell.spread),
                ]
            line += _training_cells(row)
            rows.append(line)
    return to_csv([header, *rows])


def _digits(value: float | None) -> str:
    return "" if value is None else repr(value)


def scores_latex(table: ScoreTable, caption: str = "") -> str:
    """A ``table`` environment (package booktabs), a rule between the retrievers' blocks.

    The caption given stands before :func:`table_note`.
    """
    named = any(block.retriever for block in table.blocks)
    head = [*(["Retriever"] if named else []), "Method", *map(escape_latex, table.measures)]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \begin{{tabular}}{{{'l' * (1 + named)}{'r' * len(table.measures)}}}",
        r"    \toprule",
        "    " + " & ".join(head) + r" \\",
    ]
    for block in table.blocks:
        lines.append(r"    \midrule")
        for number, row in enumerate(block.rows):
            first = [escape_latex(retriever_title(block.retriever)) if number == 0 else ""]
            cells = [escape_latex(row_title(row.method)), *map(_latex_cell, row.cells)]
            lines.append("    " + " & ".join([*(first if named else []), *cells]) + r" \\")
        if any(value is not None for value in block.detectable):
            values = ["--" if value is None else f"{value:.4f}" for value in block.detectable]
            cells = [r"\emph{detectable}", *values]
            lines.append("    " + " & ".join([*([""] if named else []), *cells]) + r" \\")
    note = table_note(table, "A dagger", "a double dagger")
    text = " ".join(part for part in (caption, note) if part)
    return (
        "\n".join(
            [
                *lines,
                r"    \bottomrule",
                r"  \end{tabular}",
                rf"  \caption{{{escape_latex(text)}}}",
                r"\end{table}",
            ]
        )
        + "\n"
    )
