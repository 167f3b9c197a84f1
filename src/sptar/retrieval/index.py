"""Exact search over document vectors, block by block.

A first pass in float32 finds candidates with a margin that covers its rounding; only those are
scored again in float64, each on its own. So the answer does not depend on how the vectors were cut
into blocks, equal vectors get equal scores, and ties are really broken by document id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sptar.errors import ModelError
from sptar.types import Document, Query, Run

__all__ = ["DenseIndex", "DenseSearcher", "DocumentIds", "ListedIds", "QueryEncoder"]

Vectors = npt.NDArray[np.float32]


_REMEMBERED_IDS = 1 << 20


class DocumentIds(Protocol):
    """Ids by position, from 0; :class:`sptar.types.Corpus` is one."""

    def __len__(self) -> int: ...

    def __contains__(self, doc_id: object) -> bool: ...

    def position(self, doc_id: str) -> int: ...

    def doc_id(self, position: int) -> str: ...


class ListedIds:
    """The ids of documents in memory."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._ids = [document.doc_id for document in documents]
        self._positions = {doc_id: position for position, doc_id in enumerate(self._ids)}
        if len(self._positions) != len(self._ids):
            raise ValueError("a document id stands twice among the documents")

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._positions

    def position(self, doc_id: str) -> int:
        """Position of an id; ``KeyError`` when it is not listed."""
        return self._positions[doc_id]

    def doc_id(self, position: int) -> str:
        """Id at a position."""
        return self._ids[position]


