"""Reranking by vectors that already lie on disk, and the candidates that a reranker gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from sptar.errors import DataError, ModelError
from sptar.retrieval.dense.index import QueryEncoder
from sptar.retrieval.ranking import DocumentIds
from sptar.retrieval.retriever import CorpusEncoder
from sptar.types import Corpus, Query, Run

__all__ = ["VectorReranker", "restrict"]


def restrict(run: Run, depth: int) -> Run:
    """The first ``depth`` documents of each query: by score, ties by document id, ascending.

    >>> restrict({"q": {"b": 1.0, "c": 2.0, "a": 1.0}}, 2)
    {'q': {'c': 2.0, 'a': 1.0}}
    """
    if depth < 1:
        raise ValueError("depth is at least 1")
    return {
        query_id: dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:depth])
        for query_id, found in run.items()
    }


@runtime_checkable
class _DocumentReranker(Protocol):
    """A searcher that can look at some documents only, as late interaction's does."""

    def rerank(
        self, queries: Sequence[Query], candidates: Run, corpus: Corpus, top_k: int
    ) -> Run: ...


class VectorReranker:
    """Orders candidates by a trained encoder's score of documents that it encoded before.

    With a bi-encoder this is the paper's BM25DPR. Its scores are those with which
    :class:`~sptar.retrieval.dense.index.DenseIndex` searches the same vectors: products in float64,
    one document at a time, so they depend on nothing else. An encoder whose searcher reranks by
    itself (late interaction) does so.

    Args:
        encoder: encodes the queries as it encoded the documents.
        blocks: encoded documents in memory, or paths of saved ones, which are memory-mapped;
            together they hold ``len(ids)`` documents in the order of ``ids``. Those of a
            bi-encoder are arrays [n, d] and ``.npy`` files.
        ids: names the documents.

    Raises:
        ValueError: numbers of vectors and ids differ.
    """

    def __init__(
        self, encoder: CorpusEncoder | QueryEncoder, blocks: Sequence[Any], ids: DocumentIds
    ) -> None:
        self._own: _DocumentReranker | None = None
        searcher = encoder.searcher(blocks, ids) if hasattr(encoder, "searcher") else None
        if isinstance(searcher, _DocumentReranker):
            self._own = searcher
            return
        self._encoder = cast("QueryEncoder", encoder)
        self._blocks: list[npt.NDArray[np.float32]] = [
            block
            if isinstance(block, np.ndarray)
            else np.load(block, mmap_mode="r", allow_pickle=False)
            for block in blocks
        ]
        self._ends = np.cumsum([len(block) for block in self._blocks], dtype=np.int64)
        self._ids = ids
        held = int(self._ends[-1]) if self._blocks else 0
        if held != len(ids):
            raise ValueError(f"{held} vectors for {len(ids)} documents")

    def rerank(self, queries: Sequence[Query], candidates: Run, corpus: Corpus, top_k: int) -> Run:
        """The ``top_k`` best candidates of each query; ties broken by document id, ascending.

        The candidates' scores and order do not matter, and the corpus is not read: its documents
        are encoded. The document that is the query itself is left out; a query without candidates
        gets an empty ranking.

        Raises:
            DataError: a candidate has no vector.
            ModelError: a score is no number.
        """
        if self._own is not None:
            return self._own.rerank(queries, candidates, corpus, top_k)
        if top_k < 1:
            raise ValueError("top_k is at least 1")
        if len({query.query_id for query in queries}) != len(queries):
            raise ValueError("a query id stands twice among the queries")
        vectors = self._encoder.encode_queries(queries)
        run: Run = {}
        for query, vector in zip(queries, vectors, strict=True):
            found = [
                doc_id
                for doc_id in candidates.get(query.query_id, {})
                if doc_id != query.own_doc_id
            ]
            scores = self._scores(np.asarray(vector, np.float32), found)
            if not np.isfinite(scores).all():
                raise ModelError(
                    "Vectors hold values that are no numbers.",
                    hint="The retriever's training diverged: lower train.learning_rate.",
                )
            run[query.query_id] = dict(zip(found, scores.tolist(), strict=True))
        return restrict(run, top_k)

    def _scores(
        self, query: npt.NDArray[np.float32], doc_ids: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Dot products [n] with the documents of these ids, in order."""
        places = np.array([self._position(doc_id) for doc_id in doc_ids], dtype=np.int64)
        block_of = np.searchsorted(self._ends, places, side="right")
        scores = np.empty(len(places), dtype=np.float64)
        for number in np.unique(block_of).tolist():
            block = self._blocks[number]
            here = np.flatnonzero(block_of == number)
            rows = places[here] - (int(self._ends[number]) - len(block))
            # In the order of the file: a memory-mapped one is then read from front to back.
            by_row = np.argsort(rows)
            part = np.asarray(block[rows[by_row]], np.float32).astype(np.float64)
            scores[here[by_row]] = (part * query.astype(np.float64)).sum(axis=1)
        return scores

    def _position(self, doc_id: str) -> int:
        try:
            return self._ids.position(doc_id)
        except KeyError:
            raise DataError(
                f"Document {doc_id} is to be reranked, and it has no vector.",
                hint="Search again: the candidates belong to another collection.",
            ) from None
