"""The pairs that the labels make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sptar.data.collection import Collection
from sptar.io import to_json
from sptar.types import Pair

__all__ = ["pairs"]


def pairs(
    collection: Collection,
    query_ids: Iterable[str],
    per_query: int | None = None,
    seed: int = 0,
) -> list[Pair]:
    """Every query with each of its positive documents (grade 1 or more in any split).

    Queries in the order given; the documents of a query by id. With ``per_query`` so many of each
    query at most: a draw named by seed, query and document, so that it does not depend on the other
    queries, and that of a larger number contains that of a smaller one.
    """
    found: list[Pair] = []
    for query_id, judged in collection.judgements(query_ids).items():
        query = collection.queries[query_id]
        found.extend(
            Pair(query, collection.corpus.get(doc_id))
            for doc_id in _drawn(query_id, collection.relevant(query_id, judged), per_query, seed)
        )
    return found


def _drawn(query_id: str, doc_ids: list[str], count: int | None, seed: int) -> list[str]:
    if count is None or len(doc_ids) <= count:
        return doc_ids

    def key(doc_id: str) -> bytes:
        name = to_json([seed, query_id, doc_id]).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(name, digest_size=16).digest()

    return sorted(sorted(doc_ids, key=key)[:count])
