"""Scores and weak queries as text for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from sptar.evaluation.systems import retriever_title, row_title
from sptar.report.examples import excerpt
from sptar.report.records import MethodExamples, ScoreCell, ScoreTable

__all__ = ["MARKS_NOTE", "PrintedTable", "print_examples", "print_scores"]

_MARKS = {"": "", "below": " †", "above": " ‡"}

MARKS_NOTE = (
    f"{_MARKS['below'].strip()} significantly worse than the verdict's method, "
    f"{_MARKS['above'].strip()} significantly better"
)
"""What the marks in a printed table mean."""


@dataclass(frozen=True)
class PrintedTable:
    """A table of text."""

    columns: list[str]
    rows: list[list[str]]


def _cell(cell: ScoreCell) -> str:
    """A mean with its spread over seeds; ``†`` marks what is significantly below the target.

    >>> _cell(ScoreCell(0.25, "below"))
    '0.2500 †'
    """
    if cell.value is None:
        return ""
    spread = "" if cell.spread is None else f" ± {cell.spread:.4f}"
    return f"{cell.value:.4f}{spread}{_MARKS[cell.mark]}"


def print_scores(table: ScoreTable) -> PrintedTable:
    """The table in blocks; a block's retriever stands in its first row only."""
    named = any(block.retriever for block in table.blocks)
    rows = []
    for block in table.blocks:
        for number, row in enumerate(block.rows):
            retriever = retriever_title(block.retriever) if number == 0 else ""
            cells = [row_title(row.method), *map(_cell, row.cells)]
            cells += [str(row.trained or "")] if table.trained else []
            rows.append([retriever, *cells] if named else cells)
    head = [*(["retriever"] if named else []), "method", *table.measures]
    return PrintedTable([*head, *(["steps"] if table.trained else [])], rows)


def print_examples(examples: MethodExamples, count: int = 3) -> PrintedTable:
    """The first ``count`` kept weak queries beside the beginnings of their documents."""
    rows = [[excerpt(item.query), excerpt(item.document, 30)] for item in examples.kept[:count]]
    return PrintedTable(["weak query", "its document"], rows)
