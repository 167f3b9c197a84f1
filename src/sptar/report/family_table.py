"""The table of retrievers, methods and measures in the style of the paper: blocks, CSV, LaTeX."""

from __future__ import annotations

from collections.abc import Mapping

from sptar.evaluation.comparison import Comparison
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import FamilyComparison
from sptar.evaluation.systems import parse_system, retriever_title, row_title
from sptar.report.records import FamilyBlock, FamilyTable, ScoreCell, TrainedFor
from sptar.report.tables import (
    TRAINING_COLUMNS,
    csv_text,
    escape_latex,
    latex_cell,
    score_row,
    to_csv,
    training_cells,
)

__all__ = ["family_csv", "family_latex", "family_note", "family_table"]


def family_table(
    scores: Mapping[str, Scores],
    family: FamilyComparison | None = None,
    spread: Mapping[str, tuple[float | None, ...]] | None = None,
    seeds: int = 1,
    trained: Mapping[str, TrainedFor] | None = None,
) -> FamilyTable:
    """Means in a block for each retriever, with marks and the best of each block.

    Systems without a retriever (BM25) stand first in every block, where their mark says how that
    block's target stands to them. Means that print alike with four digits are the best together.

    Args:
        scores: system → scores over the same queries and measures, in the order of the rows.
        family: the tests; without them there are no marks.
        spread: system → standard deviation over seeds, in the order of the measures.
        trained: system → how long its retriever was trained, where that is known.
    """
    names = list(scores)
    if not names:
        raise ValueError("a table needs at least one system")
    shared = [name for name in names if parse_system(name).retriever is None]
    retrievers = list(dict.fromkeys(parse_system(name).retriever for name in names))
    retrievers = [retriever for retriever in retrievers if retriever is not None] or [None]
    blocks = []
    for retriever in retrievers:
        own = [name for name in names if parse_system(name).retriever == retriever]
        # A target that has no retriever itself, such as BM25, has one contest with all blocks.
        comparison = None if family is None else family.of(retriever) or family.of(None)
        rows = own if retriever is None else [*shared, *own]
        blocks.append(
            _block(retriever or "", rows, scores, comparison, spread or {}, trained or {})
        )
    first = scores[names[0]]
    return FamilyTable(
        measures=tuple(str(measure) for measure in first.measures),
        blocks=tuple(blocks),
        queries=len(first.query_ids),
        seeds=seeds,
        tests=0 if family is None else family.size,
        alpha=None if family is None else family.alpha,
    )


def _block(
    retriever: str,
    names: list[str],
    scores: Mapping[str, Scores],
    comparison: Comparison | None,
    spread: Mapping[str, tuple[float | None, ...]],
    trained: Mapping[str, TrainedFor],
) -> FamilyBlock:
    measures = scores[names[0]].measures
    best = [max(round(scores[name].mean(measure), 4) for name in names) for measure in measures]
    tests = {
        (item.other, item.measure): item
        for item in (() if comparison is None else comparison.differences)
    }

    def cell(name: str, column: int) -> ScoreCell:
        measure = measures[column]
        value = scores[name].mean(measure)
        test = tests.get((name, measure))
        clear = test is not None and comparison is not None and comparison.significant(test)
        return ScoreCell(
            value=value,
            mark="" if test is None or not clear else "below" if test.difference > 0 else "above",
            best=round(value, 4) == best[column],
            detectable=None if test is None else test.detectable,
            spread=spread[name][column] if name in spread else None,
        )

    rows = tuple(
        score_row(
            name,
            tuple(cell(name, column) for column in range(len(measures))),
            target=comparison is not None and name == comparison.target,
            trained=trained.get(name),
        )
        for name in names
    )
    return FamilyBlock(
        retriever=retriever,
        rows=rows,
        detectable=tuple(
            max(
                (found for row in rows if (found := row.cells[column].detectable) is not None),
                default=None,
            )
            for column in range(len(measures))
        ),
    )


def family_note(table: FamilyTable, below: str = "†", above: str = "‡") -> str:
    """What the numbers and marks mean, in sentences for a caption; the marks may be words."""
    means = f"Means over {table.queries:,} test quer{'y' if table.queries == 1 else 'ies'}"
    if table.seeds > 1:
        means += f" and {table.seeds} seeds, with the standard deviation over the seeds"
    note = f"{means}; bold: best of its block."
    if table.alpha is None or not table.tests:
        return note
    target = next((row.method for block in table.blocks for row in block.rows if row.target), "")
    return (
        f"{note} {below} marks what {row_title(target)} is significantly better than, {above} what "
        "it is significantly worse than: paired two-sided t-test over the queries, corrected by "
        f"Holm over all {table.tests:,} tests, level {table.alpha:g}. Detectable: the true "
        "difference that every test of the block would find with 80% power."
    )


def family_csv(table: FamilyTable) -> str:
    """One row for each system of each block, all digits.

    For every measure there are columns for the mean, its mark, the smallest difference that its
    test would find, and the standard deviation over seeds; then the steps of the training.
    """
    ends = ("", " mark", " detectable", " sd over seeds")
    header = ["retriever", "method", "queries", "seeds"]
    header += [f"{name}{end}" for name in table.measures for end in ends]
    header += TRAINING_COLUMNS
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
            line += training_cells(row)
            rows.append(line)
    return to_csv([header, *rows])


def _digits(value: float | None) -> str:
    return "" if value is None else repr(value)


def family_latex(table: FamilyTable, caption: str = "") -> str:
    """A ``table`` environment (package booktabs), a rule between the retrievers' blocks.

    The caption given stands before :func:`family_note`.
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
            cells = [escape_latex(row_title(row.method)), *map(latex_cell, row.cells)]
            lines.append("    " + " & ".join([*(first if named else []), *cells]) + r" \\")
        if any(value is not None for value in block.detectable):
            values = ["--" if value is None else f"{value:.4f}" for value in block.detectable]
            cells = [r"\emph{detectable}", *values]
            lines.append("    " + " & ".join([*([""] if named else []), *cells]) + r" \\")
    note = family_note(table, "A dagger", "a double dagger")
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
