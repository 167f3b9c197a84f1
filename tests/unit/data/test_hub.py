from __future__ import annotations

import json
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

from sptar.config import DataConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.errors import DataError, MissingExtraError
from sptar.types import Document

CARD = """---
configs:
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus.jsonl
- config_name: queries
  data_files:
  - split: queries
    path: queries.jsonl
- config_name: {judgements}
  data_files:
  - split: train
    path: qrels/train.jsonl
  - split: test
    path: qrels/test.jsonl
---
"""


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the shape of BEIR's data sets on the hub."""
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "README.md").write_text(CARD.format(judgements="default"))
    rows: dict[str, list[dict[str, object]]] = {
        "corpus": [
            {"_id": "d1", "title": "T", "text": "größe"},
            {"_id": "d2", "title": "", "text": "two"},
        ],
        "queries": [{"_id": "q1", "text": "one?"}, {"_id": "q2", "text": "two?"}],
        "qrels/train": [{"query-id": "q1", "corpus-id": "d1", "score": 1.0}],
        "qrels/test": [{"query-id": "q2", "corpus-id": "d2", "score": 2.0}],
    }
    for name, values in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    return folder


@pytest.mark.parametrize("judgements", ["default", "qrels"])
def test_hugging_face_folder(data_set: Path, tmp_path: Path, judgements: str) -> None:
    (data_set / "README.md").write_text(CARD.format(judgements=judgements))
    report = convert(DataConfig(source=f"hf:{data_set}"), tmp_path / "out")
    collection = Collection.open(tmp_path / "out")
    assert list(collection.corpus) == [Document("d1", "größe", "T"), Document("d2", "two")]
    assert list(collection.queries) == ["q1", "q2"]
    assert collection.qrels == {"train": {"q1": {"d1": 1}}, "test": {"q2": {"d2": 2}}}
    assert report.ok


def test_hugging_face_with_judgements_in_a_set_of_their_own(data_set: Path, tmp_path: Path) -> None:
    (data_set / "README.md").write_text(CARD.split("- config_name: {")[0] + "---\n")
    beside = data_set.with_name("set-qrels")
    beside.mkdir()
    (data_set / "qrels" / "test.jsonl").rename(beside / "test.jsonl")
    convert(DataConfig(source=f"hf:{data_set}"), tmp_path / "out")
    assert Collection.open(tmp_path / "out").qrels == {"test": {"q2": {"d2": 2}}}


def test_hugging_face_rows_are_validated(data_set: Path, tmp_path: Path) -> None:
    with (data_set / "corpus.jsonl").open("a") as stream:
        stream.write('{"_id": "d1", "title": "T", "text": "again"}\n')
    with pytest.raises(DataError, match=r"corpus:3: the document id 'd1' stands already in line 1"):
        convert(DataConfig(source=f"hf:{data_set}"), tmp_path / "out")


def test_hugging_face_without_the_configurations(data_set: Path, tmp_path: Path) -> None:
    (data_set / "README.md").unlink()
    with pytest.raises(DataError, match=r"no configuration 'corpus'; it has: default"):
        convert(DataConfig(source=f"hf:{data_set}"), tmp_path / "out")


def test_hugging_face_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"hf:nobody/nothing cannot be loaded") as caught:
        convert(DataConfig(source="hf:nobody/nothing"), tmp_path / "out")
    assert caught.value.hint


# ir_datasets, by a stand-in with the methods that are used ---------------------------------------

Doc = namedtuple("Doc", ["doc_id", "text", "title"])
Question = namedtuple("Question", ["query_id", "text"])
Judgement = namedtuple("Judgement", ["query_id", "doc_id", "relevance", "iteration"])


class Topic(namedtuple("Topic", ["query_id", "title", "narrative"])):
    """A query as TREC writes them."""


class Page(namedtuple("Page", ["doc_id", "headline", "body"])):
    """A document with fields of its own."""

    def default_text(self) -> str:
        return f"{self.headline} {self.body}"


class StandIn:
    def __init__(self, docs=None, queries=None, qrels=None) -> None:
        self.parts = {"docs": docs, "queries": queries, "qrels": qrels}

    def has_docs(self) -> bool:
        return self.parts["docs"] is not None

    def has_queries(self) -> bool:
        return self.parts["queries"] is not None

    def has_qrels(self) -> bool:
        return self.parts["qrels"] is not None

    def docs_iter(self):
        return iter(self.parts["docs"])

    def queries_iter(self):
        return iter(self.parts["queries"])

    def qrels_iter(self):
        return iter(self.parts["qrels"])


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, StandIn]:
    docs = [Doc("d1", "one", "T"), Doc("d2", "two", "")]
    questions = [Question("q1", "one?"), Question("q2", "two?")]
    known = {
        "toy": StandIn(docs, questions),
        "toy/train": StandIn(docs, questions[:1], [Judgement("q1", "d1", 1, "0")]),
        "toy/test": StandIn(docs, questions[1:], [Judgement("q2", "d2", 3, "0")]),
        "trec": StandIn(
            [Page("p1", "Head", "body")],
            [Topic("t1", "topic", "long")],
            [Judgement("t1", "p1", 0, "0")],
        ),
        "bare": StandIn(docs, questions),
        "empty": StandIn(),
    }
    module = ModuleType("ir_datasets")
    module.load = known.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    return known


def test_ir_datasets_with_parts(library, tmp_path: Path) -> None:
    report = convert(DataConfig(source="ir:toy"), tmp_path / "out")
    collection = Collection.open(tmp_path / "out")
    assert list(collection.corpus) == [Document("d1", "one", "T"), Document("d2", "two")]
    assert list(collection.queries) == ["q1", "q2"]  # listed by the whole and by each part
    assert collection.qrels == {"train": {"q1": {"d1": 1}}, "test": {"q2": {"d2": 3}}}
    assert report.ok


def test_ir_datasets_part_and_other_fields(library, tmp_path: Path) -> None:
    convert(DataConfig(source="ir:toy/test"), tmp_path / "part")
    assert list(Collection.open(tmp_path / "part").qrels) == ["test"]
    convert(DataConfig(source="ir:trec"), tmp_path / "trec")
    collection = Collection.open(tmp_path / "trec")
    assert collection.corpus[0] == Document("p1", "Head body")
    assert collection.queries["t1"].text == "topic"


def test_ir_datasets_splits_by_name(library, tmp_path: Path) -> None:
    config = DataConfig(source="ir:bare", qrels={"dev": "toy/train", "test": "ir:toy/test"})
    convert(config, tmp_path / "out")
    assert list(Collection.open(tmp_path / "out").qrels) == ["dev", "test"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "has no data set 'nothing'"),
        ("bare", "has no judgements"),
        ("empty", "has no documents"),
    ],
)
def test_ir_datasets_errors(library, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(DataConfig(source=f"ir:{name}"), tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "module", "extra"),
    [("ir:toy", "ir_datasets", "ir-datasets"), ("hf:toy", "datasets", "huggingface")],
)
def test_missing_extras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "sptar\[{extra}\]"'):
        convert(DataConfig(source=source), tmp_path / "out")


def test_missing_parquet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "c.parquet").write_bytes(b"")
    with pytest.raises(MissingExtraError, match="parquet"):
        convert(DataConfig(corpus=str(tmp_path / "c.parquet")), tmp_path / "out")
