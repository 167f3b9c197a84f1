"""Ids by position, and the best documents of a query so far: ties go to the smaller id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sptar.types import Document, Query

__all__ = ["Best", "DocumentIds", "ListedIds", "own_position"]


class DocumentIds(Protocol):
    """Ids by position, from 0; :class:`sptar.types.Corpus` is one."""

    def __len__(self) -> int: ...

    def __contains__(self, doc_id: object) -> bool: ...

    def position(self, doc_id: str) -> int: ...

    def doc_id(self, position: int) -> str: ...


def own_position(query: Query, ids: DocumentIds) -> int:
    """Position of the document that is the query itself; -1 where there is none."""
    own = query.own_doc_id
    return ids.position(own) if own is not None and own in ids else -1


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


class Best:
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
