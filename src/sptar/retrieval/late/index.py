"""Exact MaxSim search over the token vectors of a corpus, all of it or some candidates.

As in :mod:`sptar.retrieval.dense.index`, a first pass in float32 finds what can be among the best,
with a margin that covers its rounding, and only that is scored exactly. So the answer does not
depend on how the corpus was cut into blocks or pieces, and candidates get the scores of a full
search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sptar.errors import DataError
from sptar.retrieval.late.scores import MaxSim, TokenVectors, longest_vector
from sptar.retrieval.ranking import Best, DocumentIds, own_position
from sptar.types import Corpus, Query, Run

__all__ = ["LateIndex", "LateSearcher", "QueryTokenEncoder"]

_REMEMBERED_IDS = 1 << 20


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some texts of a block: from position ``first`` of the corpus, ``start`` of the block."""

    block: int
    start: int
    stop: int
    first: int


class LateIndex:
    """Token vectors of documents in the order of ``ids``, as one block or several.

    Args:
        blocks: in memory, or files that :meth:`TokenVectors.save` wrote. Files are memory-mapped:
            only the piece at work is read.
        ids: names the documents; as many as the blocks hold together.
        tokens_at_once: tokens compared at once, or those of one document where it has more. With
            the 1,024 query tokens compared with them, the default needs 32 MiB.

    Raises:
        ValueError: numbers of documents and ids differ, or dimensions do.
        WorkspaceError: a file is missing or damaged.
    """

    def __init__(
        self,
        blocks: TokenVectors | Sequence[TokenVectors | str | Path],
        ids: DocumentIds,
        tokens_at_once: int = 8192,
    ) -> None:
        if tokens_at_once < 1:
            raise ValueError("tokens_at_once is at least 1")
        given = [blocks] if isinstance(blocks, TokenVectors) else blocks
        self._blocks = [
            block if isinstance(block, TokenVectors) else TokenVectors.open(Path(block))
            for block in given
        ]
        self._ids = ids
        self._tokens_at_once = tokens_at_once
        self._ends = np.cumsum([0, *map(len, self._blocks)], dtype=np.int64)
        if len({block.dimension for block in self._blocks if len(block)}) > 1:
            raise ValueError("blocks of token vectors differ in dimension")
        if len(self) != len(ids):
            raise ValueError(f"token vectors of {len(self)} documents for {len(ids)} ids")
        self._pieces = list(self._cut())
        # Lengths are looked at once and not for each search.
        self._longest: dict[int, float] = {}
        # A corpus on disk parses a line for each id, and many queries find the same documents.
        self._id_of = lru_cache(maxsize=_REMEMBERED_IDS)(ids.doc_id)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _cut(self) -> Iterator[_Piece]:
        for number, block in enumerate(self._blocks):
            start = 0
            while start < len(block):
                room = block.offsets[start] + self._tokens_at_once
                fitting = int(np.searchsorted(block.offsets, room, side="right")) - 1
                stop = max(start + 1, fitting)
                yield _Piece(number, start, stop, int(self._ends[number]) + start)
                start = stop

    def _read(self, number: int) -> tuple[TokenVectors, float]:
        """A piece and the length of its longest vector."""
        piece = self._pieces[number]
        texts = self._blocks[piece.block].slice(piece.start, piece.stop)
        if number not in self._longest:
            self._longest[number] = longest_vector(texts.vectors, "Document")
        return texts, self._longest[number]

    def search(
        self,
        query_vectors: TokenVectors,
        queries: Sequence[Query],
        top_k: int,
        candidates: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Run:
        """The ``top_k`` documents with the largest MaxSim for each query.

        Args:
            query_vectors: text i belongs to ``queries[i]``.
            queries: their ids name the rankings; no id twice.
            top_k: documents for each query at most.
            candidates: query id → document ids to compare it with, such as another run; a query
                that has none gets an empty ranking. ``None`` compares with all documents.

        Returns:
            Rankings, best first, ties by document id ascending (at the cut-off too). The
            document that is the query itself is left out. Scores are exact, see :class:`MaxSim`.

        Raises:
            DataError: a candidate is no document of the index.
            ModelError: a vector is no number.
        """
        if top_k < 1:
            raise ValueError("top_k is at least 1")
        if len(query_vectors) != len(queries):
            raise ValueError(f"token vectors of {len(query_vectors)} for {len(queries)} queries")
        if len({query.query_id for query in queries}) != len(queries):
            raise ValueError("a query id stands twice among the queries")
        compare = MaxSim(query_vectors)
        best = [Best(top_k, self._id_of) for _ in queries]
        if candidates is None:
            own = [own_position(query, self._ids) for query in queries]
            self._search_all(compare, best, own, top_k)
        else:
            for number, query in enumerate(queries):
                wanted = candidates.get(query.query_id, {})
                positions = self._positions(query, wanted)
                self._search_some(compare, number, best[number], positions)
        return {query.query_id: found.ranked() for query, found in zip(queries, best, strict=True)}

    def _search_all(self, compare: MaxSim, best: list[Best], own: list[int], top_k: int) -> None:
        for number, place in enumerate(self._pieces):
            piece, longest = self._read(number)
            margins = compare.margins(longest)
            for first in range(0, len(best), compare.queries_at_once):
                last = min(first + compare.queries_at_once, len(best))
                similar = compare.similarities(piece, first, last)
                scores = compare.rough(similar, piece, first, last)
                for query, rough in enumerate(scores, start=first):
                    if 0 <= own[query] - place.first < len(piece):
                        rough[own[query] - place.first] = -np.inf
                    texts = _promising(rough, best[query].threshold, float(margins[query]), top_k)
                    if len(texts):
                        exact = compare.exact(similar, piece, query, first, texts, longest)
                        best[query].add(texts + place.first, exact)

    def _positions(self, query: Query, wanted: Mapping[str, float]) -> npt.NDArray[np.int64]:
        """Positions of the candidates, ascending, without the query's own document."""
        positions = []
        for doc_id in wanted:
            if doc_id not in self._ids:
                raise DataError(
                    f"Document {doc_id}, a candidate of query {query.query_id}, is not in the "
                    "index.",
                    hint="Candidates and index belong to different collections: make them again.",
                )
            if doc_id != query.own_doc_id:
                positions.append(self._ids.position(doc_id))
        return np.array(sorted(positions), np.int64)

    def _search_some(
        self, compare: MaxSim, query: int, best: Best, positions: npt.NDArray[np.int64]
    ) -> None:
        block_of = np.searchsorted(self._ends, positions, side="right") - 1
        for number in np.unique(block_of).tolist():
            block = self._blocks[number]
            inside = positions[block_of == number] - self._ends[number]
            tokens = np.cumsum(block.lengths[inside])
            while len(inside):
                count = max(1, int(np.searchsorted(tokens, self._tokens_at_once, side="right")))
                piece = block.take(inside[:count])
                longest = longest_vector(piece.vectors, "Document")
                similar = compare.similarities(piece, query, query + 1)
                everything = np.arange(count)
                exact = compare.exact(similar, piece, query, query, everything, longest)
                best.add(inside[:count] + self._ends[number], exact)
                inside, tokens = inside[count:], tokens[count:] - tokens[count - 1]


def _promising(
    rough: npt.NDArray[np.float64], threshold: float, margin: float, top_k: int
) -> npt.NDArray[np.int64]:
    """Texts that can be among the best ``top_k`` when scores are off by the margin."""
    texts = np.flatnonzero((rough >= threshold - margin) & (rough > -np.inf))
    if len(texts) > top_k:
        # The k-th score of these and a candidate's may both be off by the margin.
        close = rough[texts]
        kth = float(np.partition(close, len(close) - top_k)[len(close) - top_k])
        texts = texts[close >= kth - 2 * margin]
    return texts


class QueryTokenEncoder(Protocol):
    """Turns queries into token vectors."""

    def encode_queries(self, queries: Sequence[Query]) -> TokenVectors:
        """Those of each query, in order."""
        ...


class LateSearcher:
    """A :class:`sptar.types.Searcher`: encodes the queries, then searches the index.

    It is a :class:`sptar.retrieval.retriever.Reranker` too, over the vectors of the index.
    """

    def __init__(self, encoder: QueryTokenEncoder, index: LateIndex) -> None:
        self._encoder = encoder
        self._index = index

    def search(self, queries: Sequence[Query], top_k: int, candidates: Run | None = None) -> Run:
        """The best ``top_k`` documents of each query; ties broken by document id, ascending.

        With ``candidates`` only the documents that they name for a query are compared with it.
        """
        vectors = self._encoder.encode_queries(queries)
        return self._index.search(vectors, queries, top_k, candidates)

    def rerank(self, queries: Sequence[Query], candidates: Run, corpus: Corpus, top_k: int) -> Run:
        """The ``top_k`` best candidates of each query; ``corpus`` is not read."""
        del corpus
        return self.search(queries, top_k, candidates)
