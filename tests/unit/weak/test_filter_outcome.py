"""What the filter step says of its work."""

from __future__ import annotations

from sptar.steps.filter import _outcome
from sptar.weak.filters import REASONS


def counted(**counts: int) -> dict[str, int]:
    return {reason: counts.get(reason, 0) for reason in REASONS}


def test_every_reason_is_told_with_its_count() -> None:
    counts = {reason: 1001 + number for number, reason in enumerate(REASONS)}
    text = _outcome(counts, 30)
    assert text.startswith("1,008 of 8,036 weak queries are kept (1,001 empty, ")
    assert all(f"{counts[reason]:,} " in text for reason in REASONS)
    assert text.endswith("1,007 below BM25's top 30).")


def test_nothing_is_said_of_reasons_without_queries() -> None:
    assert _outcome(counted(kept=7), 10) == "7 of 7 weak queries are kept."
    assert _outcome(counted(kept=7, rank=1), 10) == (
        "7 of 8 weak queries are kept (1 below BM25's top 10)."
    )
    assert _outcome(counted(), 10) == "0 of 0 weak queries are kept."


def test_a_model_that_says_the_same_for_most_documents_is_pointed_out() -> None:
    told = "Raise `prompt.examples` or `augment.temperature`."
    assert told in _outcome(counted(kept=366, duplicate=1551, rank=83), 30)
    assert told not in _outcome(counted(kept=50, duplicate=50), 30)
    assert told in _outcome(counted(kept=49, duplicate=51), 30)
