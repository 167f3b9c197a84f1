"""The Dataset artefact: a normalised BEIR folder, opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sptar.data.corpus import DiskCorpus
from sptar.errors import DataError
from sptar.io import read_json, read_jsonl, read_qrels
from sptar.types import Qrels, Query

__all__ = ["IDS_FILE", "Collection", "separate_ids"]

IDS_FILE = "ids.json"
"""Holds the decision about ids where a setting made it; else the judgements do."""


def separate_ids(qrels: Iterable[Qrels]) -> bool:
    """Whether queries and documents have ids of their own, as far as the judgements tell.

    Nobody judges a query relevant for itself: where a document with the query's id is judged so,
    equal ids mean different things.

    >>> separate_ids([{"15": {"15": 1, "3": 0}}]), separate_ids([{"15": {"15": 0, "3": 1}}])
    (True, False)
    """
    return any(
        judged.get(query_id, 0) >= 1
        for judgements in qrels
        for query_id, judged in judgements.items()
    )


@dataclass(frozen=True)
class Collection:
    """Documents (on disk), queries and judgements (in memory) of one collection.

    ``queries`` maps query id → query; ``qrels`` maps split name → judgements. ``separate_ids``
    says that a document with a query's id is another thing, and not the query itself.
    """

    corpus: DiskCorpus
    queries: dict[str, Query]
    qrels: dict[str, Qrels]
    separate_ids: bool = False

    @classmethod
    def open(cls, folder: str | Path) -> Collection:
        """Open what :func:`sptar.data.sources.convert` wrote.

        Raises:
            DataError: a file is missing or damaged.
        """
        folder = Path(folder)
        files = sorted((folder / "qrels").glob("*.tsv"))
        if not files:
            raise DataError("there are no judgements.", path=folder / "qrels")
        qrels = {path.stem: read_qrels(path) for path in files}
        separate = (
            read_json(folder / IDS_FILE)["separate"]
            if (folder / IDS_FILE).is_file()
            else separate_ids(qrels.values())
        )
        queries = {
            row["_id"]: Query(row["_id"], row["text"], is_document=not separate)
            for _, row in read_jsonl(folder / "queries.jsonl")
        }
        return cls(DiskCorpus.open(folder), queries, qrels, separate)

    def relevant(self, query_id: str, judged: Mapping[str, int]) -> list[str]:
        """Of what is judged for a query, the documents of grade 1 or more, by id.

        The document that is the query itself is none.
        """
        own = self.queries[query_id].own_doc_id
        return sorted(doc_id for doc_id, grade in judged.items() if grade >= 1 and doc_id != own)

    def judgements(self, query_ids: Iterable[str]) -> Qrels:
        """What is judged for these queries in any split, in the order given.

        A query without judgements has no entry. Where two splits judge the same pair, the higher
        grade counts.
        """
        merged: Qrels = {}
        for query_id in query_ids:
            for qrels in self.qrels.values():
                for doc_id, grade in qrels.get(query_id, {}).items():
                    judged = merged.setdefault(query_id, {})
                    judged[doc_id] = max(grade, judged.get(doc_id, grade))
        return merged
