"""BM25 over a whole corpus: search, and the rank of a source document.

Scores are Lucene's: a document scores, summed over the query's terms *with their repeats*,
``idf(t) · tf / (tf + k1 · (1 - b + b · length / mean length))`` with
``idf(t) = ln(1 + (N - n + 0.5) / (n + 0.5))``. Two things differ from Lucene: document lengths are
exact (Lucene rounds them to one byte), and ``N`` counts empty documents too.

Every ranking here compares scores *as computed* (float32, terms added in one fixed order, so that
the order of the words in a query never matters) and breaks ties by document id, ascending.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sptar.errors import DataError, WorkspaceError
from sptar.io import read_json, write_json
from sptar.progress import silent
from sptar.retrieval.lexical.analyzer import Analyzer
from sptar.retrieval.lexical.source_rank import Postings, count_better
from sptar.retrieval.lexical.term_numbers import NumberedTexts, WordNumbers
from sptar.types import Corpus, Progress, Query, Run, SourceRank

__all__ = ["Bm25Index", "ScoredDocument"]

_FORMAT = 1
_SETTINGS_FILE = "index.json"
_ID_ORDER_FILE = "id_order.npy"
_CHECKED_IDS = 1000
_PROGRESS_STRIDE = 1000

Scores = npt.NDArray[np.float32]
"""Score of every document, by position; shape (documents,)."""


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """A document that was found, with its score."""

    doc_id: str
    score: float


_REMEMBERED_IDS = 1 << 20


@dataclass(frozen=True, slots=True)
class _Tokenized:
    """What ``bm25s`` takes for an already tokenized corpus."""

    ids: NumberedTexts
    vocab: dict[str, int]


@functools.cache
def _engine_prototype() -> Any:
    import bm25s

    engine = bm25s.BM25(method="lucene", backend="numba", auto_compile=False)
    engine.compile()
    return engine


def _compiled_engine() -> Any:
    """A new engine that shares the compiled functions with all others of this process.

    Each ``bm25s`` engine would compile its own otherwise, about a second of work.
    """
    return copy.copy(_engine_prototype())


def _identity(corpus: Corpus) -> str:
    """Digest of the size and of up to a thousand ids, evenly spaced."""
    count = len(corpus)
    digest = hashlib.sha256(str(count).encode())
    for position in range(0, count, max(1, count // _CHECKED_IDS)):
        digest.update(b"\0" + corpus.doc_id(position).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class Bm25Index:
    """An index of title and text as one field; a Searcher and a SourceRanker.

    Made by :meth:`build` or :meth:`load`. One query is scored at a time, so beside the index it
    needs one number for each document.
    """

    def __init__(
        self,
        engine: Any,
        id_order: npt.NDArray[np.int32],
        corpus: Corpus,
        analyzer: Analyzer,
    ) -> None:
        self._engine = engine
        self._id_order = id_order
        self._corpus = corpus
        self._analyzer = analyzer
        self._words = WordNumbers.known(analyzer, engine.vocab_dict)
        # A corpus on disk parses a line for each id, and many queries find the same documents.
        self._id_of = lru_cache(maxsize=_REMEMBERED_IDS)(corpus.doc_id)

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        *,
        language: str = "english",
        k1: float = 0.9,
        b: float = 0.4,
        progress: Progress = silent,
    ) -> Bm25Index:
        """Index a corpus, reading it once from front to back.

        Raises:
            ConfigError: there is no stemmer for ``language``.
            DataError: the corpus is empty.
        """
        if len(corpus) == 0:
            raise DataError("The corpus is empty: there is nothing to index.")
        analyzer = Analyzer(language)
        vocabulary: dict[str, int] = {}
        words = WordNumbers.growing(analyzer, vocabulary)
        numbered = NumberedTexts()
        progress.start("Indexing for BM25", len(corpus), "documents")
        for number, document in enumerate(corpus, start=1):
            numbered.append(words.of(document.full_text))
            if number % _PROGRESS_STRIDE == 0:
                progress.advance(_PROGRESS_STRIDE)
        progress.advance(len(corpus) % _PROGRESS_STRIDE)
        engine = _compiled_engine()
        engine.k1, engine.b = k1, b
        # A corpus without a single term has mean length 0; nothing is ever divided by it.
        with np.errstate(divide="ignore", invalid="ignore"):
            engine.index(
                _Tokenized(numbered, vocabulary), create_empty_token=False, show_progress=False
            )
        progress.finish()
        order = sorted(range(len(corpus)), key=corpus.doc_id)
        id_order = np.empty(len(order), dtype=np.int32)
        id_order[order] = np.arange(len(order), dtype=np.int32)
        return cls(engine, id_order, corpus, analyzer)

    def save(self, folder: str | Path) -> None:
        """Write arrays (npy) and words (JSON) into ``folder``; the settings file comes last."""
        folder = Path(folder)
        (folder / _SETTINGS_FILE).unlink(missing_ok=True)
        self._engine.save(folder, allow_pickle=False, show_progress=False)
        np.save(folder / _ID_ORDER_FILE, self._id_order, allow_pickle=False)
        write_json(
            folder / _SETTINGS_FILE,
            {
                "format": _FORMAT,
                "language": self._analyzer.language,
                "k1": self._engine.k1,
                "b": self._engine.b,
                "documents": len(self._corpus),
                "corpus": _identity(self._corpus),
            },
        )

    @classmethod
    def load(cls, folder: str | Path, corpus: Corpus) -> Bm25Index:
        """Open a saved index over the corpus that it was made from; arrays are memory-mapped.

        Raises:
            WorkspaceError: there is no finished index, or it belongs to another corpus.
        """
        import bm25s

        folder = Path(folder)
        hint = "Remove that folder and build the index again."
        if not (folder / _SETTINGS_FILE).exists():
            raise WorkspaceError(f"{folder} holds no finished BM25 index.", hint=hint)
        settings = read_json(folder / _SETTINGS_FILE)
        if settings["format"] != _FORMAT:
            raise WorkspaceError(
                f"{folder} holds a BM25 index of format {settings['format']}, not {_FORMAT}.",
                hint=hint,
            )
        if settings["corpus"] != _identity(corpus):
            raise WorkspaceError(
                f"{folder} holds a BM25 index of another corpus ({settings['documents']} "
                f"documents; this one has {len(corpus)}).",
                hint=hint,
            )
        try:
            loaded = bm25s.BM25.load(
                folder, mmap=True, allow_pickle=False, show_progress=False, auto_compile=False
            )
            id_order = np.load(folder / _ID_ORDER_FILE, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise WorkspaceError(
                f"The BM25 index in {folder} is damaged: {error}.", hint=hint
            ) from None
        engine = _compiled_engine()
        engine.__dict__.update(loaded.__dict__)
        return cls(engine, id_order, corpus, Analyzer(settings["language"]))

    def __len__(self) -> int:
        return len(self._id_order)

    def _term_numbers(self, text: str) -> list[int]:
        """The query's terms that the corpus knows, in the order in which scores are added up."""
        return sorted(self._words.of(text))

    def scores(self, text: str) -> Scores:
        """Score of every document for a query, by position; shape (documents,)."""
        ids = self._term_numbers(text)
        if not ids:
            return np.zeros(len(self), dtype=np.float32)
        found: Scores = self._engine.get_scores_from_ids(ids)
        return found

    def _best(self, scores: Scores, k: int) -> list[ScoredDocument]:
        """The ``k`` best positive scores, exact also where equal scores meet the cut-off."""
        if k < 1:
            raise ValueError(f"the number of documents must be at least 1, not {k}")
        candidates = np.flatnonzero(scores > 0)
        if len(candidates) > k:
            values = scores[candidates]
            threshold = np.partition(values, len(values) - k)[len(values) - k]
            candidates = candidates[values >= threshold]
        order = np.lexsort((self._id_order[candidates], -scores[candidates]))[:k]
        return [
            ScoredDocument(self._id_of(int(position)), float(scores[position]))
            for position in candidates[order]
        ]

    def top(self, text: str, k: int) -> list[ScoredDocument]:
        """The best ``k`` documents for a text, best first; only such that match at all."""
        return self._best(self.scores(text), k)

    def search(self, queries: Sequence[Query], top_k: int) -> Run:
        """The best ``top_k`` documents of each query, best first; ties by document id, ascending.

        Every query is in the run, also one without any match. The document that is the
        query itself is never returned, nor is one with score 0.
        """
        run: Run = {}
        for query in queries:
            scores = self.scores(query.text)
            own = query.own_doc_id
            if own is not None and own in self._corpus:
                scores[self._corpus.position(own)] = 0
            run[query.query_id] = {found.doc_id: found.score for found in self._best(scores, top_k)}
        return run

    def rank_sources(self, texts: Sequence[str], doc_ids: Sequence[str]) -> list[SourceRank]:
        """Exact rank and score of ``doc_ids[i]`` for query ``texts[i]`` over the whole corpus.

        The rank is 1 + the documents with a higher score + those with an equal score and a
        smaller id; ``None`` when the score is 0. Documents that cannot reach the source's score
        are not scored (:mod:`~sptar.retrieval.lexical.source_rank`): only the time changes.

        Raises:
            DataError: the corpus does not hold one of the documents.
        """
        asked = NumberedTexts()
        for text in texts:
            asked.append(self._term_numbers(text))
        ranks, scores = count_better(
            self._postings,
            self._id_order,
            asked.flat,
            asked.ends,
            np.array([self._source_position(doc_id) for doc_id in doc_ids], dtype=np.int64),
        )
        return [
            SourceRank(rank, score) if rank else SourceRank(None, 0.0)
            for rank, score in zip(ranks.tolist(), scores.tolist(), strict=True)
        ]

    @cached_property
    def _postings(self) -> Postings:
        lists = self._engine.scores
        return Postings.of(lists["indices"], lists["data"], lists["indptr"])

    def _source_position(self, doc_id: str) -> int:
        try:
            return self._corpus.position(doc_id)
        except KeyError:
            raise DataError(
                f"A weak query belongs to document '{doc_id}', which the corpus does not hold.",
                hint="Take the weak queries and the corpus from the same collection.",
            ) from None
