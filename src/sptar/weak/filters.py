"""The weak data filter: for every weak query, kept, or dropped and why.

Ranking (:func:`rank_block`) is the costly part and knows no cut-off; deciding (:func:`decide`)
needs no search, so another k costs seconds. The filters stand in a chain: each one judges what the
filters before it left, and the first to drop a query gives the reason.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

from sptar.config import FilterConfig
from sptar.errors import DataError
from sptar.types import Decision, SourceRanker, WeakQuery
from sptar.weak.degenerate import is_degenerate, words
from sptar.weak.reasons import REASONS
from sptar.wording import normalise

__all__ = [
    "PairFilter",
    "RankedQuery",
    "cutoff_table",
    "decide",
    "decision_from_row",
    "decision_to_row",
    "funnel",
    "rank_block",
    "ranked_from_row",
    "ranked_to_row",
]

_COPY_MINIMUM_WORDS = 12


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """A weak query, cut to its length, and where its source document stands for it.

    ``rank`` is ``None`` when the source does not match; so is ``score`` for an empty query.
    ``refused`` says that a server refused to write for the document; ``finished`` is false when
    the answer ran into the budget of new tokens.
    """

    query_id: str
    doc_id: str
    text: str
    rank: int | None
    score: float | None
    refused: bool = False
    finished: bool = True


_Record = TypeVar("_Record", RankedQuery, Decision)
_RANKED_FIELDS = [field.name for field in fields(RankedQuery)]
_DECISION_FIELDS = [field.name for field in fields(Decision)]


def _cut(text: str, max_words: int) -> str:
    """The first ``max_words`` words, as white space separates them, joined by single blanks."""
    return " ".join(text.split()[:max_words])


def rank_block(
    weak_queries: Sequence[WeakQuery], ranker: SourceRanker, max_query_words: int
) -> list[RankedQuery]:
    """Cut each query and find the rank of its source document: one record for each, in order.

    Each query is ranked by itself, so the size of the blocks changes nothing.
    """
    texts = [_cut(weak.text, max_query_words) for weak in weak_queries]
    searched = [number for number, text in enumerate(texts) if text]
    found = dict(
        zip(
            searched,
            ranker.rank_sources(
                [texts[number] for number in searched],
                [weak_queries[number].doc_id for number in searched],
            ),
            strict=True,
        )
    )
    return [
        RankedQuery(
            query_id=weak.query_id,
            doc_id=weak.doc_id,
            text=texts[number],
            rank=found[number].rank if number in found else None,
            score=found[number].score if number in found else None,
            refused=weak.refusal is not None,
            finished=weak.finished,
        )
        for number, weak in enumerate(weak_queries)
    ]


class PairFilter(Protocol):
    """Answers keep or drop, with one reason for everything it drops."""

    reason: str

    def keeps(self, queries: Sequence[RankedQuery]) -> list[bool]:
        """One answer for each query that the filters before this one left, in order."""
        ...


class _EachAlone(ABC):
    """A filter that looks at one query at a time."""

    reason: str

    @abstractmethod
    def keeps_one(self, query: RankedQuery) -> bool: ...

    def keeps(self, queries: Sequence[RankedQuery]) -> list[bool]:
        return [self.keeps_one(query) for query in queries]


class RefusedFilter(_EachAlone):
    """Drops the empty queries of documents for which a server refused to write."""

    reason = "refused"

    def keeps_one(self, query: RankedQuery) -> bool:
        return not query.refused


class EmptyFilter(_EachAlone):
    """Drops queries without text."""

    reason = "empty"

    def keeps_one(self, query: RankedQuery) -> bool:
        return bool(query.text)


class DegenerateFilter(_EachAlone):
    """Drops queries that say nothing or repeat themselves, see :func:`is_degenerate`."""

    reason = "degenerate"

    def keeps_one(self, query: RankedQuery) -> bool:
        return not is_degenerate(query.text)


class CopiedFilter(_EachAlone):
    """Drops queries of 12 words or more that are copied from their document.

    Copied: a run of its words, at least ``max_copied_share`` of them, stands in the document.
    """

    reason = "copied"

    def __init__(self, document_text: Callable[[str], str], max_copied_share: float) -> None:
        self._document_text = document_text
        self._share = max_copied_share

    def keeps_one(self, query: RankedQuery) -> bool:
        asked = words(query.text)
        if len(asked) < _COPY_MINIMUM_WORDS:
            return True
        # Rounding must not turn 0.95 * 20 into a little more than 19.
        length = max(1, math.ceil(self._share * len(asked) - 1e-9))
        document = f" {' '.join(words(self._document_text(query.doc_id)))} "
        return not any(
            f" {' '.join(asked[start : start + length])} " in document
            for start in range(len(asked) - length + 1)
        )


class UnfinishedFilter(_EachAlone):
    """Drops queries whose answer ran into the budget of new tokens before its end."""

    reason = "unfinished"

    def keeps_one(self, query: RankedQuery) -> bool:
        return query.finished


class DuplicateFilter:
    """Keeps one of the queries with the same normalised text, of whatever document.

    The one whose source document has the best rank stays, the first of them when ranks are equal;
    a query without rank comes last. The choice knows no cut-off, so whatever is kept with one k
    is kept with every larger k.
    """

    reason = "duplicate"

    def keeps(self, queries: Sequence[RankedQuery]) -> list[bool]:
        best: dict[str, tuple[float, int]] = {}
        texts = [normalise(query.text) for query in queries]
        for number, (query, text) in enumerate(zip(queries, texts, strict=True)):
            place = (math.inf if query.rank is None else query.rank, number)
            if text not in best or place < best[text]:
                best[text] = place
        return [best[text][1] == number for number, text in enumerate(texts)]


class TestOverlapFilter(_EachAlone):
    """Drops queries that say what a test query says (cut to as many words).

    See :func:`sptar.wording.normalise`: what the report counts as equal is dropped here.
    """

    __test__ = False  # Not a test, whatever its name looks like to pytest.
    reason = "test_overlap"

    def __init__(self, test_queries: Collection[str], max_query_words: int) -> None:
        # Whole as well as cut: the words of a text are fewer without its marks.
        self._texts = {
            normalise(form) for text in test_queries for form in (text, _cut(text, max_query_words))
        }

    def keeps_one(self, query: RankedQuery) -> bool:
        return normalise(query.text) not in self._texts


class NotFoundFilter(_EachAlone):
    """Drops queries that do not match their source document at all."""

    reason = "not_found"

    def keeps_one(self, query: RankedQuery) -> bool:
        return query.rank is not None


class RankFilter(_EachAlone):
    """Drops queries whose source document is not among the top ``k`` (the paper's filter)."""

    reason = "rank"

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"a cut-off is at least 1, not {k}")
        self._k = k

    def keeps_one(self, query: RankedQuery) -> bool:
        return query.rank is not None and query.rank <= self._k


