"""A small collection on disk, and ways to build one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from sptar.config import DataConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert

DOCUMENTS = [
    {"_id": "d1", "title": "Animals", "text": "Dogs travel free."},
    {"_id": "d2", "title": "", "text": "Größe und Länge — 寸法"},
    {"_id": "d3", "text": "Cats sleep\nall day."},
]
QUERIES = [{"_id": "q1", "text": "do dogs pay?"}, {"_id": "q2", "text": "größe"}]
QRELS = {"train": [("q1", "d1", 1)], "test": [("q2", "d2", 2), ("q2", "d3", 0)]}


def lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def qrels_text(rows: Iterable[tuple[str, str, int]]) -> str:
    return "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{s}\n" for q, d, s in rows)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A correct BEIR folder; tests break one thing in it."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(lines(DOCUMENTS), encoding="utf-8")
    (folder / "queries.jsonl").write_text(lines(QUERIES), encoding="utf-8")
    for split, rows in QRELS.items():
        (folder / "qrels" / f"{split}.tsv").write_text(qrels_text(rows), encoding="utf-8")
    return folder


Build = Callable[..., Collection]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Make a collection from a number of documents, query texts and qrels."""

    def make(
        documents: int,
        queries: Mapping[str, str],
        qrels: Mapping[str, Iterable[tuple[str, str, int]]],
        name: str = "built",
    ) -> Collection:
        folder = tmp_path / name
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text(
            lines({"_id": f"d{i}", "text": f"document number {i}"} for i in range(documents))
        )
        (folder / "queries.jsonl").write_text(
            lines({"_id": key, "text": text} for key, text in queries.items())
        )
        for split, rows in qrels.items():
            (folder / "qrels" / f"{split}.tsv").write_text(qrels_text(rows))
        output = tmp_path / f"{name}_converted"
        convert(DataConfig(source=str(folder)), output)
        return Collection.open(output)

    return make
