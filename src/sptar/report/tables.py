"""The table of scores: retrievers, methods and measures in blocks, and what its marks mean."""

from __future__ import annotations

from collections.abc import Mapping

from sptar.evaluation.comparison import Comparison
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import FamilyComparison
from sptar.evaluation.systems import method_title, parse_system, row_title
from sptar.report.records import ScoreBlock, ScoreCell, ScoreRow, ScoreTable, TrainedFor

__all__ = ["describe_counts", "score_table", "table_note"]


def score_table(
    scores: Mapping[str, Scores],
    family: FamilyComparison | None = None,
    spread: Mapping[str, tuple[float | None, ...]] | None = None,
    seeds: int = 1,
    trained: Mapping[str, TrainedFor] | None = None,
) -> ScoreTable:
    """Means in a block for each retriever, with marks and the best of each block.

    Systems without a retriever (BM25) stand first in every block, where their mark says how that
    block's target stands to them. Means that print alike with four digits are the best together. A
    system that lacks a measure of the first one has an empty cell there.

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
    return ScoreTable(
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
) -> ScoreBlock:
    measures = scores[names[0]].measures
    means = {
        name: [
            scores[name].mean(item) if item in scores[name].measures else None for item in measures
        ]
        for name in names
    }
    best = [
        max(round(value, 4) for row in means.values() if (value := row[column]) is not None)
        for column in range(len(measures))
    ]
    tests = {
        (item.other, item.measure): item
        for item in (() if comparison is None else comparison.differences)
    }

    def cell(name: str, column: int) -> ScoreCell:
        measure = measures[column]
        value = means[name][column]
        test = tests.get((name, measure))
        clear = test is not None and comparison is not None and comparison.significant(test)
        return ScoreCell(
            value=value,
            mark="" if test is None or not clear else "below" if test.difference > 0 else "above",
            best=value is not None and round(value, 4) == best[column],
            detectable=None if test is None else test.detectable,
            spread=spread[name][column] if name in spread else None,
        )

    rows = tuple(
        ScoreRow(
            name,
            tuple(cell(name, column) for column in range(len(measures))),
            comparison is not None and name == comparison.target,
            trained.get(name),
        )
        for name in names
    )
    return ScoreBlock(
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


def table_note(table: ScoreTable, below: str = "†", above: str = "‡") -> str:
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
