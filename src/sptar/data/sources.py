"""Turn any source into a normalised BEIR folder with its index, row by row."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from sptar.config import DataConfig
from sptar.data.collection import IDS_FILE
from sptar.data.corpus import CORPUS_FILE, OFFSETS_FILE, build_index
from sptar.data.problems import Problems
from sptar.data.summary import CollectionReport
from sptar.data.validate import find_origin, scan
from sptar.errors import DataError
from sptar.io import atomic_path, to_json, write_json
from sptar.progress import silent
from sptar.types import Document, Progress, Query

__all__ = ["convert"]


class _FolderWriter:
    """Writes what passed the validation; files appear when all of it is written."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._corpus = self._open(CORPUS_FILE)
        self._queries = self._open("queries.jsonl")
        self.splits: dict[str, TextIO] = {}

    def _open(self, name: str) -> TextIO:
        temporary = self._stack.enter_context(atomic_path(self._folder / name))
        return self._stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))

    def document(self, document: Document) -> None:
        """Write a document."""
        row = {"_id": document.doc_id, "title": document.title, "text": document.text}
        self._corpus.write(to_json(row) + "\n")

    def query(self, query: Query) -> None:
        """Write a query."""
        self._queries.write(to_json({"_id": query.query_id, "text": query.text}) + "\n")

    def judgement(self, split: str, query_id: str, doc_id: str, grade: int) -> None:
        """Write a judgement into the file of its split."""
        stream = self.splits.get(split)
        if stream is None:
            stream = self.splits[split] = self._open(f"qrels/{split}.tsv")
            stream.write("query-id\tcorpus-id\tscore\n")
        stream.write(f"{query_id}\t{doc_id}\t{grade}\n")


def convert(
    config: DataConfig, output: str | Path, progress: Progress = silent
) -> CollectionReport:
    """Validate a source and write it as ``corpus.jsonl``, ``queries.jsonl``, ``qrels/*.tsv``.

    The order of rows is kept, ids become strings, and the index that
    :class:`~sptar.data.corpus.DiskCorpus` needs is built. Documents without an id column are
    numbered "0", "1", ... by row; queries "q0", "q1", ... A conversion that fails leaves the folder
    as it was.

    Raises:
        DataError: something is wrong and ``on_error`` is ``stop``, or nothing usable is left.
        ConfigError: settings contradict each other.
        MissingExtraError: an optional package is needed.
    """
    output = Path(output)
    problems = Problems(config.on_error)
    origin = find_origin(config, problems)
    for split in origin.judgements:
        if not split or split.startswith(".") or any(mark in split for mark in "/\\\t\n"):
            raise DataError(
                f"{split!r} cannot be the name of a split.", hint="Use letters, digits and _."
            )
    with ExitStack() as stack:
        writer = _FolderWriter(output, stack)
        report = scan(origin, problems, writer, progress, config.shared_ids)
        if not writer.splits:
            raise DataError("no judgement can be used.", path=origin.name)
        written = set(writer.splits)
        # The index that lies there is of other rows: a conversion that is killed from here on
        # leaves a corpus without one, which nobody opens.
        (output / OFFSETS_FILE).unlink(missing_ok=True)
    if config.shared_ids != "auto":
        write_json(output / IDS_FILE, {"separate": config.shared_ids == "separate"})
    else:
        (output / IDS_FILE).unlink(missing_ok=True)
    for path in (output / "qrels").glob("*.tsv"):
        if path.stem not in written:  # left over from an earlier conversion
            path.unlink()
    progress.start("Indexing documents", None, "documents")
    progress.advance(build_index(output / CORPUS_FILE, output))
    progress.finish()
    return report
