"""The weak data filter: every query decided once, for the first reason in the chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.config import FilterConfig
from sptar.errors import DataError
from sptar.io import read_jsonl, write_jsonl
from sptar.types import Decision, SourceRank, WeakQuery
from sptar.weak.degenerate import is_degenerate, words
from sptar.weak.filters import (
    REASONS,
    RankedQuery,
    cutoff_table,
    decide,
    decision_from_row,
    decision_to_row,
    funnel,
    rank_block,
    ranked_from_row,
    ranked_to_row,
)
from sptar.wording import normalise


def weak(number: int, text: str, doc_id: str = "d") -> WeakQuery:
    return WeakQuery(f"w{number}", doc_id, text, text, 1, None)


def ranked(number: int, text: str, doc_id: str = "d", rank: int | None = 1) -> RankedQuery:
    return RankedQuery(f"w{number}", doc_id, text, rank, None if rank is None else 1.0)


def reasons(
    queries: Sequence[RankedQuery],
    *,
    k: int = 30,
    document: str = "",
    test_queries: Sequence[str] = (),
    **changes: object,
) -> list[str]:
    decisions = decide(
        queries,
        k=k,
        settings=FilterConfig(**changes),
        document_text=lambda doc_id: document,
        test_queries=test_queries,
    )
    assert [decision.query_id for decision in decisions] == [query.query_id for query in queries]
    assert all(decision.kept == (decision.reason == "kept") for decision in decisions)
    return [decision.reason for decision in decisions]


class LengthRanker:
    """Rank = number of words; a text with "nothing" in it does not match. Remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def rank_sources(self, texts: Sequence[str], doc_ids: Sequence[str]) -> list[SourceRank]:
        self.calls.append(list(texts))
        return [
            SourceRank(None, 0.0) if "nothing" in text else SourceRank(len(text.split()), 2.5)
            for text in texts
        ]


class TestRankBlock:
    def test_cut_ranks_and_empty_queries(self) -> None:
        ranker = LengthRanker()
        queries = [
            weak(0, " one\ttwo  three four "),
            weak(1, "  "),
            weak(2, "nothing"),
            weak(3, ""),
        ]
        assert rank_block(queries, ranker, 3) == [
            RankedQuery("w0", "d", "one two three", 3, 2.5),
            RankedQuery("w1", "d", "", None, None),
            RankedQuery("w2", "d", "nothing", None, 0.0),
            RankedQuery("w3", "d", "", None, None),
        ]
        assert ranker.calls == [["one two three", "nothing"]]

    def test_no_queries(self) -> None:
        assert rank_block([], LengthRanker(), 50) == []

    @given(
        texts=st.lists(st.sampled_from(["", "a b", "nothing", "c", "x y z w v"]), max_size=12),
        size=st.integers(1, 13),
    )
    def test_the_size_of_the_blocks_does_not_matter(self, texts: list[str], size: int) -> None:
        queries = [weak(number, text) for number, text in enumerate(texts)]
        whole = rank_block(queries, LengthRanker(), 4)
        parts = [
            row
            for start in range(0, len(queries), size)
            for row in rank_block(queries[start : start + size], LengthRanker(), 4)
        ]
        assert parts == whole


class TestWords:
    def test_scripts_and_code(self) -> None:
        assert words("if x_1==None: return Σ.get('a-b')") == [
            "if", "x", "1", "none", "return", "σ", "get", "a", "b",
        ]  # fmt: skip
        assert words("हिन्दी में") == ["हिन्दी", "में"]
        assert words("ＢＭ25とは何") == ["bm25", "と", "は", "何"]


@pytest.mark.parametrize(
    "text",
    [
        "...",
        "?! --",
        "a",
        "111",
        "A a a",
        # One word, two words, three words again and again.
        "the the the the cat sat",
        "what is what is what is the best",
        "how to convert how to convert how to convert rice and beans well",
        # A long loop that was cut off, and the same said twice.
        "who made the very best red car who made the very best red car who made the very best red",
        "where do cats sleep where do cats sleep",
        "what is the study of the study of the study of the study of the",
        "猫猫猫猫猫犬",
    ],
)
def test_degenerate(text: str) -> None:
    assert is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "c#9",
        "ab",
        "is",
        "π r",
        "bora bora",
        "no no no",
        "how to cook rice and how to store rice",
        "the cat and the dog and the bird",
        "to be or not to be",
        "x = a[i] + b[i] + c[i]",
        # Three of six words are no more than half.
        "the cat the dog the bird",
        "東京の天気は何ですか",
    ],
)
def test_not_degenerate(text: str) -> None:
    assert not is_degenerate(text)


