"""Exact search over document vectors, block by block.

A first pass in float32 finds candidates with a margin that covers its rounding; only those are
scored again in float64, each on its own. So the answer does not depend on how the vectors were cut
into blocks, equal vectors get equal scores, and ties are really broken by document id. All queries
are compared and cut off together, since a loop over them would take longer than the products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sptar.errors import ModelError
from sptar.retrieval.ranking import Best, DocumentIds, own_position
from sptar.types import Query, Run

__all__ = ["DenseIndex", "DenseSearcher", "QueryEncoder"]

Vectors = npt.NDArray[np.float32]


_REMEMBERED_IDS = 1 << 20
_QUERIES_AT_ONCE = 1024
_SCORES_AT_ONCE = 1 << 21
"""Scores of the first pass that stay in the processor's cache (8 MiB)."""
_PACKED_FROM = 16
"""For fewer queries the vectors are read faster than a product would be prepared."""
_RESCORED_AT_ONCE = 2048


@dataclass(frozen=True)
class _File:
    """A ``.npy`` file of vectors; only the rows at work are mapped, and only while they are."""

    path: Path
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: str | Path) -> _File:
        return cls(Path(path), np.load(path, mmap_mode="r", allow_pickle=False).shape)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.floating]:
        # Copy on write: nobody writes, but torch complains of vectors that cannot be written to.
        vectors: npt.NDArray[np.floating] = np.load(self.path, mmap_mode="c", allow_pickle=False)
        return vectors[rows]


