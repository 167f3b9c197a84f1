"""The tables of a model card, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training_record import Source, TrainingRecord

_LOSS_LINES = 12


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def source_table(found: Sequence[Source]) -> str:
    """Text by origin."""
    rows = [[s.name, s.licence, f"{s.rows:,}", f"{s.words:,}"] for s in found]
    return table(["source", "licence", "rows", "words"], rows)


def settings_table(settings: Mapping[str, Any]) -> str:
    """Every setting with its value; a mapping is one line."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items()) or "–"
        rows.append([f"`{name}`", value])
    return table(["setting", "value"], rows)


def loss_table(record: TrainingRecord) -> str:
    """The training loss in about a dozen lines, the last one included."""
    stride = max(1, -(-len(record.losses) // _LOSS_LINES))
    shown = record.losses[stride - 1 :: stride]
    if shown[-1:] != record.losses[-1:]:
        shown = [*shown, record.losses[-1]]
    rows = [[f"{entry.step:,}", f"{entry.loss:.3f}"] for entry in shown]
    return table(["step", "training loss (nats for a token)"], rows)


def _perplexity_table(
    before: Mapping[str, Sequence[float]] | None, after: Mapping[str, Sequence[float]]
) -> str:
    rows = []
    for style, values in after.items():
        row = [style, *(f"{value:.2f}" for value in values)]
        if before is not None:
            row += [f"{value:.2f}" for value in before.get(style, [])] or ["–"] * len(values)
        rows.append(row)
    head = ["style", *(f"{count} examples" for count in range(3))]
    if before is not None:
        head += [f"at the start, {count} examples" for count in range(3)]
    return table(head, rows)


def _two_examples(before: Mapping[str, Any] | None, after: Mapping[str, Any], kind: str) -> str:
    """What two examples change over all styles, where the measurements say so."""
    first, found = (
        (measured or {}).get("two_examples_to_none", {}).get(kind) for measured in (before, after)
    )
    if found is None:
        return ""
    if found["high"] < 1:
        verdict = "it falls"
    elif found["low"] > 1:
        verdict = "it rises"
    else:
        verdict = "no change that can be told from chance"
    start = (
        f" At the start it was {first['ratio']:.3f} times ({first['low']:.3f} to "
        f"{first['high']:.3f})."
        if first is not None
        else ""
    )
    return (
        f"\n\nOver all styles, perplexity behind two examples is {found['ratio']:.3f} times that "
        f"behind none (95 % interval {found['low']:.3f} to {found['high']:.3f}, "
        f"{found['queries']:,} queries of {found['documents']:,} documents): {verdict}.{start}"
    )


def perplexity_tables(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """Perplexity by style, and the same for queries worded alike where that was measured.

    Args:
        before: a measurement of the start, or ``None``; a line of a log or ``evaluate.py``'s JSON.
        after: one of the end, of either kind.
    """
    number = after.get("validation_sequences")
    many = f"{number} queries of each style" if number else "queries"
    if before is not None and (fewer := before.get("validation_sequences")) != number:
        many += f" (at the start {fewer or 'another number'})"
    headings = {
        "perplexity": f"Perplexity of {many} of pages that were kept aside, behind examples of "
        "their style:",
        "reworded_perplexity": "The same, each query worded as its examples are (without examples, "
        "nothing tells how):",
    }
    parts = []
    for kind, heading in headings.items():
        if kind in after:
            # A start that was measured before there were wordings has no such numbers.
            first = None if before is None else before.get(kind, {})
            shown = _perplexity_table(first, after[kind])
            parts.append(f"{heading}\n\n{shown}{_two_examples(before, after, kind)}")
    return "\n\n".join(parts)


def worth_table(after: Mapping[str, Any]) -> str:
    """What the written queries are worth by collection, out of ``evaluate.py``'s JSON."""
    head = [
        *("collection", "examples", "documents", "in top 10", "in top 30", "distinct"),
        *("words in the document", "empty"),
    ]
    rows = [
        [
            row["collection"],
            row["examples"],
            row["documents"],
            *(f"{row[key]:.3f}" for key in ("in_top_10", "in_top_30", "distinct", "in_document")),
            f"{row['empty']:.3f}",
        ]
        for row in after["collections"]
    ]
    return (
        "Queries written greedily, without a soft prompt, for random documents of collections of "
        "which nothing is in the text above: share with the source document among BM25's best 10 "
        "and 30, share of different queries, mean share of a query's content words that stand in "
        "the document.\n\n" + table(head, rows)
    )