class TestCopied:
    document = "Title. One two three four five six seven eight nine ten eleven twelve, thirteen!"

    def query(self, text: str) -> str:
        return reasons([ranked(0, text)], document=self.document)[0]

    def test_twelve_words_in_a_row(self) -> None:
        copied = "one two three four five six seven eight nine ten eleven twelve"
        assert self.query(copied) == "copied"
        assert self.query(copied.upper().replace(" ", ", ") + "?") == "copied"

    def test_eleven_words_are_too_few_to_tell(self) -> None:
        assert self.query("one two three four five six seven eight nine ten eleven") == "kept"

    def test_one_word_of_twelve_changed_is_under_the_share(self) -> None:
        # 11 / 12 = 0.917 < 0.95
        assert (
            self.query("who two three four five six seven eight nine ten eleven twelve") == "kept"
        )

    def test_a_lower_share_reaches_further(self) -> None:
        text = "who two three four five six seven eight nine ten eleven twelve"
        assert reasons([ranked(0, text)], document=self.document, max_copied_share=0.9) == [
            "copied"
        ]

    def test_exactly_the_share_is_copied(self) -> None:
        many = " ".join(f"n{number}" for number in range(19))
        # 19 / 20 = 0.95
        assert reasons([ranked(0, f"{many} other")], document=f"a {many} b") == ["copied"]
        assert reasons([ranked(0, f"other {many}")], document=f"a {many} b") == ["copied"]
        # 14 / 25 = 0.56, but 0.56 * 25 is a little more than 14 in floating point.
        asked = " ".join(f"n{number}" for number in range(25))
        shared = " ".join(asked.split()[:14])
        queries = [ranked(0, asked)]
        assert reasons(queries, document=shared, max_copied_share=0.56) == ["copied"]
        assert reasons(queries, document=shared, max_copied_share=0.57) == ["kept"]

    def test_parts_of_words_are_no_copy(self) -> None:
        text = "ne two three four five six seven eight nine ten eleven twelve"
        assert self.query(text) == "kept"
        assert self.query("one two three four five six seven eight nine ten eleven twelv") == "kept"

    def test_code(self) -> None:
        code = "def f(a, b): return sum(a[i] * b[i] for i in range(len(a)))"
        assert reasons([ranked(0, code)], document=f"{code}  # dot product") == ["copied"]

    def test_the_document_is_asked_only_for_long_queries(self) -> None:
        def never(doc_id: str) -> str:
            raise AssertionError(doc_id)

        decisions = decide(
            [ranked(0, "short query")],
            k=1,
            settings=FilterConfig(),
            document_text=never,
            test_queries=[],
        )
        assert decisions[0].kept


class TestDuplicates:
    def test_the_best_rank_stays(self) -> None:
        queries = [
            ranked(0, "same query", "a", 9),
            ranked(1, "Same  QUERY", "b", 2),
            ranked(2, "same query", "a", None),
            ranked(3, "other query", "a", 2),
            ranked(4, "same query", "c", 2),
        ]
        assert reasons(queries) == ["duplicate", "kept", "duplicate", "kept", "duplicate"]
        assert reasons(queries, drop_duplicates=False) == [
            "kept", "kept", "not_found", "kept", "kept",
        ]  # fmt: skip

    def test_none_has_a_rank(self) -> None:
        queries = [ranked(0, "same query", "a", None), ranked(1, "same query", "b", None)]
        assert reasons(queries) == ["not_found", "duplicate"]

    def test_a_query_dropped_before_takes_no_other_with_it(self) -> None:
        text = "one two three four five six seven eight nine ten eleven twelve"
        queries = [ranked(0, text, "copied", 1), ranked(1, text, "other", 5)]
        decisions = decide(
            queries,
            k=30,
            settings=FilterConfig(),
            document_text=lambda doc_id: text if doc_id == "copied" else "",
            test_queries=[],
        )
        assert [decision.reason for decision in decisions] == ["copied", "kept"]


