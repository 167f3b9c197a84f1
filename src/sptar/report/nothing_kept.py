"""Methods of which no weak query was trained on: the verdict says so before anything else."""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from typing import Any

from sptar.data.collection import Collection
from sptar.evaluation.systems import method_title
from sptar.report.examples import reason_text
from sptar.report.reader import RunReader
from sptar.steps.languages import language_hint

__all__ = ["said_of_nothing", "systems_without_weak_pairs"]


def systems_without_weak_pairs(reader: RunReader) -> set[str]:
    """Systems that write or import weak queries and trained on none of them."""
    return {
        system
        for system in reader.systems
        if reader.has(system, "pairs")
        and reader.has(system, "filter")
        and not reader.get(system, "pairs").manifest.summary["weak"]
    }


def said_of_nothing(
    reader: RunReader,
    systems: AnyCollection[str],
    collection: Collection,
    config: dict[str, Any],
) -> tuple[str, ...]:
    """One sentence for each such method, and one about a likely reason."""
    lines = []
    for system, label in reader.shown("pairs").items():
        if system not in systems:
            continue
        funnel = reader.get(system, "filter").manifest.summary["funnel"]
        written, kept = sum(funnel.values()), funnel.get("kept", 0)
        title = method_title(label)
        if kept:
            lines.append(
                f"{title} trained on the labels alone: another method kept no weak query, and "
                f"equal_pairs takes as many of its {kept:,}."
            )
            continue
        dropped = {reason: count for reason, count in funnel.items() if count}
        most = max(dropped, key=dropped.__getitem__) if dropped else None
        why = "" if most is None else f" (most often: {reason_text(most)}, {dropped[most]:,} times)"
        lines.append(
            f"{title} kept none of its {written:,} weak queries{why} and trained on the labels "
            "alone: this run says nothing about what its weak queries are worth."
        )
    hint = language_hint(collection, config) if lines else None
    return (*lines, *([f"A likely reason: {hint}"] if hint is not None else []))
