"""Where the rows of a collection come from: a BEIR folder, or single files with named columns.

An :class:`Origin` is three kinds of tables with their column names settled; what the rows hold is
judged in :mod:`sptar.data.validate`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sptar.config import DataConfig
from sptar.data.problems import Problems
from sptar.data.tables import COMPRESSED, Table, open_table
from sptar.errors import ConfigError, DataError

__all__ = ["BEIR", "Fields", "Origin", "files_origin", "open_part", "settle"]

NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "documents": {
        "doc_id": ("doc_id", "_id", "id", "docid", "corpus-id", "corpus_id", "pid"),
        "title": ("title",),
        "text": ("text", "contents", "passage", "body"),
    },
    "queries": {
        "query_id": ("query_id", "_id", "id", "qid", "query-id"),
        "query": ("query", "text", "question"),
    },
    "judgements": {
        "query_id": ("query_id", "query-id", "qid"),
        "query": ("query", "question"),
        "doc_id": ("doc_id", "corpus-id", "corpus_id", "docid", "pid"),
        "score": ("score", "relevance", "grade", "label"),
    },
}
"""Column names tried for each field, in this order, when the config names none."""

REQUIRED = {"documents": ("text",), "queries": ("query",), "judgements": ("doc_id",)}

Fields = Mapping[str, str]
"""Field → column; a field without a column is not there."""


@dataclass(frozen=True)
class Origin:
    """Openers of the tables of a collection.

    ``queries`` is ``None`` when the judgements carry the query text. ``strict`` means BEIR's
    fixed names: a missing ``_id`` is an error of its row, never a reason to number the rows.
    """

    name: str
    documents: Callable[[], Table] | None
    queries: Callable[[], Table] | None
    judgements: Mapping[str, Callable[[], Table]]
    columns: Mapping[str, str]
    strict: bool = False


BEIR: dict[str, Fields] = {
    "documents": {"doc_id": "_id", "title": "title", "text": "text"},
    "queries": {"query_id": "_id", "query": "text"},
}


def _opener(path: Path) -> Callable[[], Table]:
    return lambda: open_table(path)


def files_origin(config: DataConfig, problems: Problems) -> Origin:
    """The origin of a BEIR folder, or of the files that a config names."""
    given = {split: Path(path).expanduser() for split, path in config.qrels.items()}
    if config.corpus is not None:
        return Origin(
            config.corpus,
            _opener(Path(config.corpus).expanduser()),
            None if config.queries is None else _opener(Path(config.queries).expanduser()),
            {split: _opener(path) for split, path in given.items()},
            config.columns,
        )
    assert config.source is not None
    folder = Path(config.source).expanduser()
    if not folder.is_dir():
        hint = (
            "`data.source` is a folder; name a single file as `data.corpus`."
            if folder.is_file()
            else "A data set of the Hugging Face hub is written hf:NAME, one of ir_datasets "
            "ir:NAME."
        )
        problems.report(
            "missing file", "there is no such folder.", path=str(folder), hint=hint, whole_file=True
        )
        return Origin(str(folder), None, None, {}, config.columns, strict=True)
    queries = (
        _find(folder, "queries", problems)
        if config.queries is None
        else Path(config.queries).expanduser()
    )
    corpus = _find(folder, "corpus", problems)
    return Origin(
        str(folder),
        None if corpus is None else _opener(corpus),
        None if queries is None else _opener(queries),
        {split: _opener(path) for split, path in (given or _qrels_files(folder)).items()},
        config.columns,
        strict=True,
    )


def _find(folder: Path, stem: str, problems: Problems) -> Path | None:
    for suffix in ("", *COMPRESSED):
        path = folder / f"{stem}.jsonl{suffix}"
        if path.is_file():
            return path
    names = sorted(item.name for item in folder.iterdir())[:8]
    problems.report(
        "missing file",
        f"the folder has no {stem}.jsonl.",
        path=str(folder),
        hint=f"It holds: {', '.join(names) or 'nothing'}. Other files are named with "
        "`data.corpus`, `data.queries` and `data.qrels`.",
        whole_file=True,
    )
    return None


def _qrels_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for suffix in (".tsv", *(f".tsv{packed}" for packed in COMPRESSED)):
        for path in sorted((folder / "qrels").glob(f"*{suffix}")):
            found.setdefault(path.name.removesuffix(suffix), path)
    return dict(sorted(found.items()))


def open_part(opener: Callable[[], Table], problems: Problems) -> Table | None:
    """Open a table; ``None`` when it cannot be opened and the policy goes on."""
    try:
        return opener()
    except DataError as error:
        problems.collect(error)
        return None


def settle(
    table: Table, part: str, origin: Origin, problems: Problems, *, needs: tuple[str, ...] = ()
) -> tuple[Table, Fields] | None:
    """Decide which column holds which field; ``None`` when a needed one is not there.

    A BEIR folder has fixed names for documents and queries. Elsewhere the config's names count,
    then the usual ones. A judgement file whose header is missing is read by position when the
    policy goes on.
    """
    columns = {key: name for key, name in origin.columns.items() if key in NAMES[part]}
    if origin.strict and part in BEIR:
        return table, {**BEIR[part], **columns}
    if not table.columns:
        return None
    if part == "judgements" and _header_is_data(table):
        problems.report(
            "missing header",
            f"the header line is missing: the first line is data ({' | '.join(table.columns)}).",
            path=table.name,
            line=table.header_line,
            hint="Write `query-id<TAB>corpus-id<TAB>score` as the first line.",
        )
        if len(table.columns) != 3:
            return None
        table = table.without_header(("query-id", "corpus-id", "score"))
    fields: dict[str, str] = {}
    for field, usual in NAMES[part].items():
        named = columns.get(field)
        # An id column may have another name in the judgements than in the file of its texts.
        fall_back = part == "judgements" and (
            field in ("doc_id", "query_id") or (field == "query" and field not in needs)
        )
        if named in table.columns:
            fields[field] = str(named)
        elif named is None or fall_back:
            known = _usual(usual, table.columns)
            if known is not None:
                fields[field] = known
        if field not in fields and named is not None and not (fall_back and field not in needs):
            _missing(table, f"'{named}' (given as `data.columns.{field}`)", named, problems)
            return None
    for field in (*REQUIRED[part], *needs):
        if field not in fields:
            _missing(
                table,
                f"for {field} (tried: {', '.join(NAMES[part][field])})",
                field,
                problems,
                hint=f"Name it: data.columns.{field}=NAME",
            )
            return None
    return table, fields


def _usual(names: tuple[str, ...], columns: tuple[str, ...]) -> str | None:
    """The column with the first of these names; failing that, one that is written otherwise.

    >>> _usual(("query_id", "qid"), ("Query-ID", "text"))
    'Query-ID'
    """
    for name in names:
        if name in columns:
            return name
    for name in names:
        alike = [column for column in columns if _plain(column) == _plain(name)]
        if alike:
            return alike[0]
    return None


def _plain(name: str) -> str:
    """A column's name without case and without what joins its words."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _header_is_data(table: Table) -> bool:
    return table.header_line is not None and any(map(_is_number, table.header_cells[2:]))


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d*)?", cell) is not None


def _missing(
    table: Table, what: str, near: str, problems: Problems, *, hint: str | None = None
) -> None:
    close = difflib.get_close_matches(near, table.columns, n=1, cutoff=0.5)
    if close:
        hint = f"Did you mean '{close[0]}'?" + (f" {hint}" if hint else "")
    problems.report(
        "missing column",
        f"there is no column {what}; the columns are: {', '.join(table.columns)}.",
        path=table.name,
        line=table.header_line,
        hint=hint or "Set the name under `data.columns`.",
        whole_file=True,
    )


def refuse_files(config: DataConfig, *names: str) -> None:
    """Refuse settings that a named data set has no use for.

    Raises:
        ConfigError: one of these settings is given.
    """
    for name in names:
        if getattr(config, name):
            raise ConfigError(
                f"`data.source: {config.source}` and `data.{name}` contradict each other.",
                hint=f"Remove `data.{name}`.",
            )