class _Group:
    """Queries that are compared together, and their best documents so far.

    Candidates wait until there are as many as the best are, and are then taken in query by query.
    """

    def __init__(
        self, vectors: Vectors, own: npt.NDArray[np.int64], top_k: int, id_of: Callable[[int], str]
    ) -> None:
        self._vectors = vectors
        self._own = own
        self._top_k = top_k
        self._lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        self._products = _products(vectors, self._margins(1.0))
        self._best = [Best(top_k, id_of) for _ in vectors]
        self._thresholds = np.full(len(vectors), -np.inf)
        self._waiting: list[tuple[npt.NDArray[np.number], ...]] = []

    def _margins(self, longest: float) -> npt.NDArray[np.float64]:
        # Bound on the error of a float32 dot product of d terms, with room to spare.
        margins: npt.NDArray[np.float64] = self._lengths * (
            2.0 * (self._vectors.shape[1] + 2) * 2.0**-24 * longest
        )
        return margins

    def compare(self, first: int, block: Vectors, longest: float) -> None:
        """Take in a block whose first row is document ``first``, its longest vector so long."""
        margins = self._margins(longest)
        step = max(1, _SCORES_AT_ONCE // len(self._vectors))
        for start in range(0, len(block), step):
            part = block[start : start + step]
            rough = self._products(part)
            own = self._own - first - start
            inside = np.flatnonzero((own >= 0) & (own < len(part)))
            rough[own[inside], inside] = -np.inf
            near = rough >= _below(self._thresholds - margins)
            if len(part) > self._top_k and np.count_nonzero(near) > near.size // 8:
                # The k-th score of these and a candidate's may both be off by the margin.
                kth = np.partition(rough.T, len(part) - self._top_k)[:, -self._top_k]
                near &= rough >= _below(kth - 2 * margins)
            rows, queries = np.nonzero(near)
            self._waiting.append(
                (queries, rows + (first + start), self._exact(part, rows, queries))
            )
            if (
                sum(len(queries) for queries, *_ in self._waiting)
                >= self._thresholds.size * self._top_k
            ):
                self._take_in()

    def _exact(
        self, part: Vectors, rows: npt.NDArray[np.int64], queries: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        scores = np.empty(len(rows))
        for start in range(0, len(rows), _RESCORED_AT_ONCE):
            some = slice(start, start + _RESCORED_AT_ONCE)
            asked = self._vectors[queries[some]].astype(np.float64)
            scores[some] = (part[rows[some]].astype(np.float64) * asked).sum(axis=1)
        return scores

    def _take_in(self) -> None:
        queries, positions, scores = map(np.concatenate, zip(*self._waiting, strict=True))
        order = np.argsort(queries, kind="stable")
        ends = np.cumsum(np.bincount(queries, minlength=len(self._best)))
        for query in np.flatnonzero(np.diff(ends, prepend=0)):
            found = order[ends[query - 1] if query else 0 : ends[query]]
            self._best[query].add(positions[found], scores[found])
            self._thresholds[query] = self._best[query].threshold
        self._waiting = []

    def ranked(self) -> list[dict[str, float]]:
        """The best documents of each query."""
        if self._waiting:
            self._take_in()
        return [best.ranked() for best in self._best]


def _below(bounds: npt.NDArray[np.float64]) -> Vectors:
    """In float32, not above what was given; never -inf, which stands for what is left out."""
    lowest = np.finfo(np.float32).min
    rounded = np.maximum(bounds, float(lowest)).astype(np.float32)
    return np.maximum(np.nextafter(rounded, lowest), lowest)


def _products(vectors: Vectors, margins: npt.NDArray[np.float64]) -> Callable[[Vectors], Vectors]:
    """Rows [n, d] to their float32 dot products [n, q] with the queries ``vectors`` [q, d]."""

    def plain(rows: Vectors) -> Vectors:
        return rows @ vectors.T

    if len(vectors) < _PACKED_FROM or not vectors.shape[1]:
        return plain
    import torch

    from sptar.tensors.products import Product, can_pack

    if not can_pack(torch.float32):
        return plain

    def tensor(values: Vectors) -> torch.Tensor:
        # torch warns of arrays that it must not write to, though nobody does.
        return torch.from_numpy(values if values.flags.writeable else values.copy())

    matrix = Product(tensor(vectors))

    def packed(rows: Vectors) -> Vectors:
        with torch.inference_mode():
            found: Vectors = matrix(tensor(rows)).numpy()
        return found

    # Settings of torch can round a product to fewer digits than the margins allow.
    sample = np.random.default_rng(0).standard_normal((8, vectors.shape[1]), dtype=np.float32)
    sample /= np.linalg.norm(sample, axis=1, keepdims=True) * np.float32(1.001)
    exact = sample.astype(np.float64) @ vectors.T.astype(np.float64)
    return packed if np.all(np.abs(packed(sample) - exact) <= margins) else plain


class DenseIndex:
    """Document vectors in the order of ``ids``, as one array or as several blocks.

    Args:
        vectors: an array [n, d], or arrays and ``.npy`` files that together hold n rows in order.
            Files are memory-mapped: only the rows at work are in memory.
        ids: names the documents; n of them.
        block_size: rows that are at work at once.

    Raises:
        ValueError: numbers of vectors and ids differ, or dimensions do.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.floating] | Sequence[npt.NDArray[np.floating] | str | Path],
        ids: DocumentIds,
        block_size: int = 16384,
    ) -> None:
        if block_size < 1:
            raise ValueError("block_size is at least 1")
        parts = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
        self._parts = [part if isinstance(part, np.ndarray) else _File.of(part) for part in parts]
        self._ids = ids
        self._block_size = block_size
        if any(len(part.shape) != 2 for part in self._parts):
            raise ValueError("vectors are arrays with two axes: documents, dimensions")
        if len({part.shape[1] for part in self._parts if part.shape[0]}) > 1:
            raise ValueError("blocks of vectors differ in dimension")
        if len(self) != len(ids):
            raise ValueError(f"{len(self)} vectors for {len(ids)} documents")

    def __len__(self) -> int:
        return sum(part.shape[0] for part in self._parts)

    def _blocks(self) -> Iterator[tuple[int, Vectors]]:
        first = 0
        for part in self._parts:
            for start in range(0, part.shape[0], self._block_size):
                block = np.ascontiguousarray(part[start : start + self._block_size], np.float32)
                yield first + start, block
            first += part.shape[0]

    def search(
        self, query_vectors: npt.NDArray[np.floating], queries: Sequence[Query], top_k: int
    ) -> Run:
        """The ``top_k`` documents with the largest dot product for each query.

        Args:
            query_vectors: [q, d]; row i belongs to ``queries[i]``.
            queries: their ids name the rankings; no id twice.
            top_k: documents for each query at most.

        Returns:
            Rankings, best first, ties by document id ascending (at the cut-off too). The
            document that is the query itself is left out. Scores are dot products in float64.
        """
        if top_k < 1:
            raise ValueError("top_k is at least 1")
        if len(query_vectors) != len(queries):
            raise ValueError(f"{len(query_vectors)} vectors for {len(queries)} queries")
        if len({query.query_id for query in queries}) != len(queries):
            raise ValueError("a query id stands twice among the queries")
        if not len(self):
            return {query.query_id: {} for query in queries}
        left = np.ascontiguousarray(query_vectors, np.float32)
        if not np.isfinite(left).all():
            raise ModelError(
                "Query vectors hold values that are no numbers.",
                hint="The retriever's training diverged: lower train.learning_rate.",
            )
        own = np.array(
            [own_position(query, self._ids) for query in queries],
            dtype=np.int64,
        )
        # A corpus on disk parses a line for each id, and many queries find the same documents.
        id_of = lru_cache(maxsize=_REMEMBERED_IDS)(self._ids.doc_id)
        groups = [
            _Group(left[part], own[part], min(top_k, len(self)), id_of)
            for part in (
                slice(start, start + _QUERIES_AT_ONCE)
                for start in range(0, len(left), _QUERIES_AT_ONCE)
            )
        ]
        for first, block in self._blocks():
            longest = _longest(block)
            for group in groups:
                group.compare(first, block, longest)
        rankings = (found for group in groups for found in group.ranked())
        return {query.query_id: found for query, found in zip(queries, rankings, strict=True)}


def _longest(block: Vectors) -> float:
    """Length of the longest vector, a thousandth part exact.

    Raises:
        ModelError: values that are no numbers.
    """
    largest = float(np.einsum("ij,ij->i", block, block).max())
    # Squares of numbers that float32 holds can be too large, or too small, for it.
    if 1e-30 < largest < np.inf:
        return math.sqrt(largest)
    if not np.isfinite(block).all():
        raise ModelError(
            "Document vectors hold values that are no numbers.",
            hint="The retriever's training diverged: lower train.learning_rate.",
        )
    return float(np.linalg.norm(block.astype(np.float64), axis=1).max())


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
