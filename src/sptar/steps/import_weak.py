"""Step ``import_weak``: weak queries that were written elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sptar.errors import DataError
from sptar.io import read_jsonl, write_jsonl
from sptar.steps.base import Context, Output, Step
from sptar.steps.resources import open_collection, open_split
from sptar.types import WeakQuery
from sptar.workspace import Artefact

__all__ = ["ImportWeakStep"]


_MOST = 1e300
_SURROGATE = re.compile("[\ud800-\udfff]")


def _query_id(row: Mapping[str, Any], file: str, line: int) -> str:
    given = row.get("query_id")
    if given is None or given == "":
        return f"{Path(file).stem}-{line}"
    whole = isinstance(given, int) and not isinstance(given, bool)
    if not whole and (not isinstance(given, str) or _SURROGATE.search(given)):
        raise DataError(
            "'query_id' is neither a text nor a whole number.",
            path=file,
            line=line,
            hint="It may be left out.",
        )
    return str(given)


def _attempts(row: Mapping[str, Any], file: str, line: int) -> int:
    given = row.get("attempts")
    if given is None:
        return 1
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise DataError(
            "'attempts' is no whole number from 1.",
            path=file,
            line=line,
            hint="It may be left out.",
        )
    return given


def _log_probability(row: Mapping[str, Any], file: str, line: int) -> float | None:
    given = row.get("log_probability")
    if given is None:
        return None
    number = isinstance(given, int | float) and not isinstance(given, bool)
    # Said this way round it also catches NaN, and whole numbers that no float can hold.
    if not number or not -_MOST < given < _MOST:
        raise DataError(
            "'log_probability' is no finite number.",
            path=file,
            line=line,
            hint="It may be left out.",
        )
    return float(given)


@dataclass(frozen=True, kw_only=True)
class ImportWeakStep(Step):
    """Reads JSONL rows of ``doc_id`` and ``text`` (``query_id`` if there is one).

    Rows for documents that the split does not allow (judged for test, for example) are left out
    and counted.
    """

    name: ClassVar[str] = "import_weak"
    collection: Step
    split: Step
    file: str
    file_hash: str

    @property
    def settings(self) -> dict[str, Any]:
        """The file's content."""
        return {"content": self.file_hash}

    @property
    def outside(self) -> Sequence[str]:
        """The file."""
        return (self.file,)

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Validate and write the rows in the form that the filter reads."""
        from sptar.weak.augment import choose_prefix, weak_query_to_row
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
                if _SURROGATE.search(raw):
                    raise DataError(
                        "'text' holds half a character (a lone surrogate).",
                        path=self.file,
                        line=line,
                    )
                if doc_id not in collection.corpus:
                    raise DataError(
                        f"the corpus has no document '{doc_id}'.",
                        path=self.file,
                        line=line,
                        hint="Were these queries written for another version of the corpus?",
                    )
                query_id = _query_id(row, self.file, line)
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
                yield weak_query_to_row(
                    WeakQuery(
                        query_id=f"{prefix}:{query_id}",
                        doc_id=doc_id,
                        text=text,
                        raw=raw,
                        attempts=_attempts(row, self.file, line),
                        log_probability=_log_probability(row, self.file, line),
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
