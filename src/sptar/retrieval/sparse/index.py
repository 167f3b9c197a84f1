"""Exact search over sparse document vectors, slice by slice.

A score is summed in float64 over the words that query and document share, in ascending order of
the words, and the product of two float32 weights is exact in float64. So a score depends on the
two vectors alone, not on the cut into blocks or slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from sptar.errors import DataError, ModelError
from sptar.io import atomic_path
from sptar.retrieval.ranking import Best, DocumentIds, own_position
from sptar.types import Query, Run

__all__ = [
    "SparseIndex",
    "SparseQueryEncoder",
    "SparseSearcher",
    "SparseVectors",
    "save_sparse_block",
    "sparse_rows",
]

SparseVectors: TypeAlias = Any
"""A SciPy CSR matrix [n, words], float32, its column indices sorted within each row."""

_WEIGHTS_AT_ONCE = 1 << 23
"""Weights of document vectors in one slice: about 250 MB while it is searched."""
_SCORES_AT_ONCE = 1 << 22
_REMEMBERED_IDS = 1 << 20


def sparse_rows(
    weights: npt.NDArray[np.float32],
    words: npt.NDArray[np.integer],
    row_starts: npt.NDArray[np.integer],
    dimension: int,
) -> SparseVectors:
    """Vectors from the parts of a CSR matrix: row i has words[row_starts[i]:row_starts[i + 1]]."""
    shape = (len(row_starts) - 1, dimension)
    rows = sparse.csr_matrix((weights.astype(np.float32), words, row_starts), shape=shape)
    rows.eliminate_zeros()
    rows.sort_indices()
    return rows


def save_sparse_block(path: Path, block: SparseVectors) -> None:
    """Write vectors as safetensors: ``weights``, ``words``, ``row_starts`` and ``dimension``."""
    tensors = {
        "weights": np.ascontiguousarray(block.data, np.float32),
        "words": np.ascontiguousarray(block.indices, np.int32),
        "row_starts": np.ascontiguousarray(block.indptr, np.int64),
        "dimension": np.array([block.shape[1]], np.int64),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


class _Block:
    """Vectors in memory, or in a file of which only the rows at work are read."""

    def __init__(self, source: SparseVectors | str | Path) -> None:
        self._path: Path | None = None
        self._rows: SparseVectors = None
        if not isinstance(source, str | Path):
            self._rows = source
            self.row_starts = np.asarray(source.indptr, np.int64)
            self.dimension = int(source.shape[1])
            return
        self._path = Path(source)
        try:
            with safe_open(self._path, framework="numpy") as stored:
                self.row_starts = stored.get_tensor("row_starts")
                self.dimension = int(stored.get_tensor("dimension")[0])
        except (FileNotFoundError, SafetensorError) as error:
            raise DataError(
                f"the sparse vectors cannot be read: {error}.",
                path=self._path,
                hint="Encode the corpus again.",
            ) from None

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    def slices(self, weights_at_once: int) -> Iterator[tuple[int, SparseVectors]]:
        """First row and vectors of consecutive slices with about so many weights at most."""
        first = 0
        while first < len(self):
            room = self.row_starts[first] + weights_at_once
            last = int(np.searchsorted(self.row_starts, room, side="right")) - 1
            last = max(last, first + 1)
            yield first, self._part(first, last)
            first = last

    def _part(self, first: int, last: int) -> SparseVectors:
        if self._path is None:
            return self._rows[first:last]
        begin, end = int(self.row_starts[first]), int(self.row_starts[last])
        with safe_open(self._path, framework="numpy") as stored:
            weights = stored.get_slice("weights")[begin:end]
            words = stored.get_slice("words")[begin:end]
        return sparse.csr_matrix(
            (weights, words, self.row_starts[first : last + 1] - begin),
            shape=(last - first, self.dimension),
        )


class SparseIndex:
    """Sparse document vectors in the order of ``ids``.

    Args:
        blocks: vectors in memory and files of :func:`save_sparse_block` that together hold
            ``len(ids)`` rows in order.
        ids: names the documents.
        weights_at_once: non-zero weights of documents that are searched at once; one document's
            are, however many.

    Raises:
        DataError: a file cannot be read.
        ValueError: numbers of vectors and ids differ, or dimensions do.
    """

    def __init__(
        self,
        blocks: Sequence[SparseVectors | str | Path],
        ids: DocumentIds,
        weights_at_once: int = _WEIGHTS_AT_ONCE,
    ) -> None:
        if weights_at_once < 1:
            raise ValueError("weights_at_once is at least 1")
        self._blocks = [_Block(block) for block in blocks]
        self._ids = ids
        self._weights_at_once = weights_at_once
        dimensions = {block.dimension for block in self._blocks}
        if len(dimensions) > 1:
            raise ValueError("blocks of vectors differ in dimension")
        self._dimension = dimensions.pop() if dimensions else None
        if len(self) != len(ids):
            raise ValueError(f"{len(self)} vectors for {len(ids)} documents")

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    def search(self, query_vectors: SparseVectors, queries: Sequence[Query], top_k: int) -> Run:
        """The ``top_k`` documents with the largest dot product for each query.

        Args:
            query_vectors: [q, words]; row i belongs to ``queries[i]``.
            queries: their ids name the rankings; no id twice.
            top_k: documents for each query at most.

        Returns:
            Rankings, best first, ties by document id ascending (at the cut-off too). A document
            that shares no word with the query, so that its score is 0, is not found, as with BM25.
            The one that is the query itself is left out.

        Raises:
            ModelError: a vector holds values that are no numbers.
        """
        if top_k < 1:
            raise ValueError("top_k is at least 1")
        if query_vectors.shape[0] != len(queries):
            raise ValueError(f"{query_vectors.shape[0]} vectors for {len(queries)} queries")
        if len({query.query_id for query in queries}) != len(queries):
            raise ValueError("a query id stands twice among the queries")
        if self._dimension not in (None, query_vectors.shape[1]):
            raise ValueError("vectors of queries and documents differ in dimension")
        left = _checked(query_vectors, "Query")
        own = [own_position(query, self._ids) for query in queries]
        # A corpus on disk parses a line for each id, and many queries find the same documents.
        id_of = lru_cache(maxsize=_REMEMBERED_IDS)(self._ids.doc_id)
        best = [Best(top_k, id_of) for _ in queries]
        for first, part in self._slices():
            right = _checked(part, "Document").T.tocsr()
            width = max(1, _SCORES_AT_ONCE // part.shape[0])
            for start in range(0, len(queries), width):
                scores = left[start : start + width] @ right
                for row in range(scores.shape[0]):
                    found = slice(scores.indptr[row], scores.indptr[row + 1])
                    positions = scores.indices[found].astype(np.int64) + first
                    values = scores.data[found]
                    one = best[start + row]
                    wanted = (values >= one.threshold) & (values != 0.0)
                    wanted &= positions != own[start + row]
                    if wanted.any():
                        one.add(positions[wanted], values[wanted])
        return {query.query_id: one.ranked() for query, one in zip(queries, best, strict=True)}

    def _slices(self) -> Iterator[tuple[int, SparseVectors]]:
        before = 0
        for block in self._blocks:
            for first, part in block.slices(self._weights_at_once):
                yield before + first, part
            before += len(block)


def _checked(vectors: SparseVectors, whose: str) -> SparseVectors:
    """The vectors in float64, words ascending within a row."""
    if not np.isfinite(vectors.data).all():
        raise ModelError(
            f"{whose} vectors hold values that are no numbers.",
            hint="The retriever's training diverged: lower train.learning_rate.",
        )
    exact = vectors.astype(np.float64)
    exact.sort_indices()
    return exact


class SparseQueryEncoder(Protocol):
    """Turns queries into sparse vectors."""

    def encode_queries(self, queries: Sequence[Query]) -> SparseVectors:
        """[q, words] in the order of the queries."""
        ...


class SparseSearcher:
    """A :class:`sptar.types.Searcher`: encodes the queries, then searches the index."""

    def __init__(self, encoder: SparseQueryEncoder, index: SparseIndex) -> None:
        self._encoder = encoder
        self._index = index

    def search(self, queries: Sequence[Query], top_k: int) -> Run:
        """The best ``top_k`` documents of each query; ties broken by document id, ascending."""
        return self._index.search(self._encoder.encode_queries(queries), queries, top_k)
