"""Batches for training with in-batch negatives that hold no false negative.

In a batch every other document counts as wrong for a query. So two pairs may share a batch only if
neither document answers the other query, and no query or document stands in it twice.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

__all__ = ["conflict_free_batches"]

_CANDIDATES = 200
"""Batches looked at when a lone pair seeks company; bounds the time on hopeless input."""


class _Batch:
    def __init__(
        self,
        pairs: Sequence[tuple[Hashable, Hashable]],
        positives: Mapping[Any, AbstractSet[Any]],
    ) -> None:
        self._pairs = pairs
        self._positives = positives
        self.members: list[int] = []
        self._queries: set[Hashable] = set()
        self._documents: set[Hashable] = set()

    def fits(self, index: int) -> bool:
        query, document = self._pairs[index]
        return (
            query not in self._queries
            and document not in self._documents
            and self._documents.isdisjoint(self._positives[query])
            and all(document not in self._positives[other] for other in self._queries)
        )

    def add(self, index: int) -> None:
        query, document = self._pairs[index]
        self.members.append(index)
        self._queries.add(query)
        self._documents.add(document)

    def remove(self, index: int) -> None:
        kept = [member for member in self.members if member != index]
        self.members = []
        self._queries, self._documents = set(), set()
        for member in kept:
            self.add(member)


def _fill(
    order: Sequence[int],
    pairs: Sequence[tuple[Hashable, Hashable]],
    positives: Mapping[Any, AbstractSet[Any]],
    batch_size: int,
) -> list[_Batch]:
    """Put each pair into the first batch that takes it."""
    batches: list[_Batch] = []
    open_numbers: list[int] = []
    # A later pair of a query (or document) starts to look behind the batch that got the last one:
    # without this, many pairs of one query would take quadratic time.
    behind_query: dict[Hashable, int] = {}
    behind_document: dict[Hashable, int] = {}
    for index in order:
        query, document = pairs[index]
        last = max(behind_query.get(query, -1), behind_document.get(document, -1))
        for place in range(bisect_right(open_numbers, last), len(open_numbers)):
            number = open_numbers[place]
            if batches[number].fits(index):
                break
        else:
            batches.append(_Batch(pairs, positives))
            number = len(batches) - 1
            place = len(open_numbers)
            open_numbers.append(number)
        batches[number].add(index)
        if len(batches[number].members) == batch_size:
            del open_numbers[place]
        behind_query[query] = number
        behind_document[document] = number
    return batches


def _find_company(alone: _Batch, batches: Sequence[_Batch], batch_size: int) -> None:
    """Move a lone pair into another batch, or a pair of a larger batch to it, if possible."""
    (index,) = alone.members
    candidates = [batch for batch in batches[:_CANDIDATES] if batch is not alone]
    for batch in candidates:
        if 0 < len(batch.members) < batch_size and batch.fits(index):
            batch.add(index)
            alone.remove(index)
            return
    for batch in candidates:
        if len(batch.members) < 3:
            continue
        for other in batch.members:
            if alone.fits(other):
                batch.remove(other)
                alone.add(other)
                return


def conflict_free_batches(
    pairs: Sequence[tuple[Hashable, Hashable]],
    positives: Mapping[Any, AbstractSet[Any]],
    batch_size: int,
    seed: int,
    epoch: int,
    repeat: int = 0,
) -> list[list[int]]:
    """Deal all pairs out to batches for one pass, at random and free of false negatives.

    Args:
        pairs: (query key, document key) of each pair. Equal texts should have equal keys.
        positives: query key → keys of all documents known to answer it; a pair's own document
            counts as known without standing here.
        batch_size: pairs in a batch at most.
        seed, epoch, repeat: name the shuffle; the same three give the same batches.

    Returns:
        Positions in ``pairs``; each exactly once. Within a batch no query and no document occurs
        twice, and no document answers the query of another pair. What conflicts keeps apart stands
        in smaller batches. A batch of one pair, from which nothing can be learned, is left only
        where no other batch can take the pair or give one away.

    >>> batches = conflict_free_batches([("a", 1), ("a", 2), ("b", 3), ("c", 4)], {}, 4, 0, 0)
    >>> sorted(len(batch) for batch in batches)
    [2, 2]
    """
    if batch_size < 1:
        raise ValueError("batch_size is at least 1")
    known: dict[Hashable, set[Hashable]] = {}
    for query, document in pairs:
        if query not in known:
            known[query] = set(positives.get(query, ()))
        known[query].add(document)
    generator = random.Random(f"batches:{seed}:{epoch}:{repeat}")
    order = list(range(len(pairs)))
    generator.shuffle(order)
    batches = _fill(order, pairs, known, batch_size)
    # Shuffled before lone pairs are settled, so that those look at batches chosen at random.
    generator.shuffle(batches)
    if batch_size > 1:
        for batch in batches:
            if len(batch.members) == 1:
                _find_company(batch, batches, batch_size)
    return [batch.members for batch in batches if batch.members]
