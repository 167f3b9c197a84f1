"""Records that flow through the pipeline, and the protocols behind which engines stand.

Nothing here imports a heavy library: every layer may use this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = [
    "Corpus",
    "Decision",
    "Document",
    "Generation",
    "GenerationRequest",
    "Generator",
    "Pair",
    "Progress",
    "Qrels",
    "Query",
    "QueryLoss",
    "QueryScorer",
    "Run",
    "Searcher",
    "SourceRank",
    "SourceRanker",
    "WeakQuery",
]

Qrels: TypeAlias = dict[str, dict[str, int]]
"""query id → document id → grade. A grade of 0 or less means "judged, not relevant"."""

Run: TypeAlias = dict[str, dict[str, float]]
"""query id → document id → score, higher is better."""


@dataclass(frozen=True, slots=True)
class Document:
    """One unit of the corpus."""

    doc_id: str
    text: str
    title: str = ""

    @property
    def full_text(self) -> str:
        """Title and text as one field, as every retriever and prompt here sees a document.

        >>> Document("d1", "Dogs travel free.", "Animals").full_text
        'Animals Dogs travel free.'
        >>> Document("d1", "Dogs travel free.").full_text
        'Dogs travel free.'
        """
        return f"{self.title} {self.text}".strip() if self.title else self.text.strip()


@dataclass(frozen=True, slots=True)
class Query:
    """A query with its id.

    ``is_document``: a document with the same id is this query itself, and no answer to it. The
    collection decides that once for all its queries (``data.shared_ids``).
    """

    query_id: str
    text: str
    is_document: bool = True

    @property
    def own_doc_id(self) -> str | None:
        """Id of the document that is this query, if the corpus holds it: never an answer.

        >>> Query("15", "opening hours").own_doc_id, Query("15", "hours", False).own_doc_id
        ('15', None)
        """
        return self.query_id if self.is_document else None


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document that answers it: a label, or a weak pair that was kept."""

    query: Query
    document: Document


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Ask for one query of one document.

    ``number`` tells the queries of one document apart (0 … n-1) and ``attempt`` counts the
    tries of one query from 0. (seed, document id, number, attempt) names the random stream.
    """

    document: Document
    number: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """What a language model answered to one request.

    ``raw`` is the decoded first line before any cleaning; ``log_probability`` is the sum of
    natural-log probabilities (at temperature 1) of the generated tokens, the stop token included
    when one was reached; ``tokens`` counts those tokens; ``stopped`` says whether a newline or end
    token was reached (else the budget of new tokens ran out); ``cut_tokens`` is how many document
    tokens did not fit the document budget. A server that does not tell leaves ``None``.
    ``refusal`` is why a server gave no text for this document, which it would not give if it were
    asked once more either.
    """

    raw: str
    log_probability: float | None
    tokens: int
    stopped: bool
    cut_tokens: int = 0
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class WeakQuery:
    """A query that a language model wrote for ``doc_id``; ``text`` is the cleaned ``raw``.

    ``cut_tokens`` is how many of the document's tokens the model did not see; ``refusal`` is why
    a server wrote nothing for the document; ``finished`` is false when the answer ran into the
    budget of new tokens.
    """

    query_id: str
    doc_id: str
    text: str
    raw: str
    attempts: int
    log_probability: float | None
    tokens: int | None = None
    cut_tokens: int = 0
    refusal: str | None = None
    finished: bool = True


@dataclass(frozen=True, slots=True)
class SourceRank:
    """Where the source document of a weak query stands in a ranking of the whole corpus.

    ``rank`` counts from 1 and is ``None`` when the source does not match the query at all
    (its score is 0).
    """

    rank: int | None
    score: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What the weak data filter decided for one weak query.

    ``reason`` is ``"kept"`` or why the query was dropped, one of
    :data:`sptar.weak.reasons.REASONS`.
    """

    query_id: str
    doc_id: str
    text: str
    kept: bool
    reason: str
    rank: int | None
    score: float | None


@dataclass(frozen=True, slots=True)
class QueryLoss:
    """Negative log-likelihood (natural log) of a query, summed over ``tokens`` target tokens."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Loss for one token; 0 when there is none."""
        return self.total / self.tokens if self.tokens else 0.0


class Corpus(Protocol):
    """Random access to documents that need not fit in memory. Positions run from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Document: ...

    def __iter__(self) -> Iterator[Document]: ...

    def __contains__(self, doc_id: object) -> bool: ...

    def position(self, doc_id: str) -> int:
        """Position of a document id; ``KeyError`` when the corpus does not hold it."""
        ...

    def doc_id(self, position: int) -> str:
        """Id of the document at a position."""
        ...

    def get(self, doc_id: str) -> Document:
        """The document with this id; ``KeyError`` when the corpus does not hold it."""
        ...


class Generator(Protocol):
    """Writes queries for documents."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer for each request, in the order of the requests.

        The answer to a request depends on that request alone, never on its neighbours.
        """
        ...


class QueryScorer(Protocol):
    """Scores given queries under a prompt (soft prompt + examples)."""

    def query_losses(self, examples: Sequence[Pair], pairs: Sequence[Pair]) -> list[QueryLoss]:
        """Loss of each pair's query given its document, with ``examples`` in the prompt."""
        ...


class SourceRanker(Protocol):
    """Answers "where does the source document stand for this query?"."""

    def rank_sources(self, texts: Sequence[str], doc_ids: Sequence[str]) -> list[SourceRank]:
        """Exact rank and score of ``doc_ids[i]`` for query ``texts[i]`` over the whole corpus.

        Ties are broken by document id, ascending.
        """
        ...


class Searcher(Protocol):
    """Finds documents for queries."""

    def search(self, queries: Sequence[Query], top_k: int) -> Run:
        """The best ``top_k`` documents of each query; ties broken by document id, ascending.

        The document that is the query itself (:attr:`Query.own_doc_id`) is never returned.
        """
        ...


class Progress(Protocol):
    """Told about finished work; the command line draws a bar, the tests listen."""

    def start(self, description: str, total: int | None, unit: str = "") -> None: ...

    def advance(self, amount: int = 1) -> None: ...

    def finish(self) -> None: ...

    def message(self, text: str) -> None: ...
