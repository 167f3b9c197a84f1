"""A document with a query's id: the query itself, or another thing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from sptar.config import DataConfig, SplitConfig
from sptar.data.collection import Collection
from sptar.data.labelled import pairs
from sptar.data.sources import convert
from sptar.data.splits import make_split
from sptar.data.summary import CollectionReport
from sptar.data.validate import check
from sptar.errors import ConfigError
from sptar.evaluation.evaluate import evaluate
from sptar.retrieval.lexical.bm25 import Bm25Index

SHOPS = ["bread and cake", "nails and screws", "books and maps", "shoes and boots"]


def lines(rows: Iterable[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def qrels_text(rows: Iterable[tuple[str, str, int]]) -> str:
    return "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in rows)


def folder(tmp_path: Path, qrels: dict[str, list[tuple[str, str, int]]]) -> Path:
    """Documents 0 … 3 and queries 0 … 3: query n asks for the first word of document n."""
    path = tmp_path / "numbered"
    (path / "qrels").mkdir(parents=True)
    (path / "corpus.jsonl").write_text(
        lines({"_id": n, "text": text} for n, text in enumerate(SHOPS))
    )
    (path / "queries.jsonl").write_text(
        lines({"_id": n, "text": f"who sells {text.split()[0]}"} for n, text in enumerate(SHOPS))
    )
    for split, rows in qrels.items():
        (path / "qrels" / f"{split}.tsv").write_text(qrels_text(rows))
    return path


OWN = {"train": [("0", "0", 1), ("1", "1", 1)], "test": [("2", "2", 1), ("3", "3", 1)]}
OTHERS = {"train": [("0", "1", 1), ("1", "0", 1)], "test": [("2", "3", 1), ("3", "3", 0)]}
FEW = SplitConfig(train_queries=1, eval_queries=1, augment_from="not_evaluated")


def read(tmp_path: Path, source: Path, **settings: str) -> tuple[Collection, CollectionReport]:
    config = DataConfig.model_validate({"source": str(source), **settings})
    report = convert(config, tmp_path / "read")
    assert check(config) == report
    return Collection.open(tmp_path / "read"), report


@pytest.mark.parametrize(
    ("qrels", "settings", "separate", "words"),
    [
        (OWN, {}, True, "another thing than the query, which may be found (4 such documents are"),
        (OTHERS, {}, False, "left out of its results, 4 times (none is judged relevant)"),
        (OTHERS, {"shared_ids": "separate"}, True, "(data.shared_ids: separate)"),
        (OWN, {"shared_ids": "same"}, False, "same); so are 4 judgements that call it relevant"),
    ],
)
def test_one_decision(
    tmp_path: Path,
    qrels: dict[str, list[tuple[str, str, int]]],
    settings: dict[str, str],
    separate: bool,
    words: str,
) -> None:
    collection, report = read(tmp_path, folder(tmp_path, qrels), **settings)
    assert collection.separate_ids == report.separate_ids == separate
    assert words in dict(report.to_rows())["the document with a query's id"]
    assert CollectionReport.from_json(report.to_json()) == report
    assert {query.own_doc_id for query in collection.queries.values()} == (
        {None} if separate else {"0", "1", "2", "3"}
    )
    # The search: the only document with the query's word is the one with its id.
    queries = list(collection.queries.values())
    index = Bm25Index.build(collection.corpus, language="english")
    run = index.search(queries, 10)
    assert run.keys() == collection.queries.keys()
    assert [list(found) for found in run.values()] == (
        [["0"], ["1"], ["2"], ["3"]] if separate else [[], [], [], []]
    )
    # Labels and measure.
    made = pairs(collection, ["0", "1"])
    judged = collection.judgements(["2", "3"])
    if qrels is OWN:
        assert [pair.document.doc_id for pair in made] == (["0", "1"] if separate else [])
    if separate and qrels is OWN:
        scores = evaluate(run, judged, ["RR@10"], separate_ids=True)
        assert scores.per_query("RR@10") == {"2": 1.0, "3": 1.0}
        assert (scores.counts.self_hits, scores.counts.self_judgements) == (0, 0)


def test_one_judgement_is_enough(tmp_path: Path) -> None:
    qrels = {**OTHERS, "train": [*OTHERS["train"], ("1", "1", 1)]}
    collection, report = read(tmp_path, folder(tmp_path, qrels))
    assert collection.separate_ids
    said = dict(report.to_rows())["the document with a query's id"]
    assert said.endswith("(1 such document is judged relevant)")


def test_a_setting_that_takes_the_only_labels_away_says_so(tmp_path: Path) -> None:
    collection, _ = read(tmp_path, folder(tmp_path, OWN), shared_ids="same")
    with pytest.raises(ConfigError, match="no query with a document of grade 1"):
        make_split(collection, FEW, 0)


def test_another_decision_is_another_conversion(tmp_path: Path) -> None:
    source = folder(tmp_path, OTHERS)
    assert read(tmp_path, source, shared_ids="separate")[0].separate_ids
    assert not read(tmp_path, source)[0].separate_ids


def test_nothing_is_said_where_no_id_is_shared(beir: Path) -> None:
    rows = dict(check(DataConfig(source=str(beir))).to_rows())
    assert "the document with a query's id" not in rows
    assert rows["query ids that are document ids"] == "0 (0 judged for their own id)"
