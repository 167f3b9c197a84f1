"""The Dataset artefact: a normalised BEIR folder, opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sptar.data.corpus import DiskCorpus
from sptar.errors import DataError
from sptar.io import read_jsonl, read_qrels
from sptar.types import Qrels, Query

__all__ = ["Collection"]


@dataclass(frozen=True)
class Collection:
    """Documents (on disk), queries and judgements (in memory) of one collection.

    ``queries`` maps query id → query; ``qrels`` maps split name → judgements.
    """

    corpus: DiskCorpus
    queries: dict[str, Query]
    qrels: dict[str, Qrels]

    @classmethod
    def open(cls, folder: str | Path) -> Collection:
        """Open what :func:`sptar.data.sources.convert` wrote.

        Raises:
            DataError: a file is missing or damaged.
        """
        folder = Path(folder)
        queries = {
            row["_id"]: Query(row["_id"], row["text"])
            for _, row in read_jsonl(folder / "queries.jsonl")
        }
        files = sorted((folder / "qrels").glob("*.tsv"))
        if not files:
            raise DataError("there are no judgements.", path=folder / "qrels")
        qrels = {path.stem: read_qrels(path) for path in files}
        return cls(DiskCorpus.open(folder), queries, qrels)

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
