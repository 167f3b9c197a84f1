"""The toy collection: documents, queries and judgements that lie inside the package."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sptar.io import read_jsonl, read_qrels
from sptar.starter.saving import whole_folder
from sptar.types import Document, Pair, Qrels, Query

__all__ = ["SPLITS", "ToyCollection", "copy_toy_collection", "load_toy_collection"]

SPLITS = ("train", "dev", "test")

_FOLDER = Path(__file__).parent / "toy_collection"


@dataclass(frozen=True, slots=True)
class ToyCollection:
    """The toy collection in memory; ``qrels`` maps the names in ``SPLITS`` to judgements."""

    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    qrels: dict[str, Qrels]

    def pairs(self, split: str) -> tuple[Pair, ...]:
        """Each query of a split with each of its documents, in the order of the qrels."""
        documents = {document.doc_id: document for document in self.documents}
        queries = {query.query_id: query for query in self.queries}
        return tuple(
            Pair(queries[query_id], documents[doc_id])
            for query_id, judged in self.qrels[split].items()
            for doc_id in judged
        )


def load_toy_collection() -> ToyCollection:
    """Read the collection that lies inside the package."""
    return ToyCollection(
        documents=tuple(
            Document(row["_id"], row["text"], row["title"])
            for _, row in read_jsonl(_FOLDER / "corpus.jsonl")
        ),
        queries=tuple(
            Query(row["_id"], row["text"]) for _, row in read_jsonl(_FOLDER / "queries.jsonl")
        ),
        qrels={split: read_qrels(_FOLDER / "qrels" / f"{split}.tsv") for split in SPLITS},
    )


def copy_toy_collection(folder: str | Path) -> Path:
    """Write the collection as a BEIR folder; returns it. What was there before is replaced."""
    folder = Path(folder)
    with whole_folder(folder) as unfinished:
        shutil.copytree(_FOLDER, unfinished, dirs_exist_ok=True)
    return folder
