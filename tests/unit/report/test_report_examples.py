"""Counting and choosing weak queries for the reader."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from sptar.report.examples import choose_examples, count_funnel, excerpt
from sptar.types import Decision, Document

REASONS = ["kept"] * 50 + ["rank"] * 30 + ["empty"] * 3 + ["duplicate"] * 10 + ["home_made"] * 2


class TinyCorpus:
    """Documents d0 … d89; d90 and more are missing."""

    def __init__(self) -> None:
        self.documents = [Document(f"d{n}", f"text {n} " * 50, "title") for n in range(90)]

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, position: int) -> Document:
        return self.documents[position]

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def __contains__(self, doc_id: object) -> bool:
        return any(document.doc_id == doc_id for document in self.documents)

    def position(self, doc_id: str) -> int:
        return {document.doc_id: n for n, document in enumerate(self.documents)}[doc_id]

    def doc_id(self, position: int) -> str:
        return self.documents[position].doc_id

    def get(self, doc_id: str) -> Document:
        return self.documents[self.position(doc_id)]


def _decisions() -> list[Decision]:
    return [
        Decision(f"w{n}", f"d{n}", f"query {n}", reason == "kept", reason, n + 1, 1.0)
        for n, reason in enumerate(REASONS)
    ]


def test_the_funnel_counts_everything() -> None:
    funnel = count_funnel("sptar", iter(_decisions()))
    assert funnel.generated == 95
    assert funnel.kept == 50
    assert [(item.reason, item.count) for item in funnel.dropped] == [
        ("empty", 3),
        ("duplicate", 10),
        ("rank", 30),
        ("home_made", 2),
    ]
    nothing = count_funnel("sptar", [])
    assert (nothing.generated, nothing.dropped, nothing.kept) == (0, (), 0)


def test_the_choice_shows_every_reason_and_does_not_depend_on_order() -> None:
    decisions = _decisions()
    chosen = choose_examples("sptar", decisions, TinyCorpus(), each=6)
    assert len(chosen.kept) == len(chosen.dropped) == 6
    assert Counter(item.reason for item in chosen.dropped) == Counter(
        {"empty": 2, "duplicate": 2, "rank": 1, "home_made": 1}
    )
    assert {item.reason for item in chosen.kept} == {"kept"}
    assert len({item.query for item in chosen.kept}) == 6
    random.Random(0).shuffle(decisions)
    assert choose_examples("sptar", decisions, TinyCorpus(), each=6) == chosen
    assert [item.query for item in chosen.kept] != [f"query {n}" for n in range(6)], "not the first"


def test_texts_are_cut_and_a_missing_document_is_said() -> None:
    chosen = choose_examples("sptar", _decisions(), TinyCorpus(), each=50)
    assert all(item.document.startswith("title text") for item in chosen.kept)
    assert all(item.document.endswith("…") for item in chosen.kept)
    missing = [item for item in chosen.dropped if "is not in the corpus" in item.document]
    assert len(missing) == 5
    assert choose_examples("sptar", _decisions()[:2], TinyCorpus()).dropped == ()


def test_excerpts() -> None:
    assert excerpt("a b c", 3) == "a b c"
    assert excerpt("a\tb\n\nc d", 3) == "a b c …"
    assert excerpt("字" * 5000, 10) == "字" * 120 + " …"
    assert excerpt("") == ""