class _Best:
    """The best ``top_k`` documents of one query so far; ``id_of`` gives the id at a position."""

    def __init__(self, top_k: int, id_of: Callable[[int], str]) -> None:
        self._top_k = top_k
        self._id_of = id_of
        self.positions = np.empty(0, dtype=np.int64)
        self.scores = np.empty(0, dtype=np.float64)

    @property
    def threshold(self) -> float:
        """What a document must reach to matter."""
        return float(self.scores.min()) if len(self.scores) == self._top_k else -np.inf

    def add(self, positions: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> None:
        positions = np.concatenate([self.positions, positions])
        scores = np.concatenate([self.scores, scores])
        if len(scores) > self._top_k:
            cut = np.partition(scores, len(scores) - self._top_k)[len(scores) - self._top_k]
            sure = np.flatnonzero(scores > cut)
            tied = np.flatnonzero(scores == cut)
            room = self._top_k - len(sure)
            if len(tied) > room:
                by_id = sorted(tied.tolist(), key=lambda i: self._id_of(int(positions[i])))
                tied = np.array(by_id[:room], dtype=np.int64)
            kept = np.concatenate([sure, tied])
            positions, scores = positions[kept], scores[kept]
        self.positions, self.scores = positions, scores

    def ranked(self) -> dict[str, float]:
        found = [
            (self._id_of(position), score)
            for position, score in zip(self.positions.tolist(), self.scores.tolist(), strict=True)
        ]
        return dict(sorted(found, key=lambda item: (-item[1], item[0])))


class DenseIndex:
    """Document vectors in the order of ``ids``, as one array or as several blocks.

    Args:
        vectors: an array [n, d], or arrays and ``.npy`` files that together hold n rows in order.
            Files are memory-mapped: only the rows at work are read.
        ids: names the documents; n of them.
        block_size: rows compared at once.

    Raises:
        ValueError: numbers of vectors and ids differ, or dimensions do.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.floating] | Sequence[npt.NDArray[np.floating] | str | Path],
        ids: DocumentIds,
        block_size: int = 8192,
    ) -> None:
        if block_size < 1:
            raise ValueError("block_size is at least 1")
        parts = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
        self._parts: list[npt.NDArray[np.floating]] = [
            part
            if isinstance(part, np.ndarray)
            else np.load(part, mmap_mode="r", allow_pickle=False)
            for part in parts
        ]
        self._ids = ids
        self._block_size = block_size
        if any(part.ndim != 2 for part in self._parts):
            raise ValueError("vectors are arrays with two axes: documents, dimensions")
        if len({part.shape[1] for part in self._parts if len(part)}) > 1:
            raise ValueError("blocks of vectors differ in dimension")
        if len(self) != len(ids):
            raise ValueError(f"{len(self)} vectors for {len(ids)} documents")

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def _blocks(self) -> Iterator[tuple[int, Vectors]]:
        first = 0
        for part in self._parts:
            for start in range(0, len(part), self._block_size):
                block = np.ascontiguousarray(part[start : start + self._block_size], np.float32)
                if not np.isfinite(block).all():
                    raise ModelError(
                        "Document vectors hold values that are no numbers.",
                        hint="The retriever's training diverged: lower train.learning_rate.",
                    )
                yield first + start, block
            first += len(part)

    def search(
        self, query_vectors: npt.NDArray[np.floating], queries: Sequence[Query], top_k: int
    ) -> Run:
        """The ``top_k`` documents with the largest dot product for each query.

        Args:
            query_vectors: [q, d]; row i belongs to ``queries[i]``.
            queries: their ids name the rankings; no id twice.
            top_k: documents for each query at most.

        Returns:
            Rankings, best first, ties by document id ascending (at the cut-off too). A document
            whose id equals the query's is left out. Scores are dot products in float64.
        """
        if top_k < 1:
            raise ValueError("top_k is at least 1")
        if len(query_vectors) != len(queries):
            raise ValueError(f"{len(query_vectors)} vectors for {len(queries)} queries")
        if len({query.query_id for query in queries}) != len(queries):
            raise ValueError("a query id stands twice among the queries")
        left = np.ascontiguousarray(query_vectors, np.float32)
        if not np.isfinite(left).all():
            raise ModelError(
                "Query vectors hold values that are no numbers.",
                hint="The retriever's training diverged: lower train.learning_rate.",
            )
        own = [
            self._ids.position(query.query_id) if query.query_id in self._ids else -1
            for query in queries
        ]
        # A corpus on disk parses a line for each id, and many queries find the same documents.
        id_of = lru_cache(maxsize=_REMEMBERED_IDS)(self._ids.doc_id)
        best = [_Best(top_k, id_of) for _ in queries]
        lengths = np.linalg.norm(left.astype(np.float64), axis=1) if len(left) else np.zeros(0)
        for first, block in self._blocks():
            longest = float(np.linalg.norm(block.astype(np.float64), axis=1).max())
            # Bound on the error of a float32 dot product of d terms, with room to spare.
            margins = 2.0 * (block.shape[1] + 2) * 2.0**-24 * longest * lengths
            # At most 2^23 scores (32 MiB) at once.
            width = max(1, (1 << 23) // len(block))
            for start in range(0, len(left), width):
                scores = left[start : start + width] @ block.T
                for row, rough in enumerate(scores, start=start):
                    if first <= own[row] < first + len(block):
                        rough[own[row] - first] = -np.inf
                    self._take(
                        best[row], rough, float(margins[row]), left[row], block, first, top_k
                    )
        return {query.query_id: found.ranked() for query, found in zip(queries, best, strict=True)}

    @staticmethod
    def _take(
        best: _Best,
        rough: Vectors,
        margin: float,
        query: Vectors,
        block: Vectors,
        first: int,
        top_k: int,
    ) -> None:
        rows = np.flatnonzero((rough >= best.threshold - margin) & (rough > -np.inf))
        if len(rows) > top_k:
            # The k-th score of these and a candidate's may both be off by the margin.
            close = rough[rows]
            kth = float(np.partition(close, len(close) - top_k)[len(close) - top_k])
            rows = rows[close >= kth - 2 * margin]
        if len(rows):
            exact = (block[rows].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
            best.add(rows + first, exact)


class QueryEncoder(Protocol):
    """Turns queries into vectors."""

    def encode_queries(self, queries: Sequence[Query]) -> Vectors:
        """[q, d] in the order of the queries."""
        ...


class DenseSearcher:
    """A :class:`sptar.types.Searcher`: encodes the queries, then searches the index."""

    def __init__(self, encoder: QueryEncoder, index: DenseIndex) -> None:
        self._encoder = encoder
        self._index = index

    def search(self, queries: Sequence[Query], top_k: int) -> Run:
        """The best ``top_k`` documents of each query; ties broken by document id, ascending."""
        return self._index.search(self._encoder.encode_queries(queries), queries, top_k)