def test_test_overlap() -> None:
    queries = [ranked(0, "what IS bm25"), ranked(1, "what is bm25?"), ranked(2, "one two three")]
    overlap = {"test_queries": ["What is  BM25", "one two three four"]}
    assert reasons(queries, **overlap) == ["test_overlap", "duplicate", "kept"]  # type: ignore[arg-type]
    # A test query is compared as far as a weak query may go.
    assert reasons(queries, max_query_words=3, **overlap) == [  # type: ignore[arg-type]
        "test_overlap", "duplicate", "test_overlap",
    ]  # fmt: skip
    assert reasons(queries, drop_test_overlap=False, **overlap) == ["kept", "duplicate", "kept"]  # type: ignore[arg-type]


def test_rank_is_compared_with_the_cut_off() -> None:
    queries = [ranked(n, f"query {n}", rank=rank) for n, rank in enumerate([1, 10, 11, None])]
    assert reasons(queries, k=10) == ["kept", "kept", "rank", "not_found"]
    with pytest.raises(ValueError, match="at least 1"):
        reasons(queries, k=0)


def test_unfinished_queries_are_dropped_for_their_own_reason() -> None:
    """An answer that ran into its limit; one that also copies or repeats is told as that."""
    cut = [
        replace(ranked(0, "how do I apply for a"), finished=False),
        ranked(1, "how do I apply for a"),
        replace(ranked(2, "what is what is what is what is what"), finished=False),
        replace(ranked(3, ""), finished=False),
    ]
    # The whole one stays although the cut one, which says the same, stands first.
    assert reasons(cut) == ["unfinished", "kept", "degenerate", "empty"]
    assert reasons(cut, drop_unfinished=False) == ["kept", "duplicate", "degenerate", "empty"]


def test_whether_a_query_is_finished_is_kept_on_the_way_to_the_filter() -> None:
    queries = [replace(weak(0, "what is"), finished=False), weak(1, "what is glass")]
    found = rank_block(queries, LengthRanker(), 50)
    assert [query.finished for query in found] == [False, True]
    rows = [ranked_to_row(query) for query in found]
    assert [ranked_from_row(row) for row in rows] == found
    # A row from before this was kept reads as finished.
    assert "finished" not in rows[1]


def test_the_first_reason_in_the_chain_counts() -> None:
    long_copy = "one two three four five six seven eight nine ten eleven twelve"
    queries = [
        ranked(0, "", rank=None),
        ranked(1, "?", rank=None),
        ranked(2, long_copy, rank=99),
        ranked(3, "shared test query", rank=50),
        ranked(4, "shared test query", rank=51),
        ranked(5, "no match here", rank=None),
        ranked(6, "deep down there", rank=31),
        ranked(7, "a fine query", rank=30),
    ]
    found = reasons(queries, document=long_copy, test_queries=["shared test query"])
    assert found == [
        "empty", "degenerate", "copied", "test_overlap", "duplicate", "not_found", "rank", "kept",
    ]  # fmt: skip


def test_funnel_and_cutoff_table() -> None:
    queries = [
        ranked(n, f"query {n}", rank=rank) for n, rank in enumerate([1, 5, 30, 31, 99, None])
    ]
    queries.append(ranked(6, "", rank=None))
    decisions = decide(
        queries, k=30, settings=FilterConfig(), document_text=str, test_queries=["query 0"]
    )
    counts = funnel(decisions)
    assert list(counts) == list(REASONS)
    assert counts == {
        "refused": 0, "empty": 1, "degenerate": 0, "copied": 0, "unfinished": 0, "duplicate": 0,
        "test_overlap": 1, "not_found": 1, "rank": 2, "kept": 2,
    }  # fmt: skip
    assert cutoff_table(decisions, [1, 5, 30, 1000]) == {1: 0, 5: 1, 30: 2, 1000: 4}
    assert funnel([]) == dict.fromkeys(REASONS, 0)


