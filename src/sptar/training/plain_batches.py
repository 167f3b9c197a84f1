"""Batches for training with in-batch negatives that hold no false negative.

In a batch every other document counts as wrong for a query. So two pairs may share a batch only if
no document of one, be it the answer or a hard negative, answers the query of the other, and no
query or answer stands in it twice.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

__all__ = ["Batch", "conflict_free_batches", "find_company", "known_answers"]

_CANDIDATES = 200
"""Batches looked at when a lone pair seeks company; bounds the time on hopeless input."""


class Batch:
    """Pairs without a false negative among them.

    Args:
        pairs: (query key, document key) of each pair.
        positives: query key → keys of all documents that answer it, see :func:`known_answers`.
        negatives: keys of each pair's hard negatives, which stand in its batch; empty for none.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Hashable, Hashable]],
        positives: Mapping[Any, AbstractSet[Any]],
        negatives: Sequence[Sequence[Hashable]] = (),
    ) -> None:
        self._pairs = pairs
        self._positives = positives
        self._negatives = negatives
        self.members: list[int] = []
        self._queries: set[Hashable] = set()
        self._documents: set[Hashable] = set()
        self._columns: set[Hashable] = set()

    def _columns_of(self, index: int) -> tuple[Hashable, ...]:
        """The documents that a pair brings along for every other query of its batch."""
        own = (self._pairs[index][1],)
        return (*own, *self._negatives[index]) if self._negatives else own

    def fits(self, index: int) -> bool:
        """Whether the pair conflicts with none of the members."""
        query, document = self._pairs[index]
        columns = self._columns_of(index)
        return (
            query not in self._queries
            and document not in self._documents
            and self._columns.isdisjoint(self._positives[query])
            and all(self._positives[other].isdisjoint(columns) for other in self._queries)
        )

    def add(self, index: int) -> None:
        """Take a pair that fits."""
        query, document = self._pairs[index]
        self.members.append(index)
        self._queries.add(query)
        self._documents.add(document)
        self._columns.update(self._columns_of(index))

    def remove(self, index: int) -> None:
        """Give a member away."""
        kept = [member for member in self.members if member != index]
        self.members = []
        self._queries, self._documents, self._columns = set(), set(), set()
        for member in kept:
            self.add(member)


def known_answers(
    pairs: Sequence[tuple[Hashable, Hashable]], positives: Mapping[Any, AbstractSet[Any]]
) -> dict[Hashable, set[Hashable]]:
    """Query key → keys of all documents known to answer it: those given and its own pairs'."""
    known: dict[Hashable, set[Hashable]] = {}
    for query, document in pairs:
        if query not in known:
            known[query] = set(positives.get(query, ()))
        known[query].add(document)
    return known


def _fill(
    order: Sequence[int],
    pairs: Sequence[tuple[Hashable, Hashable]],
    positives: Mapping[Any, AbstractSet[Any]],
    batch_size: int,
    negatives: Sequence[Sequence[Hashable]],
) -> list[Batch]:
    """Put each pair into the first batch that takes it."""
    batches: list[Batch] = []
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
            batches.append(Batch(pairs, positives, negatives))
            number = len(batches) - 1
            place = len(open_numbers)
            open_numbers.append(number)
        batches[number].add(index)
        if len(batches[number].members) == batch_size:
            del open_numbers[place]
        behind_query[query] = number
        behind_document[document] = number
    return batches


def find_company(alone: Batch, batches: Sequence[Batch], batch_size: int) -> None:
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
    number: int,
    *,
    negatives: Sequence[Sequence[Hashable]] = (),
) -> list[list[int]]:
    """Deal all pairs out to batches for one pass, at random and free of false negatives.

    Args:
        pairs: (query key, document key) of each pair. Equal texts should have equal keys.
        positives: query key → keys of all documents known to answer it; a pair's own document
            counts as known without standing here.
        batch_size: pairs in a batch at most.
        seed, number: name the shuffle; the same two give the same batches. ``number`` counts the
            passes over the pairs.
        negatives: keys of each pair's hard negatives, which stand in its batch too; empty for none.

    Returns:
        Positions in ``pairs``; each exactly once. Within a batch no query and no document occurs
        twice, and no document, hard negatives included, answers the query of another pair. What
        conflicts keep apart stands in smaller batches. A batch of one pair, which has no other
        pair to learn from, is left only where no other batch can take it or give one away.

    >>> batches = conflict_free_batches([("a", 1), ("a", 2), ("b", 3), ("c", 4)], {}, 4, 0, 0)
    >>> sorted(len(batch) for batch in batches)
    [2, 2]
    """
    if batch_size < 1:
        raise ValueError("batch_size is at least 1")
    known = known_answers(pairs, positives)
    generator = random.Random(f"batches:{seed}:{number}")
    order = list(range(len(pairs)))
    generator.shuffle(order)
    batches = _fill(order, pairs, known, batch_size, negatives)
    # Shuffled before lone pairs are settled, so that those look at batches chosen at random.
    generator.shuffle(batches)
    if batch_size > 1:
        for batch in batches:
            if len(batch.members) == 1:
                find_company(batch, batches, batch_size)
    return [batch.members for batch in batches if batch.members]
