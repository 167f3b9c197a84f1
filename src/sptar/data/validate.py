"""One pass over a collection that judges every row, for `data check` and for the conversion."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Protocol

from sptar.config import DataConfig, SharedIds
from sptar.data.cells import grade_of, id_of, text_of
from sptar.data.identifiers import HashIndex, IdRegister, digest64
from sptar.data.origins import Fields, Origin, files_origin, open_part, settle
from sptar.data.problems import Problems
from sptar.data.summary import CollectionReport, LengthSummary, SplitCount
from sptar.data.tables import BrokenRow, Row, Table
from sptar.progress import silent
from sptar.types import Document, Progress, Qrels, Query

__all__ = ["CollectionReport", "Sink", "check", "find_origin", "scan"]

_TICK = 1000


class Sink(Protocol):
    """Takes the rows that passed, in their order."""

    def document(self, document: Document) -> None: ...

    def query(self, query: Query) -> None: ...

    def judgement(self, split: str, query_id: str, doc_id: str, grade: int) -> None: ...


class _NoSink:
    def document(self, document: Document) -> None:
        """Let it go."""

    def query(self, query: Query) -> None:
        """Let it go."""

    def judgement(self, split: str, query_id: str, doc_id: str, grade: int) -> None:
        """Let it go."""


def find_origin(config: DataConfig, problems: Problems) -> Origin:
    """Where the rows of a configured collection come from."""
    if config.source is not None and config.source.startswith("hf:"):
        from sptar.data.hub import hugging_face_origin

        return hugging_face_origin(config)
    if config.source is not None and config.source.startswith("ir:"):
        from sptar.data.hub import ir_datasets_origin

        return ir_datasets_origin(config)
    return files_origin(config, problems)


def check(config: DataConfig, progress: Progress = silent) -> CollectionReport:
    """Read a whole collection and report everything about it; bad rows never stop it.

    Raises:
        DataError: a data set that is named (``hf:``, ``ir:``) cannot be reached at all.
        ConfigError: settings contradict each other.
        MissingExtraError: an optional package is needed.
    """
    problems = Problems("collect")
    return scan(find_origin(config, problems), problems, None, progress, config.shared_ids)


def scan(
    origin: Origin,
    problems: Problems,
    sink: Sink | None = None,
    progress: Progress = silent,
    shared_ids: SharedIds = "auto",
) -> CollectionReport:
    """Judge every row: documents, then queries, then judgements; pass the good ones on.

    Memory: about 50 bytes a document, the query ids, and the judgements of one split.

    Raises:
        DataError: as the policy of ``problems`` says.
    """
    with ExitStack() as stack:
        one_pass = _Scan(origin, problems, sink or _NoSink(), progress, stack)
        one_pass.documents()
        one_pass.queries()
        one_pass.judgements()
        return one_pass.report(shared_ids)


class _Scan:
    def __init__(
        self, origin: Origin, problems: Problems, sink: Sink, progress: Progress, stack: ExitStack
    ) -> None:
        self.origin, self.problems, self.sink, self.progress = origin, problems, sink, progress
        self.doc_ids = stack.enter_context(IdRegister())
        self.query_ids = stack.enter_context(IdRegister())
        self.query_texts = HashIndex()
        self.document_words, self.query_words = array("I"), array("I")
        self.duplicate_documents = self.empty_documents = 0
        self.duplicate_queries = self.empty_queries = 0
        self.repeated_judgements = self.shared_ids = 0
        self.self_judgements = self.self_positives = 0
        self.numbered_queries = False
        self.ignored: dict[str, None] = {}
        self.splits: list[SplitCount] = []
        self.judged: dict[str, int] = {}
        self.judged_documents: set[int] = set()

    # Reading ----------------------------------------------------------------------------------

    def _rows(self, table: Table, what: str) -> Iterator[tuple[int, Row]]:
        """Number (from 0, broken rows counted too) and row of each row that can be read."""
        self.progress.start(f"Reading {what}", None, what)
        number = -1
        for number, item in enumerate(self.problems.guard(table.rows)):
            if number % _TICK == _TICK - 1:
                self.progress.advance(_TICK)
            if isinstance(item, BrokenRow):
                self.problems.report(
                    item.reason, item.message, path=table.name, line=item.line, hint=item.hint
                )
            else:
                yield number, item
        self.progress.advance((number + 1) % _TICK)
        self.progress.finish()

    def _empty(self, name: str, what: str, *, whole_file: bool = True) -> None:
        self.problems.report(
            "empty file",
            f"the file holds no {what}.",
            path=name,
            hint="Check that the file was written or downloaded completely.",
            whole_file=whole_file,
        )

    def _note_ignored(self, part: str, columns: Iterable[str], fields: Fields) -> None:
        used = set(fields.values())
        self.ignored.update({f"{part}: {name}": None for name in columns if name not in used})

    # Parts ------------------------------------------------------------------------------------

    def documents(self) -> None:
        """Judge the documents."""
        if self.origin.documents is None:
            return
        table = open_part(self.origin.documents, self.problems)
        if table is None:
            return
        settled = settle(table, "documents", self.origin, self.problems)
        if settled is None:
            if not table.columns:
                self._empty(table.name, "documents")
            return
        table, fields = settled
        self._note_ignored("documents", table.columns, fields)
        texts = HashIndex()
        for number, row in self._rows(table, "documents"):
            if "doc_id" in fields:
                doc_id = id_of(self.problems, row, fields["doc_id"], table.name)
            else:
                doc_id = str(number)
            text = text_of(self.problems, row, "text", fields["text"], table.name)
            title: str | None = ""
            column = fields.get("title", "title")
            if row.values.get(column) is not None:
                title = text_of(self.problems, row, "title", column, table.name)
            if doc_id is None or text is None or title is None:
                continue
            if self._known(self.doc_ids, doc_id, row.line, table.name, "document"):
                continue
            document = Document(doc_id, text, title)
            full_text = document.full_text
            self.document_words.append(len(full_text.split()))
            if not full_text:
                self.empty_documents += 1
            elif not texts.add(digest64(full_text), len(texts)):
                self.duplicate_documents += 1
            self.sink.document(document)
        if not len(self.doc_ids):
            self._empty(table.name, "documents that can be read")

    def _known(self, register: IdRegister, key: str, line: int, name: str, what: str) -> bool:
        first = register.add(key, line)
        if first is None:
            return False
        self.problems.report(
            f"duplicate {what} id",
            f"the {what} id {key!r} stands already in line {first}.",
            path=name,
            line=line,
            hint=f"Give each {what} an id of its own.",
        )
        return True

    def queries(self) -> None:
        """Judge the queries that have a file of their own."""
        if self.origin.queries is None:
            return
        table = open_part(self.origin.queries, self.problems)
        if table is None:
            return
        settled = settle(table, "queries", self.origin, self.problems)
        if settled is None:
            if not table.columns:
                self._empty(table.name, "queries")
            return
        table, fields = settled
        self._note_ignored("queries", table.columns, fields)
        self.numbered_queries = "query_id" not in fields
        for number, row in self._rows(table, "queries"):
            if self.numbered_queries:
                query_id: str | None = f"q{number}"
            else:
                query_id = id_of(self.problems, row, fields["query_id"], table.name)
            text = text_of(self.problems, row, "query", fields["query"], table.name)
            if query_id is None or text is None:
                continue
            if not self._known(self.query_ids, query_id, row.line, table.name, "query"):
                self._take_query(query_id, text)
        if not len(self.query_ids):
            self._empty(table.name, "queries that can be read")

    def _take_query(self, query_id: str, text: str) -> None:
        words = len(text.split())
        self.query_words.append(words)
        if not words:
            self.empty_queries += 1
        elif not self.query_texts.add(digest64(text.strip()), len(self.query_texts)):
            self.duplicate_queries += 1
        if query_id in self.doc_ids:
            self.shared_ids += 1
        self.sink.query(Query(query_id, text))

    def judgements(self) -> None:
        """Judge the judgements, split by split, and the queries inside them if there are any."""
        if not self.origin.judgements:
            self.problems.report(
                "missing file",
                "there are no judgements.",
                path=self.origin.name,
                hint="A BEIR folder has them as qrels/SPLIT.tsv; other files are named under "
                "`data.qrels`: {train: FILE, test: FILE}.",
                whole_file=True,
            )
        texts: dict[str, str] = {}
        for split, opener in self.origin.judgements.items():
            table = open_part(opener, self.problems)
            if table is None:
                continue
            needs = ("query",) if self.origin.queries is None else ("query_id",)
            settled = settle(table, "judgements", self.origin, self.problems, needs=needs)
            if settled is None:
                if not table.columns:
                    self._empty(table.name, "judgements", whole_file=False)
                continue
            table, fields = settled
            self._note_ignored("judgements", table.columns, fields)
            self._judge_split(split, table, fields, texts)

    def _judge_split(self, split: str, table: Table, fields: Fields, texts: dict[str, str]) -> None:
        qrels: Qrels = {}
        for _, row in self._rows(table, "judgements"):
            query_id = self._judged_query(row, fields, table.name, texts)
            if query_id is None:
                continue
            doc_id = id_of(self.problems, row, fields["doc_id"], table.name)
            if doc_id is None:
                continue
            grade = grade_of(self.problems, row, fields.get("score"), table.name)
            if grade is None:
                continue
            query_id = self._as_known(self.query_ids, query_id)
            doc_id = self._as_known(self.doc_ids, doc_id)
            if not self._both_known(query_id, doc_id, row.line, table.name):
                continue
            judged = qrels.setdefault(query_id, {})
            if doc_id not in judged:
                judged[doc_id] = grade
                self.judged_documents.add(digest64(doc_id))
                self.self_judgements += query_id == doc_id
                self.self_positives += query_id == doc_id and grade >= 1
                self.sink.judgement(split, query_id, doc_id, grade)
            elif judged[doc_id] == grade:
                self.repeated_judgements += 1
            else:
                self.problems.report(
                    "judged twice",
                    f"query {query_id!r} and document {doc_id!r} were judged {judged[doc_id]} "
                    f"before, and are judged {grade} here.",
                    path=table.name,
                    line=row.line,
                    hint="Keep one judgement of each pair.",
                )
        if not qrels:
            self._empty(table.name, "judgements that can be used", whole_file=False)
        counted = SplitCount.of(split, qrels)
        # A run that reads this split refuses it; for one that does not, nothing is wrong.
        if qrels and not counted.positives and self.problems.policy == "collect":
            self.problems.report(
                "no positive judgement",
                f"none of the {counted.judgements:,} judgements has a grade of 1 or more, so the "
                f"split '{split}' can neither train nor test anything.",
                path=table.name,
                hint="Relevant documents have a grade of 1 or more.",
            )
        for query_id in qrels:
            self.judged[query_id] = self.judged.get(query_id, 0) + 1
        self.splits.append(counted)

    def _judged_query(
        self, row: Row, fields: Fields, name: str, texts: dict[str, str]
    ) -> str | None:
        if self.origin.queries is not None:
            query_id = id_of(self.problems, row, fields["query_id"], name)
            numbered = query_id is not None and self.numbered_queries and query_id.isdigit()
            return f"q{query_id}" if numbered else query_id
        text = text_of(self.problems, row, "query", fields["query"], name)
        if text is None:
            return None
        text = text.strip()
        if "query_id" not in fields:
            # Equal texts are one query; its number is that of its first appearance.
            known = texts.get(text)
            if known is None:
                known = texts[text] = f"q{len(texts)}"
                self.query_ids.add(known, row.line)
                self._take_query(known, text)
            return known
        query_id = id_of(self.problems, row, fields["query_id"], name)
        if query_id is None:
            return None
        if query_id not in texts:
            texts[query_id] = text
            self.query_ids.add(query_id, row.line)
            self._take_query(query_id, text)
        elif texts[query_id] != text:
            self.problems.report(
                "query text differs",
                f"query {query_id!r} had another text before.",
                path=name,
                line=row.line,
                hint="Give each query text an id of its own.",
            )
            return None
        return query_id

    def _as_known(self, register: IdRegister, key: str) -> str:
        """The id as its own file has it, where one of the two writes the number 15 as 15.0."""
        if key in register:
            return key
        other = key[:-2] if key.endswith(".0") else f"{key}.0"
        return other if other in register else key

    def _both_known(self, query_id: str, doc_id: str, line: int, name: str) -> bool:
        # A file that could not be read at all is one problem, not one for each judgement.
        if len(self.query_ids) and query_id not in self.query_ids:
            what, wrong, part = "query", query_id, "queries"
        elif len(self.doc_ids) and doc_id not in self.doc_ids:
            what, wrong, part = "document", doc_id, "corpus"
        else:
            return True
        self.problems.report(
            f"unknown {what}",
            f"the judgement names the {what} {wrong!r}, which the {part} does not hold.",
            path=name,
            line=line,
            hint=f"Check that {part} and judgements belong to the same version of the data.",
        )
        return False

    def report(self, shared_ids: SharedIds) -> CollectionReport:
        """Everything that was counted."""
        separate = {"same": False, "separate": True}.get(shared_ids, self.self_positives > 0)
        return CollectionReport(
            source=self.origin.name,
            documents=len(self.doc_ids),
            queries=len(self.query_ids),
            splits=tuple(self.splits),
            document_words=LengthSummary.of(self.document_words),
            query_words=LengthSummary.of(self.query_words),
            duplicate_documents=self.duplicate_documents,
            empty_documents=self.empty_documents,
            duplicate_queries=self.duplicate_queries,
            empty_queries=self.empty_queries,
            unjudged_queries=len(self.query_ids) - len(self.judged),
            queries_in_several_splits=sum(count > 1 for count in self.judged.values()),
            repeated_judgements=self.repeated_judgements,
            shared_ids=self.shared_ids,
            self_judgements=self.self_judgements,
            ignored_columns=tuple(self.ignored),
            problems=self.problems.counts(),
            self_positives=self.self_positives,
            ids_decided=shared_ids != "auto",
            separate_ids=separate,
            unjudged_documents=len(self.doc_ids) - len(self.judged_documents),
        )
