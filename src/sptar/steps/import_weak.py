"""Step ``import_weak``: weak queries that were written elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from sptar.errors import DataError
from sptar.io import read_jsonl, write_jsonl
from sptar.steps.base import Context, Output, Step
from sptar.steps.collection import CollectionStep
from sptar.steps.resources import open_collection, open_split
from sptar.steps.split import SplitStep
from sptar.types import WeakQuery
from sptar.workspace import Artefact

__all__ = ["ImportWeakStep"]


@dataclass(frozen=True)
class ImportWeakStep(Step):
    """Reads JSONL rows of ``doc_id`` and ``text`` (``query_id`` if there is one).

    Rows for documents that the split does not allow (judged for test, for example) are left out
    and counted.
    """

    name: ClassVar[str] = "import_weak"
    collection: CollectionStep
    split: SplitStep
    file: str
    file_hash: str

    @property
    def settings(self) -> dict[str, Any]:
        """The file's content."""
        return {"content": self.file_hash}

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Collection and split."""
        return {"collection": self.collection, "split": self.split}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Validate and write the rows in the form that the filter reads."""
        from sptar.weak.augment import choose_prefix
        from sptar.weak.clean import clean_query

        collection = open_collection(inputs, context)
        allowed = {int(position) for position in open_split(inputs, context).augment}
        prefix = choose_prefix(collection.queries)
        counts = {"rows": 0, "empty": 0, "not_to_augment": 0}
        seen: dict[str, int] = {}

        def rows() -> Iterator[dict[str, Any]]:
            for line, row in read_jsonl(self.file):
                doc_id, raw = row.get("doc_id"), row.get("text")
                if not isinstance(doc_id, str) or not isinstance(raw, str):
                    raise DataError(
                        "each row needs the texts 'doc_id' and 'text'.",
                        path=self.file,
                        line=line,
                        hint='Example: {"doc_id": "d17", "text": "can i take my dog"}',
                    )
                if doc_id not in collection.corpus:
                    raise DataError(
                        f"the corpus has no document '{doc_id}'.",
                        path=self.file,
                        line=line,
                        hint="Were these queries written for another version of the corpus?",
                    )
                query_id = str(row.get("query_id") or f"{Path(self.file).stem}-{line}")
                if query_id in seen:
                    raise DataError(
                        f"query id '{query_id}' stands in line {seen[query_id]} already.",
                        path=self.file,
                        line=line,
                    )
                seen[query_id] = line
                if collection.corpus.position(doc_id) not in allowed:
                    counts["not_to_augment"] += 1
                    continue
                text = clean_query(raw)
                counts["rows"] += 1
                counts["empty"] += not text
                log_probability = row.get("log_probability")
                yield asdict(
                    WeakQuery(
                        query_id=f"{prefix}:{query_id}",
                        doc_id=doc_id,
                        text=text,
                        raw=raw,
                        attempts=int(row.get("attempts") or 1),
                        log_probability=log_probability,
                    )
                )

        write_jsonl(output.path("weak_queries.jsonl"), rows())
        if counts["rows"] == 0:
            raise DataError(
                "none of its rows belongs to a document that may be augmented.",
                path=self.file,
                hint="Documents judged for a labelled query never get a weak query; see "
                "`split.augment_from`.",
            )
        return counts
