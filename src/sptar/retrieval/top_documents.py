"""The best documents of many queries at once, found so far."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["TopDocuments"]

_CELLS = 1 << 21
"""Scores compared at once."""


class TopDocuments:
    """The best ``top_k`` documents of each of q queries; ties go to the smaller id.

    Args:
        queries: q.
        top_k: documents kept for each.
        id_of: the id at a position.
    """

    def __init__(self, queries: int, top_k: int, id_of: Callable[[int], str]) -> None:
        self.queries = queries
        self._top_k = top_k
        self._id_of = id_of
        self._positions = np.full((queries, top_k), -1, dtype=np.int64)
        self._scores = np.full((queries, top_k), -np.inf)

    @property
    def thresholds(self) -> npt.NDArray[np.float64]:
        """[q] What a document must reach to matter; -inf while fewer than ``top_k`` are known."""
        smallest: npt.NDArray[np.float64] = self._scores.min(axis=1)
        return smallest

    def add(
        self,
        queries: npt.NDArray[np.integer],
        positions: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float64],
    ) -> None:
        """Take in documents with finite scores, each for a query: three arrays [n], the first
        ascending. No document twice for a query.
        """
        asked, starts, counts = np.unique(queries, return_index=True, return_counts=True)
        # Queries with many new documents go together: rows of a table are equally long.
        order = np.argsort(-counts, kind="stable")
        done = 0
        while done < len(order):
            widest = int(counts[order[done]])
            rows = order[done : done + max(1, _CELLS // (self._top_k + widest))]
            done += len(rows)
            self._merge(asked[rows], starts[rows], counts[rows], positions, scores)

    def _merge(
        self,
        asked: npt.NDArray[np.integer],
        starts: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float64],
    ) -> None:
        places = np.arange(int(counts.max()))
        filled = places < counts[:, None]
        source = np.where(filled, starts[:, None] + places, 0)
        all_positions = np.hstack([self._positions[asked], np.where(filled, positions[source], -1)])
        all_scores = np.hstack([self._scores[asked], np.where(filled, scores[source], -np.inf)])
        rest = len(places)
        kept = np.argpartition(all_scores, rest, axis=1)[:, rest:]
        kept_scores = np.take_along_axis(all_scores, kept, axis=1)
        cuts = kept_scores.min(axis=1)
        enough = np.count_nonzero(all_scores >= cuts[:, None], axis=1)
        for row in np.flatnonzero((enough > self._top_k) & (cuts > -np.inf)):
            kept[row] = self._by_id(all_positions[row], all_scores[row], cuts[row])
        self._positions[asked] = np.take_along_axis(all_positions, kept, axis=1)
        self._scores[asked] = np.take_along_axis(all_scores, kept, axis=1)

    def _by_id(
        self, positions: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], cut: float
    ) -> npt.NDArray[np.int64]:
        """Places of the ``top_k``, where more of them reach the cut."""
        sure = np.flatnonzero(scores > cut)
        tied = np.flatnonzero(scores == cut).tolist()
        tied.sort(key=lambda place: self._id_of(int(positions[place])))
        room = self._top_k - len(sure)
        return np.concatenate([sure, np.array(tied[:room], dtype=np.int64)])

    def ranked(self, query: int) -> dict[str, float]:
        """The documents of a query, best first, ties by id."""
        known = np.flatnonzero(self._positions[query] >= 0)
        known = known[np.argsort(-self._scores[query, known])]
        scores = self._scores[query, known]
        ids = [self._id_of(position) for position in self._positions[query, known].tolist()]
        found = list(zip(ids, scores.tolist(), strict=True))
        if np.any(scores[1:] == scores[:-1]):
            found.sort(key=lambda item: (-item[1], item[0]))
        return dict(found)
