"""The pairs that the labels make."""

from __future__ import annotations

from collections.abc import Iterable

from sptar.data.collection import Collection
from sptar.types import Pair

__all__ = ["pairs"]


def pairs(collection: Collection, query_ids: Iterable[str]) -> list[Pair]:
    """Every query with each of its positive documents (grade 1 or more in any split).

    Queries in the order given; the documents of a query by id.
    """
    found: list[Pair] = []
    for query_id, judged in collection.judgements(query_ids).items():
        query = collection.queries[query_id]
        found.extend(
            Pair(query, collection.corpus.get(doc_id))
            for doc_id in collection.relevant(query_id, judged)
        )
    return found
