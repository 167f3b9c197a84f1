"""What was found in a collection, as records that print as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sptar.data.problems import ProblemCount
from sptar.types import Qrels

__all__ = ["CollectionReport", "LengthSummary", "SplitCount"]


@dataclass(frozen=True)
class LengthSummary:
    """Lengths in words (runs of characters that are not white space)."""

    minimum: int = 0
    median: float = 0.0
    mean: float = 0.0
    p95: float = 0.0
    maximum: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int]) -> LengthSummary:
        """Summary of some lengths; all zero when there are none.

        >>> LengthSummary.of([1, 2, 3, 10])
        LengthSummary(minimum=1, median=2.5, mean=4.0, p95=8.95, maximum=10)
        """
        if not len(lengths):
            return cls()
        values = np.asarray(lengths, dtype=np.int64)
        return cls(
            minimum=int(values.min()),
            median=float(np.median(values)),
            mean=float(values.mean()),
            p95=round(float(np.percentile(values, 95)), 6),
            maximum=int(values.max()),
        )

    def __str__(self) -> str:
        return f"{self.minimum} / {self.median:g} / {self.mean:.1f} / {self.p95:g} / {self.maximum}"


@dataclass(frozen=True)
class SplitCount:
    """One split's judgements. ``positives`` have grade 1 or more."""

    name: str
    judgements: int
    positives: int
    queries: int
    queries_without_positive: int
    documents: int

    @classmethod
    def of(cls, name: str, qrels: Qrels) -> SplitCount:
        """Count a split.

        >>> SplitCount.of("test", {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 0}})
        ... # doctest: +NORMALIZE_WHITESPACE
        SplitCount(name='test', judgements=3, positives=1, queries=2,
                   queries_without_positive=1, documents=2)
        """
        positives = {
            query_id: sum(grade >= 1 for grade in judged.values())
            for query_id, judged in qrels.items()
        }
        return cls(
            name=name,
            judgements=sum(map(len, qrels.values())),
            positives=sum(positives.values()),
            queries=len(qrels),
            queries_without_positive=sum(count == 0 for count in positives.values()),
            documents=len({doc_id for judged in qrels.values() for doc_id in judged}),
        )

    @property
    def positives_per_query(self) -> float:
        """Mean number of positive documents of a query."""
        return self.positives / self.queries if self.queries else 0.0


@dataclass(frozen=True)
class CollectionReport:
    """Counts and findings about one collection.

    ``duplicate_documents`` and ``duplicate_queries`` count texts that stood before;
    ``shared_ids`` counts query ids that are also document ids and ``self_judgements`` the
    judgements of such a query for the document of its own id (``self_positives``: those that call
    it relevant). ``separate_ids`` says that such a document is another thing than the query, by a
    setting (``ids_decided``) or by those judgements; else searchers leave it out.
    ``unjudged_documents`` are named by no judgement.
    ``problems`` lists what is wrong by kind; the rows concerned were left out.
    """

    source: str
    documents: int
    queries: int
    splits: tuple[SplitCount, ...]
    document_words: LengthSummary
    query_words: LengthSummary
    duplicate_documents: int
    empty_documents: int
    duplicate_queries: int
    empty_queries: int
    unjudged_queries: int
    queries_in_several_splits: int
    repeated_judgements: int
    shared_ids: int
    self_judgements: int
    ignored_columns: tuple[str, ...]
    problems: tuple[ProblemCount, ...]
    self_positives: int = 0
    ids_decided: bool = False
    separate_ids: bool = False
    unjudged_documents: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def skipped(self) -> int:
        """Number of problems, which is the number of rows (or files) left out."""
        return sum(problem.count for problem in self.problems)

    def count_of(self, reason: str) -> int:
        """How often one kind of problem was met."""
        return sum(problem.count for problem in self.problems if problem.reason == reason)

    def split(self, name: str) -> SplitCount:
        """The counts of one split; ``KeyError`` when there is none of that name."""
        for split in self.splits:
            if split.name == name:
                return split
        raise KeyError(name)

    def to_rows(self) -> list[tuple[str, str]]:
        """Label and value of each line of a table for people."""
        rows = [
            ("documents", f"{self.documents:,}"),
            ("queries", f"{self.queries:,}"),
        ]
        for split in self.splits:
            rows.append(
                (
                    f"judgements in {split.name}",
                    f"{split.judgements:,} for {split.queries:,} queries and "
                    f"{split.documents:,} documents; {split.positives:,} positive "
                    f"({split.positives_per_query:.2f} a query)",
                )
            )
            if split.queries_without_positive:
                rows.append(
                    (
                        f"queries without a positive in {split.name}",
                        f"{split.queries_without_positive:,}",
                    )
                )
        shape = "(min / median / mean / 95 % / max)"
        rows += [
            (f"words of a document {shape}", str(self.document_words)),
            (f"words of a query {shape}", str(self.query_words)),
            ("documents without judgement", self._unjudged_in_words()),
            ("empty documents", f"{self.empty_documents:,}"),
            ("documents whose text stood before", f"{self.duplicate_documents:,}"),
            ("empty queries", f"{self.empty_queries:,}"),
            ("queries whose text stood before", f"{self.duplicate_queries:,}"),
            ("queries without judgement", f"{self.unjudged_queries:,}"),
            ("queries judged in several splits", f"{self.queries_in_several_splits:,}"),
            ("judgements written twice", f"{self.repeated_judgements:,}"),
            (
                "query ids that are document ids",
                f"{self.shared_ids:,} ({self.self_judgements:,} judged for their own id)",
            ),
        ]
        if self.shared_ids:
            rows.append(("the document with a query's id", self._shared_ids_in_words()))
        if self.ignored_columns:
            rows.append(("columns not used", ", ".join(self.ignored_columns)))
        for problem in self.problems:
            rows.append((f"problem: {problem.reason}", f"{problem.count:,}"))
            rows.extend(("", example) for example in problem.examples)
        if not self.problems:
            rows.append(("problems", "none"))
        return rows

    def _unjudged_in_words(self) -> str:
        if self.unjudged_documents is None:
            return "not counted"
        if self.unjudged_documents:
            return f"{self.unjudged_documents:,} (by default these get weak queries)"
        return (
            "none: a method that writes weak queries needs split.augment_from: not_evaluated, or "
            "all"
        )

    def _shared_ids_in_words(self) -> str:
        why = (
            f"data.shared_ids: {'separate' if self.separate_ids else 'same'}"
            if self.ids_decided
            else "1 such document is judged relevant"
            if self.self_positives == 1
            else f"{self.self_positives:,} such documents are judged relevant"
            if self.separate_ids
            else "none is judged relevant"
        )
        if self.separate_ids:
            return f"another thing than the query, which may be found ({why})"
        text = f"the query itself: left out of its results, {self.shared_ids:,} times ({why})"
        if self.self_positives:
            text += f"; so are {self.self_positives:,} judgements that call it relevant"
        return text

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CollectionReport:
        """The report that :meth:`to_json` wrote."""
        return cls(
            **{
                **values,
                "splits": tuple(SplitCount(**split) for split in values["splits"]),
                "document_words": LengthSummary(**values["document_words"]),
                "query_words": LengthSummary(**values["query_words"]),
                "ignored_columns": tuple(values["ignored_columns"]),
                "problems": tuple(
                    ProblemCount(item["reason"], item["count"], tuple(item["examples"]))
                    for item in values["problems"]
                ),
            }
        )
