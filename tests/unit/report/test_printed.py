"""Text for a terminal: weak queries beside their documents."""

from __future__ import annotations

import pytest

from sptar.report.printed import print_examples
from sptar.report.records import MethodExamples, WeakExample


def example(number: int, document: str = "a short document") -> WeakExample:
    return WeakExample(f"query {number}", document, "kept", number)


@pytest.mark.parametrize(("kept", "shown"), [(5, 3), (3, 3), (1, 1), (0, 0)])
def test_the_first_three_kept_ones_are_shown(kept: int, shown: int) -> None:
    dropped = (WeakExample("a dropped one", "its document", "rank", 99),)
    table = print_examples(
        MethodExamples("sptar", tuple(example(number) for number in range(kept)), dropped)
    )
    assert table.columns == ["weak query", "its document"]
    assert table.rows == [[f"query {number}", "a short document"] for number in range(shown)]


def test_long_documents_are_cut() -> None:
    words = [f"word{number}" for number in range(60)]
    table = print_examples(MethodExamples("sptar", (example(1, " ".join(words)),), ()))
    assert table.rows == [["query 1", " ".join(words[:30]) + " …"]]
