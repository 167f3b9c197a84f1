"""What the filter step says of its work."""

from __future__ import annotations

from sptar.steps.filter import _outcome
from sptar.weak.reasons import REASONS


def counted(**counts: int) -> dict[str, int]:
    return {reason: counts.get(reason, 0) for reason in REASONS}


def test_every_reason_is_told_with_its_count() -> None:
    counts = {reason: 1001 + number for number, reason in enumerate(REASONS)}
    text = _outcome(counts, written=True)
    told = f"{counts['kept']:,} of {sum(counts.values()):,} weak queries are kept"
    assert text.startswith(f"{told} (refused by the server 1,001, no text 1,002, repeated ")
    assert all(f"{counts[reason]:,}" in text for reason in REASONS)
    assert text.endswith(
        f"not found {counts['not_found']:,}, source below cut-off {counts['rank']:,})."
    )


def test_nothing_is_said_of_reasons_without_queries() -> None:
    assert _outcome(counted(kept=7), written=True) == "7 of 7 weak queries are kept."
    assert _outcome(counted(kept=7, rank=1), written=True) == (
        "7 of 8 weak queries are kept (source below cut-off 1)."
    )
    assert _outcome(counted(), written=True) == "0 of 0 weak queries are kept."


def test_what_it_means_that_none_is_kept() -> None:
    assert _outcome(counted(rank=3), written=True) == (
        "0 of 3 weak queries are kept (source below cut-off 3). A retriever trained with them sees "
        "the labels alone."
    )


def test_a_model_that_says_the_same_for_most_documents_is_pointed_out() -> None:
    told = "Most of them repeat one another. The model may copy its example"
    assert told in _outcome(counted(kept=366, duplicate=1551, rank=83), written=True)
    assert told not in _outcome(counted(kept=50, duplicate=50), written=True)
    assert told in _outcome(counted(kept=49, duplicate=51), written=True)


def test_imported_queries_get_no_advice_on_writing() -> None:
    text = _outcome(counted(kept=1, duplicate=9), written=False)
    assert text.endswith("(duplicate 9). Most of them repeat one another.")