def test_the_funnel_counts_reasons_that_nobody_listed() -> None:
    decisions = [
        Decision(f"w{number}", "d", "text", reason == "kept", reason, 1, 1.0)
        for number, reason in enumerate(["kept", "stale", "of_another_day", "stale"])
    ]
    counts = funnel(decisions)
    assert {reason: count for reason, count in counts.items() if count} == {
        "of_another_day": 1,
        "stale": 2,
        "kept": 1,
    }
    assert sum(counts.values()) == len(decisions)
    assert [*counts][-3:] == ["of_another_day", "stale", "kept"]


def test_a_refused_document_is_counted_by_itself() -> None:
    weak = [
        WeakQuery("w0", "d0", "", "", 1, None, refusal="400: not this one"),
        WeakQuery("w1", "d1", "", "", 3, None),
    ]

    class NothingToRank:
        def rank_sources(self, texts, doc_ids):
            assert not texts
            return []

    rows = [ranked_to_row(query) for query in rank_block(weak, NothingToRank(), 50)]
    assert [row.get("refused") for row in rows] == [True, None]
    decisions = decide(
        map(ranked_from_row, rows),
        k=30,
        settings=FilterConfig(),
        document_text=str,
        test_queries=[],
    )
    assert [decision.reason for decision in decisions] == ["refused", "empty"]


some_ranked = st.lists(
    st.tuples(
        st.sampled_from(["", "?", "cat food", "Cat food", "dog", "test one", "x y x y x y"]),
        st.sampled_from("abc"),
        st.none() | st.integers(1, 12),
    ),
    max_size=15,
).map(
    lambda rows: [
        ranked(number, text, doc_id, rank if text else None)
        for number, (text, doc_id, rank) in enumerate(rows)
    ]
)


@settings(deadline=None)
@given(queries=some_ranked, k=st.integers(1, 12), drop=st.booleans())
def test_any_input_is_decided_once_and_a_larger_k_only_adds(
    queries: list[RankedQuery], k: int, drop: bool
) -> None:
    def decided(cutoff: int) -> list[Decision]:
        return decide(
            iter(queries),
            k=cutoff,
            settings=FilterConfig(drop_duplicates=drop),
            document_text=lambda doc_id: "text",
            test_queries=["test one"],
        )

    small, large = decided(k), decided(k + 1)
    assert [d.query_id for d in small] == [query.query_id for query in queries]
    assert all(d.reason in REASONS for d in small)
    assert sum(funnel(small).values()) == len(queries)
    for before, after in zip(small, large, strict=True):
        assert after.kept or not before.kept
        # Only the last reason knows the cut-off.
        assert before.reason == after.reason or (before.reason, after.reason) == ("rank", "kept")
    assert cutoff_table(small, [k, k + 1]) == {
        k: funnel(small)["kept"],
        k + 1: funnel(large)["kept"],
    }
    if drop:
        kept = [normalise(d.text) for d in large if d.kept]
        assert len(kept) == len(set(kept))


def test_rows_come_back_from_disk(tmp_path: Path) -> None:
    queries = [
        ranked(0, "é 東京"),
        ranked(1, "", rank=None),
        RankedQuery("w2", "d", "x", 7, 0.1 + 0.2),
        RankedQuery("w3", "d", "", None, None, refused=True),
    ]
    decisions = decide(queries, k=3, settings=FilterConfig(), document_text=str, test_queries=[])
    write_jsonl(tmp_path / "r.jsonl", map(ranked_to_row, queries))
    write_jsonl(tmp_path / "d.jsonl", map(decision_to_row, decisions))
    assert [ranked_from_row(row) for _, row in read_jsonl(tmp_path / "r.jsonl")] == queries
    assert [decision_from_row(row) for _, row in read_jsonl(tmp_path / "d.jsonl")] == decisions
    with pytest.raises(DataError, match="no RankedQuery: its fields are query_id"):
        ranked_from_row({"query_id": "w"})
    with pytest.raises(DataError, match="no Decision"):
        decision_from_row({**decision_to_row(decisions[0]), "more": 1})