def decide(
    ranked: Iterable[RankedQuery],
    *,
    k: int,
    settings: FilterConfig,
    document_text: Callable[[str], str],
    test_queries: Collection[str],
) -> list[Decision]:
    """Exactly one decision for every query, in order.

    Args:
        ranked: all weak queries of a run: duplicates are looked for among all of them.
        k: the cut-off; ``settings.k`` is not read.
        settings: which filters stand in the chain, and their thresholds.
        document_text: full text of a document, asked only for long queries.
        test_queries: texts of the test queries.
    """
    queries = list(ranked)
    chain: list[PairFilter] = [
        RefusedFilter(),
        EmptyFilter(),
        DegenerateFilter(),
        CopiedFilter(document_text, settings.max_copied_share),
    ]
    if settings.drop_unfinished:
        chain.append(UnfinishedFilter())
    if settings.drop_duplicates:
        chain.append(DuplicateFilter())
    if settings.drop_test_overlap:
        chain.append(TestOverlapFilter(test_queries, settings.max_query_words))
    chain += [NotFoundFilter(), RankFilter(k)]

    reasons = ["kept"] * len(queries)
    left = list(range(len(queries)))
    for step in chain:
        answers = step.keeps([queries[number] for number in left])
        for number, keep in zip(left, answers, strict=True):
            if not keep:
                reasons[number] = step.reason
        left = [number for number, keep in zip(left, answers, strict=True) if keep]
    return [
        Decision(
            query_id=query.query_id,
            doc_id=query.doc_id,
            text=query.text,
            kept=reason == "kept",
            reason=reason,
            rank=query.rank,
            score=query.score,
        )
        for query, reason in zip(queries, reasons, strict=True)
    ]


def funnel(decisions: Iterable[Decision]) -> dict[str, int]:
    """How many decisions each reason has, in the order of the chain; ``kept`` comes last.

    Every decision is counted: a reason that :data:`~sptar.weak.reasons.REASONS` does not list
    stands in front of ``kept``.
    """
    counts = Counter(decision.reason for decision in decisions)
    unlisted = sorted(set(counts) - set(REASONS))
    order = [*(reason for reason in REASONS if reason != "kept"), *unlisted, "kept"]
    return {reason: counts[reason] for reason in order}


def cutoff_table(decisions: Iterable[Decision], ks: Sequence[int]) -> dict[int, int]:
    """How many queries each cut-off would keep, from the decisions for any one cut-off.

    Every other filter stands before the rank and knows no cut-off, so nothing is judged again.
    """
    ranks = [
        decision.rank
        for decision in decisions
        if decision.rank is not None and decision.reason in ("kept", "rank")
    ]
    return {k: sum(rank <= k for rank in ranks) for k in ks}


def ranked_to_row(query: RankedQuery) -> dict[str, Any]:
    """JSON object of a ranked query; ``refused`` and no end stand there only where it is so."""
    row = {name: getattr(query, name) for name in _RANKED_FIELDS}
    if not query.refused:
        del row["refused"]
    if query.finished:
        del row["finished"]
    return row


def decision_to_row(decision: Decision) -> dict[str, Any]:
    """JSON object of a decision."""
    return {name: getattr(decision, name) for name in _DECISION_FIELDS}


def ranked_from_row(row: Mapping[str, Any]) -> RankedQuery:
    """Inverse of :func:`ranked_to_row`; :class:`~sptar.errors.DataError` on other fields."""
    return _from_row(RankedQuery, row)


def decision_from_row(row: Mapping[str, Any]) -> Decision:
    """Inverse of :func:`decision_to_row`; :class:`~sptar.errors.DataError` on other fields."""
    return _from_row(Decision, row)


def _from_row(record: type[_Record], row: Mapping[str, Any]) -> _Record:
    try:
        return record(**row)
    except TypeError:
        fields = ", ".join(row) or "none"
        raise DataError(f"This row is no {record.__name__}: its fields are {fields}.") from None
